"""Whether a worker is alive, as the others see it: it joins, beats and leaves; a worker that stops beating is dead."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.autocommit import autocommit
from storage.errors import StorageError
from storage.halts import HALT_OF_WORKER
from storage.requeue import DEATH, NOT_REQUEUED, requeue_in
from storage.worker_transactions import UNSYNCED, WorkerTransactions

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

    from storage.halts import WorkerHalt
    from storage.outage_retry import OutageRetry

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # without a beat, on the watcher's own clock, before a worker counts as dead
WATCH_SECONDS = 3 * BEAT_SECONDS  # the longest pause between two calls of `reap` in which others count as watched
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Standing:
    """What a worker's beat tells it.

    Attributes:
        known: whether the worker is still known; it is not where the study was deleted.
        halt: whether the study is paused or stopped, or the host of the worker is paused.
        trial: number of the trial that runs in this worker's place, if one does.
    """

    known: bool
    halt: WorkerHalt | None
    trial: int | None


class WorkerPresence:
    """One worker's row in the database, by which the others know that it is alive. Safe from any thread.

    Args:
        engine: of the database.
        study_id: Optuna's number of the study.
        worker: name of the worker; no other one may ever have had it.
        outage_retry: repeats `join` and `leave` while the database is away. `beat` and `reap` are called again and
            again anyway, and raise at once.
    """

    def __init__(self, engine: Engine, study_id: int, worker: str, outage_retry: OutageRetry | None = None) -> None:
        self._transactions = WorkerTransactions(engine, study_id, worker, outage_retry)
        self._watched: dict[str, tuple[int, float]] = {}  # worker -> (its beat, time.monotonic() when first seen here)
        self._reaped_at = 0.0  # time.monotonic() of the last call of `reap`

    def join(self, host: str, pid: int, device: str) -> None:
        """Make this worker known.

        Raises:
            StorageError: there is or was another one of this name.
        """

        def insert(connection: Connection) -> bool:
            # Setting what is set already returns the row also where the answer to the first attempt was lost.
            mine = self._transactions.execute(
                connection,
                "INSERT INTO hpo.worker (id, study_id, host, pid, device)"
                " VALUES (:worker, :study, :host, :pid, :device) ON CONFLICT (id) DO UPDATE SET host = excluded.host"
                " WHERE worker.study_id = :study AND worker.host = :host AND worker.pid = :pid RETURNING id",
                host=host,
                pid=pid,
                device=device,
            )
            return mine.one_or_none() is not None

        if not self._transactions.run(insert):
            name = self._transactions.worker
            raise StorageError(f'worker: the name "{name}" was used before; give another one, or none')

    def leave(self, seconds: dict[str, float], *, interrupted: bool = False) -> None:
        """Say that this worker ends, and where its time went; a place that it still holds goes to the next.

        Args:
            seconds: by heading.
            interrupted: it was told to end. If not, and it holds a place, something broke, and the run has failed.
        """

        def depart(connection: Connection) -> None:
            self._transactions.execute(
                connection,
                "UPDATE hpo.worker SET beaten = now(), seconds = CAST(:seconds AS jsonb) WHERE id = :worker",
                seconds=json.dumps(seconds),
            )
            reason = INTERRUPTED if interrupted else "its worker broke down"
            requeue_in(connection, self._transactions.worker, reason, died=False, failed=not interrupted)

        self._transactions.run(depart)

    def beat(self, seconds: dict[str, float]) -> Standing:
        """Say that this worker is alive, and where its time went so far, in seconds by heading."""
        with autocommit(self._transactions.engine) as connection:
            row = self._transactions.execute(
                connection,
                "WITH beaten AS (UPDATE hpo.worker SET beat = beat + 1, beaten = now(), gone = NULL, died = false,"  # noqa: S608 - ours
                " seconds = CAST(:seconds AS jsonb) WHERE id = :worker RETURNING id)"
                " SELECT EXISTS (SELECT FROM beaten) AS known,"
                f" ({HALT_OF_WORKER}) AS halt,"
                " (SELECT number FROM trials WHERE study_id = :study AND state = 'RUNNING' AND number ="
                f" (SELECT trial FROM hpo.place WHERE worker = :worker AND state = 'running')) AS trial, {UNSYNCED}",
                seconds=json.dumps(seconds),
            ).one()
        return Standing(row.known, row.halt, row.trial)

    def reap(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Fail the runs of workers whose beat has not changed here for the grace time; their places wait.

        Only what this process has seen on its own monotonic clock counts: no other clock, no outage of the database and
        no time zone can make a living worker look dead.
        """
        with autocommit(self._transactions.engine) as connection:
            rows = self._transactions.execute(
                connection,
                f"SELECT id, beat FROM hpo.worker WHERE study_id = :study AND id <> :worker AND {NOT_REQUEUED}",  # noqa: S608 - ours
            ).all()
        now = time.monotonic()
        if now - self._reaped_at > WATCH_SECONDS:  # the database was away, or this process stood still: nobody watched
            self._watched = {}
        self._reaped_at = now
        # The grace time of a worker begins anew with each beat.
        self._watched = {
            row.id: seen if (seen := self._watched.get(row.id)) and seen[0] == row.beat else (row.beat, now)
            for row in rows
        }
        for worker, (beat, since) in self._watched.items():
            if now - since > grace_seconds:
                with self._transactions.engine.begin() as connection:
                    requeue_in(connection, worker, DEATH, died=True, beat=beat)
