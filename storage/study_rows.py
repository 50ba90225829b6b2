"""The rows of one study in our own tables, for everybody who reads them. Workers write them: `places`, `heartbeat`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import text

from storage import logs
from storage.artifacts.artifacts import drop_file, kept_files, remove_files
from storage.budget import Used, used
from storage.checkpoint_sizes import forget_checkpoints, note_checkpoint
from storage.halts import begin_halt, end_halt, halt_count, halt_in_force, paused_hosts
from storage.heartbeat import WorkerPresence
from storage.notifications import claim
from storage.places import Lease
from storage.requeue import requeue
from storage.rungs import rung_counts

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Connection

    from storage.artifacts.artifact_store import ArtifactFiles
    from storage.artifacts.artifacts import KeptFile
    from storage.halts import Halt
    from storage.keys import PlaceState
    from storage.outage_retry import OutageRetry
    from storage.rungs import RungCount


@dataclass(frozen=True)
class PlaceRow:
    """A place in the budget.

    Attributes:
        number: 0 for the first of the study.
        state: of the place.
        worker: name of the worker that holds it, or held it last.
        trial: number of the trial that it names.
        reason: why it, or its last run, failed.
        epoch: the last one of the trial that has ended; 0 before the first.
        epochs: number of the trial's last epoch, if nothing ends the training before.
        score: validation score of that epoch, the higher the better.
        best: the highest of the epochs so far.
        seconds: for which trials have run in it, by the clock of the database.
        paused_after: the epoch of the rung at which its trial is paused, or is about to be.
        checkpoint_bytes: size of the checkpoint of a paused trial; None where there is none, or none was noted.
    """

    number: int
    state: PlaceState
    worker: str | None
    trial: int | None
    reason: str | None
    epoch: int
    epochs: int | None
    score: float | None
    best: float | None
    seconds: float
    paused_after: int | None = None
    checkpoint_bytes: int | None = None


@dataclass(frozen=True)
class WorkerRow:
    """A worker.

    Attributes:
        id: its name.
        host: where it runs.
        pid: number of its process there.
        device: on which it trains.
        started: when it joined, by the clock of the database.
        beat_seconds_ago: seconds since its last beat, by the same clock.
        gone: whether it has left, or counts as dead.
        died: whether it counts as dead.
        seconds: where its time went, by heading.
    """

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
    """All places of a study, by number."""
    rows = connection.execute(
        text(
            "SELECT number, state, worker, trial, reason, epoch, epochs, macro_f1 AS score, best, paused_after,"
            " checkpoint_bytes, (busy_seconds"
            " + CASE WHEN state = 'running' THEN extract(epoch FROM now() - taken) ELSE 0 END)::float AS seconds"
            " FROM hpo.place WHERE study_id = :study ORDER BY number"
        ),
        {"study": study_id},
    )
    return [PlaceRow(**row) for row in rows.mappings()]


def workers(connection: Connection, study_id: int) -> list[WorkerRow]:
    """All workers that a study has had, those that joined first before the others."""
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
    """The state of a search.

    Attributes:
        used: what it has used of its budget.
        places: all of them, by number.
        workers: all that it has had, those that joined first before the others.
        halt: whether it is paused or stopped; None where it is neither.
        halts: how often it was.
        rungs: to which trials have come, the lowest first.
        paused_hosts: those that are paused by themselves, whatever becomes of the study.
    """

    used: Used
    places: list[PlaceRow]
    workers: list[WorkerRow]
    halt: Halt | None
    halts: int
    rungs: list[RungCount]
    paused_hosts: list[str]


class StudyRows:
    """What the database holds of one study beside Optuna's trials. Each call takes a connection of its own.

    Args:
        storage: that the study lives in.
        study_id: Optuna's number of the study.
        outage_retry: waits for the database in what a worker asks of it; None does not wait.
    """

    def __init__(self, storage: RDBStorage, study_id: int, outage_retry: OutageRetry | None = None) -> None:
        self._engine, self.study_id, self._outage_retry = storage.engine, study_id, outage_retry

    def for_worker(self, worker: str) -> tuple[Lease, WorkerPresence]:
        """What a worker of this name, which no other may ever have had, asks of the places, and tells of itself."""
        given = self._engine, self.study_id, worker, self._outage_retry
        return Lease(*given), WorkerPresence(*given)

    def read(self) -> SearchState:
        """The state of the search now."""
        with self._engine.connect() as connection:
            return SearchState(
                used=used(connection, self.study_id),
                places=places(connection, self.study_id),
                workers=workers(connection, self.study_id),
                halt=halt_in_force(connection, self.study_id),
                halts=halt_count(connection, self.study_id),
                rungs=rung_counts(connection, self.study_id),
                paused_hosts=paused_hosts(connection, self.study_id),
            )

    def halt(self) -> Halt | None:
        """Whether the study is paused or stopped; None where it is neither."""
        with self._engine.connect() as connection:
            return halt_in_force(connection, self.study_id)

    def paused_hosts(self) -> list[str]:
        """The hosts that are paused, in alphabetical order."""
        with self._engine.connect() as connection:
            return paused_hosts(connection, self.study_id)

    def begin_halt(self, kind: Halt) -> None:
        """Have all workers hand their trials back and then wait (pause) or end (stop); it holds until `end_halt`."""
        with self._engine.begin() as connection:
            begin_halt(connection, self.study_id, kind)

    def pause_host(self, host: str) -> None:
        """Have the workers on a host hand their trials back and wait, until `resume_host`."""
        with self._engine.begin() as connection:
            begin_halt(connection, self.study_id, "pause", host)

    def resume_host(self, host: str) -> None:
        """Let the workers on a paused host go on."""
        with self._engine.begin() as connection:
            end_halt(connection, self.study_id, host)

    def end_halt(self, *kinds: Halt) -> Halt | None:
        """Let the workers go on, but for those of paused hosts.

        Args:
            kinds: of the halts that may be ended; any, if none are given.

        Returns:
            the halt that was in force, whether it was ended or not.
        """
        with self._engine.begin() as connection:
            halt = halt_in_force(connection, self.study_id)
            if not kinds or halt in kinds:
                end_halt(connection, self.study_id)
        return halt

    def note_checkpoint(self, trial: int, size_bytes: int) -> None:
        """Note how large the checkpoint of a trial is, if it is paused."""
        with self._engine.begin() as connection:
            note_checkpoint(connection, self.study_id, trial, size_bytes)

    def forget_checkpoints(self, reasons: Mapping[int, str]) -> list[int]:
        """Note that trials, if they are paused, have no checkpoint any more, and why; returns which of them are."""
        with self._engine.begin() as connection:
            return forget_checkpoints(connection, self.study_id, reasons)

    def requeue(self, worker: str, *, by_us: bool = False) -> None:
        """Fail the run of a worker whose process has ended, and let its place wait; see `storage.requeue.requeue`."""
        requeue(self._engine, worker, by_us=by_us)

    def log(self, trial: int) -> list[tuple[datetime, str]]:
        """What a trial printed, line by line, with the time of the database."""
        with self._engine.connect() as connection:
            return logs.read(connection, self.study_id, trial)

    def kept_files(self, name: str | None = None) -> list[KeptFile]:
        """The files that trials name, all or those of one file name; those of the best trials first."""
        with self._engine.connect() as connection:
            return kept_files(connection, self.study_id, name)

    def drop_file(self, store: ArtifactFiles, kept: KeptFile) -> None:
        """Remove a file that a trial names, and the name before it; raises StorageError where the store refuses."""
        with self._engine.connect() as connection:
            drop_file(store, connection, kept)

    def remove_files(self, store: ArtifactFiles, owner: str) -> None:
        """Remove all files of the study; raises StorageError where the store refuses."""
        with self._engine.connect() as connection:
            remove_files(store, connection, self.study_id, owner)

    def may_delete(self) -> bool:
        """Whether the database's role may delete studies."""
        with self._engine.connect() as connection:
            return bool(connection.execute(text("SELECT has_table_privilege('studies', 'DELETE')")).scalar_one())

    def objectives(self, trial_id: int) -> int:
        """How many values a complete trial has to have; 0 where there is no trial of this id."""
        directions = text("SELECT count(*) FROM study_directions JOIN trials USING (study_id) WHERE trial_id = :id")
        with self._engine.connect() as connection:
            return int(connection.execute(directions, {"id": trial_id}).scalar_one())

    def claim_notifications(self, events: Collection[str]) -> list[str]:
        """Those of the events of which nobody has told yet; from now on the caller has."""
        with self._engine.begin() as connection:
            return claim(connection, self.study_id, events)

    def name_study(self, study_id: int) -> str | None:
        """The name of a study in the same database; None where there is none of this id."""
        with self._engine.connect() as connection:
            name: str | None = connection.execute(
                text("SELECT study_name FROM studies WHERE study_id = :id"), {"id": study_id}
            ).scalar()
        return name

    def name_trial(self, trial_id: int) -> tuple[str, int] | None:
        """The name of a trial's study, and its number there; None where there is no trial of this id."""
        with self._engine.connect() as connection:
            row = connection.execute(
                text("SELECT study_name, number FROM trials JOIN studies USING (study_id) WHERE trial_id = :id"),
                {"id": trial_id},
            ).one_or_none()
        return row and (row.study_name, row.number)
