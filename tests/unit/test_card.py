"""The model card of a bundle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from hpo.bundle.card import Story, write_card
from hpo.bundle.scores import scores
from trainer.recipe import Recipe
from trainer.scoring import Classified

pytestmark = pytest.mark.unit

CLASSES = ("a|b", "<i>: *", "grün")


@pytest.fixture
def write(tmp_path):
    """A function that writes the card of a bundle with these changes of its bundle.json and recipe; returns it."""

    def write(recipe=None, nested=None, **changes):
        truth, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
        test = scores(Classified(truth, predicted, torch.eye(3)[predicted], CLASSES), np.arange(4))
        info = {
            "classes": list(CLASSES),
            "timm_problem": None,
            "study": "photos: of #2",
            "trial": 7,
            "retrained": True,
            "pseudo_labels": None,
            "epochs": 4,
            "versions": {"hpo": "0.1.0"},
            "data_digest": "abc",
            "split_digest": "def",
            "metrics": {"valid_macro_f1": 0.91234, "test": test},
            "test_uses": 2,
        } | changes
        made = recipe or Recipe(epochs=9)
        images = np.array([[5, 2, 2], [6, 2, 1], [7, 2, 1]])
        write_card(tmp_path, info, Story([made], images, 20, ["calibration: none"], nested))
        return ModelCard.load(tmp_path / "MODEL_CARD.md"), info

    return write


def test_the_hub_reads_the_card(write, tmp_path):
    """The head has licence, library, task, base model and test scores; the text tells data, choice and each class."""
    card, info = write()
    data, test = card.data, info["metrics"]["test"]
    assert (data.license, data.library_name, data.pipeline_tag) == ("unknown", "timm", "image-classification")
    assert data.base_model == "timm/resnet50.a1_in1k"
    assert data.model_name == "photos: of #2"
    found = [(each.metric_type, each.metric_value, each.dataset_split) for each in data.eval_results]
    assert found == [("f1", test["macro_f1"], "test"), ("accuracy", 0.75, "test")]
    for text in (
        "18 training, 6 validation, 4 held out",
        "| a\\|b | 5 | 2 | 2 |",
        "| a\\|b | 1.0000 | 0.5000 | 0.6667 | {:.4f} to {:.4f} | 2 |".format(*test["per_class"]["a|b"]["f1_interval"]),
        "| \\<i\\>: \\* | 0.5000 | 1.0000 | 0.6667 | ",
        "macro-F1 0.7778",
        "Trial 7 of a search that has compared 20 complete trials",
        "its own was 0.9123",
        "trained again on training and validation images together, for 4 of 9 epochs",
        "`timm/resnet50.a1_in1k`; their licence is apache-2.0",
        "used for tests of this study 1 time before",
        'timm.create_model("local-dir:bundle", pretrained=True)',
        "Its logits are those of the network, without the temperature and the offsets",
        "Calibration: none.",
        "![confusion matrix](confusion.png)",
    ):
        assert text in card.text
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.format == "PNG"


def test_the_card_says_where_the_gain_of_an_ensemble_is_not_known(write):
    """A vote of several models whose gain no image could judge has a card that says so."""
    members = [{"folder": "trial-1", "votes": 1}, {"folder": "trial-2", "votes": 2}]
    _, info = write()
    card, _ = write(members=members, metrics={**info["metrics"], "ensemble": None})
    assert "these were chosen by the macro-F1 of their mean on the validation images" in card.text
    assert "Its gain over the best single model is not known, as no class has two validation images" in card.text


def test_the_card_has_the_score_of_nested_cross_validation(write):
    """Where nothing is held out the score of searches like its own is told, and not that nothing is known."""
    untested = {"valid_macro_f1": 0.9, "test": None}
    card, _ = write(nested="nested cross-validation by 5 outer folds: macro-F1 0.9", metrics=untested, test_uses=0)
    assert "Nested cross-validation by 5 outer folds: macro-F1 0.9." in card.text
    assert "No image was held out." in card.text


def test_the_card_says_nothing_that_nobody_measured(write, tmp_path):
    """Without held-out images there is no score and no picture; own weights, and what timm cannot load, are said."""
    own = Recipe(epochs=9, pretrained=False)
    untested = {"valid_macro_f1": 0.9, "test": None}
    card, _ = write(own, metrics=untested, test_uses=0, retrained=False, timm_problem='timm has no pooling "gem"')
    assert card.data.eval_results is None
    assert (card.data.library_name, card.data.base_model) == (None, None)
    assert "No image was held out: nothing is known of it" in card.text
    assert "which have not learned the validation images" in card.text
    assert "did not begin with weights that timm publishes" in card.text
    assert 'timm alone cannot load it: timm has no pooling "gem".' in card.text
    assert "create_model" not in card.text
    assert not (tmp_path / "confusion.png").exists()
