"""Which recipes of its search space a study has trained, so that none is trained twice."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from storage.keys import BEST_EPOCH_KEY
from trainer.enumeration import digest_of, is_finite, recipes

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
    """Whether a study with these trials has trained every recipe of its space, and none of them waits."""
    if not is_finite(space) or any(trial.state is TrialState.WAITING for trial in trials):
        return False
    trained = {trained_recipe(trial, space) for trial in trials}
    return all(digest_of(recipe, space) in trained for recipe in recipes(space, random.Random(0)))  # noqa: S311 - an order
