"""Temperatures and offsets, on synthetic predictions whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from trainer.calibration import (
    Unseen,
    at_temperature,
    expected_calibration_error,
    fit_offsets,
    fit_temperature,
    gain_interval,
    macro_f1_of,
)

pytestmark = pytest.mark.unit


def softmax(logits):
    """Probabilities, float32."""
    return torch.from_numpy(logits).softmax(dim=1).float().numpy()


def drawn(images, *, seed=0, share=(1.0, 1.0, 1.0), spread=2.0):
    """Labels, and the logits of a model whose probabilities are exactly the chances by which the labels were drawn."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (images, len(share))) + np.log(share)
    chances = softmax(logits).cumsum(axis=1)
    return (random.random(images)[:, None] > chances).sum(axis=1).clip(max=len(share) - 1), logits


def unseen(labels, probabilities, groups=None):
    """Images in five parts, each in a group by itself where not given."""
    groups = np.arange(len(labels)) if groups is None else groups
    return Unseen(labels, probabilities, groups, groups % 5)


def test_the_temperature_of_an_overconfident_model_is_found():
    """A model whose logits are twice the true ones has the temperature 2, by which its confidence becomes true."""
    labels, logits = drawn(4000)
    found = fit_temperature(unseen(labels, softmax(2 * logits)))
    assert found.value == pytest.approx(2, rel=0.06)
    assert found.helps
    before, after = found.calibration_error
    assert before > 0.08
    assert after < 0.03
    np.testing.assert_allclose(at_temperature(softmax(2 * logits), 2), softmax(logits), atol=1e-5)


def test_a_calibrated_model_keeps_its_temperature():
    """A model that is right as often as it says has the temperature 1."""
    labels, logits = drawn(4000)
    assert fit_temperature(unseen(labels, softmax(logits))).value == pytest.approx(1, rel=0.06)


def test_a_temperature_is_judged_on_other_images():
    """Labels that are chance alone in each part leave nothing to be gained, whatever was fitted on that part itself."""
    groups = np.repeat(np.arange(5), 4)
    probabilities = np.tile(np.float32([[0.9, 0.1]]), (20, 1))
    labels = np.where(groups == 0, 1, 0)  # wrong in the first part alone
    found = fit_temperature(unseen(labels, probabilities, groups))
    assert found.log_loss[1] > found.log_loss[0]
    assert not found.helps


def test_the_calibration_error_is_that_of_its_bins():
    """Of two bins the one is 0.1 too sure and the other 0.3 not sure enough, each weighed by its images."""
    probabilities = np.float32([[0.6, 0.4]] * 2 + [[0.1, 0.9]] * 2)
    assert expected_calibration_error(np.array([0, 1, 1, 1]), probabilities) == pytest.approx((0.1 + 0.1) / 2)
    assert expected_calibration_error(np.array([0, 0, 1, 0]), probabilities) == pytest.approx((0.4 + 0.4) / 2)


def test_offsets_that_help_are_found():
    """A model that gives a rare class too little gains macro-F1 by an offset of that class, beyond the interval."""
    labels, logits = drawn(3000, share=(1.0, 1.0, 0.15))
    logits[:, 2] -= 2
    found = fit_offsets(unseen(labels, softmax(logits)))
    assert found.helps
    assert found.gain > 0.04
    assert found.interval[0] < found.gain < found.interval[1]
    assert found.values[2] > found.values[:2].max() + 1


def test_offsets_that_do_not_help_are_left_out():
    """Of 20 models that are right about the chances of balanced classes at most two seem to gain by offsets."""
    found = []
    for seed in range(20):
        labels, logits = drawn(300, seed=seed)
        found.append(fit_offsets(unseen(labels, softmax(logits)), seed))
    assert sum(one.helps for one in found) <= 2
    assert abs(np.mean([one.gain for one in found])) < 0.01


def test_no_image_is_shown_by_what_was_fitted_on_it():
    """Other labels of one part change nothing of what is shown of that part, and something of the others."""
    labels, logits = drawn(300, share=(1.0, 1.0, 0.15))
    logits[:, 2] -= 2
    told = unseen(labels, softmax(logits))
    first = told.parts == 0
    other = replace(told, labels=np.where(first, (labels + 1) % 3, labels))
    for fit in (fit_temperature, fit_offsets):
        here, there = fit(told).crossed, fit(other).crossed
        np.testing.assert_array_equal(here[first], there[first])
        assert (here[~first] != there[~first]).any()


def _scores(labels, first, second):
    """The macro-F1 of two predictions, by how often each image counts."""
    return lambda times: (macro_f1_of(labels, first, 3, times), macro_f1_of(labels, second, 3, times))


def test_an_interval_knows_groups():
    """Ten copies of each image in one group leave the interval as wide as that of the images alone."""
    random = np.random.default_rng(0)
    labels, first = random.integers(0, 3, 80), random.integers(0, 3, 80)
    second = np.where(random.random(80) < 0.3, labels, first)
    alone = gain_interval(_scores(labels, first, second), np.arange(80))
    groups = np.repeat(np.arange(80), 10)
    together = gain_interval(_scores(labels[groups], first[groups], second[groups]), groups)
    assert together == pytest.approx(alone)
    low, high = gain_interval(_scores(labels[groups], first[groups], second[groups]), np.arange(800))
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_macro_f1_counts_images_as_often_as_they_are_drawn():
    """It is scikit-learn's of the images repeated so many times."""
    random = np.random.default_rng(0)
    labels, predicted, times = (random.integers(0, 4, 50) for _ in range(3))
    expected = f1_score(np.repeat(labels, times), np.repeat(predicted, times), average="macro")
    assert macro_f1_of(labels, predicted, 6, times) == pytest.approx(expected)
