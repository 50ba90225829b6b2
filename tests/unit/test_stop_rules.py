"""What ends a search before its budget is used up, and a trial before its last epoch."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest
from optuna.trial import FixedTrial, TrialState, create_trial

import hpo.worker.time_limit
from hpo.study.stop_rules import check_rules, last_gain
from hpo.worker.time_limit import TimeLimit
from storage.budget import StopRules
from storage.keys import BEST_EPOCH_KEY, METRICS_KEY, ORIGIN_KEY
from trainer.objective_metric import MACRO_F1, metric_of
from trainer.space import Space, suggest
from trainer.uncertainty import standard_error

pytestmark = pytest.mark.unit

SPACE = Space({"loss": ["cross_entropy", "focal"]})
BEGUN = datetime(2026, 1, 1)  # noqa: DTZ001 - Optuna's times have no zone
PER_CLASS = {"a": {"recall": 0.5, "images": 50}, "b": {"recall": 0.5, "images": 50}}
NOISE = standard_error(PER_CLASS)


def trials_of(values, *, origin=0):
    """Complete trials with these values, each ended before the next; the first ones were taken over."""
    fixed = FixedTrial(SPACE.default_parameters())
    suggest(fixed, SPACE)
    trials = []
    for number, value in enumerate(values):
        origins = {ORIGIN_KEY: {"study": "old", "trial": number}} if number < origin else {}
        trial = create_trial(
            value=value,
            params=fixed.params,
            distributions=fixed.distributions,
            user_attrs={BEST_EPOCH_KEY: 1, METRICS_KEY: {"per_class": PER_CLASS}} | origins,
        )
        trial.number, trial.datetime_complete = number, BEGUN + timedelta(seconds=number)
        trials.append(trial)
    return trials


def test_a_search_ends_at_its_target():
    """The first complete trial that counts and reaches the target ends the search; one told from outside does not."""
    trials = trials_of([0.5, 0.8, 0.99])
    trials[2].user_attrs = {}
    assert check_rules(trials, SPACE, StopRules(target=0.81), MACRO_F1)[0] is None
    reason, _ = check_rules(trials, SPACE, StopRules(target=0.8), MACRO_F1)
    assert reason == "trial 1 has reached 0.8000, and [budget] target is 0.8"


def test_a_target_of_a_loss_means_at_most():
    """By log-loss the lowest is the best, and a search ends once it is at most the target; gains are falls."""
    loss, trials = metric_of("log_loss"), trials_of([-0.5, -0.3, -0.4])
    assert check_rules(trials, SPACE, StopRules(target=0.29), loss)[0] is None
    reason, _ = check_rules(trials, SPACE, StopRules(target=0.3), loss)
    assert reason == "trial 1 has reached 0.3000, and [budget] target is 0.3"
    for trial in trials:
        trial.user_attrs = {**trial.user_attrs, METRICS_KEY: {"standard_error": {"log_loss": 0.05}}}
    reason, gain = check_rules(trials, SPACE, StopRules(patience=1), loss)
    assert reason == (
        "1 full training since trial 1 (0.3000) has brought no gain beyond the noise of 0.0500, and [budget] patience"
        " is 1"
    )
    assert gain.as_json() == {"trial": 1, "log_loss": 0.3, "noise": 0.05, "trainings": 1}


def test_a_search_ends_where_its_patience_does():
    """Full trainings count from the last one that was better by more than the noise, in the order of their ends."""
    values = [0.5, 0.5 + 0.9 * NOISE, 0.5 - NOISE, 0.5 + 1.1 * NOISE, 0.5 + 1.9 * NOISE]
    trials = trials_of(values)
    assert check_rules(trials[:2], SPACE, StopRules(patience=2), MACRO_F1)[0] is None
    assert check_rules(trials[:3], SPACE, StopRules(patience=2), MACRO_F1)[0] == (
        "2 full trainings since trial 0 (0.5000) have brought no gain beyond the noise of 0.0500, and [budget] patience"
        " is 2"
    )
    assert check_rules(trials, SPACE, StopRules(patience=2), MACRO_F1)[0] is None, "trial 3 is a gain"
    assert (last_gain(trials, SPACE, MACRO_F1).trial, last_gain(trials, SPACE, MACRO_F1).trainings) == (3, 1)
    trials[3].datetime_complete = BEGUN + timedelta(minutes=1)
    assert (last_gain(trials, SPACE, MACRO_F1).trial, last_gain(trials, SPACE, MACRO_F1).trainings) == (4, 1)
    trials[3].state = TrialState.PRUNED
    assert (last_gain(trials, SPACE, MACRO_F1).trial, last_gain(trials, SPACE, MACRO_F1).trainings) == (4, 0)


def test_what_was_taken_over_is_no_training_of_the_study():
    """The best of an old study is what a new one has to exceed, and uses up no patience."""
    trials = trials_of([0.6, 0.9, 0.5, 0.5], origin=2)
    assert (last_gain(trials, SPACE, MACRO_F1).trial, last_gain(trials, SPACE, MACRO_F1).trainings) == (1, 2)
    assert last_gain([], SPACE, MACRO_F1) is None


def test_the_last_gain_comes_with_the_answer():
    """The last gain is told with the reason to end and without one, and is not looked for without patience."""
    trials = trials_of([0.5, 0.9])
    gain = last_gain(trials, SPACE, MACRO_F1)
    assert check_rules(trials, SPACE, StopRules(patience=5), MACRO_F1) == (None, gain)
    reached, told = check_rules(trials, SPACE, StopRules(target=0.9, patience=5), MACRO_F1)
    assert (reached is None, told) == (False, gain)
    assert check_rules(trials, SPACE, StopRules(target=0.95), MACRO_F1) == (None, None)


def test_rules_that_are_not_given_end_nothing():
    """Without a target and patience a search ends with its budget alone."""
    assert check_rules(trials_of([1.0] * 50), SPACE, StopRules(), MACRO_F1)[0] is None


def test_the_time_of_a_trial(monkeypatch):
    """A trial ends where its time is over, or before an epoch that its time is too short for; earlier runs count."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(hpo.worker.time_limit, "time", SimpleNamespace(monotonic=lambda: clock.now))
    earlier = create_trial(state=TrialState.FAIL)
    earlier.datetime_start, earlier.datetime_complete = BEGUN, BEGUN + timedelta(seconds=30)
    limit = TimeLimit(1, [earlier])
    clock.now = 10.0
    limit.epoch_ended(1, 10.0)
    assert (limit.is_over(), limit.is_too_short(), limit.reason) == (False, False, None)
    clock.now = 25.0
    assert (limit.is_over(), limit.is_too_short()) == (False, True)
    assert limit.reason == "ended after epoch 1, as another one would pass [budget] trial_minutes = 1"
    clock.now = 31.0
    assert limit.is_over()
    assert limit.reason == "ended in epoch 2, as [budget] trial_minutes = 1 are over"
    unlimited = TimeLimit(None, [])
    clock.now = 1e9
    assert (unlimited.is_over(), unlimited.is_too_short()) == (False, False)
