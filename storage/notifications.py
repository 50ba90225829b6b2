"""Which events of a study somebody is told of, so that of several machines one tells it, and once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.engine import Connection


def claim(connection: Connection, study_id: int, events: Collection[str]) -> list[str]:
    """Note that the caller tells of events, any short texts; returns those that nobody has told of before."""
    if not events:
        return []
    rows = connection.execute(
        text(
            "INSERT INTO hpo.notification (study_id, event) SELECT :study, unnest(CAST(:events AS text[]))"
            " ON CONFLICT DO NOTHING RETURNING event"
        ),
        {
            "study": study_id,
            "events": sorted(set(events)),
        },  # in one order, so that two callers do not wait for each other
    )
    return list(rows.scalars())
