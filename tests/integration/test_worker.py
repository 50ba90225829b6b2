"""A worker and the places of the budget: what was interrupted, lost or broken."""

from __future__ import annotations

import dataclasses
import threading
import time
import tomllib
from functools import partial

import optuna
import pytest
import tomli_w
import torch
from optuna.trial import TrialState
from sqlalchemy import text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hpo.errors import HpoError
from hpo.runs import Runs, shares
from hpo.stop import Stop
from hpo.stopwatch import Stopwatch
from hpo.study import create_study, load_study, model_of
from hpo.study_file import read_study_file
from hpo.tensorboard import folder_of
from hpo.worker import Worker
from storage import logs
from storage.budget import Limits
from storage.halts import begin_halt, end_halt
from storage.lease import Lease, bury
from storage.roster import places
from trainer.loaders import Loaders
from trainer.parts import Parts
from trainer.space import Space

pytestmark = pytest.mark.integration

STUDY = """
[study]
name = "colours"
pruner = "none"
retries = 1
[data]
path = "photos"
[budget]
trials = 2
[recipe]
backbone = "linear"
image_size = 8
epochs = 2
batch_size = 8
loss = ["cross_entropy", "own"]
augment = "none"
"""


def linear(classes, size):
    """The smallest model."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * size * size, classes))


class SmallMemory(torch.nn.Module):
    """A layer that has no memory for more than two images that are to be learned from."""

    asked = 0

    def forward(self, features):
        """The features as they are."""
        if features.requires_grad and len(features) > 2:
            SmallMemory.asked += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return features


def small_memory(classes, size):
    """The smallest model, in too small a memory."""
    return torch.nn.Sequential(linear(classes, size), SmallMemory())


class Setting:
    """A study on a database, and workers on it."""

    def __init__(self, folder, url, own_loss, more="", recipe=None, trials=2, retries=1, name="colours"):
        tables = tomllib.loads(STUDY.replace("[study]", f"[study]\n{more}"))
        tables["study"] |= {"name": name, "retries": retries}
        tables["budget"]["trials"] = trials
        tables["recipe"] |= recipe or {}
        (folder / "study.toml").write_text(tomli_w.dumps(tables))
        self.own_loss = own_loss
        parts = Parts(losses={"own": own_loss}, backbones={"linear": linear, "small memory": small_memory})
        self.file = read_study_file(folder / "study.toml", parts)
        self.url, self.data = url, self.file.data.load(folder / ".hpo/pixels")
        self.stop = Stop()
        create_study(self.file, url, self.data)
        self.opened = load_study(self.file, url)

    def work(self, name="worker"):
        """Run a worker to the end of the budget."""
        Worker(
            self.file,
            self.opened,
            self.data,
            name=name,
            loaders=Loaders(0),
            watch=Stopwatch(time.perf_counter()),
            stop=self.stop,
        ).run()

    def dead_worker(self, name="dead"):
        """The runs of another worker, and one that it has begun."""
        lease = Lease(self.opened.storage.engine, self.opened.study_id, name)
        lease.join("host", 1, "cpu")
        runs = Runs(self.file, self.opened, lease, {"host": "host"})
        return runs, runs.begin()

    @property
    def places(self):
        """All places of the budget."""
        with self.opened.storage.engine.connect() as connection:
            return places(connection, self.opened.study_id)

    @property
    def checkpoints(self):
        """The files of the checkpoints that are kept."""
        return list((self.file.folder / "artifacts").glob("*-checkpoint-*"))

    @property
    def trials(self):
        """All trials."""
        return self.opened.study.get_trials()


@pytest.fixture
def setting(tmp_path, photos, database):
    """Makes a study whose own loss is the given one."""
    made = []

    def make(own_loss=torch.nn.functional.cross_entropy, **more):
        made.append(Setting(tmp_path, database, own_loss, **more))
        return made[-1]

    yield make
    for one in made:
        one.opened.storage.engine.dispose()


def test_a_dead_workers_trial_is_run_again_with_its_recipe(setting):
    """The trial of a dead worker fails, another with its parameters takes its place, and the budget stays exact."""
    study = setting()
    trial = study.dead_worker()[1].trial
    trial.suggest_categorical("loss", ("cross_entropy", "own"))
    bury(study.opened.storage.engine, "dead")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    dead, again, other = study.trials
    assert (dead.state, dead.user_attrs["reason"]) == (TrialState.FAIL, "its worker died; run again as another trial")
    assert again.user_attrs["repeats"] == 0
    assert again.params["loss"] == dead.params["loss"]
    assert "repeats" not in other.user_attrs


def test_a_trial_that_kills_its_workers_is_given_up(setting):
    """A trial whose workers died more often than `retries` allows is failed with that reason, and not run again."""
    study = setting()
    study.dead_worker()
    bury(study.opened.storage.engine, "dead")
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.place SET failed_runs = 2"))
    study.work()
    first, second = study.places
    assert (first.state, first.reason) == ("failed", "given up after 2 runs, the last: its worker died")
    assert second.state == "complete"
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_was_told_before_its_worker_died_is_not_run_again(setting):
    """A worker that dies between telling a result and closing its place has lost nothing."""
    study = setting()
    study.opened.study.tell(study.dead_worker()[1].trial, 0.25)
    bury(study.opened.storage.engine, "dead")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert len(study.trials) == 2
    assert study.trials[0].value == 0.25


def test_a_worker_whose_place_was_given_away_drops_its_trial(setting):
    """A worker that comes back after its place was given to another changes nothing, and takes the next one."""
    given_away = []

    def own_loss(logits, labels):
        if not given_away:
            bury(study.opened.storage.engine, "frozen")
            runs, run = study.dead_worker("other")
            runs.complete(run, 0.5)
            given_away.append(run.place.number)
        return torch.nn.functional.cross_entropy(logits, labels)

    study = setting(own_loss)
    study.opened.study.tell(study.opened.study.ask(), 0.1)  # the default recipe, which would come first
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work("frozen")
    assert [place.state for place in study.places] == ["complete", "complete"]
    frozen = study.trials[1]
    assert frozen.params["loss"] == "own"
    assert frozen.state is TrialState.FAIL
    assert frozen.intermediate_values == {}


def test_a_failing_trial_keeps_its_reason_and_its_log(setting):
    """A trial that raises is failed with one line, its log has the traceback, and the worker goes on."""

    def own_loss(logits, labels):
        print("a word from the loss")
        raise ValueError("three\nlines\nhere")

    study = setting(own_loss)
    study.opened.study.tell(study.opened.study.ask(), 0.1)
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work()
    assert (study.places[0].state, study.places[0].reason) == ("failed", "ValueError: three")
    failed = study.trials[1]
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, "ValueError: three")
    with study.opened.storage.engine.connect() as connection:
        lines = [line for _, line in logs.read(connection, study.opened.study_id, 1)]
    assert lines[0] == "a word from the loss"
    assert "ValueError: three" in lines


def test_a_loss_that_is_not_finite_fails_the_trial_with_that_reason(setting):
    """NaN is a reason of its own, not a value of the study."""
    study = setting(lambda logits, _labels: logits.sum() * float("nan"))
    study.opened.study.tell(study.opened.study.ask(), 0.1)
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work()
    assert study.trials[1].user_attrs["reason"].startswith("the loss is nan: a lower learning_rate")


def test_a_trial_is_complete_only_with_its_weights_safe(setting, tmp_path, monkeypatch):
    """Where the artifacts cannot be written for long, a trial is run again, and failed with that reason in the end."""
    monkeypatch.setattr("hpo.worker.STORE_SECONDS", 0.1)
    monkeypatch.setattr("hpo.worker.STORE_PAUSE", 0.05)
    study = setting()
    (tmp_path / ".hpo").mkdir()
    (tmp_path / ".hpo" / "artifacts").write_text("a file in the folder's place")
    study.work()
    assert [place.state for place in study.places] == ["failed", "failed"]
    assert all(place.reason.startswith("given up after 2 runs, the last: artifacts: ") for place in study.places)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 4


def test_time_is_kept_under_its_headings(setting):
    """Where a worker's time went is in the database when it has left."""
    study = setting()
    study.work()
    with study.opened.storage.engine.connect() as connection:
        seconds = connection.execute(text("SELECT seconds FROM hpo.worker")).scalar_one()
    headings = {"start_up", "preparing", "training", "data", "storage", "idle", "between"}
    notes = {"to_first_step", "to_first_step_count", "turnover", "turnover_count"}
    assert set(seconds) == headings | notes
    assert (seconds["to_first_step_count"], seconds["turnover_count"]) == (2, 1)
    assert 0 < seconds["preparing"] < seconds["to_first_step"]
    assert 0 < seconds["turnover"] < 5
    assert seconds["training"] > 0
    assert seconds["storage"] > 0


def test_workers_that_begin_together_try_different_recipes(setting):
    """The sampler's seed differs from place to place, and is the same for the same study seed and place."""
    from hpo.methods import make_sampler

    def first_value(place):
        sampled = optuna.create_study(sampler=make_sampler(study.file, place))
        return sampled.ask().suggest_float("x", 0, 1)

    study = setting()
    assert first_value(0) == first_value(0)
    assert first_value(0) != first_value(1)


def test_what_fits_into_memory_is_remembered_for_all_workers(setting):
    """The first trial that runs out of memory notes in the study what fits, and no later one tries more."""
    study = setting()
    space = Space({**study.file.space.as_dict(), "backbone": "small memory"}, study.file.space.parts)
    study.file = file = dataclasses.replace(study.file, space=space)
    SmallMemory.asked = 0
    study.work("first")
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert SmallMemory.asked == 2  # 8 and 4 images, in the first trial
    kept = {key: size for key, size in study.opened.study.user_attrs.items() if "micro_batch" in key}
    assert kept == {"hpo:micro_batch: small memory, 8 px, cpu": 2}
    study.file = dataclasses.replace(file, limits=Limits(trials=3))
    study.work("second")
    assert SmallMemory.asked == 2
    with study.opened.storage.engine.connect() as connection:
        lines = [line for _, line in logs.read(connection, study.opened.study_id, 0)]
    assert "the device's memory ran out: 4 images go through the model at once from here" in lines


def test_tensorboard(setting):
    """With `tensorboard = true` each trial leaves its learning curves and parameters where TensorBoard finds them."""
    study = setting(more="tensorboard = true")
    study.work()
    folder = study.file.folder / "tensorboard" / "colours"
    assert sorted(path.name for path in folder.iterdir()) == ["trial-00000", "trial-00001"]
    for trial in study.trials:
        log = EventAccumulator(str(folder / f"trial-{trial.number:05}")).Reload()
        scores = {event.step: event.value for event in log.Scalars("valid/macro_f1")}
        assert scores == pytest.approx(trial.intermediate_values)
        assert [event.step for event in log.Scalars("train/loss")] == [1, 2]
        [parameters] = log.Tensors("recipe/text_summary")
        assert f"learning_rate = {trial.params['learning_rate']}" in parameters.tensor_proto.string_val[0].decode()


def test_tensorboard_that_cannot_write_costs_no_trial(setting, tmp_path):
    """Where TensorBoard's folder cannot be written, the trial's log says so and the trial goes on."""
    study = setting(more="tensorboard = true")
    study.file.folder.mkdir(exist_ok=True)
    (study.file.folder / "tensorboard").write_text("a file in the folder's place")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    with study.opened.storage.engine.connect() as connection:
        lines = [line for _, line in logs.read(connection, study.opened.study_id, 0)]
    assert sum("tensorboard: the logs cannot be written" in line for line in lines) == 1


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "/etc"])
def test_no_name_of_a_study_leads_out_of_its_folder(name, setting):
    """TensorBoard's logs of a study are in a folder of their own, whatever the study is called."""
    file = dataclasses.replace(setting().file, name=name)
    folder = folder_of(file)
    assert folder.resolve().parent == (file.folder / "tensorboard").resolve()


class Steps:
    """A loss that calls a function before the steps of these numbers, counted from 1 over all trials."""

    def __init__(self, actions):
        self.taken, self.actions = 0, actions

    def __call__(self, logits, labels):
        """Cross-entropy."""
        self.taken += 1
        self.actions.get(self.taken, lambda: None)()
        return torch.nn.functional.cross_entropy(logits, labels)


def stop_of(study):
    """Asks the worker of a study that is yet to be made to stop."""
    return lambda: study().stop.ask()  # noqa: PLW0108 - there is no study yet


FIXED = {"loss": "own", "mixing": "none"}  # three steps an epoch


def lines_of(study, trial):
    """What a trial printed."""
    with study.opened.storage.engine.connect() as connection:
        return [line for _, line in logs.read(connection, study.opened.study_id, trial)]


def weights_of(study, trial):
    """What a complete trial has learned."""
    model = model_of(study.trials[trial], study.opened, study.file.space.parts, 3, torch.device("cpu"))
    return model.state_dict()


def undisturbed(setting):
    """The first trial of a study in which nothing happens."""
    study = setting(Steps({}), name="undisturbed", trials=1, recipe=FIXED)
    study.work("undisturbed")
    return study


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_an_interrupted_trial_goes_on_where_it_was_left(setting, step):
    """A worker that is told to stop leaves its trial at the next step, and another one ends it bit for bit the same."""
    whole = undisturbed(setting)
    study = setting(Steps({step: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    assert [(place.state, place.reason) for place in study.places] == [("waiting", "interrupted")]
    study.stop = Stop()
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]
    left, again = study.trials
    assert left.state is TrialState.FAIL
    assert again.user_attrs["repeats"] == 0
    assert again.user_attrs["resumed_after_epoch"] == (step - 1) // 3
    assert again.intermediate_values == whole.trials[0].intermediate_values
    for key in ("best_epoch", "metrics"):
        assert again.user_attrs[key] == whole.trials[0].user_attrs[key]
    kept, other = weights_of(study, 1), weights_of(whole, 0)
    assert all(torch.equal(kept[name], other[name]) for name in other)
    assert study.own_loss.taken == 6  # no step was taken twice
    assert any("going on after epoch" in line for line in lines_of(study, 1))
    epochs = [(share.trial, share.first, share.last) for share in shares(again, study.trials)]
    assert epochs == ([(0, 1, 1), (1, 2, 2)] if step > 3 else [(1, 1, 2)])
    assert study.checkpoints == []


@pytest.mark.parametrize("damage", [lambda whole: whole[:-10], lambda _whole: b"", lambda whole: b"x" + whole[1:]])
def test_a_damaged_checkpoint_costs_time_only(setting, damage):
    """Where a checkpoint is damaged, the log says so, and the trial begins anew and ends bit for bit the same."""
    whole = undisturbed(setting)
    study = setting(Steps({5: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    [checkpoint] = study.checkpoints
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    study.stop = Stop()
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]
    assert any(line.startswith("checkpoint: ") and "damaged" in line for line in lines_of(study, 1))
    assert study.trials[1].intermediate_values == whole.trials[0].intermediate_values
    assert "resumed_after_epoch" not in study.trials[1].user_attrs
    assert study.checkpoints == []


def test_a_trial_failed_from_outside_is_dropped_and_the_next_one_taken(setting, monkeypatch):
    """Who fails a running trial, in the dashboard, say, stops it, and its worker goes on with the next one."""
    monkeypatch.setattr("hpo.worker.BEAT_SECONDS", 0.02)

    def fail():
        study.opened.study.tell(0, state=TrialState.FAIL)
        time.sleep(0.5)

    study = setting(Steps({2: fail}), recipe=FIXED)
    study.work()
    first, second = study.places
    assert (first.state, first.reason) == ("failed", "told failed from outside")
    assert second.state == "complete"
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.own_loss.taken == 2 + 6  # it did not go on to the end of the first one
    assert study.checkpoints == []


def test_a_trial_told_complete_from_outside_is_dropped(setting):
    """A value that somebody else tells stands, and the worker finds out at the end of the epoch."""
    study = setting(Steps({2: lambda: study.opened.study.tell(0, 0.5)}), trials=1, recipe=FIXED)
    study.work()
    assert [place.state for place in study.places] == ["complete"]
    assert study.trials[0].value == 0.5
    assert study.own_loss.taken == 3


def test_a_deleted_study_ends_its_workers_with_one_line(setting, monkeypatch):
    """A worker whose study is deleted meanwhile says so and ends."""
    monkeypatch.setattr("hpo.worker.BEAT_SECONDS", 0.02)

    def delete():
        study.opened.storage.delete_study(study.opened.study_id)
        time.sleep(0.5)

    study = setting(Steps({2: delete}), recipe=FIXED)
    with pytest.raises(HpoError, match='the study "colours" was deleted'):
        study.work()


def test_a_paused_study_goes_on_where_it_was(setting, monkeypatch):
    """A pause takes the trials from all workers within seconds; they wait, and go on when it is over."""
    monkeypatch.setattr("hpo.worker.BEAT_SECONDS", 0.02)
    monkeypatch.setattr("hpo.worker.IDLE_SECONDS", 0.02)
    seen = []

    def pause():
        with study.opened.storage.engine.begin() as connection:
            begin_halt(connection, study.opened.study_id, "pause")
        threading.Thread(target=resume).start()
        time.sleep(0.5)

    def resume():
        while [place.state for place in study.places] != ["waiting"]:
            time.sleep(0.02)
        seen.extend(study.places)
        with study.opened.storage.engine.begin() as connection:
            end_halt(connection, study.opened.study_id)

    study = setting(Steps({2: pause}), recipe=FIXED)
    study.work()
    assert [(place.state, place.reason) for place in seen] == [("waiting", "the study was paused")]
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert study.own_loss.taken == 12


def test_a_stopped_study_ends_its_workers(setting, monkeypatch):
    """A stop takes the trials from all workers, which end, and none begins before it is lifted."""
    monkeypatch.setattr("hpo.worker.BEAT_SECONDS", 0.02)

    def stop():
        with study.opened.storage.engine.begin() as connection:
            begin_halt(connection, study.opened.study_id, "stop")
        time.sleep(0.5)

    study = setting(Steps({2: stop}), recipe=FIXED)
    study.work("first")
    study.work("second")
    assert [(place.state, place.reason) for place in study.places] == [("waiting", "the study was stopped")]
    with study.opened.storage.engine.begin() as connection:
        end_halt(connection, study.opened.study_id)
    study.work("third")
    assert [place.state for place in study.places] == ["complete", "complete"]


def test_a_trial_is_run_again_only_where_that_can_help(setting):
    """What the disk or the memory refuses may work later; what the recipe does wrong it does again."""

    def refuse(error):
        raise error

    errors = {2: OSError(28, "No space left on device"), 6: MemoryError(), 13: ValueError("no")}
    steps = Steps({step: partial(refuse, error) for step, error in errors.items()})
    study = setting(steps, recipe=FIXED, retries=2)
    study.work()
    assert [(place.state, place.reason) for place in study.places] == [("complete", None), ("failed", "ValueError: no")]
    reasons = [trial.user_attrs.get("reason", "").partition(";")[0] for trial in study.trials]
    assert reasons == ["OSError: [Errno 28] No space left on device", "MemoryError", "", "ValueError: no"]


def test_a_broken_gpu_ends_its_worker_and_another_runs_the_trial(setting):
    """After an error that leaves a process without its GPU the worker ends, and its trial waits for another one."""

    def break_down():
        raise RuntimeError("CUDA error: unspecified launch failure")

    study = setting(Steps({2: break_down}), trials=1, recipe=FIXED)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        study.work("broken")
    assert [place.state for place in study.places] == ["waiting"]
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]


def test_a_store_that_is_away_for_a_while_is_waited_for(setting, monkeypatch):
    """A complete trial waits until its weights can be kept, and a checkpoint that cannot be written costs nothing."""
    monkeypatch.setattr("hpo.worker.STORE_PAUSE", 0.05)

    def go_away():
        folder.parent.mkdir(exist_ok=True)
        folder.write_text("a file in the folder's place")
        threading.Thread(target=come_back).start()

    def come_back():
        while study.own_loss.taken < 6:
            time.sleep(0.02)
        time.sleep(0.3)
        folder.unlink()

    study = setting(Steps({1: go_away}), trials=1, recipe=FIXED)
    folder = study.file.folder / "artifacts"
    study.work()
    assert [place.state for place in study.places] == ["complete"]
    assert weights_of(study, 0)
    assert sum(line.startswith("checkpoint: ") for line in lines_of(study, 0)) == 1


def test_who_dies_between_the_steps_of_beginning_leaves_nothing_behind(setting, monkeypatch):
    """A worker that dies before its trial runs leaves a waiting one, which the next one runs under the same number."""
    study = setting()
    monkeypatch.setattr(study.opened.storage, "set_trial_state_values", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.dead_worker()
    monkeypatch.undo()
    bury(study.opened.storage.engine, "dead")
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE]
