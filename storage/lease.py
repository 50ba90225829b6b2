"""Who runs which trial: places in a study's budget, each held by at most one worker that beats.

A place names the trial that runs in it. Trials come from Optuna's queue of waiting ones and run only after a place has
named them, so that no trial runs that nobody answers for. What ends a run without a result (a dead worker, an
interruption) fails its trial and lets its place wait for the next worker, in one transaction over Optuna's tables and
ours.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text

from storage import logs
from storage.budget import Used, used
from storage.halts import halt_in_force

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna
    from sqlalchemy.engine import Connection, CursorResult, Engine

    from storage.budget import Limits
    from storage.halts import Halt
    from storage.patience import Patience

T = TypeVar("T")

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # without a beat, on the watcher's own clock, before a worker counts as dead
WATCH_SECONDS = 3 * BEAT_SECONDS  # between two looks at the others that still are one watch
DEATH = "its worker died"
REASON_KEY = "reason"  # user attribute of a trial: why it failed, where it was not ended from outside
REPEATS_KEY = "repeats"  # user attribute of a trial: number of the one whose recipe it runs again


@dataclass(frozen=True)
class Place:
    """A place in the budget that this worker holds.

    Attributes:
        number: 0 for the first of the study.
        earlier_trial: number of the trial that it names: one that was run in it before, or was about to be.
        failed_runs: how many runs in it have ended by the death of their worker or another trouble.
        reason: of the last of them.
    """

    number: int
    earlier_trial: int | None
    failed_runs: int
    reason: str | None


@dataclass(frozen=True)
class Standing:
    """What a worker's beat tells it.

    Attributes:
        known: whether the worker is still known; it is not where the study was deleted.
        halt: whether the study is paused or stopped.
        trial: number of the trial that runs in this worker's place, if one does.
    """

    known: bool
    halt: Halt | None
    trial: int | None


class LostPlaceError(Exception):
    """This worker's run no longer counts: its place was given away, or its trial was ended elsewhere."""


class StudyGoneError(Exception):
    """The study was deleted."""


class Lease:
    """One worker's hold on the places of a study. Every method is one transaction, safe from any thread.

    All but `beat` and `reap`, which are called again and again anyway, wait for a database that is away, and may be
    repeated where nobody knows whether the transaction came through.
    """

    def __init__(self, engine: Engine, study_id: int, worker: str, patience: Patience | None = None) -> None:
        self.worker = worker
        self._engine, self._study_id, self._patience = engine, study_id, patience
        self._watched: dict[str, tuple[int, float]] = {}  # worker -> (its beat, when this one first saw it)
        self._used_up = False  # the budget, but for places that wait
        self._looked = 0.0  # when this one last looked at the others, on its monotonic clock

    def join(self, host: str, pid: int, device: str) -> None:
        """Make this worker known."""

        def insert(connection: Connection) -> None:
            self._execute(
                connection,
                "INSERT INTO hpo.worker (id, study_id, host, pid, device)"
                " VALUES (:worker, :study, :host, :pid, :device) ON CONFLICT (id) DO NOTHING",
                host=host,
                pid=pid,
                device=device,
            )

        self._transaction(insert)

    def leave(self) -> None:
        """Say that this worker ends; a place that it still holds, since something broke, goes to the next."""

        def depart(connection: Connection) -> None:
            self._execute(connection, "UPDATE hpo.worker SET beaten = now() WHERE id = :worker")
            _bury(connection, self.worker, "its worker broke down", died=False)

        self._transaction(depart)

    def beat(self, seconds: dict[str, float]) -> Standing:
        """Say that this worker lives, and where its time went so far; hear how things stand."""
        with self._engine.begin() as connection:
            row = self._execute(
                connection,
                "WITH beaten AS (UPDATE hpo.worker SET beat = beat + 1, beaten = now(), gone = NULL, died = false,"
                " seconds = CAST(:seconds AS jsonb) WHERE id = :worker RETURNING id)"
                " SELECT EXISTS (SELECT FROM beaten) AS known,"
                " (SELECT kind FROM hpo.halt WHERE study_id = :study AND ended IS NULL) AS halt,"
                " (SELECT number FROM trials WHERE study_id = :study AND state = 'RUNNING' AND number ="
                " (SELECT trial FROM hpo.place WHERE worker = :worker AND state = 'running')) AS trial",
                seconds=json.dumps(seconds),
            ).one()
        return Standing(row.known, row.halt, row.trial)

    def take(self, limits: Limits) -> Place | None:
        """Take a place that waits, or a new one; None where nothing is left to take at the moment.

        Raises:
            StudyGoneError: the study was deleted.
        """

        def take(connection: Connection) -> Place | None:
            self._lock_study(connection)
            if not self._execute(
                connection, "SELECT EXISTS (SELECT FROM studies WHERE study_id = :study)"
            ).scalar_one():
                raise StudyGoneError
            self._used_up = False
            if halt_in_force(connection, self._study_id):
                return None
            # One that this worker holds already comes first: it was taken, and the answer was lost.
            there = self._execute(
                connection,
                "SELECT number, trial, failed_runs, reason, state FROM hpo.place WHERE study_id = :study"
                " AND (state = 'waiting' OR (state = 'running' AND worker = :worker))"
                " ORDER BY state = 'waiting', number LIMIT 1",
            ).one_or_none()
            if there and there.state == "running":
                return Place(there.number, there.trial, there.failed_runs, there.reason)
            spent = used(connection, self._study_id)
            if there:
                # Its place in the number of trials is taken already; only the hours can forbid it.
                if not Used(0, spent.hours, spent.gpu_hours).within(limits):
                    return None
                self._execute(
                    connection,
                    "UPDATE hpo.place SET state = 'running', worker = :worker, taken = now(), epoch = 0,"
                    " epochs = NULL, macro_f1 = NULL, best = NULL WHERE study_id = :study AND number = :number",
                    number=there.number,
                )
                return Place(there.number, there.trial, there.failed_runs, there.reason)
            if not spent.within(limits):
                self._used_up = True
                return None
            self._execute(
                connection,
                "INSERT INTO hpo.place (study_id, number, state, worker) VALUES (:study, :number, 'running', :worker)",
                number=spent.trials,
            )
            return Place(spent.trials, None, 0, None)

        if self._used_up and not self._any("waiting"):
            return None  # only such a place can still come: a thousand idle workers need not queue up for the lock
        return self._transaction(take)

    def name_trial(self, place: Place, *, repeats: int | None = None) -> int | None:
        """Name the first of Optuna's waiting trials in a place, unless another place has; None where there is none.

        Args:
            place: that of this worker.
            repeats: number of a trial whose recipe the waiting one is to repeat; without it one that repeats none.

        Returns:
            the trial's id.
        """
        repeating = "SELECT FROM trial_user_attributes AS mark WHERE mark.trial_id = trials.trial_id"
        wanted = (
            f"NOT EXISTS ({repeating} AND key = '{REPEATS_KEY}')"
            if repeats is None
            else f"EXISTS ({repeating} AND key = '{REPEATS_KEY}' AND value_json = :repeats)"
        )

        def name(connection: Connection) -> int | None:
            self._lock_study(connection)
            waiting = self._execute(
                connection,
                "SELECT trial_id, number FROM trials WHERE study_id = :study AND state = 'WAITING'"  # noqa: S608 - ours
                " AND NOT EXISTS (SELECT FROM hpo.place WHERE place.study_id = :study AND trial = trials.number)"
                f" AND {wanted} ORDER BY number LIMIT 1",
                repeats=str(repeats),
            ).one_or_none()
            if waiting is None:
                return None
            self._update(connection, place, "trial = :trial", trial=waiting.number)
            return int(waiting.trial_id)

        return self._transaction(name)

    def progress(
        self,
        place: Place,
        trial: optuna.Trial,
        *,
        epoch: int,
        epochs: int,
        macro_f1: float,
        best: float,
        lines: Sequence[str],
    ) -> None:
        """Keep how far the trial in a place has come, and what it printed.

        Raises:
            LostPlaceError: it no longer runs in this place.
        """

        def update(connection: Connection) -> None:
            self._update(
                connection,
                place,
                "epoch = :epoch, epochs = :epochs, macro_f1 = :macro_f1, best = :best",
                "EXISTS (SELECT FROM trials WHERE trial_id = :trial AND state = 'RUNNING')",
                epoch=epoch,
                epochs=epochs,
                macro_f1=macro_f1,
                best=best,
                trial=trial._trial_id,  # noqa: SLF001 - no public name
            )
            logs.append(connection, self._study_id, trial.number, lines)

        self._transaction(update)

    def log(self, trial: int, lines: Sequence[str]) -> None:
        """Keep what a trial printed."""
        self._transaction(lambda connection: logs.append(connection, self._study_id, trial, lines))

    def hold(self, place: Place) -> None:
        """Raise LostPlaceError unless a place is still this worker's."""
        self._transaction(lambda connection: self._update(connection, place, "worker = worker"))

    def finish(self, place: Place, state: str, reason: str | None = None) -> None:
        """Say how the trial in a place ended: complete, pruned or failed; a failed one fails in Optuna's tables, too.

        Raises:
            LostPlaceError: the place is no longer this worker's.
        """

        def close(connection: Connection) -> None:
            if self._is_closed(connection, place, state):
                return  # the answer to the first attempt was lost
            if state == "failed":
                _fail_trial(connection, self.worker, reason or "")
            self._update(connection, place, f"state = :state, reason = :reason, {_ENDED}", state=state, reason=reason)

        self._transaction(close)

    def hand_back(self, place: Place, reason: str, *, failed: bool = False) -> None:
        """Fail the run in a place, and leave the place to the next worker that takes one.

        Args:
            place: that of this worker; nothing happens where it no longer is.
            reason: one line.
            failed: count this run among those that failed.
        """

        def close(connection: Connection) -> None:
            _fail_trial(connection, self.worker, _again(reason), only="RUNNING")
            self._execute(
                connection,
                "UPDATE hpo.place SET state = 'waiting', worker = NULL, reason = :reason,"  # noqa: S608 - ours
                f" failed_runs = failed_runs + :failed, {_ENDED} WHERE {_HELD}",
                number=place.number,
                reason=reason,
                failed=int(failed),
            )

        self._transaction(close)

    def halt(self) -> Halt | None:
        """Whether the study is paused or stopped."""
        return self._transaction(lambda connection: halt_in_force(connection, self._study_id))

    def others_run(self) -> bool:
        """Whether a worker holds a place, which may come back."""
        return self._any("running")

    def first_ends(self, count: int) -> list[tuple[str, str | None]]:
        """State and reason of the first places that came to an end since this worker joined."""

        def look(connection: Connection) -> list[tuple[str, str | None]]:
            rows = self._execute(
                connection,
                "SELECT state, reason FROM hpo.place WHERE study_id = :study"
                " AND state IN ('complete', 'pruned', 'failed')"
                " AND ended >= (SELECT started FROM hpo.worker WHERE id = :worker) ORDER BY ended LIMIT :count",
                count=count,
            )
            return [(row.state, row.reason) for row in rows]

        return self._transaction(look)

    def reap(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Fail the runs of workers whose beat this one has watched stand still for the grace time; their places wait.

        Only what this process has seen on its own monotonic clock counts: no other clock, no outage of the database and
        no time zone can make a living worker look dead.
        """
        with self._engine.begin() as connection:
            rows = self._execute(
                connection, "SELECT id, beat FROM hpo.worker WHERE study_id = :study AND gone IS NULL AND id <> :worker"
            ).all()
        now = time.monotonic()
        if now - self._looked > WATCH_SECONDS:  # the database was away, or this process stood still: nobody watched
            self._watched = {}
        self._looked = now
        # A beat that has moved starts the watch anew.
        self._watched = {
            row.id: seen if (seen := self._watched.get(row.id)) and seen[0] == row.beat else (row.beat, now)
            for row in rows
        }
        for worker, (beat, since) in self._watched.items():
            if now - since > grace_seconds:
                with self._engine.begin() as connection:
                    _bury(connection, worker, DEATH, died=True, beat=beat)

    def _any(self, state: str) -> bool:
        def look(connection: Connection) -> bool:
            places = "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND state = :state)"
            return bool(self._execute(connection, places, state=state).scalar_one())

        return self._transaction(look)

    def _transaction(self, function: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._engine.begin() as connection:
                return function(connection)

        return self._patience.run(attempt) if self._patience else attempt()

    def _execute(self, connection: Connection, statement: str, **values: Any) -> CursorResult[Any]:
        return connection.execute(text(statement), {"worker": self.worker, "study": self._study_id, **values})

    def _update(
        self, connection: Connection, place: Place, assignments: str, condition: str = "TRUE", **values: Any
    ) -> None:
        statement = f"UPDATE hpo.place SET {assignments} WHERE {_HELD} AND {condition}"  # noqa: S608 - written above
        if not self._execute(connection, statement, number=place.number, **values).rowcount:
            raise LostPlaceError(f"place {place.number} of the budget no longer belongs to this run")

    def _is_closed(self, connection: Connection, place: Place, state: str) -> bool:
        closed = (
            "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND number = :number AND worker = :worker"
            " AND state = :state)"
        )
        return bool(self._execute(connection, closed, number=place.number, state=state).scalar_one())

    def _lock_study(self, connection: Connection) -> None:
        """One taker at a time, until the end of the transaction: the budget is exact because of it."""
        self._execute(connection, "SELECT pg_advisory_xact_lock(hashtext('hpo.place'), :study)")


_HELD = "study_id = :study AND number = :number AND worker = :worker AND state = 'running'"
_ENDED = "ended = now(), busy_seconds = busy_seconds + extract(epoch FROM now() - taken)"


def bury(engine: Engine, worker: str, *, by_us: bool = False) -> None:
    """Fail the run of a worker that is known to have ended, and let its place wait.

    Args:
        engine: of the database.
        worker: the worker's name.
        by_us: we ended it, so that this run does not count among those that failed.
    """
    with engine.begin() as connection:
        if by_us:
            _bury(connection, worker, "its worker was ended", died=False, failed=False)
        else:
            _bury(connection, worker, DEATH, died=True)


def _bury(
    connection: Connection, worker: str, reason: str, *, died: bool, failed: bool = True, beat: int | None = None
) -> None:
    """Note that a worker has gone, and fail its run; with a beat, only if it has not beaten since."""
    values = {"worker": worker, "reason": reason, "died": died, "failed": int(failed), "beat": beat}
    gone = "UPDATE hpo.worker SET gone = beaten, died = :died WHERE id = :worker AND gone IS NULL"
    if not connection.execute(text(gone if beat is None else f"{gone} AND beat = :beat"), values).rowcount:
        return
    _fail_trial(connection, worker, _again(reason), only="RUNNING")
    connection.execute(
        text(
            # It has run until its last beat: what came after that is no time of the GPU's.
            "UPDATE hpo.place SET state = 'waiting', worker = NULL, reason = :reason,"
            " failed_runs = failed_runs + :failed, ended = now(), busy_seconds = busy_seconds"
            " + greatest(0, extract(epoch FROM (SELECT beaten FROM hpo.worker WHERE id = :worker) - taken))"
            " WHERE worker = :worker AND state = 'running'"
        ),
        values,
    )


def _again(reason: str) -> str:
    return f"{reason}; run again as another trial"


def _fail_trial(connection: Connection, worker: str, reason: str, *, only: str | None = None) -> None:
    """Fail the unfinished trial in a worker's place, in Optuna's tables, with its reason.

    Written here and not by Optuna so that no crash can come between the end of a trial and what becomes of its place.
    """
    states = f"'{only}'" if only else "'RUNNING', 'WAITING'"
    connection.execute(
        text(
            "WITH failed AS (UPDATE trials SET state = 'FAIL',"  # noqa: S608 - ours
            " datetime_complete = now() AT TIME ZONE 'utc' FROM hpo.place"
            " WHERE place.worker = :worker AND place.state = 'running' AND trials.study_id = place.study_id"
            f" AND trials.number = place.trial AND trials.state IN ({states}) RETURNING trial_id)"
            " INSERT INTO trial_user_attributes (trial_id, key, value_json)"
            f" SELECT trial_id, '{REASON_KEY}', :reason FROM failed"
            " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
        ),
        {"worker": worker, "reason": json.dumps(reason)},
    )
