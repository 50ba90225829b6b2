"""Whether pseudo-labels are learned: what trainings with and without them say of images that they have not learned."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hpo.bundle.retraining
from hpo.bundle import pseudo_label_gain
from hpo.bundle.pseudo_label_gain import PseudoLabelGain, learn
from hpo.bundle.pseudo_labels import join, learned_pseudo_labels
from hpo.bundle.retraining import Chosen, Training
from hpo.study.fresh_folds import data_of_fold
from tests.integration.conftest import linear
from trainer.data import load_data
from trainer.extensions import Extensions
from trainer.model.backbones import weights_of
from trainer.objective_metric import MACRO_F1, Metric
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}
NO_CONFIRMATION = SimpleNamespace(file=SimpleNamespace(seed=0))


def paint_noisy(file, colour, seed):
    """One image that a single epoch on few of its kind does not teach."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).normal(colour, 80, (16, 16, 3))
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)


@pytest.fixture
def joined(tmp_path):
    """A function that joins so many labelled and unlabelled images of each class."""

    def make(labelled, unlabelled):
        for number, (name, colour) in enumerate(COLOURS.items()):
            for image in range(labelled):
                paint_noisy(tmp_path / "photos" / name / f"{image}.png", colour, 1000 * number + image)
            for image in range(unlabelled):
                paint_noisy(tmp_path / "found" / f"{name} {image}.png", colour, 1000 * number + 500 + image)
        data = load_data(tmp_path / "photos", valid=0.25, test=0.25)
        return join(data, sorted((tmp_path / "found").iterdir()))

    return make


@pytest.fixture
def said():
    """The lines that were said."""
    return []


@pytest.fixture
def chosen(said, monkeypatch):
    """A recipe of one epoch, in a study that nothing confirms."""
    monkeypatch.setattr(pseudo_label_gain, "find_confirmation", lambda _: None)
    extensions = Extensions(backbones={"linear": linear})
    recipe = Recipe(
        backbone="linear", image_size=8, epochs=1, batch_size=8, learning_rate=7e-4, augment="none", pretrained=False
    )
    return Chosen(recipe, 1, (), MACRO_F1, extensions, None, torch.device("cpu"), 1, said.append)


@pytest.fixture
def trainings(monkeypatch):
    """Of each training that begins the images that it learns from, with their classes, and those that it validates."""
    found, fit = [], hpo.bundle.retraining.fit

    def watched(recipe, data, subsets, **options):
        found.append((subsets.train, data.index.labels[subsets.train], subsets.valid))
        yield from fit(recipe, data, subsets, **options)

    monkeypatch.setattr(hpo.bundle.retraining, "fit", watched)
    return found


def test_pseudo_labels_that_help_on_the_folds_are_learned(joined, chosen, trainings, said):
    """They are kept where their gain's whole interval is above 0; no image of a fold is learned where it is judged."""
    both = joined(24, 60)
    learned = learn(chosen, both, NO_CONFIRMATION, Training(confidence=0.5))
    split, unlabelled = both.data.split, set(both.unlabelled.tolist())
    pool = np.sort(np.concatenate([split.train, split.valid]))
    plain, *folds, last = trainings
    assert plain[0].tolist() == pool.tolist()
    assert len(folds) == 6
    judged = []
    for (before, _, held), (after, labels, again) in zip(folds[::2], folds[1::2], strict=True):
        assert sorted([*before, *held]) == pool.tolist()
        assert again.tolist() == held.tolist()
        assert after[: len(before)].tolist() == before.tolist()
        assert labels[: len(before)].tolist() == both.data.index.labels[before].tolist()
        assert set(after[len(before) :].tolist()) <= unlabelled
        judged += held.tolist()
    assert sorted(judged) == pool.tolist()
    assert learned.used
    assert last[0].tolist() == [*pool, *learned.pseudo.images]
    found = learned.as_json()
    comparison = found["comparison"]
    assert found["used"]
    assert (comparison["folds"], comparison["images"]) == (3, 54)
    assert 0 < comparison["interval"][0] < comparison["gain"] < comparison["interval"][1]
    assert comparison["macro_f1"]["with"] - comparison["macro_f1"]["without"] == pytest.approx(comparison["gain"])
    assert "to see whether pseudo-labels help: 6 trainings of 1 epoch, with and without them on each of 3 folds (" in (
        " ".join(said)
    )
    [line] = [line for line in said if line.startswith("pseudo-labels help: macro-F1 0.")]
    assert line.endswith(" in 95 %): kept")
    assert learned.lines() == [line]


def test_pseudo_labels_that_help_no_more_than_chance_are_left_out(joined, chosen, trainings):
    """Then the model is that of the training without them, bit for bit, and so are its losses."""
    both = joined(24, 1)
    learned = learn(chosen, both, NO_CONFIRMATION, Training(confidence=0.34))
    assert not learned.used
    assert not learned.as_json()["used"]
    assert learned.as_json()["images"] == len(learned.pseudo.images) > 0
    assert learned.as_json()["comparison"]["interval"][0] <= 0
    assert "which is no gain beyond chance; --keep-pseudo-labels learns them in any case" in learned.lines()[0]
    alone = chosen.retrained(both.data)
    assert learned.retrained.train_losses == alone.train_losses
    for name, tensor in weights_of(alone.model).items():
        assert torch.equal(tensor, weights_of(learned.retrained.model)[name])
    assert len(trainings) == 1 + 6 + 1  # the last one is that of this test


def test_pseudo_labels_may_be_learned_in_any_case(joined, chosen, trainings):
    """--keep-pseudo-labels trains twice, and nothing is said of a gain."""
    learned = learn(chosen, joined(24, 1), NO_CONFIRMATION, Training(confidence=0.34, keep_pseudo_labels=True))
    assert learned.used
    assert learned.as_json()["comparison"] is None
    assert learned.lines() == []
    assert len(trainings) == 2


def test_a_fold_whose_model_is_sure_of_nothing_is_the_same_without(joined, chosen, trainings):
    """Where no image reaches the confidence on a fold, nothing is trained there a second time, and nothing gained."""
    gain = pseudo_label_gain._find_gain(chosen, joined(24, 1), NO_CONFIRMATION, 1.0)
    assert len(trainings) == 3
    assert gain.scores[0] == gain.scores[1]
    assert gain.interval == (0.0, 0.0)
    assert not gain.helps


@pytest.mark.parametrize(("labelled", "groups"), [(10, None), (24, 5)])
def test_too_few_images_or_groups_leave_pseudo_labels_out(joined, chosen, trainings, labelled, groups):
    """Of fewer than 30 images or 6 groups nothing is concluded, and so no fold is trained."""
    both = joined(labelled, 1)
    if groups:
        both.data.index.groups[:] = np.arange(len(both.data.index.groups)) % groups
    learned = learn(chosen, both, NO_CONFIRMATION, Training(confidence=0.34))
    assert not learned.used
    assert learned.as_json()["comparison"] is None
    assert " are too few to see whether they help; " in learned.lines()[0]
    assert len(trainings) == 1


def test_the_folds_are_those_of_a_confirmation(joined):
    """Unlabelled images behind the labelled ones change no fold."""
    both = joined(10, 2)
    labelled = load_data(both.data.index.root, valid=0.25, test=0.25)
    for fold in range(3):
        expected, found = (data_of_fold(data, fold, 7, MACRO_F1).split for data in (labelled, both.data))
        assert found.train.tolist() == expected.train.tolist()
        assert found.valid.tolist() == expected.valid.tolist()


def test_a_gain_in_a_metric_that_falls_is_shown_by_its_values():
    """Of the log-loss, whose score is negative, values stand in the line and in bundle.json, and a gain is positive."""
    gain = PseudoLabelGain(4, 80, 80, (-0.5, -0.4), (0.05, 0.15), Metric("log_loss"))
    assert gain.helps
    assert gain.line() == (
        "pseudo-labels help: log-loss 0.5000 → 0.4000 on 80 images of 4 folds, each by the model that has not learned"
        " it (gain +0.1000, +0.0500 to +0.1500 in 95 %): kept"
    )
    assert gain.as_json()["log_loss"] == {"without": 0.5, "with": 0.4}
    assert gain.as_json()["gain"] == pytest.approx(0.1)


def test_a_bundle_of_an_earlier_version_has_learned_what_it_lists():
    """Where bundle.json does not say whether pseudo-labels are used, they are; none and unused ones are not."""
    assert learned_pseudo_labels({"pseudo_labels": {"images": 3}})
    assert learned_pseudo_labels({"pseudo_labels": {"images": 3, "used": True}})
    assert not learned_pseudo_labels({"pseudo_labels": {"images": 3, "used": False}})
    assert not learned_pseudo_labels({"pseudo_labels": None})
    assert not learned_pseudo_labels({})
