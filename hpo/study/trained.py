"""Which recipes of its search space a study has trained, so that none is trained twice."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING

from optuna.trial import FixedTrial, TrialState

from storage.keys import BEST_EPOCH_KEY
from storage.optuna_internals import given_parameters
from trainer.enumeration import digest_of, is_finite, recipes
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from trainer.space import Space


def trained_recipe(trial: FrozenTrial, space: Space) -> str | None:
    """The digest of the recipe that a trial was trained by, to its end or until it was pruned; None if by none."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or BEST_EPOCH_KEY not in trial.user_attrs:
        return None
    return digest_of(trial.params, space)


def is_used_up(space: Space, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a study with these trials has trained every recipe of its space, and none waits to be given a result."""
    if not is_finite(space) or any(_waits_for_a_result(trial, space) for trial in trials):
        return False
    trained = {trained_recipe(trial, space) for trial in trials}
    return all(digest_of(recipe, space) in trained for recipe in recipes(space, random.Random(0)))  # noqa: S311 - an order


def _waits_for_a_result(trial: FrozenTrial, space: Space) -> bool:
    """Whether a trial waits, and asks for a recipe that the space holds; one that does not would wait for ever."""
    given = given_parameters(trial)
    if trial.state is not TrialState.WAITING or not given:
        return False
    with suppress(TypeError, ValueError):  # what values raise that no recipe can have
        for recipe in recipes(space, random.Random(0), given):  # noqa: S311 - an order
            suggest(FixedTrial(recipe), space)
            return True
    return False
