"""Waiting for a database that does not answer."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts; each pause is twice as long as the last
DATABASE_ERRORS = (
    SQLAlchemyError,
    StorageInternalError,
)  # what calls of the database raise, outage or not
NO_RIGHT = "42501"  # SQLSTATE of a statement that the role has no right to execute
READ_ONLY = "25006"  # SQLSTATE of a write to a server that has become a standby in a failover
LASTING = ("54", "57014")  # beginnings of SQLSTATEs that a repetition does not cure: too large, cancelled, too slow

logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether an error means that the database is away, rather than that the statement is wrong."""
    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and is_outage(error.__cause__)
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None) or ""
    if isinstance(error, OperationalError | InterfaceError):
        return not code.startswith(LASTING)
    # A connection that breaks in the middle of an answer can raise any error.
    return error.connection_invalidated or code == READ_ONLY


def is_refusal(error: BaseException) -> bool:
    """Whether an error means that the database's role has no right to execute the statement."""
    error = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == NO_RIGHT


def cause_of(error: BaseException) -> str:
    """What the driver says about an outage or a refusal, as one line."""
    error = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return " ".join(str(getattr(error, "orig", None) or error).split())


class OutageRetry:
    """Repeats calls that fail because the database is away, until it is back; safe from any thread.

    A repeated call may have had its effect already: a connection can break between the commit and the answer.

    Args:
        given_up: once it is set, an outage is raised at once, also where a call waits already; None waits for ever.
    """

    def __init__(self, given_up: threading.Event | None = None) -> None:
        self._given_up = given_up or threading.Event()
        self._away_since: float | None = None  # time.monotonic() at the first failure
        self._told: set[str] = set()  # causes that were logged since then
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OutageRetry], tuple[()]]:
        """A copy for another process waits for ever: what ends the waiting here is not known there."""
        return OutageRetry, ()

    def run(self, function: Callable[[], T]) -> T:
        """Call a function again and again until the database answers; returns or raises what that call does."""
        pause = FIRST_PAUSE
        while True:
            try:
                result = function()
            except Exception as error:
                if not is_outage(error):
                    self._came_back()
                    raise
                if self._given_up.is_set():
                    raise
                self._went(error)
                if self._given_up.wait(pause):
                    raise
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._came_back()
                return result

    def _went(self, error: Exception) -> None:
        with self._lock:
            if self._away_since is None:
                self._away_since = time.monotonic()
            if (cause := cause_of(error)) not in self._told:
                self._told.add(cause)
                logger.warning("the database does not answer; waiting for it: %s", cause)

    def _came_back(self) -> None:
        if self._away_since is None:  # as nearly always; this saves taking the lock
            return
        with self._lock:
            if self._away_since is not None:
                logger.warning("the database is back after %.1f s", time.monotonic() - self._away_since)
                self._away_since = None
                self._told.clear()


def retry_outages(outage_retry: OutageRetry | None, function: Callable[[], T]) -> T:
    """Call a function once, or, with an `OutageRetry`, until the database answers."""
    return outage_retry.run(function) if outage_retry else function()
