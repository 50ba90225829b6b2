"""Which paused trials keep their checkpoints: those that may still go on, as far as the disk allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from hpo.units import show_bytes
from storage.artifacts.artifact_store import discard
from storage.keys import CHECKPOINT_KEY, REPEATS_KEY
from storage.outage_retry import retry_outages
from storage.rungs import ETA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy
    from storage.study_rows import PlaceRow, SearchState

GIGABYTE = 1e9
SLIGHT_CHANCE = 0.01  # of ever going on, below which a trial can hardly do so
ANEW = "it begins anew if it ever goes on"


@dataclass(frozen=True)
class PausedTrial:
    """A paused trial.

    Attributes:
        trial: its number.
        epoch: of its rung.
        rank: among all that have come to the rung, 1 for the best.
        reached: how many these are.
    """

    trial: int
    epoch: int
    rank: int
    reached: int

    @property
    def chance(self) -> float:
        """About the chance that it ever goes on, however many trials come to its rung, if they are as those before.

        Of the trials to come the share that is better than number r of n follows the distribution Beta(r, n + 1 - r),
        and at last it is among the best half where that is less than 1 / ETA: with ETA = 2 as likely as that r or more
        of n coins show heads, here by the normal distribution. That it is so at any time is up to twice as likely (the
        reflection principle of random walks). A search that learns makes it less likely.
        """
        mean, deviation = self.reached / ETA, math.sqrt(self.reached * (1 - 1 / ETA) / ETA)
        return min(1.0, 2 * NormalDist().cdf((mean - self.rank + 0.5) / deviation))


def paused_trials(state: SearchState) -> list[PausedTrial]:
    """The paused trials of a search, those first that are the likeliest to go on."""
    found = []
    for rung in state.rungs:
        here = [place for place in state.places if place.paused_after == rung.epoch]
        here.sort(key=lambda place: (math.inf if place.best is None else -place.best, place.number))
        gone = rung.reached - rung.paused
        for rank, place in enumerate(here, start=gone + 1):
            if place.state == "paused" and place.trial is not None:
                found.append(PausedTrial(place.trial, rung.epoch, rank, rung.reached))
    return sorted(found, key=lambda each: (-each.chance, -each.epoch, each.trial))


def surplus_checkpoints(paused: Sequence[PausedTrial], sizes: Mapping[int, int], limit_gb: float) -> dict[int, str]:
    """The trials whose checkpoints are to be removed, each with the line that says why.

    Args:
        paused: as `paused_trials` has them.
        sizes: bytes of the checkpoint of each trial that has one.
        limit_gb: that all of them together may have, in units of 10^9 bytes.
    """
    reasons, total = {}, 0
    for each in paused:
        if each.trial in sizes and each.chance < SLIGHT_CHANCE:
            reasons[each.trial] = (
                f"its checkpoint is removed: number {each.rank} of {each.reached} after epoch {each.epoch} will hardly"
                f" come among the best half; {ANEW}"
            )
        elif each.trial in sizes:
            total += sizes[each.trial]
            if total > limit_gb * GIGABYTE:
                reasons[each.trial] = (
                    f"its checkpoint is removed: those of the trials that are likelier to go on take"
                    f" {show_bytes(total - sizes[each.trial])}, and [study] checkpoints_gb is {limit_gb:g}; {ANEW}"
                )
                total -= sizes[each.trial]
    return reasons


def drop_surplus_checkpoints(opened: OpenStudy) -> None:
    """Remove the checkpoints that paused trials are not to keep; for workers, after each pause and each end.

    Raises:
        StorageError: the store refuses, or does not answer.
    """

    def drop() -> None:
        state = opened.rows.read()
        sizes = noted_sizes(state.places)
        reasons = surplus_checkpoints(paused_trials(state), sizes, opened.file.checkpoints_gb)
        if not reasons:
            return
        trials = opened.study.get_trials(deepcopy=False)
        for number in opened.rows.forget_checkpoints(reasons):  # first, so that nobody counts on one that is gone
            for checkpoint in checkpoints_of(trials, number):
                discard(opened.artifacts, checkpoint)

    retry_outages(opened.outage_retry, drop)


def checkpoints_of(trials: Sequence[FrozenTrial], number: int) -> list[str]:
    """The ids of the checkpoints from which a trial would go on: its own, and those of the trials that it repeats."""
    found = []
    repeated: int | None = number
    while repeated is not None:
        attributes = trials[repeated].user_attrs
        found += [attributes[CHECKPOINT_KEY]] if CHECKPOINT_KEY in attributes else []
        repeated = attributes.get(REPEATS_KEY)
    return found


def noted_sizes(places: Sequence[PlaceRow]) -> dict[int, int]:
    """Bytes of the checkpoints of paused trials, by their numbers."""
    return {
        place.trial: place.checkpoint_bytes
        for place in places
        if place.state == "paused" and place.trial is not None and place.checkpoint_bytes is not None
    }
