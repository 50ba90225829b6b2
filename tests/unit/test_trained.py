"""Which recipes of its space a study has trained."""

from __future__ import annotations

import random

import pytest
from optuna.trial import FixedTrial, TrialState, create_trial

import hpo.study.trained
from hpo.study.trained import TrainedRecipes
from storage.keys import BEST_EPOCH_KEY
from trainer.enumeration import recipes
from trainer.recipe import DEFAULTS
from trainer.space import Space, suggest

pytestmark = pytest.mark.unit

SPACE = Space(DEFAULTS | {"epochs": {"low": 1, "high": 5}, "batch_size": [4, 8, 16, 32]})


def trials_of(space, count):
    """Complete trials, each of another recipe of a space."""
    trials = []
    for number, parameters in zip(range(count), recipes(space, random.Random(1)), strict=False):
        fixed = FixedTrial(parameters)
        suggest(fixed, space)
        trial = create_trial(
            value=0.5, params=fixed.params, distributions=fixed.distributions, user_attrs={BEST_EPOCH_KEY: 1}
        )
        trial.number = number
        trials.append(trial)
    return trials


def test_a_space_is_used_up_by_its_last_recipe():
    """All recipes are trained once each has a result; one in training, or one that waits for a result, is none yet."""
    trials, trained = trials_of(SPACE, 20), TrainedRecipes(SPACE)
    assert not trained.are_all(trials[:19])
    trials[19].state = TrialState.RUNNING
    assert not trained.are_all(trials)
    trials[19].state = TrialState.COMPLETE
    assert trained.are_all(trials)
    waits = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": trials[0].params})
    assert not trained.are_all([*trials, waits])
    assert trained.are_all(trials)
    assert sorted(trained.numbers.values()) == list(range(20))


def test_an_endless_space_is_never_used_up():
    """A space with a range of fractions holds another recipe, whatever was trained."""
    space = Space(DEFAULTS | {"learning_rate": {"low": 0.001, "high": 0.1}})
    assert not TrainedRecipes(space).are_all(trials_of(space, 3))


def test_each_trial_is_read_once(monkeypatch):
    """A look at ten thousand trials that were looked at before works out no recipe again, used up or not."""
    trials, trained, read = trials_of(SPACE, 20), TrainedRecipes(SPACE), []
    digest_of = hpo.study.trained.digest_of
    monkeypatch.setattr(hpo.study.trained, "digest_of", lambda *given: (read.append(given), digest_of(*given))[1])
    for some in (trials[:10], trials):
        trained.are_all(some)
        before = len(read)
        trained.are_all(some)
        assert len(read) == before > 0
