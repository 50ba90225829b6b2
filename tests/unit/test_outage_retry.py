"""What counts as the database's absence, and how it is waited for."""

from __future__ import annotations

import logging
import threading

import psycopg2
import psycopg2.errors
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from sqlalchemy.exc import DataError, IntegrityError, InternalError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from storage.outage_retry import OutageRetry, cause_of, is_outage
from tests.support.waiting import limit

pytestmark = pytest.mark.unit


def away(cause="server closed the connection unexpectedly"):
    """The error of a database that does not answer."""
    return OperationalError("SELECT 1", {}, psycopg2.OperationalError(cause))


def of_optuna(cause):
    """An error as Optuna's storage wraps it."""
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


def answering(*answers):
    """A call that gives these answers in turn."""
    left = list(answers)

    def call():
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


class ReadOnly(psycopg2.errors.ReadOnlySqlTransaction):
    """What a standby says to a write; only the server can set the code of a real one."""

    pgcode = "25006"


@pytest.mark.parametrize(
    "error",
    [
        away(),
        of_optuna(away()),
        PoolTimeoutError("QueuePool limit reached"),
        InternalError("UPDATE x", {}, ReadOnly("cannot execute UPDATE in a read-only transaction")),
        DataError("SELECT 1", {}, psycopg2.DataError("lost"), connection_invalidated=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_database_that_is_away_is_an_outage(error):
    """Broken connections, a pool that waits in vain and a server that became a standby are outages."""
    assert is_outage(error)


class TooLarge(psycopg2.errors.ProgramLimitExceeded):
    """What the server says to a row that does not fit into its index."""

    pgcode = "54000"


class Cancelled(psycopg2.errors.QueryCanceled):
    """What the server says to a statement that was cancelled, or takes longer than statement_timeout."""

    pgcode = "57014"


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("INSERT x", {}, TooLarge("index row size 9016 exceeds btree version 4 maximum 2704")),
        OperationalError("SELECT 1", {}, Cancelled("canceling statement due to statement timeout")),
        DataError("SELECT 1", {}, psycopg2.DataError("value too long")),
        of_optuna(DataError("SELECT 1", {}, psycopg2.DataError("value too long"))),
        ProgrammingError("SELECT 1", {}, psycopg2.ProgrammingError("no such table")),
        IntegrityError("SELECT 1", {}, psycopg2.IntegrityError("duplicate key")),
        InternalError("SELECT 1", {}, psycopg2.InternalError("current transaction is aborted")),
        StorageInternalError("without a cause"),
        KeyError("Record does not exist."),
        UpdateFinishedTrialError("Trial#3 has already finished"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_database_refuses_is_no_outage(error):
    """Data that cannot be kept, and questions that cannot be answered, are not waited for."""
    assert not is_outage(error)


def test_an_outage_is_waited_for_and_told_once(caplog):
    """A call is repeated until the database answers, and the log says once that it is away and once that it is back."""
    cause = "the server is\nshutting down"
    call = answering(away(cause), of_optuna(away(cause)), 7)
    with caplog.at_level(logging.WARNING, "storage.outage_retry"):
        assert OutageRetry().run(call) == 7
    assert [record.getMessage().split(";")[0][:24] for record in caplog.records] == [
        "the database does not an",
        "the database is back aft",
    ]
    assert caplog.records[0].getMessage().endswith("waiting for it: the server is shutting down")


def test_an_outage_that_goes_on_for_another_reason_is_told_again(caplog):
    """Each cause of an outage is logged once: a wrong password after a restart does not hide behind the restart."""
    call = answering(away("terminating"), away("no password"), away("terminating"), 7)
    with caplog.at_level(logging.WARNING, "storage.outage_retry"):
        assert OutageRetry().run(call) == 7
    assert [record.getMessage().rsplit(": ")[-1] for record in caplog.records[:-1]] == ["terminating", "no password"]
    assert "is back" in caplog.records[-1].getMessage()


def test_an_error_that_is_no_outage_ends_the_waiting():
    """What the database says once it is back is raised, and was asked for only once."""
    call = answering(away(), KeyError("Record does not exist."), 7)
    with pytest.raises(KeyError):
        OutageRetry().run(call)
    assert call() == 7


def test_giving_up_ends_the_waiting_at_once(monkeypatch):
    """Whoever is asked to stop does not wait for the next attempt."""
    monkeypatch.setattr("storage.outage_retry.FIRST_PAUSE", limit(60))
    given_up, waiting = threading.Event(), threading.Event()
    attempts, raised = [], []

    def call():
        attempts.append(1)
        waiting.set()
        raise away()

    def run():
        try:
            OutageRetry(given_up).run(call)
        except OperationalError as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert waiting.wait(limit(30))
    given_up.set()
    thread.join(limit(10))
    assert (len(attempts), len(raised)) == (1, 1)
    with pytest.raises(OperationalError):
        OutageRetry(given_up).run(call)
    assert len(attempts) == 2


def test_the_cause_of_an_outage_is_one_line():
    """An outage is shown by what the driver says, without SQL."""
    assert cause_of(of_optuna(away("connection refused\n\tIs the server running?"))) == (
        "connection refused Is the server running?"
    )
