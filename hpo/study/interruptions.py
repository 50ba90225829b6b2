"""Trials that were interrupted or paused, and the trials that continue them: in the budget they are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from storage.keys import REASON_KEY, REPEATS_KEY, RESUMED_KEY, SAME_RECIPE_KEY
from storage.requeue import without_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from storage.study_rows import PlaceRow

TOLD_FROM_OUTSIDE = "told failed from outside"  # the reason of a place whose trial people have failed


@dataclass(frozen=True)
class FailedTrial:
    """How a trial came to its end that has failed for Optuna.

    Attributes:
        reason: one line.
        interrupted: whether it is no failure: its place in the budget went on, or waits to go on.
        continued_as: number of the trial that continues it; None where there is none yet.
    """

    reason: str
    interrupted: bool = False
    continued_as: int | None = None

    @property
    def continuation(self) -> str:
        """What became of an interrupted trial."""
        if self.continued_as is None:
            return "the next free worker continues it as another trial"
        return f"continued as trial {self.continued_as}"


def failed_trials(trials: Sequence[FrozenTrial], places: Sequence[PlaceRow]) -> dict[int, FailedTrial]:
    """How each trial that has failed for Optuna came to its end, by number.

    Args:
        trials: all of a study.
        places: all of its budget.
    """
    successors = successors_of(trials)
    place_of = {place.trial: place for place in places}
    found = {}
    for trial in trials:
        if trial.state is TrialState.FAIL:
            number, place = trial.number, place_of.get(trial.number)
            told = str(trial.user_attrs.get(REASON_KEY, "told so from outside, as in the dashboard"))
            reason = without_again(told)
            if place and place.state == "failed":
                given_up = reason != told  # it was to run again, and its place knows why it did not
                found[number] = FailedTrial(place.reason or reason if given_up else reason)
            else:
                interrupted = number in successors or place is not None
                found[number] = FailedTrial(reason, interrupted, successors.get(number))
    return found


def pauses(trials: Sequence[FrozenTrial], places: Sequence[PlaceRow], pruner: str) -> dict[int, str]:
    """What has become of each trial that is paused, or was and has gone on, by number.

    Args:
        trials: all of a study.
        places: all of its budget.
        pruner: that its file names by now.
    """
    successors = successors_of(trials)
    gone_on = {
        trial.number: f"was paused, and has gone on as trial {successors[trial.number]}"
        for trial in trials
        if trial.number in successors and trial.state is TrialState.PRUNED
    }
    then = "goes on if it comes among the best half"
    if pruner != "asha":
        then = f'pruner = "{pruner}" does not let it go on, "asha" does'
    paused = {
        place.trial: f"is paused after epoch {place.paused_after}; {then}"
        for place in places
        if place.state == "paused" and place.trial is not None
    }
    return gone_on | paused


def successors_of(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The number of the trial that continues another one, or runs it again, by the number of that one."""
    successors: dict[int, int] = {}
    for trial in trials:
        if (repeats := repeated_by(trial)) is not None:
            successors.setdefault(repeats, trial.number)
    return successors


def count_trials(trials: Sequence[FrozenTrial]) -> int:
    """How many trials of a study have begun, counted as the budget does: with what continues it each one is one.

    One that was given the result of another trial, or ended while it waited, as beyond the limits, has not begun.
    """
    return sum(
        repeated_by(trial) is None and trial.datetime_start is not None and SAME_RECIPE_KEY not in trial.user_attrs
        for trial in trials
    )


def repeated_by(trial: FrozenTrial) -> int | None:
    """The number of the trial that a trial continues; None where it continues none."""
    repeats = trial.user_attrs.get(REPEATS_KEY)
    return repeats if isinstance(repeats, int) else None


def beginning_of(trial: FrozenTrial) -> str | None:
    """How a trial began that continues another one, in words; None where it continues none."""
    if (repeats := repeated_by(trial)) is None:
        return None
    epoch = trial.user_attrs.get(RESUMED_KEY)
    if isinstance(epoch, int) and epoch:
        return f"continues trial {repeats} after its epoch {epoch}"
    return f"runs trial {repeats} again from its beginning"
