"""What trials printed, kept in the database so that it can be read wherever they ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection


def append(connection: Connection, study_id: int, trial: int, lines: Sequence[str]) -> None:
    """Keep lines of a trial, in their order. Postgres cannot store NUL characters, so they are left out."""
    rows = [{"study": study_id, "trial": trial, "line": line.replace("\0", "")} for line in lines]
    if rows:
        connection.execute(text("INSERT INTO hpo.log (study_id, trial, line) VALUES (:study, :trial, :line)"), rows)


def read(connection: Connection, study_id: int, trial: int) -> list[tuple[datetime, str]]:
    """The lines of a trial with the time at which each was kept, the first first."""
    rows = connection.execute(
        text("SELECT at, line FROM hpo.log WHERE study_id = :study AND trial = :trial ORDER BY id"),
        {"study": study_id, "trial": trial},
    )
    return [(row.at, row.line) for row in rows]
