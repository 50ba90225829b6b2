"""A study that takes over what still fits of an old one; studies of any name side by side."""

from __future__ import annotations

import shlex
import threading
import tomllib
from dataclasses import replace

import optuna
import pytest
import torch
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FixedTrial, TrialState, create_trial

import hpo.study.takeover
from hpo.errors import HpoError
from hpo.study.deletion import delete_study
from hpo.study.forest_sampler import TrialForest
from hpo.study.model_limits import ModelLimits
from hpo.study.open_study import (
    create_study,
    load_study,
    model_of,
    recipe_of,
)
from hpo.study.ranking import best_trial, default_trial
from hpo.study.retention import take_inventory
from hpo.study.samplers import make_sampler
from hpo.study.status import take_snapshot
from hpo.study.study_file import read_study_file
from hpo.study.study_list import list_studies
from hpo.study.takeover import take_over
from hpo.study.test_uses import count_test_use
from storage.artifacts.artifacts import keep_file, kept_files
from storage.database import connect
from storage.heartbeat import WorkerPresence
from storage.keys import WEIGHTS_NAME
from storage.places import Lease
from tests.integration.conftest import linear
from trainer.extensions import Extensions
from trainer.model.backbones import build_model, save_weights
from trainer.recipe import DEFAULTS, show
from trainer.space import suggest

pytestmark = pytest.mark.integration

STUDY = """
[study]
name = {name}
{study}
[data]
path = "photos"
{data}
[recipe]
{recipe}
"""
SMALL = """
backbone = "linear"
pretrained = false
image_size = 8
epochs = 3
"""
OLD = """
batch_size = 8
loss = ["cross_entropy", "focal", "soft_f1"]
focal_gamma = { low = 0.5, high = 5.0 }
learning_rate = { low = 1e-4, high = 1e-1, log = true }
"""
PLAIN = {"loss": "cross_entropy", "learning_rate": 0.01}
FOCAL = {"loss": "focal", "focal_gamma": 4.0, "learning_rate": 0.02}
ANY_NAMES = [
    "a space at the end ",
    "a space at the end",
    'O\'Neill "quoted" `sh` $HOME \\n',
    "a/b/../../c",
    "100 % sure %s %(name)s",
    "얼굴 👩‍🔬",
    "-rf",
    "..",
    ";DROP TABLE studies;--",
    "[red]markup[/red] {braces}",
    "x" * 512,
    "면" * 512,
]


class Studies:
    """Study files in a folder, and their studies in a database."""

    def __init__(self, folder, url):
        self.folder, self.url, self.data, self._opened = folder, url, None, []

    def file(self, name, recipe=OLD, *, study="", data=""):
        """A study file; fields of the recipe that it does not name have their defaults."""
        small = SMALL.replace("image_size = 8", "") if "image_size" in recipe else SMALL
        fixed = {key: value for key, value in DEFAULTS.items() if key not in tomllib.loads(small + recipe)}
        recipe += small + "\n".join(f"{key} = {show(value)}" for key, value in fixed.items())
        shown = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
        path = self.folder / "study.toml"
        path.write_text(STUDY.format(name=shown, study=study, data=data, recipe=recipe), encoding="utf-8")
        file = read_study_file(path, Extensions(backbones={"linear": linear}))
        self.data = file.data.load(self.folder / ".hpo/pixels")
        return file

    def load(self, file):
        """The study of a study file."""
        self._opened.append(load_study(file, self.url))
        return self._opened[-1]

    def begin(self, file):
        """The study of a study file, created."""
        create_study(file, self.url, self.data)
        return self.load(file)

    def take_over(self, file, old):
        """Take over; returns the lines and the study."""
        lines = take_over(file, self.url, self.data, old).lines()
        return lines, self.load(file)

    def close(self):
        """Close all connections."""
        for opened in self._opened:
            opened.storage.engine.dispose()


@pytest.fixture
def studies(tmp_path, photos, ready_database):
    """Makes studies."""
    made = Studies(tmp_path, ready_database)
    yield made
    made.close()


def finish(opened, file, parameters, scores, state=TrialState.COMPLETE, picture=None):
    """A finished trial with these parameters, which kept its weights where it is complete, and a picture."""
    fixed = FixedTrial(parameters)
    recipe = suggest(fixed, file.space)
    opened.study.add_trial(
        create_trial(state=TrialState.RUNNING, params=fixed.params, distributions=fixed.distributions)
    )
    trial = optuna.Trial(opened.study, opened.study.trials[-1]._trial_id)
    for epoch, score in enumerate(scores, start=1):
        trial.report(score, epoch)
    trial.set_user_attr("best_epoch", 1)
    trial.set_user_attr("metrics", {"macro_f1": max(scores, default=0)})
    trial.set_user_attr("checkpoint", "an id of the old study")
    if state is TrialState.COMPLETE:
        torch.manual_seed(trial.number)
        weights = file.path.parent / WEIGHTS_NAME
        save_weights(build_model(recipe, 3, file.space.extensions, pretrained=False), weights)
        keep_file(opened.artifacts, trial, weights, opened.owner)
    if picture is not None:
        file.path.with_name("most_wrong.png").write_bytes(picture)
        keep_file(opened.artifacts, trial, file.path.with_name("most_wrong.png"), opened.owner)
    opened.study.tell(trial, max(scores) if state is TrialState.COMPLETE else None, state=state)
    return trial.number


def taken(opened):
    """The trials that were taken over, by their number in the old study."""
    trials = [trial for trial in opened.study.get_trials() if "taken_over_from" in trial.user_attrs]
    by_number = {trial.user_attrs["taken_over_from"]["trial"]: trial for trial in trials}
    assert len(by_number) == len(trials)
    return by_number


def test_what_fits_is_taken_over_and_what_does_not_is_counted_by_field(studies):
    """Of the finished trials those come along whose recipe the new space could suggest, with the new distributions."""
    old_file = studies.file("old")
    old = studies.begin(old_file)
    fits = finish(old, old_file, FOCAL, [0.3, 0.5, 0.4])
    pruned = finish(old, old_file, PLAIN, [0.2], TrialState.PRUNED)
    finish(old, old_file, PLAIN, [], TrialState.PRUNED)
    finish(old, old_file, PLAIN, [0.9], TrialState.FAIL)
    finish(old, old_file, {"loss": "soft_f1", "learning_rate": 1e-4}, [0.3])
    finish(old, old_file, FOCAL | {"learning_rate": 0.09}, [0.3])
    finish(old, old_file, FOCAL | {"focal_gamma": 1.0}, [0.3])
    file = studies.file(
        "new",
        """
        batch_size = { low = 4, high = 64, log = true }
        optimizer = "adamw"
        loss = ["focal", "cross_entropy", "bce"]
        focal_gamma = 4
        learning_rate = { low = 1e-3, high = 5e-2 }
        """,
    )
    lines, new = studies.take_over(file, "old")
    [line] = lines
    assert line == (
        '2 of 5 finished trials of "old" still fit and were taken over; 3 do not: learning_rate (2), loss (1),'
        " focal_gamma (1)"
    )
    trials = taken(new)
    assert trials.keys() == {fits, pruned}
    was, now = old.study.trials[fits], trials[fits]
    assert recipe_of(now, new.study, file.space.extensions) == recipe_of(was, old.study, file.space.extensions)
    assert now.params == {"batch_size": 8, "loss": "focal", "learning_rate": 0.02}
    assert now.distributions["loss"].choices == ("focal", "cross_entropy", "bce")
    assert now.distributions["batch_size"] == optuna.distributions.IntDistribution(4, 64, log=True)
    for attribute in ("value", "state", "intermediate_values", "datetime_start", "datetime_complete"):
        assert getattr(now, attribute) == getattr(was, attribute)
    assert now.user_attrs == {
        **{key: was.user_attrs[key] for key in ("best_epoch", "metrics")},
        "taken_over_from": {"study": "old", "trial": fits},
    }
    assert trials[pruned].state is TrialState.PRUNED
    assert trials[pruned].intermediate_values == {1: 0.2}


def test_a_field_that_neither_recipe_uses_keeps_no_trial_out(studies):
    """What the study file says of a field matters only for the trials that use it."""
    old_file = studies.file("old")
    finish(studies.begin(old_file), old_file, PLAIN, [0.3])
    lines, new = studies.take_over(studies.file("new", OLD.replace("{ low = 0.5, high = 5.0 }", "1.5")), "old")
    assert lines == ['1 of 1 finished trial of "old" still fits and was taken over']
    assert [trial.params for trial in taken(new).values()] == [PLAIN]


def test_the_budget_is_the_new_studys_own_and_all_else_sees_what_was_taken_over(studies):
    """Taken-over trials take no place of the budget; the best, the sampler and the pruner know them."""
    old_file = studies.file("old")
    old = studies.begin(old_file)
    for number in range(12):
        finish(old, old_file, PLAIN | {"learning_rate": 0.01 + number / 1000}, [0.1, number / 20])
    file = studies.file("new", study='sampler = "tpe"\npruner = "median"\n')
    _, new = studies.take_over(file, "old")
    snapshot = take_snapshot(new)
    assert (snapshot.used.trials, sum(snapshot.counts.values())) == (0, 0)
    assert snapshot.best.macro_f1 == 0.55
    assert snapshot.best.recipe.learning_rate == pytest.approx(0.021)
    new.study.sampler = make_sampler(file, 0, TrialForest(file.space))
    new.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=0)
    new.study.ask()  # the default recipe
    proposed = new.study.ask()
    assert proposed.relative_params  # of TPE, which has its ten trials
    suggest(proposed, file.space)
    proposed.report(0.05, 1)
    assert proposed.should_prune()
    WorkerPresence(new.storage.engine, new.study_id, "worker").join("host", 1, "cpu")
    assert Lease(new.storage.engine, new.study_id, "worker").take(file.limits).number == 0


def test_repeating_completes_what_was_broken_off(studies, monkeypatch):
    """A taking-over that is broken off lets no worker begin; repeated, it adds what is missing and nothing twice."""
    old_file = studies.file("old's")
    old = studies.begin(old_file)
    numbers = {finish(old, old_file, FOCAL, [score]) for score in (0.1, 0.2, 0.3)}
    file = studies.file("new")

    def broken(_study, trial):
        if trial.value == 0.2:
            raise KeyboardInterrupt
        add(_study, trial)

    add = optuna.Study.add_trial
    monkeypatch.setattr(optuna.Study, "add_trial", broken)
    with pytest.raises(KeyboardInterrupt):
        studies.take_over(file, "old's")
    monkeypatch.setattr(optuna.Study, "add_trial", add)
    with pytest.raises(HpoError) as caught:
        create_study(file, studies.url, studies.data)
    command = shlex.join(["hpo", "init", "study.toml", "--from=old's"])
    assert str(caught.value) == f'study: the making of "new" was broken off; `{command}` goes on with it'

    with pytest.raises(HpoError, match='"new" has begun otherwise than from "old\'s" with this'):
        studies.take_over(studies.file("new", OLD.replace('"soft_f1"', '"bce"')), "old's")

    def killed(*_):
        raise KeyboardInterrupt

    def copied_again(*_):
        raise AssertionError("the copy was there")

    with monkeypatch.context() as patch:
        patch.setattr("storage.artifacts.artifacts.put", copied_again)
        patch.setattr(hpo.study.takeover, "begin_study", killed)
        with pytest.raises(KeyboardInterrupt):
            studies.take_over(file, "old's")
    for _ in range(2):
        lines, new = studies.take_over(file, "old's")
        assert lines == ['3 of 3 finished trials of "old\'s" still fit and were taken over']
        assert taken(new).keys() == numbers
    assert len(list(new.artifacts.files(f"{new.owner}-"))) == 3
    create_study(file, studies.url, studies.data)
    later = finish(old, old_file, PLAIN, [0.4])
    own = finish(new, file, PLAIN, [0.7])
    _, new = studies.take_over(file, "old's")
    assert taken(new).keys() == {*numbers, later}
    assert best_trial(new).number == own


def test_two_at_the_same_time_add_nothing_twice(studies):
    """Two machines may take over at once."""
    old_file = studies.file("old")
    old = studies.begin(old_file)
    numbers = {finish(old, old_file, FOCAL, [0.1]) for _ in range(8)}
    file = studies.file("new")
    threads = [threading.Thread(target=studies.take_over, args=(file, "old")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    new = studies.load(file)
    assert taken(new).keys() == numbers
    assert len(new.study.trials) == 8 + 1
    assert [trial.state for trial in new.study.trials].count(TrialState.WAITING) == 1


def test_the_default_recipe_is_not_tried_again(studies):
    """The default recipe waits for a worker of the new study only where it was not taken over."""
    old_file = studies.file("old")
    old = studies.begin(old_file)
    finish(old, old_file, {"loss": "cross_entropy", "learning_rate": 1e-3}, [0.4])
    _, same = studies.take_over(studies.file("same"), "old")
    assert [trial.state for trial in same.study.trials] == [TrialState.COMPLETE]
    assert default_trial(same).value == 0.4
    lines, other = studies.take_over(
        studies.file("other", OLD.replace("batch_size = 8", "batch_size = [8, 16]")), "old"
    )
    assert lines[0].startswith("1 of 1 ")
    assert [trial.state for trial in other.study.trials] == [TrialState.COMPLETE, TrialState.WAITING]
    assert default_trial(other) is None


def test_the_best_weights_come_along(studies):
    """The best complete trials, as many as `keep_weights`, keep their weights, also when the old study goes."""
    old_file = studies.file("old", study="keep_weights = 9")
    old = studies.begin(old_file)
    numbers = [finish(old, old_file, FOCAL, [score]) for score in (0.3, 0.1, 0.4, 0.2)]
    file = studies.file("new", study="keep_weights = 2")
    lines, new = studies.take_over(file, "old")
    assert len(lines) == 1
    with new.storage.engine.connect() as connection:
        assert [kept.value for kept in kept_files(connection, new.study_id)] == [0.4, 0.3]
    device = torch.device("cpu")
    was = model_of(old.study.trials[numbers[2]], old, file.space.extensions, 3, device).state_dict()
    delete_study(old)
    now = model_of(best_trial(new), new, file.space.extensions, 3, device).state_dict()
    assert all(torch.equal(was[name], now[name]) for name in was)
    assert len(list(new.artifacts.files(""))) == 2


def test_the_pictures_come_along(studies):
    """Trials that are taken over keep their pictures, pruned ones too, also when the old study goes; and no more."""
    old_file = studies.file("old", study="keep_weights = 9")
    old = studies.begin(old_file)
    for state in (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED):
        finish(old, old_file, FOCAL, [0.3], state, picture=b"some")
    uploaded = studies.folder / "notes.txt"
    uploaded.write_text("of somebody")
    optuna.artifacts.upload_artifact(
        artifact_store=old.artifacts, file_path=str(uploaded), study_or_trial=old.study.trials[0], storage=old.storage
    )
    file = studies.file("new", study="keep_weights = 1")
    for _ in range(2):
        lines, new = studies.take_over(file, "old")
        assert len(lines) == 1
    delete_study(old)
    metas = [get_all_artifact_meta(trial, storage=new.storage) for trial in taken(new).values()]
    names = [sorted(meta.filename for meta in kept) for kept in metas]
    assert names == [["most_wrong.png", WEIGHTS_NAME], ["most_wrong.png"], ["most_wrong.png"]]
    assert len(list(new.artifacts.files(""))) == 4
    assert take_inventory(new, 1).surplus == ()


def test_weights_that_are_elsewhere_stay_there(studies):
    """Where the store does not hold the weights of the old study, its trials come without, and a line says so."""
    old_file = studies.file("old")
    old = studies.begin(old_file)
    finish(old, old_file, FOCAL, [0.3])
    lines, new = studies.take_over(studies.file("new", study='artifacts = "elsewhere"'), "old")
    assert lines[1:] == ["1 of them came without its weights, which this store does not hold"]
    assert len(taken(new)) == 1


def test_looks_at_the_test_images_are_remembered(studies):
    """The new study has the same held-out images: what was seen of them through the old one counts."""
    old = studies.begin(studies.file("old"))
    count_test_use(old.study, "first", "2026-11-21")
    _, new = studies.take_over(studies.file("new"), "old")
    assert count_test_use(new.study, "second", "2026-11-22") == 2


def test_a_model_beyond_the_new_limits_stays_where_it_is(studies):
    """A trial comes along where its model is within the new [limits], in speed where the old study has measured it."""
    old_file = studies.file("old", f"{OLD}image_size = [8, 16]\n")
    old = studies.begin(old_file)
    for size in (8, 16):
        finish(old, old_file, PLAIN | {"image_size": size}, [0.3])
    speed = {"backbone": "linear", "image_size": 8, "device": "cpu", "milliseconds": 0.5}
    old.study.set_user_attr("hpo:speed: linear, 8 px, cpu", speed)
    for name, limits, fitting in (
        ("small", ModelLimits(parameters=600), 1),
        ("fast", ModelLimits(milliseconds=1), 1),
        ("faster", ModelLimits(milliseconds=0.1), 0),
    ):
        file = replace(studies.file(name, f"{OLD}image_size = [8, 16]\n"), model_limits=limits)
        lines, new = studies.take_over(file, "old")
        assert lines[0].endswith(f"{2 - fitting} do{'es' if fitting else ''} not: limits ({2 - fitting})")
        assert [trial.params["image_size"] for trial in taken(new).values()] == [8] * fitting
        assert new.study.user_attrs["hpo:speed: linear, 8 px, cpu"] == speed


def test_a_trial_without_a_recipe_does_not_fit(studies):
    """A trial that was told from outside before it had a recipe stays where it is."""
    old = studies.begin(studies.file("old"))
    old.study.tell(old.study.ask(), 0.9)
    lines, new = studies.take_over(studies.file("new"), "old")
    assert lines == ['0 of 1 finished trial of "old" still fit and were taken over; 1 does not: no known recipe (1)']
    assert not taken(new)


def test_a_field_that_came_after_the_old_study_has_its_default_there(studies):
    """A study that was begun before a field of the recipe existed can be taken over."""
    old_file = studies.file("old")
    old = studies.begin(old_file)
    finish(old, old_file, PLAIN, [0.3])
    kept = old.study.user_attrs["hpo:settings"]
    del kept["recipe"]["clip_norm"]  # which is searched where a study file says nothing
    old.study.set_user_attr("hpo:settings", kept)
    lines, new = studies.take_over(studies.file("new", f"{OLD}\nclip_norm = [1.0, 0.0]"), "old")
    assert lines == ['1 of 1 finished trial of "old" still fits and was taken over']
    assert [trial.params["clip_norm"] for trial in taken(new).values()] == [0.0]


def test_what_cannot_be_compared_is_refused_with_what_differs(studies):
    """Scores on other images, another split or another major version are none of the new study's."""
    studies.begin(studies.file("old"))
    file = studies.file("new", data="valid = 0.3\nseed = 1")
    with pytest.raises(HpoError) as caught:
        studies.take_over(file, "old")
    text = str(caught.value)
    assert 'the scores of "old" cannot be compared with those of "new"; put back what has changed' in text
    assert text.splitlines()[1:] == ["  data.valid was 0.2, is now 0.3", "  data.seed was 0, is now 1"]
    assert file.name not in optuna.get_all_study_names(connect(studies.url))


@pytest.mark.parametrize(
    ("old", "said"),
    [
        ("new", '"new" cannot take over from itself'),
        ("odl", '"odl" is not in this storage; did you mean "old"?; `hpo list study.toml` shows what is'),
        ("plain", '"plain" was not created by hpo, or not to the end'),
    ],
)
def test_no_such_old_study(studies, old, said):
    """The name of a study that cannot be taken over is one line that says why."""
    studies.begin(studies.file("old"))
    optuna.create_study(study_name="plain", storage=connect(studies.url))
    with pytest.raises(HpoError) as caught:
        studies.take_over(studies.file("new"), old)
    assert said in str(caught.value)


def test_a_study_that_has_begun_takes_nothing_over(studies):
    """A study with trials of its own, or from another old one, is left as it is."""
    for name in ("old", "older"):
        old_file = studies.file(name)
        finish(studies.begin(old_file), old_file, PLAIN, [0.2])
    waiting = studies.file("only waiting")
    studies.begin(waiting)
    assert len(taken(studies.take_over(waiting, "old")[1])) == 1
    with pytest.raises(HpoError, match='"only waiting" has begun otherwise than from "older"'):
        studies.take_over(waiting, "older")
    begun = studies.file("begun")
    finish(studies.begin(begun), begun, PLAIN, [0.3])
    with pytest.raises(HpoError, match='"begun" has begun otherwise than from "old"'):
        studies.take_over(begun, "old")
    changed = studies.file("only waiting", OLD.replace("batch_size = 8", "batch_size = 4"))
    with pytest.raises(HpoError, match="batch_size was 8, is now 4"):
        studies.take_over(changed, "old")


def test_a_changed_study_file_is_told_the_way_on(studies):
    """Only where the recipe alone has changed can the trials be taken over, and the line says how."""
    studies.begin(studies.file("old study"))
    with pytest.raises(HpoError) as caught:
        studies.begin(studies.file("old study", OLD.replace("batch_size = 8", "batch_size = 4")))
    assert str(caught.value).endswith(
        "; put back what has changed, or give the study another name in [study] name, and"
        " `hpo init study.toml '--from=old study'` takes over the finished trials that still fit:\n"
        "  recipe.batch_size was 8, is now 4"
    )
    with pytest.raises(HpoError) as caught:
        studies.begin(studies.file("old study", data="seed = 1"))
    assert str(caught.value).endswith("or give the study another name in [study] name:\n  data.seed was 0, is now 1")


def test_names_of_any_letters_live_side_by_side(studies):
    """Studies of any names are created, taken over, listed and deleted, each without touching another."""
    files = [studies.file(name, recipe='loss = ["focal", "bce"]') for name in ANY_NAMES]
    for file in files:
        studies.begin(file)
    for file in files:
        _, new = studies.take_over(replace(file, name=f"{file.name[:500]} anew"), file.name)
        assert new.study.user_attrs["hpo:taken_over_from"]["study"] == file.name
        delete_study(new)
    assert [study.name for study in list_studies(studies.url, Extensions())] == sorted(ANY_NAMES)
    for file in files[::2]:
        delete_study(studies.load(file))
    assert [study.name for study in list_studies(studies.url, Extensions())] == sorted(ANY_NAMES[1::2])
    for file in files[1::2]:
        assert len(studies.load(file).study.trials) == 1


def test_each_name_has_a_folder_of_its_own_for_tensorboard(studies):
    """TensorBoard's logs of any two studies are in different folders, which can be made."""
    folders = [studies.file(name).tensorboard_folder for name in [*ANY_NAMES, "x" * 511, "면" * 511]]
    for folder in folders:
        folder.mkdir(parents=True)
    assert {folder.parent.name for folder in folders} == {"tensorboard"}
