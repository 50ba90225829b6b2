"""Who runs which trial: places in a study's budget, each held by at most one living worker.

A place names the trial that runs in it. Trials come from Optuna's queue of waiting ones and run only after a place has
named them, so that a worker is responsible for each trial that runs. What ends a run without a result (a dead worker,
an interruption) fails its trial and lets its place wait for the next worker, in one transaction (`storage.requeue`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from storage import logs
from storage import place_statements as sql
from storage.budget import used
from storage.halts import halt_of_worker
from storage.optuna_internals import trial_id_of
from storage.requeue import again, fail_trial
from storage.rungs import reach_rung
from storage.taking import may_promote, may_take_old_place, take_place
from storage.worker_transactions import WorkerTransactions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna
    from sqlalchemy.engine import Connection, CursorResult, Engine

    from storage.budget import Limits
    from storage.halts import WorkerHalt
    from storage.keys import EndState
    from storage.outage_retry import OutageRetry
    from storage.taking import Place


@dataclass(frozen=True)
class Progress:
    """How far a trial has come.

    Attributes:
        epoch: the last one that has ended, 1 for the first.
        epochs: number of the last one, if nothing ends the training before.
        score: validation score of that epoch, the higher the better.
        best: the highest of the epochs so far.
    """

    epoch: int
    epochs: int
    score: float
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

    Attributes:
        worker: its name.
        promotion: whether it takes paused trials that may go on; to be set before the first place is taken.
    """

    def __init__(self, engine: Engine, study_id: int, worker: str, outage_retry: OutageRetry | None = None) -> None:
        self.worker, self.promotion = worker, False
        self._study = study_id
        self._transactions = WorkerTransactions(engine, study_id, worker, outage_retry)
        self._used_up = False  # whether no new place is left in the budget; one that waits may be

    def study_exists(self) -> bool:
        """Whether the study was not deleted."""
        return self._statement_is_true(sql.STUDY_EXISTS)

    def take(self, limits: Limits, choose: Callable[[set[str]], str | None] | None = None) -> Place | None:
        """Take the next place, as `take_place` chooses it; None where nothing is left to take at the moment.

        Args:
            limits: of the budget.
            choose: given the recipes of all places, returns another one for a new place; None where there is no other,
                and so no new place. Without it a new place has no recipe yet.

        Raises:
            StudyGoneError: the study was deleted.
        """

        def take(connection: Connection) -> Place | None:
            self._lock_study(connection)
            if not self._execute(connection, sql.STUDY_EXISTS).scalar_one():
                raise StudyGoneError
            self._used_up = False

            def choose_untried() -> str | None:
                return choose(self._recipes(connection, sql.TRIED_OR_FAILED)) if choose else None

            untried = choose_untried if choose else None
            place = take_place(connection, self._study, self.worker, limits, untried, promotion=self.promotion)
            self._used_up = place is None and not used(connection, self._study).within(limits)
            return place

        def look(connection: Connection) -> bool:
            return may_take_old_place(connection, self._study, limits, promotion=self.promotion)

        if self._used_up and not self._transactions.run_statement(look):
            return None  # only such a place can still come: a thousand idle workers need not queue up for the lock
        return self._transactions.run(take)

    def tried_recipes(self, place: Place, *, failed: bool) -> set[str]:
        """The recipes that other places than this one have tried, or try now; `failed` as in `claim`."""
        tried = sql.TRIED_OR_FAILED if failed else sql.TRIED
        return self._transactions.run_statement(lambda connection: self._recipes(connection, tried, place.number))

    def claim(self, place: Place, recipe: str | None, *, failed: bool = False) -> bool:
        """Give a place a recipe, or none, in exchange for the one that it has; False where another place has tried it.

        One that has failed may run again; `failed` is whether one that has since this worker joined counts as tried.

        Raises:
            LostPlaceError: the place is no longer this worker's.
        """

        def exchange(connection: Connection) -> bool:
            self._lock_study(connection)
            tried = f"SELECT EXISTS (SELECT {sql.TRIED_OR_FAILED if failed else sql.TRIED} AND recipe = :recipe)"
            if self._execute(connection, tried, recipe=recipe, number=place.number).scalar_one():
                return False
            self._update(connection, place, "recipe = :recipe", recipe=recipe)
            return True

        return self._transactions.run(exchange)

    def name_trial(self, place: Place, *, repeats: int | None = None, passing: Sequence[int] = ()) -> int | None:
        """Name the first of Optuna's waiting trials in a place, unless another place has; None where there is none.

        Args:
            place: that of this worker.
            repeats: number of a trial whose recipe the waiting one is to repeat; without it one that repeats none.
            passing: numbers of waiting trials that are not to be named.

        Returns:
            the trial's id.
        """

        def name(connection: Connection) -> int | None:
            self._lock_study(connection)
            waiting = self._execute(
                connection,
                sql.FIRST_WAITING_TRIAL,
                repeats=str(repeats),
                number=place.number,
                passing=list(passing),
            ).one_or_none()
            if waiting is None:
                return None
            self._update(connection, place, "trial = :trial, promoted = false", trial=waiting.number)
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
                sql.KEEP_PROGRESS,
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
        held = f"SELECT EXISTS (SELECT FROM hpo.place WHERE {sql.HELD})"  # noqa: S608 - ours
        if not self._statement_is_true(held, number=place.number):
            raise LostPlaceError(_lost(place))

    def reach_rung(self, trial: int, epoch: int, score: float) -> bool:
        """Note in the log and the place of a running trial that it has come to a rung; returns whether it goes on.

        Args:
            trial: its number.
            epoch: of the rung.
            score: the highest of its epochs so far.

        Raises:
            LostPlaceError: it no longer runs in a place of this worker.
        """

        def reach(connection: Connection) -> bool:
            self._lock_study(connection)
            number = self._execute(connection, sql.PLACE_OF_TRIAL, trial=trial).scalar_one_or_none()
            if number is None:
                raise LostPlaceError(f"trial {trial} no longer runs in a place of this worker")
            decision = reach_rung(connection, self._study, number, epoch, score)
            logs.append(connection, self._study, trial, [decision.line(epoch)])
            return decision.goes_on

        return self._transactions.run(reach)

    def finish(self, place: Place, state: EndState, reason: str | None = None, *, from_outside: bool = False) -> None:
        """Say how the trial in a place ended: complete, pruned or failed; a failed one fails in Optuna's tables, too.

        Args:
            place: that of this worker.
            state: of its trial.
            reason: why it failed.
            from_outside: somebody else has told a result, so that the recipe counts as not tried.

        Raises:
            LostPlaceError: the place is no longer this worker's.
        """
        kept = None if reason is None else logs.storable(reason)

        def close(connection: Connection) -> None:
            if self._is_closed(connection, place, state):
                return  # the answer to the first attempt was lost
            if state == "failed":
                fail_trial(connection, self.worker, reason or "")
            recipe = "recipe = CASE WHEN :from_outside THEN NULL ELSE recipe END"
            ended = f"{sql.END_STATE}, reason = :reason, {recipe}, {sql.ENDED}"
            self._update(connection, place, ended, state=state, reason=kept, from_outside=from_outside)

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
                sql.HAND_BACK,
                number=place.number,
                reason=logs.storable(reason),
                failed=int(failed),
            )

        self._transactions.run(close)

    def halt(self) -> WorkerHalt | None:
        """Whether the study is paused or stopped, or the host of this worker is paused."""
        return self._transactions.run_statement(lambda connection: halt_of_worker(connection, self._study, self.worker))

    def may_make_a_place(self, limits: Limits, choose: Callable[[set[str]], str | None] | None = None) -> bool:
        """Whether `take` would make a new place, as far as no halt keeps it from doing so."""

        def look(connection: Connection) -> bool:
            return used(connection, self._study).within(limits) and (
                choose is None or choose(self._recipes(connection, sql.TRIED_OR_FAILED)) is not None
            )

        return self._transactions.run(look)

    def may_get_a_place(self, limits: Limits | None) -> bool:
        """Whether a worker without a place may find one: one that waits or is paused, within limits, or a worker's."""

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
            if "running" in states or limits is None:
                return "running" in states
            if not states:
                return self.promotion and may_promote(connection, self._study, limits)
            return used(connection, self._study).hours_within(limits)

        return self._transactions.run(look)

    def first_ends(self, count: int) -> list[tuple[str, str | None]]:
        """State and reason of the first places that came to an end since this worker joined."""

        def look(connection: Connection) -> list[tuple[str, str | None]]:
            rows = self._execute(connection, sql.FIRST_ENDS, count=count)
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

    def _recipes(self, connection: Connection, tried: str, but: int = -1) -> set[str]:
        return set(self._execute(connection, f"SELECT recipe {tried}", number=but).scalars())

    def _update(self, connection: Connection, place: Place, assignments: str, **values: Any) -> None:
        statement = f"UPDATE hpo.place SET {assignments} WHERE {sql.HELD}"  # noqa: S608 - written above
        if not self._execute(connection, statement, number=place.number, **values).rowcount:
            raise LostPlaceError(_lost(place))

    def _is_closed(self, connection: Connection, place: Place, state: str) -> bool:
        closed = (
            "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND number = :number AND worker = :worker"
            " AND (state = :state OR (state = 'paused' AND :state = 'pruned')))"
        )
        return bool(self._execute(connection, closed, number=place.number, state=state).scalar_one())

    def _lock_study(self, connection: Connection) -> None:
        """Let no other worker take or name until the end of the transaction: the budget is exact because of it."""
        self._execute(connection, "SELECT pg_advisory_xact_lock(hashtext('hpo.place'), :study)")


def _lost(place: Place) -> str:
    return f"place {place.number} of the budget no longer belongs to this run"
