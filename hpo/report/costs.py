"""What a search has cost: hours by state and by backbone, and the hours that pruning has saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpo.report.outcomes import CUT_SHORT
from storage.keys import PLACE_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hpo.report.outcomes import Outcome
    from storage.study_rows import PlaceRow

SECONDS_AN_HOUR = 3600


def total_hours_by_end(ends: Sequence[float], hours: Sequence[float]) -> list[float]:
    """How long all trials together had run when each of them ended.

    Args:
        ends: when each trial ended, in hours on one clock.
        hours: how long each has run, without a pause before its end.

    Returns:
        hours, one number for each end; the last end has the sum of all.
    """
    if not ends:
        return []
    starts = np.subtract(ends, hours)
    times = np.concatenate([starts, ends])
    order = np.argsort(times, kind="stable")
    running = np.cumsum(np.repeat([1, -1], len(ends))[order])
    total = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(times[order]))])
    by = np.interp(ends, times[order], total)
    return [float(each) for each in by]


def saved_hours(outcome: Outcome) -> float:
    """What cutting a trial short has saved: the epochs that were left out, at the time that each of its epochs took."""
    done = max(outcome.curve, default=0)
    if outcome.state not in CUT_SHORT or outcome.recipe is None or not done:
        return 0.0
    return outcome.hours * (outcome.recipe.epochs - done) / done


def hours_by_state(places: Sequence[PlaceRow]) -> dict[str, float]:
    """GPU hours by the state of the trials, of those states that there are; they add up to what the budget has used."""
    return {
        state: sum(place.seconds for place in places if place.state == state) / SECONDS_AN_HOUR
        for state in PLACE_STATES
        if any(place.state == state for place in places)
    }


@dataclass(frozen=True)
class Times:
    """What the trials of one backbone have taken: hours, and the epochs that they have trained in them."""

    hours: float
    epochs: int

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch, with all that belongs to a trial."""
        return self.hours * SECONDS_AN_HOUR / self.epochs


def backbone_times(outcomes: Iterable[Outcome]) -> dict[str, Times]:
    """The times of each backbone, the longest first; "not known" where a trial had none yet."""
    found: dict[str, Times] = {}
    for outcome in outcomes:
        if not outcome.taken_over:
            name = outcome.recipe.backbone if outcome.recipe else "not known"
            times = found.get(name, Times(0.0, 0))
            found[name] = Times(times.hours + outcome.hours, times.epochs + max(outcome.curve, default=0))
    return dict(sorted(found.items(), key=lambda item: -item[1].hours))
