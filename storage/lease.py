"""Who runs which trial: places in a study's budget, each held by at most one worker that beats.

A place names the trial that runs in it. Trials come from Optuna's queue of waiting ones and run only after a place has
named them, so that no trial runs that nobody answers for. What ends a run without a result (a dead worker, an
interruption) fails its trial and lets its place wait for the next worker, in one transaction (`storage.requeue`).
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text

from storage import logs
from storage.autocommit import autocommit
from storage.budget import Used, used
from storage.errors import StorageError
from storage.halts import halt_in_force
from storage.keys import REASON_KEY, REPEATS_KEY
from storage.outage_retry import retry_outages
from storage.requeue import DEATH, NOT_REQUEUED, again, fail_trial, requeue_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna
    from sqlalchemy.engine import Connection, CursorResult, Engine

    from storage.budget import Limits
    from storage.halts import Halt
    from storage.outage_retry import OutageRetry

T = TypeVar("T")

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # without a beat, on the watcher's own clock, before a worker counts as dead
WATCH_SECONDS = 3 * BEAT_SECONDS  # between two looks at the others that still are one watch
INTERRUPTED = "interrupted"


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

    def __init__(self, engine: Engine, study_id: int, worker: str, outage_retry: OutageRetry | None = None) -> None:
        self.worker = worker
        self._engine, self._study_id, self._outage_retry = engine, study_id, outage_retry
        self._watched: dict[str, tuple[int, float]] = {}  # worker -> (its beat, when this one first saw it)
        self._used_up = False  # the budget, but for places that wait
        self._looked = 0.0  # when this one last looked at the others, on its monotonic clock

    def join(self, host: str, pid: int, device: str) -> None:
        """Make this worker known.

        Raises:
            StorageError: there is or was another one of this name.
        """

        def insert(connection: Connection) -> bool:
            # Setting what is set already returns the row also where the answer to the first attempt was lost.
            mine = self._execute(
                connection,
                "INSERT INTO hpo.worker (id, study_id, host, pid, device)"
                " VALUES (:worker, :study, :host, :pid, :device) ON CONFLICT (id) DO UPDATE SET host = excluded.host"
                " WHERE worker.study_id = :study AND worker.host = :host AND worker.pid = :pid RETURNING id",
                host=host,
                pid=pid,
                device=device,
            )
            return mine.one_or_none() is not None

        if not self._transaction(insert):
            raise StorageError(f'worker: the name "{self.worker}" was used before; give another one, or none')

    def leave(self, seconds: dict[str, float], *, interrupted: bool = False) -> None:
        """Say that this worker ends, and where its time went; a place that it still holds goes to the next.

        Args:
            seconds: by heading.
            interrupted: it was told to end. If not, and it holds a place, something broke, and the run has failed.
        """

        def depart(connection: Connection) -> None:
            self._execute(
                connection,
                "UPDATE hpo.worker SET beaten = now(), seconds = CAST(:seconds AS jsonb) WHERE id = :worker",
                seconds=json.dumps(seconds),
            )
            reason = INTERRUPTED if interrupted else "its worker broke down"
            requeue_in(connection, self.worker, reason, died=False, failed=not interrupted)

        self._transaction(depart)

    def study_exists(self) -> bool:
        """Whether the study was not deleted."""
        return bool(self._statement(lambda connection: self._execute(connection, _STUDY_EXISTS).scalar_one()))

    def beat(self, seconds: dict[str, float]) -> Standing:
        """Say that this worker lives, and where its time went so far; hear how things stand."""
        with autocommit(self._engine) as connection:
            row = self._execute(
                connection,
                "WITH beaten AS (UPDATE hpo.worker SET beat = beat + 1, beaten = now(), gone = NULL, died = false,"  # noqa: S608 - ours
                " seconds = CAST(:seconds AS jsonb) WHERE id = :worker RETURNING id)"
                " SELECT EXISTS (SELECT FROM beaten) AS known,"
                " (SELECT kind FROM hpo.halt WHERE study_id = :study AND ended IS NULL) AS halt,"
                " (SELECT number FROM trials WHERE study_id = :study AND state = 'RUNNING' AND number ="
                f" (SELECT trial FROM hpo.place WHERE worker = :worker AND state = 'running')) AS trial, {_UNSYNCED}",
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
            if not self._execute(connection, _STUDY_EXISTS).scalar_one():
                raise StudyGoneError
            self._used_up = False
            # One that this worker holds already comes first: it was taken, and the answer was lost.
            there = self._execute(
                connection,
                "SELECT number, trial, failed_runs, reason, state FROM hpo.place WHERE study_id = :study"
                " AND (state = 'waiting' OR (state = 'running' AND worker = :worker))"
                " ORDER BY state = 'waiting', number LIMIT 1",
            ).one_or_none()
            if there and there.state == "running":
                return Place(there.number, there.trial, there.failed_runs, there.reason)
            if halt_in_force(connection, self._study_id):
                return None
            spent = used(connection, self._study_id)
            if there and not Used(0, spent.hours, spent.gpu_hours).within(limits):
                # Its place in the number of trials is taken already, and the hours forbid another run. What was told
                # from outside meanwhile needs none, and is to be settled.
                there = self._execute(
                    connection,
                    "SELECT place.number, trial, failed_runs, reason FROM hpo.place JOIN trials"  # noqa: S608 - ours
                    " ON trials.study_id = place.study_id AND trials.number = trial"
                    " WHERE place.study_id = :study AND place.state = 'waiting'"
                    " AND (trials.state IN ('COMPLETE', 'PRUNED') OR (trials.state = 'FAIL' AND NOT EXISTS"
                    " (SELECT FROM trial_user_attributes AS mark WHERE mark.trial_id = trials.trial_id"
                    f" AND key = '{REASON_KEY}'))) LIMIT 1",
                ).one_or_none()
                if there is None:
                    return None
            if there:
                self._execute(
                    connection,
                    f"{_PRESENT} UPDATE hpo.place SET state = 'running', worker = :worker, taken = now(),"  # noqa: S608 - ours
                    " epoch = 0, epochs = NULL, macro_f1 = NULL, best = NULL"
                    " WHERE study_id = :study AND number = :number",
                    number=there.number,
                )
                return Place(there.number, there.trial, there.failed_runs, there.reason)
            if not spent.within(limits):
                self._used_up = True
                return None
            self._execute(
                connection,
                f"{_PRESENT} INSERT INTO hpo.place (study_id, number, state, worker)"  # noqa: S608 - ours
                " VALUES (:study, :number, 'running', :worker)",
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
                # One that this very place has named already is what a lost answer was about.
                " AND NOT EXISTS (SELECT FROM hpo.place WHERE place.study_id = :study AND trial = trials.number"
                " AND place.number <> :number)"
                f" AND {wanted} ORDER BY number IS DISTINCT FROM"
                " (SELECT trial FROM hpo.place WHERE study_id = :study AND number = :number), number LIMIT 1",
                repeats=str(repeats),
                number=place.number,
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

        def update(connection: Connection) -> bool:
            updated = self._execute(
                connection,
                "WITH held AS (UPDATE hpo.place SET epoch = :epoch, epochs = :epochs, macro_f1 = :macro_f1,"  # noqa: S608 - ours
                f" best = :best WHERE {_HELD}"
                " AND EXISTS (SELECT FROM trials WHERE trial_id = :trial_id AND state = 'RUNNING') RETURNING number),"
                f" kept AS ({logs.APPEND} WHERE EXISTS (SELECT FROM held) ORDER BY place)"
                f" SELECT EXISTS (SELECT FROM held), {_UNSYNCED}",
                number=place.number,
                epoch=epoch,
                epochs=epochs,
                macro_f1=macro_f1,
                best=best,
                trial_id=trial._trial_id,  # noqa: SLF001 - no public name
                trial=trial.number,
                lines=[logs.storable(line) for line in lines],
            )
            return bool(updated.one()[0])

        if not self._statement(update):
            raise LostPlaceError(_lost(place))

    def log(self, trial: int, lines: Sequence[str]) -> None:
        """Keep what a trial printed."""
        if lines:
            self._statement(lambda connection: logs.append(connection, self._study_id, trial, lines))

    def hold(self, place: Place) -> None:
        """Raise LostPlaceError unless a place is still this worker's."""

        def look(connection: Connection) -> bool:
            held = f"SELECT EXISTS (SELECT FROM hpo.place WHERE {_HELD})"  # noqa: S608 - ours
            return bool(self._execute(connection, held, number=place.number).scalar_one())

        if not self._statement(look):
            raise LostPlaceError(_lost(place))

    def finish(self, place: Place, state: str, reason: str | None = None) -> None:
        """Say how the trial in a place ended: complete, pruned or failed; a failed one fails in Optuna's tables, too.

        Raises:
            LostPlaceError: the place is no longer this worker's.
        """
        kept = None if reason is None else logs.storable(reason)

        def close(connection: Connection) -> None:
            if self._is_closed(connection, place, state):
                return  # the answer to the first attempt was lost
            if state == "failed":
                fail_trial(connection, self.worker, reason or "")
            self._update(connection, place, f"state = :state, reason = :reason, {_ENDED}", state=state, reason=kept)

        self._transaction(close)

    def hand_back(self, place: Place, reason: str, *, failed: bool = False) -> None:
        """Fail the run in a place, and leave the place to the next worker that takes one.

        Args:
            place: that of this worker; nothing happens where it no longer is.
            reason: one line.
            failed: count this run among those that failed.
        """

        def close(connection: Connection) -> None:
            fail_trial(connection, self.worker, again(reason), only="RUNNING")
            self._execute(
                connection,
                "UPDATE hpo.place SET state = 'waiting', worker = NULL, reason = :reason,"  # noqa: S608 - ours
                f" failed_runs = failed_runs + :failed, {_ENDED} WHERE {_HELD}",
                number=place.number,
                reason=logs.storable(reason),
                failed=int(failed),
            )

        self._transaction(close)

    def halt(self) -> Halt | None:
        """Whether the study is paused or stopped."""
        return self._statement(lambda connection: halt_in_force(connection, self._study_id))

    def may_get_a_place(self, limits: Limits) -> bool:
        """Whether a worker that has found no place may find one later: one that waits now, or that of a worker."""

        def look(connection: Connection) -> bool:
            # In one statement: a place can go from one state to the other between two.
            states = (
                self._execute(
                    connection,
                    "SELECT DISTINCT state FROM hpo.place WHERE study_id = :study AND state IN ('running', 'waiting')",
                )
                .scalars()
                .all()
            )
            if "running" in states or not states:
                return bool(states)
            spent = used(connection, self._study_id)
            return Used(0, spent.hours, spent.gpu_hours).within(limits)

        return self._transaction(look)

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
        with autocommit(self._engine) as connection:
            rows = self._execute(
                connection,
                f"SELECT id, beat FROM hpo.worker WHERE study_id = :study AND id <> :worker AND {NOT_REQUEUED}",  # noqa: S608 - ours
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
                    requeue_in(connection, worker, DEATH, died=True, beat=beat)

    def _any(self, state: str) -> bool:
        def look(connection: Connection) -> bool:
            places = "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND state = :state)"
            return bool(self._execute(connection, places, state=state).scalar_one())

        return self._statement(look)

    def _transaction(self, function: Callable[[Connection], T]) -> T:
        def attempt() -> T:
            with self._engine.begin() as connection:
                return function(connection)

        return retry_outages(self._outage_retry, attempt)

    def _statement(self, function: Callable[[Connection], T]) -> T:
        """A transaction of one statement."""

        def attempt() -> T:
            with autocommit(self._engine) as connection:
                return function(connection)

        return retry_outages(self._outage_retry, attempt)

    def _execute(self, connection: Connection, statement: str, **values: Any) -> CursorResult[Any]:
        return connection.execute(text(statement), {"worker": self.worker, "study": self._study_id, **values})

    def _update(self, connection: Connection, place: Place, assignments: str, **values: Any) -> None:
        statement = f"UPDATE hpo.place SET {assignments} WHERE {_HELD}"  # noqa: S608 - written above
        if not self._execute(connection, statement, number=place.number, **values).rowcount:
            raise LostPlaceError(_lost(place))

    def _is_closed(self, connection: Connection, place: Place, state: str) -> bool:
        closed = (
            "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND number = :number AND worker = :worker"
            " AND state = :state)"
        )
        return bool(self._execute(connection, closed, number=place.number, state=state).scalar_one())

    def _lock_study(self, connection: Connection) -> None:
        """One taker at a time, until the end of the transaction: the budget is exact because of it."""
        self._execute(connection, "SELECT pg_advisory_xact_lock(hashtext('hpo.place'), :study)")


# The commit does not wait for the disk: a server that crashes may forget it, unless another commit came after it.
_UNSYNCED = "set_config('synchronous_commit', 'off', true)"
_STUDY_EXISTS = "SELECT EXISTS (SELECT FROM studies WHERE study_id = :study)"
_HELD = "study_id = :study AND number = :number AND worker = :worker AND state = 'running'"
_ENDED = "ended = now(), busy_seconds = busy_seconds + greatest(0, extract(epoch FROM now() - taken))"
# A worker that takes a place is there, whoever has given it up.
_PRESENT = "WITH present AS (UPDATE hpo.worker SET gone = NULL, died = false WHERE id = :worker AND gone IS NOT NULL)"


def _lost(place: Place) -> str:
    return f"place {place.number} of the budget no longer belongs to this run"
