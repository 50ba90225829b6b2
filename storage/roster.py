"""Places and workers of a study as everybody sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class PlaceRow:
    """A place as everybody sees it; times are those of the database."""

    number: int
    state: str
    worker: str | None
    trial: int | None
    reason: str | None
    epoch: int
    epochs: int | None
    macro_f1: float | None
    best: float | None
    seconds: float


@dataclass(frozen=True)
class WorkerRow:
    """A worker as everybody sees it; `seconds` says where its time went, by heading."""

    id: str
    host: str
    pid: int
    device: str
    started: datetime
    beat_seconds_ago: float
    gone: bool
    died: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def places(connection: Connection, study_id: int) -> list[PlaceRow]:
    """All places of a study, the first first."""
    rows = connection.execute(
        text(
            "SELECT number, state, worker, trial, reason, epoch, epochs, macro_f1, best, (busy_seconds"
            " + CASE WHEN state = 'running' THEN extract(epoch FROM now() - taken) ELSE 0 END)::float AS seconds"
            " FROM hpo.place WHERE study_id = :study ORDER BY number"
        ),
        {"study": study_id},
    )
    return [PlaceRow(**row) for row in rows.mappings()]


def workers(connection: Connection, study_id: int) -> list[WorkerRow]:
    """All workers that a study has had, the first first."""
    rows = connection.execute(
        text(
            "SELECT id, host, pid, device, started, seconds, gone IS NOT NULL AS gone, died,"
            " extract(epoch FROM now() - beaten)::float AS beat_seconds_ago"
            " FROM hpo.worker WHERE study_id = :study ORDER BY started, id"
        ),
        {"study": study_id},
    )
    return [WorkerRow(**row) for row in rows.mappings()]
