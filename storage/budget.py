"""The budget of a search: how much it may use, and how much it has used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class Limits:
    """How much a search may use; None means no limit. The first limit that is reached ends the search."""

    trials: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class StopRules:
    """What ends a search before its budget is used up; None ends none.

    Attributes:
        target: value of the metric on the validation images that one complete trial is to reach.
        patience: how many full trainings in a row may bring no gain beyond the noise.
    """

    target: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Used:
    """What a search has used so far.

    Attributes:
        trials: places taken; a trial that has to be started again counts once.
        hours: wall-clock hours in which at least one worker was there, and neither it nor the search was paused.
        gpu_hours: hours that trials have run, added up over all workers.
    """

    trials: int
    hours: float
    gpu_hours: float

    def within(self, limits: Limits) -> bool:
        """Whether another trial may begin."""
        return (limits.trials is None or self.trials < limits.trials) and self.hours_within(limits)

    def hours_within(self, limits: Limits) -> bool:
        """Whether a trial that has its place already may run."""
        return (limits.hours is None or self.hours < limits.hours) and (
            limits.gpu_hours is None or self.gpu_hours < limits.gpu_hours
        )


def used(connection: Connection, study_id: int) -> Used:
    """What the search has used so far, including the places that run now."""
    trials, busy = connection.execute(
        text(
            "SELECT count(*), coalesce(sum(busy_seconds + CASE WHEN state = 'running'"
            " THEN greatest(0, extract(epoch FROM beaten - taken)) ELSE 0 END), 0)"
            " FROM hpo.place LEFT JOIN hpo.worker ON id = worker WHERE place.study_id = :study"
        ),
        {"study": study_id},
    ).one()
    # The union of the times in which workers were there, without the pauses: two workers at once count once. The pause
    # of a host takes away only what its own workers have brought.
    hours = connection.execute(
        text(
            "WITH by_host AS (SELECT range_agg(tstzrange(started, greatest(started, coalesce(gone, beaten))))"
            " - coalesce((SELECT range_agg(tstzrange(began, ended)) FROM hpo.halt WHERE study_id = :study"
            " AND (halt.host IS NULL OR halt.host = worker.host)), '{}') AS there"
            " FROM hpo.worker WHERE study_id = :study GROUP BY host)"
            " SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0) / 3600"
            " FROM (SELECT unnest(range_agg(part)) AS span FROM (SELECT unnest(there) AS part FROM by_host) AS parts)"
            " AS spans"
        ),
        {"study": study_id},
    ).scalar_one()
    return Used(trials=int(trials), hours=float(hours), gpu_hours=float(busy) / 3600)
