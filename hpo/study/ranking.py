"""Which trials of a study count, and which of them is the best: the one answer that all commands give.

A trial counts if it is complete, was trained to its end by a recipe of the study's space, and has a finite value. A
trial from outside does not: one that was told or added by somebody else, such as through Optuna or the dashboard.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from optuna.trial import FixedTrial, TrialState

from hpo.study.settings import space_of
from storage.keys import BEST_EPOCH_KEY, DEFAULT_KEY, SAME_RECIPE_KEY
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy
    from trainer.recipe import Recipe
    from trainer.space import Space


def counts(trial: FrozenTrial, space: Space) -> bool:
    """Whether a trial counts.

    Args:
        trial: in any state.
        space: what its study searches.
    """
    if not _is_complete(trial) or BEST_EPOCH_KEY not in trial.user_attrs or not math.isfinite(_value(trial)):
        return False
    try:
        suggest(FixedTrial(trial.params), space)
    except ValueError:
        return False
    return True


def ranked(trials: Iterable[FrozenTrial], space: Space) -> Iterator[FrozenTrial]:
    """The trials that count, the best first, of equals the earlier.

    They are checked one by one as they are asked for, so that the best of ten thousand is found at once.

    Args:
        trials: of one study that maximises one value, in any states and order.
        space: what the study searches.
    """
    return (trial for trial in of_best_value(trials) if counts(trial, space))


def find_best(trials: Iterable[FrozenTrial], space: Space) -> tuple[FrozenTrial | None, list[int]]:
    """The first of `ranked`, or None, and the numbers of the complete trials that do not count but have higher values.

    Where no trial counts these are all complete trials.
    """
    from_outside = list[int]()
    for trial in of_best_value(trials):
        if counts(trial, space):
            return trial, from_outside
        from_outside.append(trial.number)
    return None, from_outside


def find_default(trials: Iterable[FrozenTrial], space: Space) -> FrozenTrial | None:
    """The first trial of the default recipe that counts; None where there is none."""
    return next((trial for trial in trials if DEFAULT_KEY in trial.user_attrs and counts(trial, space)), None)


def best_trial(opened: OpenStudy) -> FrozenTrial | None:
    """The best trial of a study as it stands now; None before the first that counts.

    Raises:
        KeyError: the study was deleted.
        RecipeError: it names functions of one's own that the study file's extensions do not hold.
    """
    return next(ranked(opened.study.get_trials(deepcopy=False), _space(opened)), None)


def best_of_different_recipes(opened: OpenStudy, count: int, *, seeds_differ: bool) -> list[FrozenTrial]:
    """The best trials of a study, the best first, each with another recipe; all where there are fewer.

    Args:
        opened: the study.
        count: of the trials.
        seeds_differ: whether recipes that only differ by their seed count as different ones.
    """
    space = _space(opened)
    found: dict[Recipe, FrozenTrial] = {}
    for trial in ranked(opened.study.get_trials(deepcopy=False), space):
        recipe = suggest(FixedTrial(trial.params), space)
        found.setdefault(recipe if seeds_differ else replace(recipe, seed=0), trial)
        if len(found) == count:
            break
    return list(found.values())


def default_trial(opened: OpenStudy) -> FrozenTrial | None:
    """The trial of the default recipe of a study, if it counts by now; raises as `best_trial` does."""
    return find_default(opened.study.get_trials(deepcopy=False), _space(opened))


def _space(opened: OpenStudy) -> Space:
    return space_of(opened.study, opened.file.space.extensions)


def of_best_value(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials, whether they count or not, the highest value first, of equals the earlier."""
    return sorted(filter(_has_own_value, trials), key=lambda trial: (-_value(trial), trial.number))


def _has_own_value(trial: FrozenTrial) -> bool:
    """Whether a trial is complete, and was not given the result of another one with its recipe."""
    return _is_complete(trial) and SAME_RECIPE_KEY not in trial.user_attrs


def _is_complete(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE


def _value(trial: FrozenTrial) -> float:
    """The value of a complete trial, which is never NaN; one without any would be the last."""
    return -math.inf if trial.value is None else trial.value
