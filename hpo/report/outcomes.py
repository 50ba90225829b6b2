"""The results of a search's trials: of each one, the best over time, and the reasons of those that failed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from trainer.recipe import used_fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from storage.keys import PlaceState
    from trainer.recipe import Recipe


CUT_SHORT = ("pruned", "paused")  # states of trials that were not trained to their end


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one place of the budget so far, or of one trial that was taken over.

    Attributes:
        number: of the trial, the last one that ran in the place.
        state: of the place; of a trial that was taken over, complete or pruned.
        value: score of its best epoch, the higher the better; None before the first epoch.
        curve: epoch, counted from 1 -> score after it.
        recipe: None where not all fields of it are chosen yet.
        hours: that all its runs took together; 0 of one that was taken over.
        ended: hours from the start of the search to its end; None while it runs, and of one that was taken over.
        gpu_hours: hours that all trials together had run when it ended; None where `ended` is.
        reason: why it failed; None where it did not, or none was kept.
        taken_over: whether another study has trained it.
    """

    number: int
    state: PlaceState
    value: float | None
    curve: Mapping[int, float]
    recipe: Recipe | None
    hours: float = 0.0
    ended: float | None = None
    gpu_hours: float | None = None
    reason: str | None = None
    taken_over: bool = False

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields that mean something in its recipe."""
        return {} if self.recipe is None else used_fields(self.recipe)


def complete_values(outcomes: Iterable[Outcome]) -> list[float]:
    """Scores of the complete trials."""
    return [outcome.value for outcome in outcomes if outcome.state == "complete" and outcome.value is not None]


def best_so_far(outcomes: Iterable[Outcome], clock: str) -> list[tuple[float, float, int]]:
    """Each change of the best: hours on the clock, the new best score, the number of its trial.

    Args:
        outcomes: in any order; only complete ones count. Those that were taken over count from the start.
        clock: `ended` or `gpu_hours`.
    """
    found = list[tuple[float, float, int]]()
    complete = [outcome for outcome in outcomes if outcome.state == "complete" and outcome.value is not None]
    for outcome in sorted(complete, key=lambda each: (getattr(each, clock) or 0.0, each.number)):
        if outcome.value is not None and (not found or outcome.value > found[-1][1]):
            found.append((getattr(outcome, clock) or 0.0, outcome.value, outcome.number))
    return found


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one reason: the reason of the first, and their numbers."""

    reason: str
    trials: Sequence[int]


def failures(outcomes: Iterable[Outcome]) -> list[Failure]:
    """The failed trials by reason, the most frequent first; reasons that differ in numbers alone are one."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state == "failed":
            found.setdefault(re.sub(r"\d+", "#", outcome.reason or ""), []).append(outcome)
    grouped = [
        Failure(same[0].reason or "no reason was kept", [each.number for each in same]) for same in found.values()
    ]
    return sorted(grouped, key=lambda failure: -len(failure.trials))
