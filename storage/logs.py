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
    """Keep lines of a trial, in their order."""
    connection.execute(
        text(f"{APPEND} ORDER BY place"),
        {"study": study_id, "trial": trial, "lines": [storable(line) for line in lines]},
    )


def storable(line: str) -> str:
    """A text without what Postgres cannot store: NUL, and what stands for the bytes of an odd file name."""
    return line.replace("\0", "").encode(errors="backslashreplace").decode()


def read(connection: Connection, study_id: int, trial: int) -> list[tuple[datetime, str]]:
    """The lines of a trial with the time at which each was kept, the first first."""
    rows = connection.execute(
        text("SELECT at, line FROM hpo.log WHERE study_id = :study AND trial = :trial ORDER BY id"),
        {"study": study_id, "trial": trial},
    )
    return [(row.at, row.line) for row in rows]
