"""What pausing trials by early ranks may have cost."""

from __future__ import annotations

import random

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from hpo.study.early_ranks import EarlyRanks, RungRanks, early_ranks, is_control, rung_ranks
from storage.keys import BEST_EPOCH_KEY, CONTROL_KEY, REPEATS_KEY

pytestmark = pytest.mark.unit


def study(*curves, control=(), repeats=None):
    """Trials with these scores by epoch; the controls are complete, the others paused."""
    trials = []
    for number, curve in enumerate(curves):
        is_one = number in control
        attributes = {CONTROL_KEY: True, BEST_EPOCH_KEY: 1} if is_one else {}
        if repeats and number in repeats:
            attributes[REPEATS_KEY] = repeats[number]
        trial = create_trial(
            state=TrialState.COMPLETE if is_one else TrialState.PRUNED,
            value=max(curve),
            intermediate_values=dict(enumerate(curve, start=1)),
            user_attrs=attributes,
        )
        trial.number = number
        trials.append(trial)
    return trials


def test_the_controls_are_a_share_that_the_seed_decides():
    """A twentieth of the places, the same ones for every worker, others for another seed; none where it is off."""
    chosen = [place for place in range(4000) if is_control(0, place, 0.05)]
    assert len(chosen) == pytest.approx(200, rel=0.2)
    assert chosen == [place for place in range(4000) if is_control(0, place, 0.05)]
    assert chosen != [place for place in range(4000) if is_control(1, place, 0.05)]
    assert not any(is_control(0, place, 0.0) for place in range(1000))


def test_what_pausing_would_have_cost_is_counted():
    """A control below the best half of a rung would be paused; what it has reached is told beside the best."""
    trials = study(
        [0.5, 0.6], [0.4, 0.5], [0.2, 0.9], [0.6, 0.8], [0.1], [0.1, 0.2], [0.1, 0.7], control=(2, 3), repeats={6: 5}
    )
    told = early_ranks(trials, (1,))
    assert told == EarlyRanks(trials=2, rungs=[], paused=1, best_paused=0.9, best=0.9)
    assert told.lines()[0].startswith("2 trials were trained to the end at random")
    assert told.lines()[1] == (
        "1 of them would be paused by now; the best of those reached 0.9000, the best of the search 0.9000."
    )
    assert told.warning() is None
    assert early_ranks(study([0.5], [0.6]), (1,)) is None


def test_the_rank_correlation_is_spearmans():
    """Ranks alone count; equal scores share their rank; where all are equal there is none."""
    same = rung_ranks(3, [0.1, 0.2, 0.3, 0.9, 0.95, 0.99], [0.5, 0.6, 0.61, 0.62, 0.63, 0.9])
    assert same.correlation == pytest.approx(1)
    scores, ends = [0.3, 0.1, 0.4, 0.1, 0.5, 0.9], [0.2, 0.7, 0.1, 0.8, 0.28, 0.18]
    # By hand, from the ranks 3 1.5 4 1.5 5 6 and 3 5 1 6 4 2: -12 / sqrt(17 * 17.5).
    assert rung_ranks(3, scores, ends).correlation == pytest.approx(-12 / np.sqrt(17 * 17.5))
    assert rung_ranks(3, [0.5] * 6, ends) is None


def test_the_interval_holds_the_truth_in_about_95_of_100_studies():
    """Of simulated studies of normal scores the interval of about 95 % holds the true rank correlation."""
    draw, held, studies, slope = np.random.default_rng(0), 0, 600, 0.6
    truth = 6 / np.pi * np.arcsin(slope / 2)  # of a normal distribution (Pearson 1907)
    for _ in range(studies):
        ends = draw.normal(size=15)
        scores = slope * ends + np.sqrt(1 - slope**2) * draw.normal(size=15)
        ranks = rung_ranks(1, scores.tolist(), ends.tolist())
        held += ranks.low <= truth <= ranks.high
    assert held / studies == pytest.approx(0.95, abs=0.04)


def test_ranks_that_mislead_are_warned_of():
    """Five controls whose order is another one at the end bring a warning with the interval; five that agree do not."""
    curves = [[number / 10, 1 - number / 10] for number in range(1, 6)]
    told = early_ranks(study(*curves, control=range(5)), (1,))
    assert told.rungs[0].correlation == pytest.approx(-1)
    assert "the rank correlation is -1.00 after epoch 1 (95 %: -1.00 to -1.00), among 5 trials" in told.warning()
    random.Random(0).shuffle(curves)
    agree = early_ranks(study(*([low, low + 0.3] for low, _ in curves), control=range(5)), (1,))
    assert agree.warning() is None
    assert agree.lines()[2] == (
        "Rank correlation (Spearman) of their scores at a rung with those at the end: 1.00 after epoch 1 (95 %: 1.00 to"
        " 1.00)."
    )
    assert str(RungRanks(3, 0.5, -0.25, 0.9)) == "0.50 after epoch 3 (95 %: -0.25 to 0.90)"


def test_a_control_of_few_epochs_says_nothing_of_later_rungs():
    """Where epochs are searched, a trial counts at the rungs alone that lie before its own last epoch."""
    assert early_ranks(study([0.1, 0.5], control=(0,)), (2, 4)) == EarlyRanks(1, [], 0, None, 0.5)
    short, long = [0.1, 0.2], [[0.5, 0.6 + end, 0.6 + end] for end in (0.1, 0.2, 0.3, 0.4)]
    told = early_ranks(study(short, *long, control=range(5)), (1, 2))
    assert [rung.epoch for rung in told.rungs] == [1]
    assert told.paused == 3
