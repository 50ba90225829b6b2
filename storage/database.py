"""From a URL to Optuna's storage and our own tables in one Postgres."""

from __future__ import annotations

import re
import secrets
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING

import optuna
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, OperationalError, ProgrammingError

from storage import schema
from storage.errors import StorageError
from storage.optuna_internals import newest_tables
from storage.optuna_storage import StudyStorage
from storage.outage_retry import cause_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from storage.outage_retry import OutageRetry

DRIVER = "postgresql+psycopg2"
CONNECT_TIMEOUT = 10  # seconds
# A host that vanishes sends nothing. Ask it after 30 s of silence, three times; wait 30 s for it to confirm data.
KEEPALIVES = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
# Encodings of databases that hold all letters. SQL_ASCII holds what it is given, which we make UTF-8.
ALL_LETTERS = ("UTF8", "SQL_ASCII")
INIT_LOCK = 4_761_001  # for pg_advisory_xact_lock: any number that other programs are unlikely to use


def parse_url(url: str) -> URL:
    """Read the URL of a Postgres database; `postgresql://` means psycopg2 here, too.

    Raises:
        StorageError: it is no such URL. The message shows no part of it that could be a password.
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
    """The URL without its password, and without the password of a client's key, so that it can be shown."""
    parsed = parse_url(url).difference_update_query(["sslpassword"])
    return parsed._replace(password=None, drivername="postgresql").render_as_string()


def initialize(url: str) -> None:
    """Make the tables of Optuna and our own where they do not exist yet. Safe to repeat, and safe in parallel.

    Raises:
        StorageError: the database cannot be reached, or refuses; or its encoding has not all letters.
    """
    with _foreseen(url), one_at_a_time(url) as connection:
        if schema.version(connection) == len(schema.STEPS):
            return  # so that a role that may not make tables can use them
        if schema.version(connection) == 0:
            _refuse_few_letters(connection, url)
        with _silent_optuna():
            # Tables that another version of Optuna made are refused by `connect`.
            optuna.storages.RDBStorage(
                _rendered(url), engine_kwargs=_engine_settings(), skip_compatibility_check=True
            ).engine.dispose()
        schema.bring_up_to_date(connection)


def ping(url: str) -> None:
    """Connect to a database once.

    Raises:
        StorageError: it cannot be reached, or does not let us in.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with _foreseen(url), engine.connect():
            pass
    finally:
        engine.dispose()


def try_to_initialize(url: str) -> None:
    """Find out whether `initialize` may make its tables in a database; changes nothing.

    Raises:
        StorageError: as `initialize` does.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    name = f"hpo_check_{secrets.token_hex(8)}"
    try:
        with _foreseen(url), engine.connect() as connection:
            _refuse_few_letters(connection, url)
            connection.execute(text(f"CREATE TABLE {name} (number integer)"))
            connection.execute(text(f"CREATE SCHEMA {name}"))
            connection.rollback()
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
            return schema.version(connection) > 0
    finally:
        engine.dispose()


def refuse_letters(storage: StudyStorage, name: str, url: str) -> None:
    """Raise StorageError where a database cannot hold the name of a study: one of an older hpo with few letters."""
    try:
        with _foreseen(url), storage.engine.connect() as connection:
            connection.execute(text("SELECT CAST(:name AS text)"), {"name": name})
    except DataError:
        raise StorageError(_few_letters(url, f'the letters of the study name "{name}"')) from None


def connect(url: str, outage_retry: OutageRetry | None = None) -> StudyStorage:
    """Optuna's storage on a database that `initialize` has prepared; its `engine` also serves our own tables.

    It holds at most two connections, and one while it is idle; it replaces a connection that has died. After this call,
    `outage_retry` waits for a database that goes away; without it, an outage is an error at once.

    Raises:
        StorageError: the database cannot be reached, refuses, or is not initialised.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with _foreseen(url), engine.connect() as connection:
            schema.refuse_other_version(connection, public_url(url))
    finally:
        engine.dispose()
    with _foreseen(url):
        storage = StudyStorage(_rendered(url), _engine_settings(), outage_retry)
        _refuse_other_optuna(storage, url)
    return storage


@contextmanager
def one_at_a_time(url: str) -> Iterator[Connection]:
    """Let one block at a time run on this database, on all hosts together; yields the connection that holds the lock.

    The lock ends with the transaction of this connection, or with its process.
    """
    engine = create_engine(parse_url(url), **_engine_settings())
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": INIT_LOCK})
            yield connection
            connection.commit()
    finally:
        engine.dispose()


@contextmanager
def _foreseen(url: str) -> Iterator[None]:
    try:
        yield
    except (OperationalError, optuna.exceptions.StorageInternalError) as error:
        cause = cause_of(error)
        if re.search(r"too many (clients|connections)|connection slots|no more connections", cause):
            raise StorageError(
                f"storage: {public_url(url)} has no connection left for this process: {cause}; raise max_connections"
                " or that limit (a worker holds one, for moments two), put PgBouncer before it, or run fewer workers"
            ) from None
        raise StorageError(f"storage: {public_url(url)} cannot be used: {cause}") from None
    except ProgrammingError as error:
        raise StorageError(
            f"storage: {public_url(url)} refuses: {cause_of(error)}; the role needs the right to do that"
        ) from None


def _refuse_few_letters(connection: Connection, url: str) -> None:
    if connection.execute(text("SHOW server_encoding")).scalar_one() not in ALL_LETTERS:
        raise StorageError(_few_letters(url, "all letters"))


def _few_letters(url: str, what: str) -> str:
    return (
        f"storage: the encoding of {public_url(url)} has not {what}; make a database that has:"
        " CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
    )


def _refuse_other_optuna(storage: StudyStorage, url: str) -> None:
    """Raise StorageError where another version of Optuna made the tables; the text says what to do."""
    made_for = storage.get_current_version()
    if made_for == newest_tables():
        return
    if made_for in storage.get_all_versions():
        optuna_url = parse_url(url)._replace(password=None).render_as_string()
        remedy = (
            "stop all workers, make a backup, then run `optuna storage upgrade --storage"
            f" {shlex.quote(optuna_url)}` once, with the password in PGPASSFILE"
        )
    else:
        remedy = "install the Optuna that made them, or a newer one"
    raise StorageError(
        f"storage: the tables in {public_url(url)} were made by another Optuna than {optuna.__version__}: {remedy}"
    )


@contextmanager
def _silent_optuna() -> Iterator[None]:
    """Keep Optuna from warning that it makes tables: it was called in order to make them."""
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
        "connect_args": {
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": "hpo",
            "client_encoding": "utf8",
            **KEEPALIVES,
        },
    }
