"""What further trials may be expected to bring."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

from hpo.study.expected_gain import FEWEST_TRIALS, ExpectedGain, expected_best, expected_gain, rise
from storage.budget import Limits, Used
from storage.keys import METRICS_KEY
from storage.study_rows import PlaceRow
from trainer.objective_metric import metric_of
from trainer.uncertainty import standard_error

pytestmark = pytest.mark.unit

DRAWS = {
    "uniform": lambda random, size: random.random(size),
    "skewed": lambda random, size: random.beta(5, 2, size),
    "near its end": lambda random, size: 1 - random.exponential(0.2, size),
    "normal": lambda random, size: 0.7 + 0.05 * random.normal(size=size),
    "half of no use": lambda random, size: np.where(random.random(size) < 0.5, 0.1, random.beta(2, 2, size)),
}


def test_the_expected_best_is_the_mean_over_all_choices():
    """It agrees with the maximum of each choice, counted one by one."""
    scores = [0.3, 0.9, 0.5, 0.5, 0.1, 0.7]
    for m in range(1, 7):
        assert expected_best(scores, m) == pytest.approx(np.mean([max(chosen) for chosen in combinations(scores, m)]))
    assert expected_best(np.random.default_rng(0).random(10_000), 2500) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(("trials", "more"), [(12, 12), (20, 10), (50, 50)])
def test_the_expected_rise_is_that_of_simulated_studies(name, trials, more):
    """On average over simulated studies the estimate is within a third of what further trials brought."""
    random = np.random.default_rng(1)
    studies = DRAWS[name](random, (2000, trials + more))
    brought = studies.max(axis=1) - studies[:, :trials].max(axis=1)
    said = [rise(study[:trials], more) for study in studies]
    assert np.mean(said) == pytest.approx(np.mean(brought), rel=0.34)


def test_scores_that_do_not_rise_promise_nothing():
    """Where all trials have the same score no rise is expected."""
    assert rise([0.5] * 20, 100) == 0


def places(scores, **more):
    """Places whose trials have ended with these best scores after an hour each."""
    fields = {"state": "complete", **more}
    return [
        PlaceRow(number, fields["state"], "w", number, None, 3, 3, score, score, 3600.0)
        for number, score in enumerate(scores)
    ]


def test_what_the_budget_has_left_is_what_the_estimate_is_for():
    """It is for the trials that are left, or as many again; none of it where too few have ended."""
    scores = list(np.random.default_rng(0).beta(5, 2, FEWEST_TRIALS))
    per_class = {name: {"f1": 0.9, "precision": 0.9, "recall": 0.9, "images": 30} for name in "ab"}
    best = create_trial(
        state=TrialState.COMPLETE, value=max(scores), user_attrs={METRICS_KEY: {"per_class": per_class}}
    )
    best.number = int(np.argmax(scores))

    def expected(limits, found=scores, used=FEWEST_TRIALS, of=best):
        return expected_gain(places(found), Used(used, 12.0, 12.0), limits, of)

    assert expected(Limits(trials=20)).trials == 8
    assert expected(Limits(trials=20)).gpu_hours == pytest.approx(8)
    assert expected(Limits(trials=20, gpu_hours=15.5)).trials == 3
    assert expected(Limits(trials=12)).trials == expected(Limits(hours=99)).trials == 12
    assert expected(Limits(trials=20)).rise == pytest.approx(rise(scores, 8))
    assert expected(Limits(trials=20)).noise == pytest.approx(standard_error(per_class))
    assert expected(Limits(trials=20), scores[:-1]) is None
    assert expected(Limits(trials=20), of=None) is None
    taken_over = create_trial(state=TrialState.COMPLETE, value=0.99)
    taken_over.number = 99
    assert expected(Limits(trials=20), of=taken_over) is None


def test_a_rise_below_the_noise_is_called_so():
    """The line names trials, hours and rise, and says where the validation images could hardly show it."""
    gain = ExpectedGain(8, 0.0031, 1.25, 0.009)
    line = "8 more trials, about 1.2 GPU hours, may raise the best by about 0.0031"
    assert gain.line() == f"{line}, less than the noise of 0.0090"
    assert ExpectedGain(8, 0.0031, 1.25, None).line() == ExpectedGain(8, 0.0031, 1.25, 0.001).line() == line
    assert ExpectedGain(1, 0.0031, 1.25, None).line().startswith("1 more trial, ")


def test_a_loss_is_expected_to_fall():
    """By log-loss further trials may lower the best, by no more than to 0; JSON has the metric's name."""
    loss = metric_of("log_loss")
    scores = [-1.0 / (1 + number) for number in range(16)]
    ended, best = places(scores), create_trial(value=scores[-1])
    best.number = 15
    gain = expected_gain(ended, Used(16, 1.0, 16.0), Limits(trials=10_000), best, loss)
    assert 0 < gain.rise <= -scores[-1]
    assert "may lower the best by about" in gain.line()
    assert gain.as_json()["log_loss"] == gain.rise
