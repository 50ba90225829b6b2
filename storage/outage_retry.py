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

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two attempts; each pause is twice the one before
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)  # what calls raise because of the database, outage or not
NO_RIGHT = "42501"  # SQLSTATE of what a role has no right to do
READ_ONLY = "25006"  # SQLSTATE of a write to a server that a failover has left as a standby
LASTING = ("54", "57014")  # how SQLSTATEs of OperationalErrors begin that come again: too large, cancelled or too slow

logger = logging.getLogger(__name__)


def is_outage(error: BaseException) -> bool:
    """Whether an error means that the database is away, and not that it was asked for something wrong."""
    if isinstance(error, StorageInternalError):
        return error.__cause__ is not None and is_outage(error.__cause__)
    if isinstance(error, PoolTimeoutError):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = getattr(error.orig, "pgcode", None) or ""
    if isinstance(error, OperationalError | InterfaceError):
        return not code.startswith(LASTING)
    # A connection that breaks in the middle of an answer can come as any error.
    return error.connection_invalidated or code == READ_ONLY


def is_refusal(error: BaseException) -> bool:
    """Whether an error means that the role has no right to do what it was to do."""
    error = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return isinstance(error, DBAPIError) and getattr(error.orig, "pgcode", None) == NO_RIGHT


def cause_of(error: BaseException) -> str:
    """What the driver says about an outage or a refusal, as one line."""
    error = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
    return " ".join(str(getattr(error, "orig", None) or error).split())


class OutageRetry:
    """Repeats what fails because the database is away, for as long as it is; safe from any thread.

    What is repeated may have happened already: a connection can break between the commit and the answer.

    Args:
        given_up: once set, an outage is raised at once, also one that is being waited for; None to wait for ever.
    """

    def __init__(self, given_up: threading.Event | None = None) -> None:
        self._given_up = given_up or threading.Event()
        self._away_since: float | None = None  # time.monotonic() at the first failure
        self._told: set[str] = set()  # causes since then
        self._lock = threading.Lock()

    def run(self, function: Callable[[], T]) -> T:
        """Call a function until the database has answered it: what it then returns or raises is the answer."""
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
        if self._away_since is None:  # nearly always, and then not worth a lock
            return
        with self._lock:
            if self._away_since is not None:
                logger.warning("the database is back after %.1f s", time.monotonic() - self._away_since)
                self._away_since = None
                self._told.clear()


def retry_outages(outage_retry: OutageRetry | None, function: Callable[[], T]) -> T:
    """Call a function, until the database has answered it where there is a patience, and once where there is none."""
    return outage_retry.run(function) if outage_retry else function()
