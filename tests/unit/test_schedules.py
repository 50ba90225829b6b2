"""The learning-rate schedules, compared step by step with PyTorch's."""

import math

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau

from trainer.recipe import SCHEDULES, Recipe
from trainer.schedules import make_schedule

pytestmark = pytest.mark.unit

RATE = 0.3


def _optimizer(kind=torch.optim.SGD, **options):
    return kind([torch.nn.Parameter(torch.zeros(1))], lr=RATE, **options)


def _rates(name, steps, warmup=0.0, *, optimizer=None, scores=None):
    """The learning rate of each step of a training; `scores` ends an epoch after each equal share of the steps."""
    optimizer = optimizer or _optimizer(momentum=0.9)
    schedule = make_schedule(Recipe(schedule=name, learning_rate=RATE, warmup=warmup), optimizer, steps)
    rates = []
    for step in range(1, steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.after_step()
        if scores is not None and step % (steps // len(scores)) == 0:
            schedule.after_epoch(scores[step // (steps // len(scores)) - 1])
    return rates


def _reference(make, steps, optimizer=None):
    optimizer = optimizer or _optimizer(momentum=0.9)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_constant(steps):
    """The constant schedule keeps the learning rate."""
    assert _rates("constant", steps) == [RATE] * steps


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_cosine(steps):
    """The cosine schedule is PyTorch's over the whole training, from the full rate towards 0."""
    rates = _rates("cosine", steps)
    assert rates == pytest.approx(_reference(lambda o: CosineAnnealingLR(o, T_max=steps), steps), rel=1e-9)
    assert rates[0] == RATE


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 100])
def test_step(steps):
    """The step schedule divides the rate by 10 after a half and after three quarters of the training."""
    milestones = [math.ceil(0.5 * steps), math.ceil(0.75 * steps)]
    expected = _reference(lambda o: MultiStepLR(o, milestones, gamma=0.1), steps)
    assert _rates("step", steps) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 100])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_one_cycle(steps, kind):
    """The one-cycle schedule is PyTorch's with a rise over three tenths, for either optimiser."""
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    expected = _reference(
        lambda o: OneCycleLR(o, RATE, total_steps=steps + 1, pct_start=0.3), steps, _optimizer(kind, **options)
    )
    assert _rates("one_cycle", steps, optimizer=_optimizer(kind, **options)) == expected


def test_one_cycle_rises_and_falls():
    """The one-cycle schedule reaches the recipe's rate after its rise, ends far below it and takes no warm-up."""
    rates = _rates("one_cycle", 100, warmup=0.5)
    assert rates == _rates("one_cycle", 100)
    assert 28 <= int(np.argmax(rates)) <= 31
    assert max(rates) == pytest.approx(RATE, rel=1e-3)
    assert rates[0] == pytest.approx(RATE / 25)
    assert rates[-1] < RATE / 100


def test_plateau():
    """The plateau schedule is PyTorch's, fed the macro-F1 of each epoch."""
    scores = [0.1, 0.5, 0.5, 0.4, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.1, 0.2, 0.9, 0.9]
    optimizer = _optimizer()
    reference = ReduceLROnPlateau(optimizer, mode="max", factor=0.3, patience=2, threshold=1e-4)
    expected = []
    for score in scores:
        expected += [optimizer.param_groups[0]["lr"]] * 4
        reference.step(score)
    rates = _rates("plateau", 60, scores=scores)
    assert rates == expected
    assert rates[-1] == pytest.approx(RATE * 0.3**3)


def test_plateau_waits_two_epochs():
    """The rate falls after the third epoch in a row without a better macro-F1."""
    assert _rates("plateau", 5, scores=[0.9, 0.9, 0.9, 0.9, 0.9]) == pytest.approx([RATE] * 4 + [0.3 * RATE])


def test_only_the_plateau_follows_the_score():
    """The macro-F1 of an epoch moves no other schedule."""
    for name in set(SCHEDULES) - {"plateau"}:
        assert _rates(name, 20, scores=[0.5] * 10) == _rates(name, 20)


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "plateau"])
def test_warmup(name):
    """The warm-up is linear from a hundredth of the rate and reaches the full rate after its share of the training."""
    rates = _rates(name, 200, warmup=0.1)
    rise = np.linspace(0.01 * RATE, RATE, 21)
    np.testing.assert_allclose(rates[:21], rise, rtol=1e-9)
    assert max(rates) == pytest.approx(RATE, rel=1e-12)
    assert rates[20] == max(rates)


@pytest.mark.parametrize("name", ["constant", "step", "cosine"])
def test_curve_after_the_warmup(name):
    """After the warm-up a schedule runs its whole curve, from its start, over what is left of the training."""
    rates = _rates(name, 200, warmup=0.1)
    assert rates[20] == RATE
    assert rates[20:] == pytest.approx(_rates(name, 180), rel=1e-9)


def test_plateau_after_the_warmup():
    """What the plateau takes off the rate during the warm-up stays off."""
    rates = _rates("plateau", 100, warmup=0.8, scores=[0.5] * 10)
    assert rates[80:] == pytest.approx([0.3**2 * RATE] * 20, rel=1e-9)


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "plateau"])
def test_no_warmup(name):
    """Without a warm-up the first step has the full rate."""
    assert _rates(name, 50, warmup=0.0)[0] == RATE


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 10, 33])
def test_rates_of_any_training(name, warmup, steps):
    """The rate of every step lies above 0 and not above the recipe's, in trainings of one step and of many."""
    rates = _rates(name, steps, warmup, scores=[0.5])
    assert len(rates) == steps
    assert all(0 < rate <= RATE * (1 + 1e-12) for rate in rates)


def test_the_plateau_follows_negative_scores():
    """By log-loss scores are negative: one that is a little worse is not better, and the rate falls as it should."""
    worse = [-0.5, -0.50001, -0.50002, -0.50003, -0.5]
    assert _rates("plateau", 5, scores=worse) == pytest.approx([RATE] * 4 + [0.3 * RATE])
    assert _rates("plateau", 5, scores=[-0.5, -0.4, -0.3, -0.2, -0.1]) == pytest.approx([RATE] * 5)
