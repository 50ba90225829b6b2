"""Trials that were interrupted, and those that continue them."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState, create_trial

from hpo.study.interruptions import FailedTrial, beginning_of, count_trials, failed_trials
from storage.requeue import DEATH, again
from storage.study_rows import PlaceRow

pytestmark = pytest.mark.unit

DIED = {"reason": again(DEATH)}


def trials_of(*given):
    """The trials of a study: each a state with its user attributes."""
    trials = []
    for number, (state, attributes) in enumerate(given):
        trials.append(
            create_trial(state=TrialState[state], value=0.5 if state == "COMPLETE" else None, user_attrs=attributes)
        )
        trials[-1].number = number
    return trials


def place(number, state, trial, reason=None):
    """A place of the budget with what matters here."""
    return PlaceRow(number, state, None, trial, reason, 0, None, None, None, 0.0)


def test_an_interrupted_trial_names_the_one_that_continues_it():
    """What died twice and goes on a third time is no failure: each run names the next, in any order of the places."""
    trials = trials_of(
        ("FAIL", DIED),
        ("COMPLETE", {}),
        ("FAIL", {**DIED, "repeats": 0}),
        ("RUNNING", {"repeats": 2, "resumed_after_epoch": 4}),
    )
    places = [place(0, "running", 3, DEATH), place(1, "complete", 1)]
    found = failed_trials(trials, places)
    assert found == {0: FailedTrial(DEATH, True, 2), 2: FailedTrial(DEATH, True, 3)}
    assert found[2].continuation == "continued as trial 3"
    assert [beginning_of(trial) for trial in trials] == [
        None,
        None,
        "runs trial 0 again from its beginning",
        "continues trial 2 after its epoch 4",
    ]


def test_an_interrupted_trial_that_waits_is_no_failure():
    """As long as its place waits for a worker, it will be continued."""
    [found] = failed_trials(trials_of(("FAIL", DIED)), [place(0, "waiting", 0, DEATH)]).values()
    assert found == FailedTrial(DEATH, True)
    assert found.continuation == "the next free worker continues it as another trial"


def test_a_trial_that_was_given_up_has_failed():
    """Its place says why; a trial that somebody has failed from outside, or that a recipe has, is a failure, too."""
    trials = trials_of(
        ("FAIL", DIED), ("FAIL", {**DIED, "repeats": 0}), ("FAIL", {}), ("FAIL", {"reason": "the loss is nan"})
    )
    given_up = "given up after 2 runs, the last: its worker died"
    places = [
        place(0, "failed", 1, given_up),
        place(1, "failed", 2, "told failed from outside"),
        place(2, "failed", 3, "the loss is nan"),
    ]
    assert failed_trials(trials, places) == {
        0: FailedTrial(DEATH, True, 1),
        1: FailedTrial(given_up),
        2: FailedTrial("told so from outside, as in the dashboard"),
        3: FailedTrial("the loss is nan"),
    }


def test_a_trial_with_all_its_runs_counts_once():
    """Interrupted trials count with what continues them, and what waits or was given a result does not."""
    trials = trials_of(
        ("FAIL", DIED), ("WAITING", {}), ("COMPLETE", {}), ("FAIL", {**DIED, "repeats": 0}), ("WAITING", {"repeats": 3})
    )
    assert count_trials(trials) == 2
    assert count_trials(trials_of(("FAIL", {"repeats": "x"}))) == 1
    assert count_trials(trials_of(("COMPLETE", {}), ("COMPLETE", {"same_recipe_as": 0}))) == 1
    refused = trials_of(("FAIL", {"reason": "limits: the model is too large"}), ("FAIL", {}))
    refused[0].datetime_start = None  # it has never run
    assert count_trials(refused) == 1
