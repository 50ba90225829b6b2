"""The rungs of a search: epochs after which trials are compared; the best half goes on, the others are paused.

This is asynchronous successive halving with promotion (Li et al., "A System for Massively Parallel Hyperparameter
Tuning", MLSys 2020, algorithm 2) with eta = 2, but for one thing: no more go on than half of those that have come,
though better ones may have come after these. Which trial goes on is decided under the lock of the study, in the
transaction that notes it, so that no two workers decide otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

ETA = 2  # one in so many of the trials that have come to a rung goes on from it


@dataclass(frozen=True)
class RungCount:
    """How many trials have come to a rung.

    Attributes:
        epoch: of the rung.
        reached: how many have come to it.
        paused: how many of them are paused there, or are about to be; the others have gone on.
        best_is_paused: whether one of these is the best of all that have come to the rung.
    """

    epoch: int
    reached: int
    paused: int
    best_is_paused: bool


@dataclass(frozen=True)
class RungDecision:
    """What becomes of a trial at a rung.

    Attributes:
        goes_on: whether it trains on; it is paused where it does not.
        rank: its own among those that have come to the rung so far, 1 for the best.
        reached: how many these are.
    """

    goes_on: bool
    rank: int
    reached: int

    def line(self, epoch: int) -> str:
        """The decision as a trial's log has it."""
        rank = f"number {self.rank} of the {self.reached} that have come so far"
        if self.goes_on:
            return f"goes on after epoch {epoch}: {rank}"
        return f"paused after epoch {epoch}: {rank}; goes on if it comes among the best half"


@dataclass(frozen=True)
class Paused:
    """A paused trial: the number of its place, and the rung at which it is the best of the paused ones."""

    number: int
    rung: RungCount


def has_room(rung: RungCount, *, closing: bool) -> bool:
    """Whether a rung has room for the best of its paused trials to go on.

    Of those that have come to the rung, one in `ETA` may have gone on. Where no trial is to begin any more (`closing`)
    the share is rounded up, and the best of all goes on even if as many have before it came: it is trained to its end.
    """
    if closing and rung.best_is_paused:
        return True
    room = -(-rung.reached // ETA) if closing else rung.reached // ETA
    return rung.paused > 0 and rung.reached - rung.paused < room


def rungs_with_room(rungs: Iterable[RungCount], *, closing: bool) -> list[RungCount]:
    """The rungs from which the best paused trial may go on, the highest first."""
    return sorted((rung for rung in rungs if has_room(rung, closing=closing)), key=lambda rung: -rung.epoch)


def rung_counts(connection: Connection, study_id: int) -> list[RungCount]:
    """The rungs to which trials of a study have come, the lowest first."""
    rows = connection.execute(text(_RUNGS), {"study": study_id})
    return [RungCount(row.epoch, row.reached, row.paused, row.best_is_paused) for row in rows]


def reach_rung(connection: Connection, study_id: int, number: int, epoch: int, score: float) -> RungDecision:
    """Note that the trial in a place has come to a rung, and decide whether it goes on. The study is to be locked.

    What was decided stays: a trial that comes to a rung again, since its worker died after that, goes on if it did.

    Args:
        connection: in a transaction.
        study_id: Optuna's number of the study.
        number: of the place.
        epoch: of the rung.
        score: the highest of the trial's epochs so far.
    """
    given = {"study": study_id, "number": number, "epoch": epoch, "key": str(epoch), "score": score}
    connection.execute(
        text(
            "UPDATE hpo.place SET rungs = rungs || jsonb_build_object(CAST(:key AS text), CAST(:score AS float8)),"
            " paused_after = :epoch WHERE study_id = :study AND number = :number AND NOT jsonb_exists(rungs, :key)"
        ),
        given,
    )
    row = connection.execute(
        text(_AT_RUNG),
        given,
    ).one()
    is_next = not row.paused_better and has_room(
        RungCount(epoch, row.reached, row.paused, row.better == 0), closing=False
    )
    if row.waits and is_next:
        connection.execute(
            text("UPDATE hpo.place SET paused_after = NULL WHERE study_id = :study AND number = :number"), given
        )
    return RungDecision(not row.waits or is_next, row.better + 1, row.reached)


def best_paused(connection: Connection, study_id: int, *, closing: bool) -> Paused | None:
    """The paused trial that goes on next, None where none does. The study is to be locked.

    The best one of a rung may not be told paused yet: its worker is about to, and no other goes on in its stead.
    """
    for rung in rungs_with_room(rung_counts(connection, study_id), closing=closing):
        best = connection.execute(
            text(
                "SELECT number, state FROM hpo.place WHERE study_id = :study AND paused_after = :epoch"
                " ORDER BY (rungs->>:key)::float8 DESC, number LIMIT 1"
            ),
            {"study": study_id, "epoch": rung.epoch, "key": str(rung.epoch)},
        ).one_or_none()
        if best is not None and best.state == "paused":
            return Paused(best.number, rung)
    return None


_RUNGS = """
SELECT key::integer AS epoch, count(*) AS reached, count(*) FILTER (WHERE paused_after = key::integer) AS paused,
    (array_agg(paused_after IS NOT DISTINCT FROM key::integer ORDER BY score::float8 DESC, number))[1] AS best_is_paused
FROM hpo.place, jsonb_each(rungs) AS reached (key, score) WHERE study_id = :study GROUP BY 1 ORDER BY 1
"""
_BETTER = "((rungs->>:key)::float8, -place.number) > (mine.score, -mine.number)"  # of equals the earlier place
_AT_RUNG = (
    "WITH mine AS (SELECT number, (rungs->>:key)::float8 AS score, paused_after IS NOT DISTINCT FROM :epoch AS waits"  # noqa: S608 - ours
    " FROM hpo.place WHERE study_id = :study AND number = :number)"
    " SELECT mine.waits, count(*) AS reached, count(*) FILTER (WHERE paused_after = :epoch) AS paused,"
    f" count(*) FILTER (WHERE {_BETTER}) AS better,"
    f" count(*) FILTER (WHERE {_BETTER} AND paused_after = :epoch) AS paused_better"
    " FROM hpo.place, mine WHERE study_id = :study AND jsonb_exists(rungs, :key) GROUP BY mine.waits"
)
