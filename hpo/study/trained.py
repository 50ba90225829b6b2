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
    from collections.abc import Iterable, Sequence

    from optuna.trial import FrozenTrial

    from trainer.space import Space


def trained_recipe(trial: FrozenTrial, space: Space) -> str | None:
    """The digest of the recipe that a trial was trained by, to its end or until it was pruned; None if by none."""
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or BEST_EPOCH_KEY not in trial.user_attrs:
        return None
    return digest_of(trial.params, space)


class TrainedRecipes:
    """The recipes of its space that a study has trained; what was read stays, so that ten thousand trials cost little.

    Args:
        space: of the study.

    Attributes:
        numbers: digest of a recipe -> number of the trial that was trained by it.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self.numbers: dict[str, int] = {}
        self._read: set[int] = set()  # numbers of the finished trials that were looked at
        self._untrained = self._find_untrained()  # digest of one recipe; None where all are trained

    def read(self, trials: Iterable[FrozenTrial]) -> None:
        """Take in those trials of the study that have finished, each once."""
        for trial in trials:
            if trial.number not in self._read and trial.state.is_finished():
                if recipe := trained_recipe(trial, self._space):
                    self.numbers.setdefault(recipe, trial.number)
                self._read.add(trial.number)

    def are_all(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the study, with these trials, has trained its whole space, and none waits to be given a result."""
        if not is_finite(self._space) or any(_waits_for_a_result(trial, self._space) for trial in trials):
            return False
        self.read(trials)
        if self._untrained in self.numbers:
            self._untrained = self._find_untrained()
        return self._untrained is None

    def _find_untrained(self) -> str | None:
        order = random.Random(0)  # noqa: S311 - an order
        digests = (digest_of(recipe, self._space) for recipe in recipes(self._space, order))
        return next((digest for digest in digests if digest not in self.numbers), None)


def _waits_for_a_result(trial: FrozenTrial, space: Space) -> bool:
    """Whether a trial waits, and asks for a recipe that the space holds; one that does not would wait for ever."""
    if trial.state is not TrialState.WAITING or not (given := given_parameters(trial)):
        return False
    with suppress(TypeError, ValueError):  # what values raise that no recipe can have
        for recipe in recipes(space, random.Random(0), given):  # noqa: S311 - an order
            suggest(FixedTrial(recipe), space)
            return True
    return False
