"""The winner as a bundle, with pseudo-labels."""

from __future__ import annotations

import csv
import json
import shutil
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from optuna.trial import FixedTrial, TrialState, create_trial

import hpo.bundle.conversion
import hpo.bundle.retraining
from hpo.bundle.chosen_trials import score_line, trial_of_number
from hpo.bundle.commands import run_export_best, run_predict
from hpo.bundle.conversion import Conversion
from hpo.bundle.ensemble import Ensemble
from hpo.bundle.export import chosen_of
from hpo.bundle.export import export as export_trials
from hpo.bundle.inputs import find_bundles, find_images
from hpo.bundle.prediction import predict_to_csv
from hpo.bundle.pseudo_label_gain import _kept_models
from hpo.bundle.retraining import Training
from hpo.cli import parser
from hpo.dashboard.notes import study_note
from hpo.errors import HpoError
from hpo.hardware import cores
from hpo.report import results
from hpo.report.page import make_report
from hpo.study.confirm_settings import ConfirmSettings
from hpo.study.confirmation import begin_confirmation, confirmation_after_search, mark_of
from hpo.study.confirmed import Confirmed, ConfirmedRecipe, read_confirmed
from hpo.study.confirmed_table import shown_mean
from hpo.study.fresh_folds import data_of_fold
from hpo.study.open_study import create_study, load_study
from hpo.study.status import take_snapshot
from hpo.study.study_file import read_study_file
from hpo.supervision.confirmation import announcement
from hpo.worker.shutdown import Shutdown
from hpo.worker.stopwatch import Stopwatch
from hpo.worker.worker import Worker
from storage.keys import BEST_EPOCH_KEY, DEFAULT_KEY, DEVICE_KEY, REPEATS_KEY, TEST_SCORE_KEY, THREADS_KEY, WEIGHTS_NAME
from storage.optuna_internals import given_parameters
from tests.conftest import paint
from tests.integration.conftest import linear
from trainer.device import torch_threads
from trainer.errors import DataError
from trainer.extensions import Extensions
from trainer.loaders import Loaders
from trainer.space import suggest

pytestmark = pytest.mark.integration

# The pixels of all images fit within pixels_gb, but not those of the labelled ones beside them.
STUDY = """
[study]
name = "colours"
pruner = "none"
[data]
path = "photos"
pixels_gb = 1e-5
[budget]
trials = 1
[recipe]
backbone = "linear"
image_size = 8
epochs = 20
batch_size = 8
learning_rate = 1e-2
augment = "none"
"""


def open_new(file, url):
    """Create a study and load it; returns it with its images."""
    data = file.data.load(file.folder / "pixels")
    create_study(file, url, data)
    return load_study(file, url), data


def search(file, url):
    """Search to the end of the budget; lets go of the images, as a process does by its end."""
    opened, data = open_new(file, url)
    stopwatch, shutdown = Stopwatch(time.perf_counter()), Shutdown()
    Worker(opened, data, name="worker", loaders=Loaders(0), stopwatch=stopwatch, shutdown=shutdown).run()
    opened.storage.engine.dispose()


@pytest.fixture
def export(tmp_path, photos, ready_database, capsys):
    """Searches a study to its end; gives a function that exports its winner and returns bundle.json and the lines."""
    (tmp_path / "study.toml").write_text(STUDY)
    extensions = Extensions(backbones={"linear": linear})
    search(read_study_file(tmp_path / "study.toml", extensions), ready_database)

    def run(folder, *more):
        given = ["export-best", tmp_path / "study.toml", "-o", tmp_path / folder, *more]
        options = parser().parse_args([str(one) for one in given])
        options.extensions, options.url = extensions, ready_database
        capsys.readouterr()
        assert run_export_best(options) == 0
        return json.loads((tmp_path / folder / "bundle.json").read_text()), capsys.readouterr().out.splitlines()

    return run


def test_sure_images_are_learned_by_a_second_model(export, tmp_path, ready_database):
    """--keep-pseudo-labels trains on images that the retrained winner is sure of, and not on copies of test images."""
    plain, said = export("plain")
    assert plain["pseudo_labels"] is None
    assert plain["timm_problem"] == 'the backbone "linear" is one of your own'
    assert f"timm alone cannot load this bundle, only hpo: {plain['timm_problem']}" in said
    with (tmp_path / "plain/test.csv").open() as file:
        held_out = [tmp_path / "plain" / row["path"] for row in csv.DictReader(file)]
    for number in range(10):
        paint(
            tmp_path / "found" / "red" / f"{number}.png", (60, 60, 200), 100 + number
        )  # blue, whatever its folder says
    for number, file in enumerate(held_out[:3]):
        shutil.copy(file, tmp_path / "found" / f"copy {number}.png")

    options = ("--unlabelled", tmp_path / "found", "--confidence", 0.6, "--keep-pseudo-labels")
    info, lines = export("bundle", *options)
    assert info["pseudo_labels"] == {
        "images": 10,
        "of": 10,
        "confidence": 0.6,
        "per_class": {"blue": 10, "green": 0, "red": 0},
        "used": True,
        "comparison": None,
    }
    trained = [line for line in lines if not line.startswith("epoch ")]
    learned = 36 - len(held_out)
    assert trained[1] == (
        "left out of the unlabelled images as exact copies: 3 of held-out test images, 0 of other images"
    )
    assert trained[2].startswith(f"retraining on {learned} images, training and validation, for ")
    assert trained[3].endswith("0.6 or more: blue 10, green 0, red 0")
    assert trained[4].startswith(f"retraining on {learned + 10} images, 10 of them unlabelled, for ")

    card = ModelCard.load(tmp_path / "bundle" / "MODEL_CARD.md")
    assert [each.metric_value for each in card.data.eval_results] == [
        info["metrics"]["test"][name] for name in ("macro_f1", "accuracy")
    ]
    assert "It has also learned 10 unlabelled images with pseudo-labels." in card.text
    assert f"{learned} training" not in card.text
    assert f"{len(held_out)} held out" in card.text

    # The first training is the plain one, the second has as many epochs and gives another model.
    losses = [line.split(",")[0] for line in lines if line.startswith("epoch ")]
    assert losses[: len(losses) // 2] == [line.split(",")[0] for line in said if line.startswith("epoch ")]
    assert len(losses) == 2 * info["epochs"]
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "bundle")]
    assert written[0] != written[1]

    # Both are tested on the same images, once each.
    for name in ("data_digest", "split_digest"):
        assert info[name] == plain[name]
    assert info["metrics"]["test"]["images"] == len(held_out)
    assert [plain["test_uses"], info["test_uses"]] == [1, 2]
    own = Extensions(backbones={"linear": linear})
    study = load_study(read_study_file(tmp_path / "study.toml", own), ready_database).study
    kept = [value for key, value in study.user_attrs.items() if key.startswith(TEST_SCORE_KEY)]
    tests = [each["metrics"]["test"] for each in (plain, info)]
    expected = [(test["macro_f1"], test["interval"]["macro_f1"], test["images"]) for test in tests]
    assert sorted((one["macro_f1"], one["interval"], one["images"]) for one in kept) == sorted(expected)
    assert info["metrics"]["test"]["macro_f1"] > 0.8


def test_a_bundle_is_tested_as_it_predicts(export, tmp_path, monkeypatch):
    """Temperature and offsets that the validation images gave are those of the test and of `hpo predict`."""
    monkeypatch.setattr("hpo.bundle.decision.FEWEST_IMAGES", 6)
    monkeypatch.setattr("hpo.bundle.decision.PARTS", 2)
    monkeypatch.setattr("trainer.calibration.Offsets.helps", True)
    monkeypatch.setattr("trainer.calibration.Temperature.helps", True)
    info, lines = export("bundle")
    [line] = [line for line in lines if line.startswith("calibration: ")]
    assert f"by {info['calibration']['images']} validation images that the trial's own weights have not learned" in line
    info["thresholds"]["offsets"] |= {"red": 1e-9}  # whatever was found, they are read
    (tmp_path / "bundle/bundle.json").write_text(json.dumps(info))
    bundles, inputs = find_bundles([str(tmp_path / "bundle"), str(tmp_path / "bundle/test.csv")])
    assert bundles[0].decision.temperature == info["calibration"]["temperature"] != 1
    own = Ensemble(bundles, Extensions(backbones={"linear": linear}))
    found = predict_to_csv(own, find_images(inputs, bundles[0].classes), tmp_path / "out.csv")
    name, expected = "expected_calibration_error", info["metrics"]["test"]
    assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-3)
    assert found == expected


def test_what_cannot_be_learned_leaves_no_bundle(export, tmp_path):
    """Broken images and places without any are foreseen failures, and nothing half-made is left."""
    grey = tmp_path / "grey.png"
    paint(grey, (110, 110, 110), 1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 38 images cannot be read: .*broken\.png"):
        export("bundle", "--unlabelled", grey, tmp_path / "broken.png")
    with pytest.raises(HpoError, match=r"export: .*nowhere does not exist"):
        export("bundle", "--unlabelled", tmp_path / "nowhere")
    assert not list(tmp_path.glob("*bundle*"))


@pytest.mark.parametrize("more", [(), ("--keep-pseudo-labels",)])
def test_unsure_images_are_left_out_and_the_bundle_is_written(export, tmp_path, more):
    """Where the model is sure of no unlabelled image, it becomes the bundle without any, and a line says why."""
    grey = tmp_path / "grey.png"
    paint(grey, (110, 110, 110), 1)
    info, lines = export("bundle", "--unlabelled", grey, "--confidence", 1, *more)
    [line] = [line for line in lines if line.startswith("pseudo-labels left out: none of 1 unlabelled images has")]
    assert (info["pseudo_labels"]["images"], info["pseudo_labels"]["used"]) == (0, False)
    assert not (tmp_path / "bundle" / "pseudo_labels.csv").exists()
    assert line[1:] in ModelCard.load(tmp_path / "bundle" / "MODEL_CARD.md").text.replace("\\", "")


@pytest.mark.parametrize("given", [["--confidence", "0.9"], ["--keep-pseudo-labels"]])
def test_pseudo_labels_without_images_are_refused(given):
    """--confidence or --keep-pseudo-labels without --unlabelled would change nothing, and is said."""
    options = parser().parse_args(["export-best", "study.toml", "-o", "bundle", *given])
    with pytest.raises(HpoError, match=f"{given[0]} .*give --unlabelled, too"):
        run_export_best(options)


@pytest.fixture
def tried(tmp_path, photos, ready_database):
    """A study with complete trials 1 to 4: 2 has won, 3 has its recipe, 4 a worse one; trial 1 came from outside."""
    (tmp_path / "study.toml").write_text(STUDY.replace("epochs = 20", "epochs = 2"))
    opened, _ = open_new(
        read_study_file(tmp_path / "study.toml", Extensions(backbones={"linear": linear})), ready_database
    )
    opened.study.add_trial(create_trial(value=0.99))
    asked = FixedTrial(opened.file.space.default_parameters())
    suggest(asked, opened.file.space)
    ran = {BEST_EPOCH_KEY: 2, DEVICE_KEY: "cpu", THREADS_KEY: 1}
    for value, decay in ((0.9, 1.0), (0.9, 1.0), (0.8, 0.5)):
        opened.study.add_trial(
            create_trial(
                value=value,
                params={**asked.params, "weight_decay": decay * asked.params["weight_decay"]},
                distributions=asked.distributions,
                user_attrs=ran,
            )
        )
    yield opened
    opened.storage.engine.dispose()


def export_of(opened, *given):
    """Run `hpo export-best` in the folder of a study; returns the exit code."""
    options = parser().parse_args(["export-best", str(opened.file.path), *map(str, given)])
    options.extensions, options.url = opened.file.space.extensions, opened.url
    return run_export_best(options)


def test_a_retraining_has_the_threads_of_its_trial(tried, tmp_path, monkeypatch):
    """On a CPU a model is retrained with as many threads as its trial had, or as --threads says, wherever that is."""
    threads, fit = [], hpo.bundle.retraining.fit

    def watched(*arguments, **options):
        for epoch in fit(*arguments, **options):
            threads.append(torch.get_num_threads())
            yield epoch

    monkeypatch.setattr(hpo.bundle.retraining, "fit", watched)
    monkeypatch.setattr(hpo.bundle.retraining, "cores", lambda: 1)
    with torch_threads(3):
        export_of(tried, "-o", tmp_path / "as in the trial")
        export_of(tried, "-o", tmp_path / "as asked", "--threads", 2)
        assert torch.get_num_threads() == 3
    assert threads == [1, 1, 2, 2]
    infos = [json.loads((tmp_path / name / "bundle.json").read_text()) for name in ("as in the trial", "as asked")]
    assert [info["threads"] for info in infos] == [1, 2]


def test_more_threads_than_cores_are_said(tried, tmp_path, capsys):
    """What a retraining with more threads than this machine has cores costs is said in its line."""
    export_of(tried, "-o", tmp_path / "bundle", "--threads", 200)
    said = capsys.readouterr().out
    assert f"for 2 of 2 epochs with 200 threads; --threads {cores()} may be faster on this machine" in said


def test_a_trial_that_ran_on_a_gpu_says_nothing_of_threads(tried):
    """Where a trial ran on a GPU, or on a CPU and this is a GPU, the threads are one a core."""
    trial = trial_of_number(tried, 2, None)
    assert Training().threads_for(trial, torch.device("cpu")) == 1
    assert Training().threads_for(trial, torch.device("cuda")) == cores()
    trial.user_attrs[DEVICE_KEY] = "Some GPU"
    assert Training().threads_for(trial, torch.device("cpu")) == cores()


def test_a_bundle_lists_the_images_of_each_side(tried, tmp_path):
    """train.csv, valid.csv and test.csv name each image of the study once, with its class, as the search had them."""
    export_of(tried, "-o", tmp_path / "bundle")
    data = tried.file.data.load(tried.file.folder / "pixels")
    for side in ("train", "valid", "test"):
        with (tmp_path / "bundle" / f"{side}.csv").open(newline="") as file:
            listed = [((tmp_path / "bundle" / row["path"]).resolve(), row["label"]) for row in csv.DictReader(file)]
        files = [tmp_path / "photos" / data.index.paths[image] for image in getattr(data.split, side)]
        assert listed == [(file, file.parent.name) for file in files]
    assert not (tmp_path / "bundle" / "unlabelled.csv").exists()


def test_a_bundle_lists_the_images_that_can_only_be_predicted(tmp_path, photos, ready_database):
    """unlabelled.csv names the images of test that have no class, and `hpo predict` reads it."""
    for label in ("red", "green", "blue"):
        shutil.move(photos / label, photos / "train" / label)
    shutil.copytree(photos / "train" / "red", photos / "test")
    (tmp_path / "study.toml").write_text(STUDY.replace("pixels_gb = 1e-5\n", "").replace("epochs = 20", "epochs = 1"))
    file = read_study_file(tmp_path / "study.toml", Extensions(backbones={"linear": linear}))
    search(file, ready_database)
    opened = load_study(file, ready_database)
    export_of(opened, "-o", tmp_path / "bundle")
    opened.storage.engine.dispose()
    rows = find_images([str(tmp_path / "bundle/unlabelled.csv")], ("blue", "green", "red"))
    assert sorted(row.file.resolve() for row in rows) == sorted((photos / "test").iterdir())
    assert {row.label for row in rows} == {""}


def test_the_best_trials_are_bundles_that_vote(tried, tmp_path, capsys):
    """--top makes a bundle of each of the best recipes, each tested once, in a folder that predicts as one."""
    export_of(tried, "-o", tmp_path / "best", "--top", 2)
    said = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "best").iterdir()) == ["trial-2", "trial-4"]
    infos = [json.loads((tmp_path / "best" / name / "bundle.json").read_text()) for name in ("trial-2", "trial-4")]
    assert [(info["trial"], info["test_uses"]) for info in infos] == [(2, 1), (4, 2)]
    assert "trial 4 has a validation macro-F1 of 0.8000; trial 2 has won with 0.9000; not confirmed, so that" in said
    [command] = [line.strip() for line in said.splitlines() if "hpo predict" in line]
    options = parser().parse_args([*command.split()[1:-1], str(tmp_path / "predictions.csv")])
    options.extensions = tried.file.space.extensions
    assert run_predict(options) == 0
    assert f"{infos[0]['metrics']['test']['images']} images -> " in capsys.readouterr().out.splitlines()[0]
    with (tmp_path / "best/trial-4/test.csv").open() as held_out, (tmp_path / "predictions.csv").open() as predictions:
        expected = [(row["path"], row["label"]) for row in csv.DictReader(held_out)]
        assert [(row["path"], row["true"]) for row in csv.DictReader(predictions)] == expected


def test_a_trial_of_ones_own_choice_becomes_a_bundle(tried, tmp_path, capsys):
    """--trial takes that trial in place of the winner, and names the winner."""
    export_of(tried, "-o", tmp_path / "bundle", "--trial", 4)
    assert json.loads((tmp_path / "bundle/bundle.json").read_text())["trial"] == 4
    said = capsys.readouterr().out
    assert "trial 2 has won with 0.9000" in said
    assert "left out, as the weights of trial 4 that have not learned the validation images are gone\n" in said


def test_the_confirmed_winner_becomes_the_bundle(tried, tmp_path, capsys, monkeypatch):
    """Where trials are confirmed, the confirmed winner is retrained for the epochs of its folds, and both say so."""
    data = tried.file.data.load(tried.file.folder / "pixels")
    confirmation = begin_confirmation(tried, data, top=2, repeats=2)
    begin_confirmation(tried, data, top=2, repeats=2)  # which adds nothing
    assert [mark_of(trial) for trial in confirmation.study.get_trials()] == [(2, 0), (4, 0), (2, 1), (4, 1)]
    assert read_confirmed(tried).winner is None
    stopwatch, shutdown = Stopwatch(time.perf_counter()), Shutdown()
    Worker(confirmation, data, name="again", loaders=Loaders(0), stopwatch=stopwatch, shutdown=shutdown).run()
    confirmed = read_confirmed(tried)
    won, lost = confirmed.won, next(each for each in confirmed.recipes if each.trial != confirmed.winner)
    assert {won.trial, lost.trial} == {2, 4}
    assert won.optimism == pytest.approx({2: 0.9, 4: 0.8}[won.trial] - won.mean)
    capsys.readouterr()
    export_of(tried, "-o", tmp_path / "winner")
    said = capsys.readouterr().out
    assert f"trial {won.trial} is the confirmed winner with a macro-F1 of {shown_mean(won, tried.metric)}" in said
    info = json.loads((tmp_path / "winner/bundle.json").read_text())
    assert (info["trial"], info["epochs"]) == (won.trial, won.epochs)
    assert info["confirmation"] == {
        "winner": True,
        "macro_f1": won.mean,
        "margin": won.margin,
        "folds": 2,
        "optimism": won.optimism,
        "trainings": 4,
    }
    export_of(tried, "--trial", lost.trial, "-o", tmp_path / "other")
    assert f"trial {lost.trial} has a confirmed macro-F1 of {lost.mean:.4f}" in capsys.readouterr().out
    assert score_line(tried.study.trials[3], tried, confirmed).startswith(
        "trial 3 has a validation macro-F1 of 0.9000; it is not confirmed, so that a part of that is luck; trial"
        f" {won.trial} is the confirmed winner with {won.mean:.4f}"
    )
    assert json.loads((tmp_path / "other/bundle.json").read_text())["test_uses"] == 2
    export_of(tried, "--folds", 2, "-o", tmp_path / "folds")
    assert f"trial {won.trial} is the confirmed winner with a macro-F1 of" in capsys.readouterr().out
    of_folds = json.loads((tmp_path / "folds/bundle.json").read_text())
    assert (of_folds["epochs"], of_folds["confirmation"]) == (won.epochs, info["confirmation"])
    assert ", and won." in (tmp_path / "folds/MODEL_CARD.md").read_text()
    for number in range(3):
        paint(tmp_path / "found" / f"{number}.png", (60, 60, 200), 100 + number)
    found = []
    for name in ("with kept models", "without"):
        export_of(tried, "-o", tmp_path / name, "--unlabelled", tmp_path / "found", "--confidence", 0.34)
        said = capsys.readouterr().out
        found.append(json.loads((tmp_path / name / "bundle.json").read_text())["pseudo_labels"])
        there = "; 2 without are there from `hpo confirm`" if name == "with kept models" else ""
        assert f"{8 if there else 10} trainings of 2 epochs, with and without them on each of 5 folds{there} (" in said
        folds = {fold: data_of_fold(data, fold, tried.file.seed, tried.metric) for fold in range(2)}
        chosen = chosen_of(trial_of_number(tried, won.trial, None), tried, Training(), print)
        # Of a seed of the study that has changed meanwhile the folds would be others.
        kept = [_kept_models(chosen, tried, each) for each in (folds, {0: folds[1], 1: folds[0]})]
        assert [sorted(models) for models in kept] == [[0, 1] if there else [], []]
        for one in confirmation.rows.kept_files(WEIGHTS_NAME):
            confirmation.rows.drop_file(confirmation.artifacts, one)
    assert found[0] == found[1]  # what is trained anew is what was kept, bit for bit
    page = make_report(tried, datetime.now(UTC)).html
    assert f"confirmed winner: trial {won.trial}, macro-F1 {won.mean:.4f}" in page
    assert f"confirmed winner: trial {won.trial}" in study_note(take_snapshot(tried), tried.study_id, confirmed)
    assert tried.study.best_trial.number == 1  # for plain Optuna nothing has changed
    for winner in (2, 4):  # whichever it is, its recipe is the one that the report has
        monkeypatch.setattr(results, "read_confirmed", lambda _, winner=winner: replace(confirmed, winner=winner))
        assert f"# trial {winner}, validation macro-F1" in make_report(tried, datetime.now(UTC)).html


def test_a_confirmed_winner_need_not_be_complete(tried, tmp_path, capsys, monkeypatch):
    """The default recipe that the search has paused becomes a bundle where it was confirmed, named or as the winner."""
    paused = {BEST_EPOCH_KEY: 1, DEFAULT_KEY: True, DEVICE_KEY: "cpu", THREADS_KEY: 1}
    best = tried.study.get_trials()[2]
    tried.study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            value=0.5,
            params=best.params,
            distributions=best.distributions,
            user_attrs=paused,
            intermediate_values={1: 0.5},
        )
    )
    data = tried.file.data.load(tmp_path / "pixels")  # the best recipe is the default one
    confirmation = begin_confirmation(tried, data, top=1, repeats=2)
    assert announcement(tried, confirmation).startswith(
        "confirming 1 recipe, the default one, on 2 fresh folds: at most"
    )
    again = ConfirmedRecipe(5, True, None, 0.8, 0.1, 2, 2, 10, 1.0, None, (0.5, 0.8))
    told = Confirmed([again], 2, 2, 2, winner=5, tied=[5], challenger=None, evidence=None)
    for module in ("hpo.study.confirmed", "hpo.bundle.joint"):
        monkeypatch.setattr(f"{module}.read_confirmed", lambda _: told)
    for name, given in (("winner", ()), ("named", ("--trial", 5)), ("folds", ("--folds", 2))):
        assert export_of(tried, "-o", tmp_path / name, *given) == 0
        assert "trial 5 is the confirmed winner with a macro-F1 of 0.8000 ± 0.1000;" in capsys.readouterr().out
        info = json.loads((tmp_path / name / "bundle.json").read_text())
        assert (info["epochs"], info["metrics"]["valid_macro_f1"]) == (2, None)


def test_all_recipes_are_confirmed_on_the_same_folds(tried, tmp_path):
    """What is added to a confirmation after [study] seed was changed has the folds and seeds of what was there."""
    data = tried.file.data.load(tmp_path / "pixels")
    begin_confirmation(tried, data, top=1, repeats=2)
    reseeded = replace(tried, file=replace(tried.file, seed=tried.file.seed + 1))
    confirmation = begin_confirmation(reseeded, data, top=2, repeats=2)
    assert confirmation.file.seed == tried.file.seed
    drawn = {(mark_of(trial)[1], given_parameters(trial)["seed"]) for trial in confirmation.study.get_trials()}
    assert len(confirmation.study.get_trials()) == 4
    assert sorted(fold for fold, _ in drawn) == [0, 1]


def test_what_confirms_a_paused_search_is_paused(tried, tmp_path):
    """[confirm] begins nothing of a stopped search; that of a paused one, or of a paused host's, waits as it does."""
    asked = replace(tried, file=replace(tried.file, confirm=ConfirmSettings(top=2, repeats=2)))

    def load():
        return tried.file.data.load(tmp_path / "pixels")

    assert confirmation_after_search(tried, load) is None
    asked.rows.begin_halt("stop")
    assert confirmation_after_search(asked, load) is None
    asked.rows.begin_halt("pause")
    asked.rows.pause_host("lab-1")
    confirmation = confirmation_after_search(asked, load)
    assert len(confirmation.study.trials) == 4
    assert (confirmation.rows.halt(), confirmation.rows.paused_hosts()) == ("pause", ["lab-1"])


def test_trials_without_a_model_are_refused(tried, tmp_path):
    """A trial that is not there, not complete, broken off or from outside, and too many of them, are named."""
    for number in (-1, 5):
        with pytest.raises(HpoError, match=f'"colours" has no trial {number}; it has 5, the first is 0'):
            export_of(tried, "-o", tmp_path / "bundle", f"--trial={number}")
    with pytest.raises(HpoError, match=r"trial 0 is waiting, and only a complete trial has a model; give .* 2, 3, 4$"):
        export_of(tried, "-o", tmp_path / "bundle", "--trial", 0)
    with pytest.raises(HpoError, match="trial 1 was told or added from outside"):
        export_of(tried, "-o", tmp_path / "bundle", "--trial", 1)
    failed = create_trial(state=TrialState.FAIL)
    tried.study.add_trials([failed, create_trial(state=TrialState.FAIL, user_attrs={REPEATS_KEY: 5}), failed])
    with pytest.raises(HpoError, match="trial 5 was interrupted and continued as trial 6; give --trial 6"):
        export_of(tried, "-o", tmp_path / "bundle", "--trial", 5)
    with pytest.raises(HpoError, match="--top 3 needs so many complete trials of different recipes, and there are 2"):
        export_of(tried, "-o", tmp_path / "bundle", "--top", 3)
    (tmp_path / "there").mkdir()
    with pytest.raises(HpoError, match="there exists already"):
        export_of(tried, "-o", tmp_path / "there", "--top", 2)
    assert not (tmp_path / "bundle").exists()


def test_a_retraining_follows_the_plateaus_of_the_winner(tmp_path, photos, ready_database, monkeypatch):
    """With `schedule = "plateau"` the rate of a retraining falls after the epochs after which the winner's fell."""
    (tmp_path / "study.toml").write_text(f'{STUDY}schedule = "plateau"\nwarmup = 0.0\n')
    extensions = Extensions(backbones={"linear": linear})
    opened, _ = open_new(read_study_file(tmp_path / "study.toml", extensions), ready_database)
    # It rises to the second epoch, stands still for three, is best in the seventh and has an eighth.
    scores = dict(enumerate([0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.8], start=1))
    asked = FixedTrial(opened.file.space.default_parameters())
    suggest(asked, opened.file.space)
    winner = create_trial(
        state=TrialState.COMPLETE,
        value=0.9,
        params=asked.params,
        distributions=asked.distributions,
        intermediate_values=scores,
        user_attrs={BEST_EPOCH_KEY: 7},
    )
    opened.study.add_trial(winner)
    rates, fit = [], hpo.bundle.retraining.fit

    def watched(*arguments, **options):
        for epoch in fit(*arguments, **options):
            rates.append(epoch.learning_rate)
            yield epoch

    monkeypatch.setattr(hpo.bundle.retraining, "fit", watched)
    trials = {tmp_path / "bundle": trial_of_number(opened, len(opened.study.trials) - 1, None)}
    assert list(export_trials(opened, trials, Training(threads=1), lambda _: None))
    opened.storage.engine.dispose()
    assert rates == pytest.approx([0.01] * 5 + [0.003] * 2)


def test_an_export_may_bring_its_onnx_file(tried, tmp_path, monkeypatch, capsys):
    """--onnx converts the bundle once it is written; where that cannot be the bundle stays, and the exit code is 1."""
    written = Conversion(Path("model.onnx"), 2000, 1, 0.0, 1.0, 1)
    monkeypatch.setattr(hpo.bundle.conversion, "convert", lambda *_: written)
    assert export_of(tried, "-o", tmp_path / "one", "--trial", 2, "--onnx") == 0
    assert capsys.readouterr().out.splitlines()[-1] == written.line()

    def refuse(*_):
        raise HpoError("onnx: linear cannot be exported")

    monkeypatch.setattr(hpo.bundle.conversion, "convert", refuse)
    assert export_of(tried, "-o", tmp_path / "two", "--trial", 2, "--onnx") == 1
    assert capsys.readouterr().err == "hpo: onnx: linear cannot be exported; the bundle itself is written\n"
    assert (tmp_path / "two" / "bundle.json").is_file()
