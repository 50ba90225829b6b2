"""The temperature and the offsets of a bundle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from hpo.bundle.decision import decision_of, find_decision
from trainer.calibration import Decision, at_temperature
from trainer.data import Data

pytestmark = pytest.mark.unit


@pytest.fixture
def data(colours):
    """72 images of three classes, two pictures a group."""
    groups = np.arange(72) // 2
    return Data(replace(colours.index, groups=groups), colours.split, None)


def told(data, *, sure, favour=0.0):
    """Probabilities for all images: right in four of five, `sure` logits above the others; one class is favoured."""
    labels = data.index.labels
    logits = np.random.default_rng(0).normal(0, 0.1, (72, 3))
    said = np.where(np.arange(72) % 5 == 0, (labels + 1) % 3, labels)
    logits[np.arange(72), said] += sure
    logits[:, 0] += favour
    return at_temperature(np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32), 1)


def test_what_helps_is_used_and_comes_back_from_json(data):
    """An overconfident model that favours a class gets temperature and offsets, which bundle.json gives back."""
    classes = data.index.classes
    found = find_decision(data, np.arange(72), told(data, sure=6, favour=6.5), "72 images")
    assert found.decision.temperature > 2
    assert found.decision.offsets[0] < min(found.decision.offsets[1:])
    kept = json.loads(json.dumps(found.as_json(classes)))
    assert kept["calibration"]["used"]
    assert kept["thresholds"]["interval"][0] > 0
    again = decision_of(kept, classes)
    assert again.temperature == found.decision.temperature
    assert again.offsets == pytest.approx(found.decision.offsets)
    said = found.lines()
    assert said[0].startswith(
        f"calibration: temperature {found.temperature.value:.2f}, by 72 images: expected calibration"
    )
    assert said[1].endswith("in 95 %): used")
    shown, predicted = found.crossed(told(data, sure=6, favour=6.5))
    assert shown is found.temperature.crossed
    assert predicted is found.offsets.crossed


def test_what_does_not_help_is_left_out_and_said(data):
    """A model that is as sure as it may be, and favours no class, is left as it is; what was tried is kept in JSON."""
    found = find_decision(data, np.arange(72), told(data, sure=2.08), "72 images")
    assert found.decision.offsets == ()
    assert found.lines()[1].endswith("left out, as this is no gain beyond chance")
    kept = found.as_json(data.index.classes)
    assert not kept["thresholds"]["used"]
    assert decision_of(kept, data.index.classes) == Decision(found.decision.temperature)
    probabilities = told(data, sure=2.08)
    assert (found.crossed(probabilities)[1] == probabilities.argmax(axis=1)).all()


def test_parts_keep_groups_whole(data, monkeypatch):
    """What belongs together is in one part: nothing is judged by what was fitted on a picture of the same group."""
    seen = []
    monkeypatch.setattr("hpo.bundle.decision.fit_temperature", lambda unseen: seen.append(unseen) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_decision(data, np.arange(72), told(data, sure=1), "72 images")
    [unseen] = seen
    assert (unseen.parts[::2] == unseen.parts[1::2]).all()
    assert np.bincount(unseen.parts).min() >= 12


def test_too_few_images_find_nothing(data):
    """Of 20 images nothing is concluded, and that is said; bundles that keep nothing decide as before."""
    found = find_decision(data, np.arange(20), told(data, sure=1)[:20], "20 images")
    assert found.lines() == ["calibration and thresholds: left out, as 20 images are too few to find them by"]
    assert found.as_json(data.index.classes) == {"calibration": None, "thresholds": None}
    assert decision_of({}, data.index.classes) == Decision()
