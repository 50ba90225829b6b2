"""What trials printed, kept in the database so that it can be read wherever they ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.engine import Connection


APPEND = (
    "INSERT INTO hpo.log (study_id, trial, line) SELECT :study, :trial, line"
    " FROM unnest(CAST(:lines AS text[])) WITH ORDINALITY AS given (line, place)"
)


def append(connection: Connection, study_id: int, trial: int, lines: Sequence[str]) -> None:
    """Store lines of a trial, in their order."""
    connection.execute(
        text(f"{APPEND} ORDER BY place"),
        {"study": study_id, "trial": trial, "lines": [storable(line) for line in lines]},
    )


def storable(line: str) -> str:
    """A text that Postgres can store: without NUL, and with escapes for bytes of a file name that are no UTF-8."""
    return line.replace("\0", "").encode(errors="backslashreplace").decode()


def read(connection: Connection, study_id: int, trial: int) -> list[tuple[datetime, str]]:
    """The lines of a trial in their order, each with the time at which it was stored."""
    rows = connection.execute(
        text("SELECT at, line FROM hpo.log WHERE study_id = :study AND trial = :trial ORDER BY id"),
        {"study": study_id, "trial": trial},
    )
    return [(row.at, row.line) for row in rows]
