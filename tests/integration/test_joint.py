"""Several models as one bundle: those of folds, and ensembles of kept ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from hpo.bundle.bundle import read_bundle
from hpo.bundle.card import CHOSEN_BY
from hpo.bundle.commands import run_export_best, run_predict, run_reproduce
from hpo.bundle.conversion import convert
from hpo.bundle.decision import Found
from hpo.bundle.held_out import count_use
from hpo.bundle.retraining import divide
from hpo.cli import parser
from hpo.errors import HpoError
from storage.keys import TEST_USE_KEY
from tests.integration.conftest import FIXED

pytestmark = pytest.mark.integration


@pytest.fixture
def study(harness):
    """A study with two complete trials of different recipes."""
    made = harness(torch.nn.functional.cross_entropy, recipe={**FIXED, "learning_rate": [1e-2, 1e-4]})
    made.work()
    return made


@pytest.fixture
def run(study, capsys):
    """Runs a command that ends well; gives its lines."""

    def run(command, *given, code=0):
        options = parser().parse_args([command.__name__.removeprefix("run_").replace("_", "-"), *map(str, given)])
        options.extensions, options.url = study.file.space.extensions, study.url
        capsys.readouterr()
        assert command(options) == code
        return capsys.readouterr().out.splitlines()

    return run


def scores_agree(run, folder):
    """The scores of a bundle are those that `hpo predict` finds for its test.csv; returns its bundle.json."""
    info = json.loads((folder / "bundle.json").read_text())
    said = run(run_predict, folder, folder / "test.csv", "-o", folder.parent / "predictions.csv", "--json")
    found = json.loads("\n".join(said))["metrics"]
    expected = info["metrics"]["test"]
    assert found["confusion_matrix"] == expected["confusion_matrix"]
    assert found["expected_calibration_error"] == pytest.approx(expected["expected_calibration_error"], abs=1e-4)
    return info


def test_the_models_of_folds_are_one_bundle(study, run, tmp_path, monkeypatch):
    """--folds trains once without each fold; each image is judged once, by the model that has not learned it."""
    monkeypatch.setattr("hpo.bundle.decision.FEWEST_IMAGES", 6)
    crossed, predicted = Found.crossed, []

    def watched(found, probabilities):
        shown, classes = crossed(found, probabilities)
        predicted.append((classes + 1) % 3)  # what no decision would say
        return shown, predicted[0]

    monkeypatch.setattr(Found, "crossed", watched)
    lines = run(run_export_best, study.file.path, "-o", tmp_path / "bundle", "--folds", 3)
    folds = divide(study.data, 3)
    assert np.bincount(folds.numbers).tolist() == [12, 9, 9]
    assert [line.split(" images,")[1].split(" for ")[0] for line in lines if line.startswith("retraining")] == [
        f" fold {number} of 3," for number in (1, 2, 3)
    ]
    info = scores_agree(run, tmp_path / "bundle")
    assert info["metrics"]["out_of_fold"]["images"] == 30
    assert info["metrics"]["out_of_fold"]["accuracy"] == pytest.approx(
        (study.data.index.labels[folds.images] == predicted[0]).mean()
    )
    assert info["test_uses"] == 1
    card = ModelCard.load(tmp_path / "bundle" / "MODEL_CARD.md")
    assert card.data.eval_results[0].metric_value == info["metrics"]["test"]["macro_f1"]
    assert "`fold-1` (1 vote), `fold-2` (1 vote), `fold-3` (1 vote)" in card.text
    assert "Each of these 30 images was judged by the one model that has not learned it: macro-F1 " in card.text
    assert any("out of fold: macro-F1 " in line and "on 30 images, each by the model" in line for line in lines)
    assert sum(key.startswith(TEST_USE_KEY) for key in study.opened.study.user_attrs) == 1
    assert sum(line.startswith("out of fold: ") and line.endswith(CHOSEN_BY) for line in lines) == 1
    assert f"; {CHOSEN_BY}." in card.text
    assert sum("not confirmed, so that a part of it is luck" in line for line in lines) == 1
    bundle = read_bundle(tmp_path / "bundle")
    for member, own in zip(bundle.members, (12, 9, 9), strict=True):  # each knows what it has learned, and what not
        use = count_use(member, study.data.files)
        assert (use.images, use.learned, use.uses) == (len(study.data.split.test), 30 - own, 2)
    assert [member.folder.name for member in bundle.members] == ["fold-1", "fold-2", "fold-3"]
    assert len({member.decision.temperature for member in bundle.members}) == 1
    assert run(run_reproduce, tmp_path / "bundle/fold-2")[-1].startswith("the same, bit for bit: ")
    with pytest.raises(HpoError, match=r"is a bundle of several models; name one of them, such as .*fold-1"):
        run(run_reproduce, tmp_path / "bundle")
    with pytest.raises(HpoError, match=r"onnx: .*bundle of several models; convert one of them, such as .*fold-1"):
        convert(bundle, study.file.space.extensions, [], 1)
    with pytest.raises(HpoError, match="--folds 20 needs a group of images for each fold"):
        run(run_export_best, study.file.path, "-o", tmp_path / "many", "--folds", 20)
    assert not (tmp_path / "many").exists()


def test_kept_models_vote_as_one_bundle(study, run, tmp_path, monkeypatch):
    """--ensemble gives votes to kept models, is tested once, as it predicts, and says its gain, or that it is none."""
    with monkeypatch.context() as patched:  # these two are so good that one alone would be chosen
        patched.setattr("hpo.bundle.joint.select", lambda *_: np.array([3, 1]))
        lines = run(run_export_best, study.file.path, "-o", tmp_path / "bundle", "--ensemble", 4)
    assert lines[0].startswith("ensemble of 4 votes by 2 of 2 kept models: trial ")
    assert lines[1].startswith("its gain in macro-F1 over the best single model: ")
    assert " ms an image in place of " in lines[1]
    info = scores_agree(run, tmp_path / "bundle")
    assert [member["votes"] for member in info["members"]] == [3, 1]
    card = ModelCard.load(tmp_path / "bundle" / "MODEL_CARD.md")
    assert "A search has compared 2 complete trials. Of those whose weights it has kept these were chosen" in card.text
    assert f"is {info['metrics']['ensemble']['gain']:+.4f} (" in card.text
    assert all(f"`{member['folder']}` ({member['votes']} vote" in card.text for member in info["members"])
    assert info["test_uses"] == 1
    member = read_bundle(tmp_path / "bundle").members[0]
    use = count_use(member, study.data.files)
    assert (use.images, use.learned, use.uses) == (*map(len, (study.data.split.test, study.data.split.train)), 2)

    lines = run(run_export_best, study.file.path, "-o", tmp_path / "alone", "--ensemble", 4)
    best = max(study.opened.study.get_trials(), key=lambda trial: trial.value).number
    assert lines[0] == f"ensemble of 1 vote by 1 of 2 kept models: trial {best} (1)"
    assert lines[1].startswith(f"no vote of several is better on the validation images than trial {best} alone: there")
    assert f"the winner, trial {best}, is as good a choice, and `hpo export-best " in lines[1]
    info = scores_agree(run, tmp_path / "alone")
    assert (info["trial"], info["metrics"]["ensemble"]) == (best, None)
    card = ModelCard.load(tmp_path / "alone" / "MODEL_CARD.md")
    assert f"no vote of several had a better macro-F1 on the validation images than trial {best} alone" in card.text


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--folds", "3", "--no-retrain"], "--folds retrains one trial"),
        (["--folds", "3", "--top", "2"], "--folds retrains one trial"),
        (["--ensemble", "3", "--onnx"], "--onnx writes one model"),
        (["--ensemble", "3", "--folds", "2"], "--ensemble takes models as they are"),
        (["--ensemble", "3", "--unlabelled", "."], "--ensemble takes models as they are"),
    ],
)
def test_what_does_not_go_together_is_refused(given, line):
    """Options that contradict each other are refused in one line, before anything is opened."""
    options = parser().parse_args(["export-best", "study.toml", "-o", "bundle", *given])
    with pytest.raises(HpoError, match=line):
        run_export_best(options)
