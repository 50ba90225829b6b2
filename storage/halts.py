"""Pauses and stops of a study: for all of its workers, wherever they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    Halt = Literal["pause", "stop"]


def begin_halt(connection: Connection, study_id: int, kind: Halt) -> None:
    """Have all workers of a study hand their trials back, then wait (pause) or end (stop), until `end_halt`."""
    end_halt(connection, study_id)  # this takes a lock, so that the commands run one after the other
    connection.execute(
        text("INSERT INTO hpo.halt (study_id, kind, began) VALUES (:study, :kind, clock_timestamp())"),
        {"study": study_id, "kind": kind},
    )


def end_halt(connection: Connection, study_id: int) -> None:
    """Let the workers of a study go on."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('hpo.halt'), :study)"), {"study": study_id})
    # A server that has taken over after a failure may be behind with its clock.
    connection.execute(
        text(
            "UPDATE hpo.halt SET ended = greatest(began, clock_timestamp()) WHERE study_id = :study AND ended IS NULL"
        ),
        {"study": study_id},
    )


def halt_in_force(connection: Connection, study_id: int) -> Halt | None:
    """Whether a study is paused or stopped; None where it is neither."""
    kind: Halt | None = connection.execute(
        text("SELECT kind FROM hpo.halt WHERE study_id = :study AND ended IS NULL"), {"study": study_id}
    ).scalar()
    return kind
