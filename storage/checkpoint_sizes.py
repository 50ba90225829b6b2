"""How large the checkpoints of paused trials are, noted in their places, so that nobody has to ask the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from storage import logs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection


def note_checkpoint(connection: Connection, study_id: int, trial: int, size_bytes: int) -> None:
    """Note how large the checkpoint of a trial is, if it is paused."""
    connection.execute(
        text(
            "UPDATE hpo.place SET checkpoint_bytes = :size"
            " WHERE study_id = :study AND trial = :trial AND state = 'paused'"
        ),
        {"study": study_id, "trial": trial, "size": size_bytes},
    )


def forget_checkpoints(connection: Connection, study_id: int, reasons: Mapping[int, str]) -> list[int]:
    """Note that trials, if they are paused, have no checkpoint any more, and why in their logs; returns which are."""
    found = connection.execute(
        text(
            "UPDATE hpo.place SET checkpoint_bytes = NULL WHERE study_id = :study AND state = 'paused'"
            " AND trial = ANY (CAST(:trials AS integer[])) RETURNING trial"
        ),
        {"study": study_id, "trials": list(reasons)},
    )
    forgotten = sorted(found.scalars())
    for trial in forgotten:
        logs.append(connection, study_id, trial, [reasons[trial]])
    return forgotten
