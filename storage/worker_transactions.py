"""The transactions of one worker on the rows of its study: they wait for a database that is away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text

from storage.autocommit import autocommit
from storage.outage_retry import retry_outages

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection, CursorResult, Engine

    from storage.outage_retry import OutageRetry

T = TypeVar("T")

# Selected by a statement whose commit need not wait for the disk: a server that crashes may forget that commit, unless
# another one came after it.
UNSYNCED = "set_config('synchronous_commit', 'off', true)"


class WorkerTransactions:
    """Runs what one worker asks of the database; safe from any thread.

    Args:
        engine: of the database.
        study_id: Optuna's number of the study.
        worker: name of the worker.
        outage_retry: repeats what fails while the database is away; None to raise at once.
    """

    def __init__(self, engine: Engine, study_id: int, worker: str, outage_retry: OutageRetry | None) -> None:
        self.engine, self.study_id, self.worker = engine, study_id, worker
        self._outage_retry = outage_retry

    def run(self, function: Callable[[Connection], T]) -> T:
        """Call a function with the connection of one transaction; returns what it returns.

        Where nobody knows whether the transaction came through, it is repeated: the function has to allow that.
        """

        def attempt() -> T:
            with self.engine.begin() as connection:
                return function(connection)

        return retry_outages(self._outage_retry, attempt)

    def run_statement(self, function: Callable[[Connection], T]) -> T:
        """As `run`, for a function that executes one statement: without BEGIN and COMMIT."""

        def attempt() -> T:
            with autocommit(self.engine) as connection:
                return function(connection)

        return retry_outages(self._outage_retry, attempt)

    def execute(self, connection: Connection, statement: str, **values: Any) -> CursorResult[Any]:
        """Execute a statement, in which `:worker` and `:study` are the worker's name and the study's number."""
        return connection.execute(text(statement), {"worker": self.worker, "study": self.study_id, **values})
