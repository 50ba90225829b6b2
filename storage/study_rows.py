"""The rows of one study in our own tables, as everybody may read them; who may write them, says the lease."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import text

from storage import logs
from storage.artifacts.artifacts import drop_file, kept_files, remove_files
from storage.budget import Used, used
from storage.halts import begin_halt, end_halt, halt_in_force
from storage.requeue import requeue

if TYPE_CHECKING:
    from datetime import datetime

    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Connection

    from storage.artifacts.artifact_store import ArtifactFiles
    from storage.artifacts.artifacts import KeptFile
    from storage.halts import Halt


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


@dataclass(frozen=True)
class SearchState:
    """How a search stands, as one connection has read it.

    Attributes:
        used: what it has used of its budget.
        places: all of them, the first first.
        workers: all that it has had, the first first.
        halt: whether it is paused or stopped.
    """

    used: Used
    places: list[PlaceRow]
    workers: list[WorkerRow]
    halt: Halt | None


class StudyRows:
    """What the database holds of one study beside Optuna's trials; each call takes a connection of its own.

    Args:
        storage: that the study lives in.
        study_id: Optuna's number of the study.
    """

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self._engine, self._study_id = storage.engine, study_id

    def read(self) -> SearchState:
        """How the search stands."""
        with self._engine.connect() as connection:
            return SearchState(
                used=used(connection, self._study_id),
                places=places(connection, self._study_id),
                workers=workers(connection, self._study_id),
                halt=halt_in_force(connection, self._study_id),
            )

    def begin_halt(self, kind: Halt) -> None:
        """Have all workers hand their trials back, and wait (pause) or end (stop), until that is lifted."""
        with self._engine.begin() as connection:
            begin_halt(connection, self._study_id, kind)

    def end_halt(self, *kinds: Halt) -> Halt | None:
        """Let the workers go on if the halt in force is one of these kinds, of any without them; returns it."""
        with self._engine.begin() as connection:
            halt = halt_in_force(connection, self._study_id)
            if not kinds or halt in kinds:
                end_halt(connection, self._study_id)
        return halt

    def requeue(self, worker: str, *, by_us: bool = False) -> None:
        """Fail the run of a worker that is known to have ended, and let its place wait; `by_us`: we ended it."""
        requeue(self._engine, worker, by_us=by_us)

    def log(self, trial: int) -> list[tuple[datetime, str]]:
        """What a trial printed, line by line, with the time of the database."""
        with self._engine.connect() as connection:
            return logs.read(connection, self._study_id, trial)

    def kept_files(self, name: str | None = None) -> list[KeptFile]:
        """The files that trials name, all or those of one name; the best trials first, of equals the earlier."""
        with self._engine.connect() as connection:
            return kept_files(connection, self._study_id, name)

    def drop_file(self, store: ArtifactFiles, kept: KeptFile) -> None:
        """Remove a file that a trial names, first the name; raises StorageError where the store refuses."""
        with self._engine.connect() as connection:
            drop_file(store, connection, kept)

    def remove_files(self, store: ArtifactFiles, owner: str) -> None:
        """Remove all files of the study; raises StorageError where the store refuses."""
        with self._engine.connect() as connection:
            remove_files(store, connection, self._study_id, owner)

    def may_delete(self) -> bool:
        """Whether the role of this connection may delete studies."""
        with self._engine.connect() as connection:
            return bool(connection.execute(text("SELECT has_table_privilege('studies', 'DELETE')")).scalar_one())

    def objectives(self, trial_id: int) -> int:
        """How many values a complete trial has to have; 0 where there is no trial of this id."""
        directions = text("SELECT count(*) FROM study_directions JOIN trials USING (study_id) WHERE trial_id = :id")
        with self._engine.connect() as connection:
            return int(connection.execute(directions, {"id": trial_id}).scalar_one())
