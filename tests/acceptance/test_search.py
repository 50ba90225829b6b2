"""`hpo search` as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
import pytest
import tomli_w

from storage.database import connect, initialize
from storage.keys import FIRST_RUN_KEY
from tests.conftest import ROOT, hpo_in, new_database, opened, paint
from tests.support.waiting import limit, wait_until
from trainer.recipe import DEFAULTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.acceptance

STUDY = """
[study]
name = "{name}"
pruner = "none"
portfolio = false
[data]
path = "photos"
[budget]
trials = {trials}
[recipe]
backbone = ["test_resnet", "test_efficientnet"]
pretrained = false
image_size = 32
epochs = {epochs}
batch_size = 8
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}
{more}
"""


def write_study(folder, *, name="colours", trials=4, epochs=2, more=""):
    """Write a study file for the photos; returns its path."""
    file = folder / "study.toml"
    file.write_text(STUDY.format(name=name, trials=trials, epochs=epochs, more=more))
    return file


def status(hpo, **variables):
    """What `hpo status --json` says."""
    done = hpo("status", "study.toml", "--json", **variables)
    return json.loads(done.stdout) if done.returncode == 0 else None


@dataclass(frozen=True)
class Demo:
    """The demo at its end: its folder, what runs commands there, what it printed, its status and its bundle."""

    folder: Path
    hpo: Callable
    printed: str
    status: dict
    bundle: dict


SHORT_DEMO = ("--trials", 6, "--epochs", 2, "--repeats", 2)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, with a smaller budget, on its own Postgres."""
    folder = opened(tmp_path_factory.mktemp("demo"), tmp_path_factory.getbasetemp())
    hpo = hpo_in(folder)
    done = hpo("demo", "demo", *SHORT_DEMO, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads(hpo("status", "demo/study.toml", "--json").stdout)
    return Demo(folder, hpo, done.stdout, status, json.loads((folder / "demo/bundle/bundle.json").read_text()))


def test_the_demo_searches_and_pauses_to_the_end_of_its_budget(demo):
    """Each trial of the demo's budget is complete or paused, by two worker processes, with little time between them."""
    trials = demo.status["trials"]
    assert sum(trials.values()) == demo.status["budget"]["used"]["trials"] == 6
    assert trials["paused"]
    assert trials["failed"] == trials["running"] == trials["waiting"] == 0
    assert "password" not in demo.status["storage"]
    between = re.search(r"between trials ([\d.]+) %", demo.printed)
    assert between, demo.printed
    assert float(between[1]) <= 5  # of trials that take a few seconds
    of_search = "study_id = (SELECT study_id FROM studies WHERE study_name = 'digits')"
    with_pids = f"SELECT worker, count(*) FROM hpo.place WHERE ended IS NOT NULL AND {of_search} GROUP BY worker"
    program = (
        "import sys, pathlib; from sqlalchemy import text; from storage.database import connect;"
        " from storage.embedded.server import embedded_postgres\n"
        "with embedded_postgres(pathlib.Path('demo/.hpo')) as url:\n"
        f"    print(connect(url).engine.connect().execute(text({with_pids!r})).all())"
    )
    done = demo.hpo(program=("-c", program))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("',") == 2


def test_the_demo_confirms_its_best_recipes(demo):
    """At the end of its search the demo trains the best again on fresh folds, and exports the winner of these."""
    confirmation = demo.status["confirmation"]
    assert f"\nconfirmed winner: trial {confirmation['winner']}, " in demo.printed
    assert demo.bundle["trial"] == confirmation["winner"]
    assert demo.bundle["confirmation"]["winner"]
    assert demo.bundle["confirmation"]["folds"] == 2


def test_the_demo_exports_a_tested_bundle(demo):
    """The winner of the demo is tested on the held-out images, says how well it does, and predicts them: two uses."""
    assert demo.bundle["classes"] == [str(digit) for digit in range(10)]
    assert demo.bundle["test_uses"] == 2
    assert "(use 1 of the test split)" in demo.printed
    assert "use 2 of the test split: " in demo.printed
    assert demo.bundle["metrics"]["test"]["macro_f1"] > 0.8
    assert f"test macro-F1 {demo.bundle['metrics']['test']['macro_f1']:.4f}" in demo.printed


def test_the_demo_predicts_as_well_as_it_was_tested(demo):
    """The predictions of the demo are right as often as the test said, and its probabilities add up to 1."""
    with (demo.folder / "demo/predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == demo.bundle["metrics"]["test"]["images"]
    right = sum(f"/digits/{row['predicted']}/" in row["path"] for row in predictions)
    assert right / len(predictions) == pytest.approx(demo.bundle["metrics"]["test"]["accuracy"])
    assert sum(float(predictions[0][name]) for name in demo.bundle["classes"]) == pytest.approx(1, abs=1e-4)


def test_the_demo_can_be_given_again(demo):
    """The same command finds the search at its end, and tells its result."""
    again = demo.hpo("demo", "demo", *SHORT_DEMO)
    assert again.returncode == 0, again.stderr
    assert "trials: " in again.stdout
    assert "\nconfirmed winner: " in again.stdout


def test_ctrl_c_hands_trials_back_and_the_same_command_resumes(faulty_study):
    """Ctrl-C ends with 130 and running trials in the queue; the same command ends with exactly the budget."""
    study = faulty_study(trials=3, epochs=60, step_seconds=0.5)
    search = study.begin("search", "--workers", "2")
    wait_until(lambda: len(study.places) == 2 and all(place.epoch for place in study.places))
    search.send(signal.SIGINT)
    assert search.end() == 130
    assert "the same command resumes" in search.printed
    assert [place.state for place in study.places] == ["waiting", "waiting"]

    again = study.begin("search", "--workers", "2", step_seconds=0)
    assert again.end() == 0, again.printed
    tally = study.tally()
    assert tally.problems == ()
    assert (tally.budget, tally.states, tally.resumed) == (3, {"complete": 3}, 2)
    trials = study.trials
    repeated = [trial for trial in trials if "repeats" in trial.user_attrs]
    assert [trial.params for trial in repeated] == [trials[trial.user_attrs["repeats"]].params for trial in repeated]


def test_a_search_that_cannot_succeed_stops_with_the_reason(hpo, tmp_path, photos, database):
    """Five first trials that fail for one reason end the search with that reason."""
    (tmp_path / "own.py").write_text(
        "from hpo.cli import main\n"
        "from trainer.extensions import Extensions\n"
        "def broken(logits, labels):\n"
        "    raise RuntimeError(f'no loss for {len(labels)} labels')\n"
        "if __name__ == '__main__':\n"
        "    main(extensions=Extensions(losses={'broken': broken}))\n"
    )
    write_study(tmp_path, trials=50, more='loss = "broken"')
    done = hpo("search", "study.toml", "--workers", 1, program=("own.py",), HPO_STORAGE=database)
    assert done.returncode == 1
    assert "the first 5 trials failed for the same reason: RuntimeError: no loss for 8 labels" in done.stderr
    assert done.stderr.count("\n") == 1
    now = json.loads(hpo("status", "study.toml", "--json", program=("own.py",), HPO_STORAGE=database).stdout)
    assert now["trials"]["failed"] == now["budget"]["used"]["trials"] == 5
    logs = hpo("logs", "study.toml", 0, program=("own.py",), HPO_STORAGE=database)
    assert "Traceback" in logs.stdout
    assert logs.stdout.endswith("trial 0 failed: RuntimeError: no loss for 8 labels\n")


def test_a_search_space_that_is_used_up_ends_the_search_with_that_line(hpo, tmp_path, photos, database):
    """A recipe that is fixed is trained once: the search ends, says so, and keeps the rest of its budget."""
    study = tomllib.loads(STUDY.format(name="fixed", trials=3, epochs=1, more=""))
    study["recipe"] = DEFAULTS | study["recipe"] | {"backbone": "test_resnet", "learning_rate": 1e-3, "augment": "none"}
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
    line = "the search space is used up: every recipe of it has been trained; 2 of 3 trials are unspent\n"
    for _ in range(2):  # the second time it trains nothing, and says it again
        done = hpo("search", "study.toml", "--workers", 1, HPO_STORAGE=database)
        assert done.returncode == 0
        assert line in done.stdout
        assert "winner: trial 0," in done.stdout
    now = hpo("status", "study.toml", HPO_STORAGE=database).stdout
    assert "the search space is used up: every recipe of it has been trained" in now
    assert (
        json.loads(hpo("status", "study.toml", "--json", HPO_STORAGE=database).stdout)["budget"]["used"]["trials"] == 1
    )


def test_two_inits_at_once_make_one_study_which_list_shows_and_delete_deletes(hpo, tmp_path, photos, database):
    """`hpo init` is safe in parallel; `hpo list` shows the study, `hpo delete` asks and then deletes it."""
    write_study(tmp_path, name="색깔 study")
    inits = [
        subprocess.Popen(
            [sys.executable, "-m", "hpo", "init", "study.toml"],
            cwd=tmp_path,
            env={**os.environ, "HPO_STORAGE": database},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    errors = [init.communicate(timeout=limit(60))[1] for init in inits]
    assert [init.returncode for init in inits] == [0] * 3, errors
    study = optuna.load_study(study_name="색깔 study", storage=connect(database))
    assert len(study.trials) == 1  # the default recipe, waiting, once

    listed = json.loads(hpo("list", "study.toml", "--json", HPO_STORAGE=database).stdout)
    about = {"workers": 0, "halt": None}
    assert listed == [{"name": "색깔 study", "trials": 0, "best_macro_f1": None, **about}]
    unanswered = hpo("delete", "study.toml", HPO_STORAGE=database)
    assert unanswered.returncode == 1
    assert "nothing was deleted" in unanswered.stdout
    kept = tmp_path / ".hpo" / "pixels"
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "red.npy").write_bytes(bytes(2_000_000))
    for name, lines in (("another", 1), ("색깔 study", 2)):
        write_study(tmp_path, name=name)
        assert name == "색깔 study" or hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
        deleted = hpo("delete", "study.toml", "--yes", HPO_STORAGE=database)
        assert deleted.returncode == 0
        assert len(deleted.stdout.splitlines()) == lines
    assert re.search(rf"{tmp_path / '.hpo'} still takes 2(\.\d+)? MB", deleted.stdout)
    assert (kept / "red.npy").exists()
    assert json.loads(hpo("list", "--json", HPO_STORAGE=database).stdout) == []


def test_a_study_that_was_broken_off_while_it_was_made_is_made_by_the_next_init(hpo, tmp_path, photos, database):
    """A study without settings and results is completed; one with results of somebody else's is left alone."""
    write_study(tmp_path)
    initialize(database)
    half_made = optuna.create_study(study_name="colours", storage=connect(database), direction="maximize")
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    half_made = optuna.load_study(study_name="colours", storage=connect(database))
    assert [trial.state.name for trial in half_made.trials] == ["WAITING"]

    write_study(tmp_path, name="somebody's")
    others = optuna.create_study(study_name="somebody's", storage=connect(database), direction="maximize")
    others.tell(others.ask(), 0.5)
    refused = hpo("init", "study.toml", HPO_STORAGE=database)
    assert refused.returncode == 1
    assert "was not created by hpo; give another [study] name" in refused.stderr


def test_a_changed_study_file_is_refused_with_the_key_and_the_way_on(hpo, tmp_path, photos, database):
    """What trials depend on cannot change in a live study; what they do not depend on can."""
    write_study(tmp_path)
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    file = tmp_path / "study.toml"
    file.write_text(
        file.read_text().replace('"test_efficientnet"', '"test_convnext"').replace("trials = 4", "trials = 9")
    )
    photos.rename(tmp_path / "elsewhere")  # no image is looked at before the recipe is compared
    for command in ("search", "init", "worker", "workers"):
        changed = hpo(command, "study.toml", HPO_STORAGE=database)
        assert changed.returncode == 1
        first, *rest = changed.stderr.splitlines()
        assert "give the study another name" in first
        assert rest == [
            '  recipe.backbone was ["test_resnet", "test_efficientnet"], is now ["test_resnet", "test_convnext"]'
        ]
    (tmp_path / "elsewhere").rename(photos)
    assert hpo("status", "study.toml", HPO_STORAGE=database).returncode == 0
    file.write_text(file.read_text().replace('"test_convnext"', '"test_efficientnet"'))
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0


def test_a_worker_with_other_images_or_versions_does_not_join(hpo, tmp_path, photos, database):
    """A worker whose images or major versions differ from the study's says so and ends with 1."""
    write_study(tmp_path)
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    paint(photos / "red" / "new.png", (200, 60, 60), 99)
    other_images = hpo("worker", "study.toml", HPO_STORAGE=database)
    assert other_images.returncode == 1
    assert other_images.stderr.endswith(":\n  images were 36, are now 37\n")
    for_all = hpo("workers", "study.toml", "--workers", 1, HPO_STORAGE=database)
    assert (for_all.returncode, for_all.stderr) == (1, other_images.stderr)
    (photos / "red" / "new.png").unlink()

    study = optuna.load_study(study_name="colours", storage=connect(database))
    kept = study.user_attrs["hpo:settings"]
    study.set_user_attr("hpo:settings", {**kept, "major versions": {**kept["major versions"], "torch": "1"}})
    other_version = hpo("worker", "study.toml", HPO_STORAGE=database)
    assert other_version.returncode == 1
    assert 'major versions.torch was "1"' in other_version.stderr


def test_commands_that_only_look_import_no_torch(hpo, tmp_path, photos, database):
    """`init`, `status`, `list` and `--help` import no torch; `predict` on a CPU opens no GPU."""
    write_study(tmp_path)
    program = (
        "import sys\nfrom hpo.cli import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    for arguments in (("--help",), ("init", "study.toml"), ("status", "study.toml"), ("list", "study.toml")):
        done = hpo(*arguments, program=("-c", program), HPO_STORAGE=database)
        assert done.returncode == 0, (arguments, done.stderr)


@pytest.fixture(scope="module")
def persons(tmp_path_factory, postgres):
    """The example with a CSV of persons, searched and exported: its folder, what runs commands there, its storage."""
    folder = opened(tmp_path_factory.mktemp("persons"), tmp_path_factory.getbasetemp())
    shutil.copy(ROOT / "examples/groups.toml", folder)
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "person"])
        for number in range(48):
            label, colour = (("mask", (200, 60, 60)), ("none", (60, 60, 200)))[number % 2]
            paint(folder / "사람 사진" / f"{number}.PNG", colour, number)
            writer.writerow([f"사람 사진/{number}.PNG", label, f"person {number // 4}"])
    hpo = hpo_in(folder)
    with new_database(postgres, "test_persons") as url:
        storage = {"HPO_STORAGE": url}
        done = hpo("search", "groups.toml", "--workers", 2, **storage)
        assert done.returncode == 0, done.stderr
        done = hpo("export-best", "groups.toml", "-o", "bundle", **storage)
        assert done.returncode == 0, done.stderr
        yield folder, hpo, storage


def test_a_split_that_the_data_come_with_is_searched_tested_and_predicted(hpo, tmp_path, photos, database):
    """The images in test/ are the held-out ones, and all of them; the test of the bundle is on these."""
    for name in ("red", "green", "blue"):
        (photos / "test" / name).mkdir(parents=True)
        for number in range(4):
            (photos / name / f"{number}.png").rename(photos / "test" / name / f"{number}.png")
        shutil.move(photos / name, photos / "train" / name)
    write_study(tmp_path, trials=1, epochs=1)
    done = hpo("search", "study.toml", HPO_STORAGE=database)
    assert "18 to train, 6 to validate, 12 held out" in done.stdout + done.stderr
    done = hpo("export-best", "study.toml", "-o", "bundle", HPO_STORAGE=database)
    assert "on 12 images that the search never saw" in done.stdout
    assert "retraining on 24 images" in done.stdout
    with (tmp_path / "bundle" / "test.csv").open(newline="") as file:
        held_out = {(tmp_path / "bundle" / row["path"]).resolve() for row in csv.DictReader(file)}
    assert held_out == set((photos / "test").rglob("*.png"))


def test_groups_example_keeps_each_person_on_one_side(persons):
    """No person is on both sides of the test split."""
    folder, _, _ = persons
    with (folder / "bundle/test.csv").open() as file:
        held_out = [int(row["path"].split("/")[-1].removesuffix(".PNG")) for row in csv.DictReader(file)]
    numbers = {number // 4 for number in held_out}
    assert len(held_out) == 4 * len(numbers) == 12


def test_a_bundle_predicts_its_test_images_as_well_as_it_was_tested(persons):
    """The metrics of `hpo predict` on the test images are those that the bundle names."""
    folder, hpo, _ = persons
    done = hpo("predict", "bundle", "bundle/test.csv", "-o", "predictions.csv", "--json")
    info, said = json.loads((folder / "bundle/bundle.json").read_text()), json.loads(done.stdout)
    for name in ("log_loss", "expected_calibration_error"):  # other threads may round a probability otherwise
        assert said["metrics"].pop(name) == pytest.approx(info["metrics"]["test"].pop(name), abs=1e-6)
    assert said["metrics"] == info["metrics"]["test"]
    assert said["metrics"]["interval"]["groups"] == 3
    assert said["test_uses"]["bundle"]["uses"] == info["test_uses"]


def test_places_that_cannot_be_written_are_refused(persons):
    """Predictions and bundles that cannot be written are one line, and exit code 1."""
    _, hpo, storage = persons
    unwritable = hpo("predict", "bundle", "bundle/test.csv", "-o", "/proc/predictions.csv")
    assert unwritable.returncode == 1
    assert unwritable.stderr.startswith("hpo: predict: /proc/predictions.csv cannot be written")
    unwritable = hpo("export-best", "groups.toml", "-o", "/proc/bundle", **storage)
    assert unwritable.returncode == 1
    assert unwritable.stderr.startswith("hpo: export: /proc/bundle cannot be written")


def test_a_bundle_without_retraining_votes_with_another_one(persons):
    """A bundle with the trial's own weights counts one more use of the test images; two bundles vote together."""
    folder, hpo, storage = persons
    own_weights = hpo("export-best", "groups.toml", "-o", "own", "--no-retrain", **storage)
    assert own_weights.returncode == 0, own_weights.stderr
    assert json.loads((folder / "own/bundle.json").read_text())["test_uses"] == 2
    together = ("--voting", "hard", "--tta", "crops", "--json")
    done = hpo("predict", "bundle", "own", "bundle/test.csv", "-o", "predictions.csv", *together)
    said = json.loads(done.stdout)
    assert (said["bundles"], said["voting"], said["tta"], said["images"]) == (["bundle", "own"], "hard", "crops", 12)
    with (folder / "predictions.csv").open() as file:
        assert {float(row["mask"]) for row in csv.DictReader(file)} <= {0.0, 0.5, 1.0}
    assert "exists already" in hpo("export-best", "groups.toml", "-o", "own", **storage).stderr


def test_own_loss_example_searches_with_a_function_of_ones_own(hpo, tmp_path, photos, database):
    """The example's loss of one's own is searched beside a built-in one, by workers that run the same script."""
    for name in ("own_loss.py", "own_loss.toml"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    done = hpo("search", "own_loss.toml", "--workers", 2, program=("own_loss.py",), HPO_STORAGE=database)
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="own_loss", storage=connect(database))
    assert len({trial.user_attrs.get(FIRST_RUN_KEY, trial.number) for trial in study.trials}) == 4
    assert {trial.params["loss"] for trial in study.trials} <= {"cross_entropy", "squared_error"}
    done = hpo("search", "own_loss.toml", HPO_STORAGE=database)
    assert done.returncode == 1
    assert 'recipe.loss: "squared_error" is not known' in done.stderr


def test_notebook_example_runs_without_the_service(hpo, tmp_path, photos):
    """The objective runs in a plain Optuna study, which begins with the default recipe."""
    code = (ROOT / "examples/notebook.py").read_text()
    # A small model without published weights, which a test could not fetch, and two quick trials.
    for line, shorter in (
        (
            '{"backbone": "resnet18.a1_in1k", "image_size": 160, "epochs": 10}',
            '{"backbone": "test_resnet", "pretrained": False, "image_size": 32, "epochs": 2, "batch_size": 8}',
        ),
        ("n_trials=20", "n_trials=2"),
    ):
        assert code.count(line) == 1
        code = code.replace(line, shorter)
    code += "first = study.trials[0].params\nassert first.items() <= space.default_parameters().items(), first\n"
    (tmp_path / "notebook.py").write_text(code)
    done = hpo(program=("notebook.py",))
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout.split()[0]) <= 1
