"""Who runs which trial: places in a study's budget, each held by at most one living worker.

A place names the trial that runs in it. Trials come from Optuna's queue of waiting ones and run only after a place has
named them, so that a worker is responsible for each trial that runs. What ends a run without a result (a dead worker,
an interruption) fails its trial and lets its place wait for the next worker, in one transaction (`storage.requeue`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from storage import logs
from storage.budget import Used, used
from storage.halts import halt_in_force
from storage.keys import REASON_KEY, REPEATS_KEY
from storage.optuna_internals import trial_id_of
from storage.requeue import again, fail_trial
from storage.worker_transactions import UNSYNCED, WorkerTransactions

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    from sqlalchemy.engine import Connection, CursorResult, Engine

    from storage.budget import Limits
    from storage.halts import Halt
    from storage.keys import EndState
    from storage.outage_retry import OutageRetry


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
class Progress:
    """How far a trial has come.

    Attributes:
        epoch: the last one that has ended, 1 for the first.
        epochs: number of the last one, if nothing ends the training before.
        macro_f1: validation macro-F1 of that epoch, in [0, 1].
        best: the highest of the epochs so far, likewise.
    """

    epoch: int
    epochs: int
    macro_f1: float
    best: float


class LostPlaceError(Exception):
    """This worker's run no longer counts: its place was given away, or its trial was ended elsewhere."""


class StudyGoneError(Exception):
    """The study was deleted."""


class Lease:
    """One worker's hold on the places of a study.

    Every method is one transaction, safe from any thread. It waits for a database that is away, and may be repeated
    where nobody knows whether the transaction came through.

    Args:
        engine: of the database.
        study_id: Optuna's number of the study.
        worker: name of the worker, which has joined (`storage.heartbeat`).
        outage_retry: repeats what fails while the database is away; None to raise at once.
    """

    def __init__(self, engine: Engine, study_id: int, worker: str, outage_retry: OutageRetry | None = None) -> None:
        self.worker = worker
        self._study = study_id
        self._transactions = WorkerTransactions(engine, study_id, worker, outage_retry)
        self._used_up = False  # whether no new place is left in the budget; one that waits may be

    def study_exists(self) -> bool:
        """Whether the study was not deleted."""
        return self._statement_is_true(_STUDY_EXISTS)

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
            found = self._execute(
                connection,
                "SELECT number, trial, failed_runs, reason, state FROM hpo.place WHERE study_id = :study"
                " AND (state = 'waiting' OR (state = 'running' AND worker = :worker))"
                " ORDER BY state = 'waiting', number LIMIT 1",
            ).one_or_none()
            if found and found.state == "running":
                return Place(found.number, found.trial, found.failed_runs, found.reason)
            if halt_in_force(connection, self._study):
                return None
            spent = used(connection, self._study)
            if found and not Used(0, spent.hours, spent.gpu_hours).within(limits):
                # It counts among the trials already, but no hours are left to run it. A place whose trial was ended
                # from outside needs none, and is only to be closed.
                found = self._execute(connection, _WAITING_WITH_ENDED_TRIAL).one_or_none()
                if found is None:
                    return None
            if found:
                self._execute(
                    connection,
                    f"{_PRESENT} UPDATE hpo.place SET state = 'running', worker = :worker, taken = now(),"  # noqa: S608 - ours
                    " epoch = 0, epochs = NULL, macro_f1 = NULL, best = NULL"
                    " WHERE study_id = :study AND number = :number",
                    number=found.number,
                )
                return Place(found.number, found.trial, found.failed_runs, found.reason)
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

        if self._used_up and not self._statement_is_true(_ANY_WAITING):
            return None  # only such a place can still come: a thousand idle workers need not queue up for the lock
        return self._transactions.run(take)

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

        return self._transactions.run(name)

    def keep_progress(self, place: Place, trial: optuna.Trial, progress: Progress, lines: Sequence[str]) -> None:
        """Keep how far the trial in a place has come, and what it printed since the last time.

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
                f" SELECT EXISTS (SELECT FROM held), {UNSYNCED}",
                number=place.number,
                trial_id=trial_id_of(trial),
                trial=trial.number,
                lines=[logs.storable(line) for line in lines],
                **asdict(progress),
            )
            return bool(updated.one()[0])

        if not self._transactions.run_statement(update):
            raise LostPlaceError(_lost(place))

    def log(self, trial: int, lines: Sequence[str]) -> None:
        """Keep what a trial printed."""
        if lines:
            self._transactions.run_statement(lambda connection: logs.append(connection, self._study, trial, lines))

    def hold(self, place: Place) -> None:
        """Raise LostPlaceError unless a place is still this worker's."""
        held = f"SELECT EXISTS (SELECT FROM hpo.place WHERE {_HELD})"  # noqa: S608 - ours
        if not self._statement_is_true(held, number=place.number):
            raise LostPlaceError(_lost(place))

    def finish(self, place: Place, state: EndState, reason: str | None = None) -> None:
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

        self._transactions.run(close)

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

        self._transactions.run(close)

    def halt(self) -> Halt | None:
        """Whether the study is paused or stopped."""
        return self._transactions.run_statement(lambda connection: halt_in_force(connection, self._study))

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
            spent = used(connection, self._study)
            return Used(0, spent.hours, spent.gpu_hours).within(limits)

        return self._transactions.run(look)

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

        return self._transactions.run(look)

    def _execute(self, connection: Connection, statement: str, **values: Any) -> CursorResult[Any]:
        return self._transactions.execute(connection, statement, **values)

    def _statement_is_true(self, statement: str, **values: Any) -> bool:
        return bool(
            self._transactions.run_statement(
                lambda connection: self._execute(connection, statement, **values).scalar_one()
            )
        )

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
        """Let no other worker take or name until the end of the transaction: the budget is exact because of it."""
        self._execute(connection, "SELECT pg_advisory_xact_lock(hashtext('hpo.place'), :study)")


_ANY_WAITING = "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND state = 'waiting')"
_STUDY_EXISTS = "SELECT EXISTS (SELECT FROM studies WHERE study_id = :study)"
_HELD = "study_id = :study AND number = :number AND worker = :worker AND state = 'running'"
_ENDED = "ended = now(), busy_seconds = busy_seconds + greatest(0, extract(epoch FROM now() - taken))"
# A waiting place whose trial was ended from outside: a trial that we failed ourselves has a reason.
_WAITING_WITH_ENDED_TRIAL = (
    "SELECT place.number, trial, failed_runs, reason FROM hpo.place JOIN trials"  # noqa: S608 - ours
    " ON trials.study_id = place.study_id AND trials.number = trial"
    " WHERE place.study_id = :study AND place.state = 'waiting'"
    " AND (trials.state IN ('COMPLETE', 'PRUNED') OR (trials.state = 'FAIL' AND NOT EXISTS"
    " (SELECT FROM trial_user_attributes AS mark WHERE mark.trial_id = trials.trial_id"
    f" AND key = '{REASON_KEY}'))) LIMIT 1"
)
# A worker that takes a place is alive, also where another one has counted it as dead.
_PRESENT = "WITH present AS (UPDATE hpo.worker SET gone = NULL, died = false WHERE id = :worker AND gone IS NOT NULL)"


def _lost(place: Place) -> str:
    return f"place {place.number} of the budget no longer belongs to this run"
