"""How far a score may be off by the choice of the images alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.metrics import accuracy, class_f1, class_recall, confusion_matrix, macro_f1
from trainer.uncertainty import expected_half_width, score_intervals, standard_error, tells_little

pytestmark = pytest.mark.unit


def test_the_standard_error_is_that_of_the_macro_recall():
    """It agrees with the spread of the macro recall over many draws of images; few images of one class raise it."""
    classes = {"many": {"recall": 0.9, "images": 400}, "few": {"recall": 0.7, "images": 25}}
    drawn = np.random.default_rng(0).binomial([400, 25], [0.9, 0.7], (20_000, 2)) / [400, 25]
    assert standard_error(classes) == pytest.approx(drawn.mean(axis=1).std(), rel=0.05)
    more = classes | {"few": {"recall": 0.7, "images": 400}}
    assert standard_error(more) < standard_error(classes) / 2


def test_a_perfect_score_is_not_certain():
    """Thirty images that are all right leave an error, a class without an image takes no part, none at all has none."""
    assert 0.02 < standard_error({"a": {"recall": 1.0, "images": 30}}) < 0.05
    assert standard_error({"a": {"recall": 1.0, "images": 30}, "b": {"recall": 0.0, "images": 0}}) == pytest.approx(
        standard_error({"a": {"recall": 1.0, "images": 30}})
    )
    assert standard_error({}) == 0


@pytest.mark.parametrize("right", [0.8, 0.96, 0.99])
def test_it_is_the_spread_of_the_macro_f1(right):
    """On ten classes of 27 images, also where nearly all are right, it is how the macro-F1 scatters over draws."""
    random, classes, images = np.random.default_rng(0), 10, 27
    shares = np.full((classes, classes), (1 - right) / (classes - 1))
    np.fill_diagonal(shares, right)
    matrices = [torch.from_numpy(random.multinomial(images, shares)) for _ in range(1000)]
    recalls = [class_recall(matrix).tolist() for matrix in matrices]
    errors = [
        standard_error({str(name): {"recall": recall, "images": images} for name, recall in enumerate(row)})
        for row in recalls
    ]
    assert np.mean(errors) == pytest.approx(np.std([macro_f1(matrix) for matrix in matrices]), rel=0.1)


def test_of_all_images_as_one_class_it_is_that_of_the_accuracy():
    """One class of all images has the standard error of a share, sqrt(p (1 - p) / n)."""
    assert standard_error({"all": {"recall": 0.9, "images": 10_000}}) == pytest.approx(0.003, rel=1e-3)


def _guessed(recalls, images, size, random):
    """Labels, groups of this size, and predictions whose mistakes are those of whole groups where these are large."""
    labels = np.repeat(np.arange(len(recalls)), images)
    groups = np.arange(len(labels)) // size
    of_group = np.asarray(recalls)[labels[::size]]
    chances = of_group if size == 1 else random.beta(of_group, 1 - of_group)
    right = random.random(len(labels)) < chances[groups]
    return (
        labels,
        np.where(right, labels, (labels + random.integers(1, len(recalls), len(labels))) % len(recalls)),
        groups,
    )


@pytest.mark.parametrize("size", [1, 10])
def test_the_intervals_hold_the_scores_of_all_images(size, monkeypatch):
    """In about 95 % of draws of images, also where they err group by group, the intervals hold what all images give."""
    monkeypatch.setattr("trainer.uncertainty.DRAWS", 400)
    recalls, images, draws = [0.8, 0.9, 0.95], 60, 100
    random = np.random.default_rng(0)
    labels, predicted, _ = _guessed(recalls, 200_000, 1, random)
    matrix = confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predicted), 3)
    true = [macro_f1(matrix), accuracy(matrix), *class_f1(matrix).tolist()]
    held, accuracies, widths = np.zeros(len(true)), [], []
    for _ in range(draws):
        labels, predicted, groups = _guessed(recalls, images, size, random)
        found = score_intervals(labels, predicted, groups, 3)
        ends = [found.macro_f1, found.accuracy, *found.class_f1]
        accuracies.append((labels == predicted).mean())
        widths.append(np.ptp(found.accuracy))
        held += [low <= score <= high for (low, high), score in zip(ends, true, strict=True)]
    assert found.groups == len(labels) / size
    assert (held / draws >= 0.89).all()
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(accuracies), rel=0.25)
    if size > 1:  # as many images that stand for themselves would claim to tell more
        blind = score_intervals(labels, predicted, np.arange(len(labels)), 3)
        assert np.ptp(blind.macro_f1) < 0.7 * np.ptp(found.macro_f1)


def test_intervals_are_the_same_each_time_and_hold_the_score():
    """A fixed seed draws them; what is all right reaches 1 and is not certain; a class without an image has none."""
    labels, groups = np.repeat([0, 1], 30), np.arange(60)
    found = score_intervals(labels, labels, groups, 3)
    assert found == score_intervals(labels, labels, groups, 3)
    assert found.class_f1[2] is None
    for low, high in (found.macro_f1, found.accuracy, *found.class_f1[:2]):
        assert (0.9 < low < 0.995, high) == (True, 1)
    assert found.class_f1[0] == pytest.approx(
        (0.96, 1), abs=0.01
    )  # of 30 right of 30: Jeffreys has 0.9198 of the share
    wrong = score_intervals(labels, np.where(groups < 20, 2, labels), groups, 3)
    value = (0.5 + 1 + 0) / 3
    assert wrong.macro_f1[0] < value < wrong.macro_f1[1]
    assert wrong.class_f1[2] is None


def test_one_group_tells_nothing_of_others():
    """There is no interval where all images belong together."""
    assert score_intervals(np.array([0, 1]), np.array([0, 1]), np.zeros(2, np.int64), 2) is None


@pytest.mark.parametrize(
    ("images", "size"), [((70, 70), 1), ((20, 20), 1), ((130, 10), 1), ((27,) * 10, 1), ((100, 100, 20), 5)]
)
def test_the_expected_width_is_about_that_of_the_interval(images, size):
    """The interval of a model of which 9 of 10 are right is foreseen within a quarter, also where groups are wrong."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(20):
        labels, predicted, groups = _guessed([0.9] * len(images), images, size, random)
        low, high = score_intervals(labels, predicted, groups, len(images)).macro_f1
        found.append((high - low) / 2)
    assert expected_half_width(labels, groups) == pytest.approx(np.mean(found), rel=0.25)


def test_an_interval_tells_little_where_it_is_wide():
    """An interval of more than ± 0.05 tells little, and so does one that is not known."""
    assert tells_little(None)
    assert tells_little([0.8, 0.92])
    assert not tells_little([0.8, 0.89])
