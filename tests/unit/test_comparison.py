"""When a training that was done again counts as the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpo.bundle.comparison import Comparison
from hpo.study.environment import environment, environment_differences

pytestmark = pytest.mark.unit


def test_the_first_number_that_differs_is_named():
    """On a CPU the last bit counts: the line names the first epoch that differs, and what was where."""
    comparison = Comparison(exact=True)
    comparison.epochs("train loss", [0.5, 0.25, 0.125], [0.5, 0.25000002, 0.2])
    assert comparison.lines() == ["different, first in epoch 2: train loss 0.25 then, 0.25000002 now"]


def test_the_weights_that_differ_most_are_named():
    """Where losses are equal and weights are not, it says how many and which differs most."""
    comparison = Comparison(exact=True)
    then = {"a": torch.zeros(2), "b": torch.zeros(3), "count": torch.tensor(3)}
    comparison.weights(then, {**then, "a": torch.tensor([0, 1e-9]), "b": torch.tensor([0, 0.5, 0])})
    assert comparison.different == ["in 2 of 3 tensors of weights, the most in b, by 0.5"]


def test_what_is_equal_is_listed():
    """Where all is equal bit for bit, the line says what was compared."""
    comparison = Comparison(exact=True)
    comparison.epochs("train loss", [0.5], [0.5])
    comparison.weights({"a": torch.ones(1)}, {"a": torch.ones(1)})
    assert comparison.lines() == ["the same, bit for bit: the train loss of 1 epoch, 1 tensor of weights"]


def shares(*classes):
    """Probabilities of two classes, by the sure class of each image."""
    return np.eye(2, dtype=np.float32)[list(classes)]


def test_a_gpu_may_vary_within_what_is_stated():
    """Where a GPU took part, losses may be 5 % apart, and one image of twenty may have another class, no more."""
    comparison = Comparison(exact=False)
    comparison.epochs("train loss", [1.0, 1.0], [1.049, 0.951])
    comparison.score(0.9, 0.861, 0.02)
    comparison.classes(shares(*[0] * 20), shares(*[0] * 19, 1))
    comparison.weights({"a": torch.zeros(1)}, {"a": torch.ones(1)})  # which need not be equal
    assert not comparison.different
    assert comparison.lines()[0] == (
        "the same within what a GPU may vary: the train loss of 2 epochs, the best validation macro-F1, 0.9000 then and"
        " 0.8610 now, the same class for 19 of 20 images"
    )
    comparison.epochs("train loss", [1.0], [0.94])
    comparison.score(0.9, 0.859, 0.02)
    comparison.classes(shares(*[0] * 20), shares(*[0] * 18, 1, 1))
    assert [line.split(":")[0] for line in comparison.different] == [
        "in epoch 1",
        "the best validation macro-F1",
        "the same class for 18 of 20 images",
    ]


def test_each_difference_of_the_environment_has_a_line():
    """Versions, processor, device and threads that differ are named; of what was not kept nothing is said."""
    now = environment(torch.device("cpu"), 1)
    assert environment_differences(now, now) == []
    versions = {**now["versions"], "torch": "1.0", "pillow": None}
    then = {"versions": versions, "device": "Some GPU", "threads": 2}
    assert environment_differences(then, now) == [
        f"torch: 1.0 then, {now['versions']['torch']} here",
        "device: Some GPU then, cpu here",
        "threads: 2 then, 1 here",
    ]
