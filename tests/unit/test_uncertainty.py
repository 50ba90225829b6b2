"""How far a score may be off by the choice of the images alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.metrics import class_recall, macro_f1
from trainer.uncertainty import standard_error

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
