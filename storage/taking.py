"""Which place of a study's budget a worker takes next, within the transaction in which it takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from storage import logs
from storage import place_statements as sql
from storage.budget import used
from storage.halts import halt_of_worker
from storage.rungs import best_paused

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, Row

    from storage.budget import Limits


@dataclass(frozen=True)
class Place:
    """A place in the budget that this worker holds.

    Attributes:
        number: 0 for the first of the study.
        earlier_trial: number of the trial that it names: one that was run in it before, or was about to be.
        failed_runs: how many runs in it have ended by the death of their worker or another trouble.
        reason: of the last of them.
        promoted: whether that trial was paused at a rung, and another is to go on with it.
    """

    number: int
    earlier_trial: int | None
    failed_runs: int
    reason: str | None
    promoted: bool = False


def take_place(
    connection: Connection,
    study_id: int,
    worker: str,
    limits: Limits,
    choose: Callable[[], str | None] | None,
    *,
    promotion: bool,
) -> Place | None:
    """Take a place for a worker, None where there is none to take now. The study is to be locked.

    First comes a place that this worker holds already, since it was taken and the answer was lost; then one that waits,
    one whose trial was paused and may go on (`promotion`), and a new one. Where the budget has no new one left, paused
    trials go on by the larger share, see `storage.rungs.has_room`; so they do where there is no recipe
    for a new one (`choose`).
    """
    values: dict[str, Any] = {"study": study_id, "worker": worker}
    found = connection.execute(text(sql.FREE_PLACE), values).one_or_none()
    if found and found.state == "running":
        return _place(found)
    if halt_of_worker(connection, study_id, worker):
        return None
    spent = used(connection, study_id)
    hours_left = spent.hours_within(limits)
    if found and not hours_left:
        # It counts among the trials already, but no hours are left to run it. A place whose trial was ended
        # from outside needs none, and is only to be closed.
        found = connection.execute(text(sql.WAITING_WITH_ENDED_TRIAL), values).one_or_none()
        if found is None:
            return None
    if found:
        values["number"] = found.number
        return _place(connection.execute(text(sql.TAKE), values).one())
    if promotion and hours_left and (place := _promote(connection, values, closing=False)):
        return place
    if spent.within(limits):
        recipe = choose() if choose else None
        if recipe is not None or choose is None:
            new = {**values, "number": spent.trials, "recipe": recipe}
            return _place(connection.execute(text(sql.MAKE), new).one())
    return _promote(connection, values, closing=True) if promotion and hours_left else None


def may_take_old_place(connection: Connection, study_id: int, limits: Limits, *, promotion: bool) -> bool:
    """Whether a place waits, or a paused trial may go on, where no new place is left in the budget."""
    if connection.execute(text(sql.ANY_WAITING), {"study": study_id}).scalar_one():
        return True
    return promotion and may_promote(connection, study_id, limits)


def may_promote(connection: Connection, study_id: int, limits: Limits) -> bool:
    """Whether a paused trial may go on, where no new place is left in the budget."""
    spent = used(connection, study_id)
    hours_left = spent.hours_within(limits)
    return hours_left and best_paused(connection, study_id, closing=True) is not None


def _promote(connection: Connection, values: dict[str, Any], *, closing: bool) -> Place | None:
    """Take the place of the paused trial that goes on next, and say so in its log; None where none does."""
    best = best_paused(connection, values["study"], closing=closing)
    if best is None:
        return None
    place = _place(connection.execute(text(sql.TAKE_PAUSED), {**values, "number": best.number}).one())
    rung = best.rung
    if closing and rung.best_is_paused:
        rank = f"the best of {rung.reached}"
    else:
        rounded = ", rounded up since no new trial begins" if closing else ""
        rank = f"among the best half of {rung.reached}{rounded}"
    line = f"goes on after epoch {rung.epoch} as another trial: it is {rank}"
    assert place.earlier_trial is not None, "a paused trial is named by its place"
    logs.append(connection, values["study"], place.earlier_trial, [line])
    return place


def _place(row: Row[Any]) -> Place:
    return Place(row.number, row.trial, row.failed_runs, row.reason, row.promoted)
