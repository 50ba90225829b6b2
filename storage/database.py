"""From a URL to Optuna's storage and our own tables in one Postgres."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError, ProgrammingError

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

DRIVER = "postgresql+psycopg2"
CONNECT_TIMEOUT = 10  # seconds
# What comes up from a database that stops answering in the middle of something.
OUTAGES = (OperationalError, InterfaceError, optuna.exceptions.StorageInternalError)
INIT_LOCK = 4_761_001  # of pg_advisory_lock: any number that others are unlikely to take

# `place` is a place in the budget: one trial of it, however often it has to be started. `worker` is a process.
# A worker holds a place by its id; its beat counts up, so that nobody needs to compare clocks to see it alive.
SCHEMA = """
CREATE SCHEMA IF NOT EXISTS hpo;
CREATE TABLE IF NOT EXISTS hpo.worker (
    id          text PRIMARY KEY,
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    host        text NOT NULL,
    pid         integer NOT NULL,
    device      text NOT NULL,
    started     timestamptz NOT NULL DEFAULT now(),
    beat        bigint NOT NULL DEFAULT 0,
    beaten      timestamptz NOT NULL DEFAULT now(),
    gone        timestamptz,
    seconds     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS worker_study ON hpo.worker (study_id);
CREATE TABLE IF NOT EXISTS hpo.place (
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    number      integer NOT NULL,
    state       text NOT NULL CHECK (state IN ('running', 'waiting', 'complete', 'pruned', 'failed')),
    worker      text REFERENCES hpo.worker (id) ON DELETE SET NULL,
    trial       integer,
    deaths      integer NOT NULL DEFAULT 0,
    reason      text,
    epoch       integer NOT NULL DEFAULT 0,
    epochs      integer,
    macro_f1    double precision,
    best        double precision,
    taken       timestamptz NOT NULL DEFAULT now(),
    ended       timestamptz,
    busy_seconds double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (study_id, number)
);
CREATE TABLE IF NOT EXISTS hpo.log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    trial       integer NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    line        text NOT NULL
);
CREATE INDEX IF NOT EXISTS log_trial ON hpo.log (study_id, trial, id);
"""


def parse_url(url: str) -> URL:
    """Read the URL of a Postgres database; `postgresql://` means psycopg2 here, too.

    Raises:
        StorageError: it is no such URL. The message shows nothing of it that could be part of a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StorageError(
            "storage: the URL cannot be read; write postgresql://USER@HOST:PORT/DATABASE, with special characters of "
            "a password percent-encoded"
        ) from None
    if parsed.drivername not in ("postgresql", "postgres", DRIVER):
        raise StorageError(
            f"storage: {parsed.drivername}:// is no Postgres; write postgresql://USER@HOST:PORT/DATABASE"
        )
    if "@" in (parsed.host or ""):
        raise StorageError("storage: the URL has more than one @; write the @ of a password as %40")
    if not parsed.database:
        raise StorageError("storage: the URL names no database; write postgresql://USER@HOST:PORT/DATABASE")
    if password := parsed.query.get("password"):  # libpq's other way of writing it
        parsed = parsed.difference_update_query(["password"]).set(password=str(password))
    return parsed.set(drivername=DRIVER)


def public_url(url: str) -> str:
    """The URL as it may be shown: without its password."""
    return parse_url(url)._replace(password=None, drivername="postgresql").render_as_string()


def initialize(url: str) -> None:
    """Make the tables of Optuna and our own where they do not exist yet. Safe to repeat, and safe in parallel.

    Raises:
        StorageError: the database cannot be reached, or refuses.
    """
    with _foreseen(url), one_at_a_time(url) as connection:
        if _is_initialized(connection):
            return  # a role that may not make tables can use them
        with _silent_optuna():
            optuna.storages.RDBStorage(_rendered(url), engine_kwargs=_engine_settings()).engine.dispose()
        connection.execute(text(SCHEMA))
        connection.commit()


def ping(url: str) -> None:
    """Find out whether a database can be reached and lets us in.

    Raises:
        StorageError: it cannot, or does not.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with _foreseen(url), engine.connect():
            pass
    finally:
        engine.dispose()


def is_initialized(url: str) -> bool:
    """Whether `initialize` has prepared a database; changes nothing.

    Raises:
        StorageError: it cannot be reached, or does not let us in.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with _foreseen(url), engine.connect() as connection:
            return _is_initialized(connection)
    finally:
        engine.dispose()


def connect(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage on a database that `initialize` has prepared; its `engine` also serves our own tables.

    Holds at most two connections, one at rest, and finds out by itself that a connection has died.

    Raises:
        StorageError: the database cannot be reached, refuses, or is not initialised.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with _foreseen(url), engine.connect() as connection:
            if not _is_initialized(connection):
                raise StorageError(f"storage: {public_url(url)} is not initialised; run `hpo init STUDY` first")
    finally:
        engine.dispose()
    with _foreseen(url):
        return optuna.storages.RDBStorage(_rendered(url), engine_kwargs=_engine_settings(), skip_table_creation=True)


def _is_initialized(connection: Connection) -> bool:
    """Whether the last of all tables is there."""
    return connection.execute(text("SELECT to_regclass('hpo.log')")).scalar() is not None


@contextmanager
def one_at_a_time(url: str) -> Iterator[Connection]:
    """Let one block at a time run on this database, whatever host it comes from; yields the connection that locks.

    The lock ends with its connection, and so with its process.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": INIT_LOCK})
            connection.commit()
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _foreseen(url: str) -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        cause = " ".join(str(error.orig).split())
        raise StorageError(f"storage: {public_url(url)} cannot be used: {cause}") from None
    except ProgrammingError as error:
        cause = " ".join(str(error.orig).split())
        raise StorageError(
            f"storage: {public_url(url)} refuses: {cause}; the role needs the right to do that"
        ) from None


@contextmanager
def _silent_optuna() -> Iterator[None]:
    """Optuna announces with a warning that it makes tables, which is what it was called for."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _rendered(url: str) -> str:
    return parse_url(url).render_as_string(hide_password=False)


def _engine_settings() -> dict[str, object]:
    return {
        "pool_size": 1,
        "max_overflow": 1,
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": CONNECT_TIMEOUT, "application_name": "hpo"},
    }
