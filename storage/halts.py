"""Pauses and stops of a study, for all of its workers wherever they run, and pauses of single hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sqlalchemy import text

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    Halt = Literal["pause", "stop"]
    WorkerHalt = Literal["pause", "stop", "host pause"]  # what one worker has to obey

# What halts one worker: a halt of its study, else the pause of its host.
HALT_OF_WORKER = (
    "SELECT CASE WHEN host IS NULL THEN kind ELSE 'host pause' END FROM hpo.halt WHERE study_id = :study"
    " AND ended IS NULL AND (host IS NULL OR host = (SELECT host FROM hpo.worker WHERE id = :worker))"
    " ORDER BY host NULLS FIRST LIMIT 1"
)


def begin_halt(connection: Connection, study_id: int, kind: Halt, host: str | None = None) -> None:
    """Have workers hand their trials back, then wait (pause) or end (stop), until `end_halt`.

    Args:
        connection: in a transaction.
        study_id: Optuna's number of the study.
        kind: of the halt; a host is only ever paused.
        host: whose workers are meant; None for all of the study.
    """
    end_halt(connection, study_id, host)  # this takes a lock, so that the commands run one after the other
    connection.execute(
        text("INSERT INTO hpo.halt (study_id, kind, host, began) VALUES (:study, :kind, :host, clock_timestamp())"),
        {"study": study_id, "kind": kind, "host": host},
    )


def end_halt(connection: Connection, study_id: int, host: str | None = None) -> None:
    """Let the workers of a study go on, but for those of paused hosts; or those of one host."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('hpo.halt'), :study)"), {"study": study_id})
    # A server that has taken over after a failure may be behind with its clock.
    connection.execute(
        text(
            "UPDATE hpo.halt SET ended = greatest(began, clock_timestamp())"
            " WHERE study_id = :study AND ended IS NULL AND host IS NOT DISTINCT FROM :host"
        ),
        {"study": study_id, "host": host},
    )


def halt_in_force(connection: Connection, study_id: int) -> Halt | None:
    """Whether a study is paused or stopped; None where it is neither."""
    kind: Halt | None = connection.execute(
        text("SELECT kind FROM hpo.halt WHERE study_id = :study AND host IS NULL AND ended IS NULL"),
        {"study": study_id},
    ).scalar()
    return kind


def halt_count(connection: Connection, study_id: int) -> int:
    """How often a study was paused or stopped, without the pauses of single hosts."""
    counted = text("SELECT count(*) FROM hpo.halt WHERE study_id = :study AND host IS NULL")
    return int(connection.execute(counted, {"study": study_id}).scalar_one())


def paused_hosts(connection: Connection, study_id: int) -> list[str]:
    """The hosts of a study that are paused, in alphabetical order."""
    found = connection.execute(
        text("SELECT host FROM hpo.halt WHERE study_id = :study AND host IS NOT NULL AND ended IS NULL"),
        {"study": study_id},
    )
    return sorted(found.scalars())


def halt_of_worker(connection: Connection, study_id: int, worker: str) -> WorkerHalt | None:
    """What halts one worker; None where nothing does."""
    halt: WorkerHalt | None = connection.execute(text(HALT_OF_WORKER), {"study": study_id, "worker": worker}).scalar()
    return halt
