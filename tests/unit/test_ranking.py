"""Which trials count, and in which order."""

from __future__ import annotations

import math
import sys

import pytest
from optuna.trial import FixedTrial, TrialState, create_trial

from hpo.study.ranking import counts, find_best, find_default, ranked
from storage.keys import BEST_EPOCH_KEY, DEFAULT_KEY
from trainer.space import Space, suggest

pytestmark = pytest.mark.unit

SPACE = Space({"loss": ["cross_entropy", "focal"]})


def trial(number, value=None, *, state=TrialState.COMPLETE, params=None, **attributes):
    """A trial as a worker leaves it, but for what is given."""
    fixed = FixedTrial(SPACE.default_parameters())
    suggest(fixed, SPACE)
    made = create_trial(
        state=state,
        value=value,
        params=fixed.params if params is None else params,
        distributions=fixed.distributions if params is None else {},
        user_attrs={BEST_EPOCH_KEY: 1} | attributes,
    )
    made.number = number
    return made


def outsider(number, value):
    """A trial that was trained by nobody."""
    made = trial(number, value)
    made.user_attrs = {}
    return made


def numbers(trials):
    """The numbers of trials."""
    return [each.number for each in trials]


def test_the_best_comes_first_and_of_equals_the_earlier():
    """Values decide, also negative ones and 0, and then numbers, in whatever order the trials are given."""
    trials = [trial(number, value) for number, value in enumerate([0.4, 0.0, 0.9, -0.5, 0.9])]
    assert numbers(ranked(trials, SPACE)) == numbers(ranked(reversed(trials), SPACE)) == [2, 4, 0, 1, 3]


def test_only_a_complete_trial_that_was_trained_by_a_recipe_of_the_space_counts():
    """Others do not: another state, no best epoch, parameters that are no recipe, a value that is not finite."""
    pruned, failed = (trial(0, state=state) for state in (TrialState.PRUNED, TrialState.FAIL))
    others = [pruned, failed, outsider(0, 0.9), trial(0, 0.9, params={})]
    others += [trial(0, value) for value in (math.inf, -math.inf)]
    assert not any(counts(each, SPACE) for each in others)
    assert counts(trial(0, sys.float_info.max), SPACE)
    assert counts(trial(0, -1.0), SPACE)


def test_better_trials_from_outside_are_told_apart():
    """They are named beside the best, the highest value first; those that are worse than it are not."""
    trials = [trial(0, 0.5), outsider(1, 0.7), outsider(2, math.inf), outsider(3, 0.4), trial(4, 0.6), outsider(5, 0.6)]
    best, from_outside = find_best(trials, SPACE)
    assert (best.number, from_outside) == (4, [2, 1])
    assert find_best([outsider(0, -math.inf), outsider(1, 0.4)], SPACE) == (None, [1, 0])
    assert find_best([], SPACE) == (None, [])


def test_the_best_of_many_is_found_without_a_look_at_all_recipes(monkeypatch):
    """A study of ten thousand trials is looked at each second: one recipe is read, not all."""
    read = []
    monkeypatch.setattr("hpo.study.ranking.suggest", lambda *_: read.append(1))
    trials = [trial(number, number / 100) for number in range(100)]
    assert next(ranked(trials, SPACE)).number == find_best(trials, SPACE)[0].number == 99
    assert len(read) == 2


def test_the_default_recipe_counts_as_others_do():
    """The trial of the default recipe is named once it counts."""
    marked = {DEFAULT_KEY: True}
    failed, told = trial(0, state=TrialState.FAIL, **marked), trial(1, math.inf, **marked)
    assert find_default([failed, told, trial(2, 0.5)], SPACE) is None
    assert find_default([failed, told, trial(2, 0.5), trial(3, 0.4, **marked)], SPACE).number == 3
