"""What the trainings of a confirmation say."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState, create_trial

from hpo.study.confirmation import Plan
from hpo.study.confirmed import confirmed
from storage.keys import BEST_EPOCH_KEY, CONFIRMS_KEY
from storage.study_rows import PlaceRow

pytestmark = pytest.mark.unit


def training(number, trial, fold, state=TrialState.COMPLETE):
    """A training that confirms a trial, by its number."""
    attributes = {CONFIRMS_KEY: {"trial": trial, "fold": fold}, BEST_EPOCH_KEY: 1}
    value = 0.9 if state is TrialState.COMPLETE else None
    made = create_trial(state=state, value=value, intermediate_values={1: 0.9}, user_attrs=attributes)
    made.number = number
    return made


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        ("ended after epoch 1, as another one would pass [budget] trial_minutes = 5", None),
        (None, "told pruned from outside"),
    ],
)
def test_a_recipe_says_why_it_was_trained_no_further(reason, end):
    """A recipe whose training was out of time, or was pruned by somebody, is not called worse than the best one."""
    searched = [create_trial(value=0.9, user_attrs={BEST_EPOCH_KEY: 1}) for _ in range(2)]
    trials = [training(0, 0, 0), training(1, 1, 0, TrialState.PRUNED), training(2, 0, 1)]
    places = {1: PlaceRow(1, "pruned", None, 1, reason, 1, 3, 0.9, 0.9, 60.0)}
    found = confirmed(Plan((0, 1), 0, 2, 4, (10, 10)), searched, trials, places)
    assert [found.recipe_of(trial).end for trial in (0, 1)] == [None, end or reason]
    assert found.winner == 0
