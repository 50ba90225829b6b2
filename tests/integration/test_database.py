"""URLs, tables and connections."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import optuna
import pytest
from sqlalchemy import create_engine, text

from storage import database as database_module
from storage.database import (
    connect,
    initialize,
    is_initialized,
    one_at_a_time,
    parse_url,
    public_url,
    refuse_letters,
    try_to_initialize,
)
from storage.errors import StorageError
from tests.support.waiting import limit, wait_until

pytestmark = pytest.mark.integration


def test_both_spellings_of_the_url_reach_the_same_database(database):
    """`postgresql://` and `postgresql+psycopg2://` mean the same."""
    plain = database.replace("postgresql+psycopg2://", "postgresql://")
    assert plain != database
    initialize(plain)
    storage = connect(database)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "one")
    assert connect(plain).get_study_id_from_name("one") == storage.get_study_id_from_name("one")


def test_a_database_without_tables_is_refused_with_the_command_that_makes_them(database):
    """A database that is not initialised says `hpo init`."""
    with pytest.raises(StorageError, match="is not initialised; run `hpo init"):
        connect(database)


def test_initialising_four_times_at_once_makes_one_set_of_tables(database):
    """Processes that initialise one database at once do not collide."""
    program = "import sys; from storage.database import initialize; initialize(sys.argv[1])"
    processes = [
        subprocess.Popen([sys.executable, "-c", program, database], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    ends = [process.communicate(timeout=limit(60)) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, ends
    with connect(database).engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM hpo.place")).scalar() == 0


def test_a_wrong_password_is_refused_and_not_shown(database):
    """A refused password appears in no part of the error."""
    url = parse_url(database).set(password="s3cret-guess").render_as_string(hide_password=False)
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        initialize(url)
    assert "s3cret-guess" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unreachable_database_is_named_without_its_password():
    """A database that does not answer is one line with its address."""
    with pytest.raises(StorageError, match="localhost:1/hpo cannot be used") as caught:
        connect("postgresql://hpo:s3cret@localhost:1/hpo")
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("mysql://root@localhost/hpo", "mysql:// is no Postgres"),
        ("postgresql://hpo:p@ss@localhost/hpo", "more than one @"),
        ("postgresql://localhost", "names no database"),
        ("postgresql://hpo@localhost:s3cret/hpo", "cannot be read"),
        ("no url at all s3cret", "cannot be read"),
    ],
)
def test_urls_that_cannot_be_used_are_explained_without_their_secrets(url, complaint):
    """A URL with a mistake is explained without showing what may be its password."""
    with pytest.raises(StorageError, match=complaint) as caught:
        parse_url(url)
    assert "ss@" not in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_url_is_shown_without_its_password():
    """What is shown of a URL has the user and the host, and no password."""
    for url in ("postgresql://me:s3cret@db:5433/hpo", "postgresql://me@db:5433/hpo?password=s3cret"):
        assert public_url(url) == "postgresql://me@db:5433/hpo"
        assert parse_url(url).password == "s3cret"
    with_key = "postgresql://me@db/hpo?sslkey=client.key&sslpassword=s3cret"
    assert public_url(with_key) == "postgresql://me@db/hpo?sslkey=client.key"


def test_a_worker_holds_two_connections_at_most_and_one_at_rest(database):
    """Using Optuna's storage and our own tables takes no more than two connections."""
    initialize(database)
    storage = connect(database)
    study = optuna.create_study(storage=storage, direction="maximize")
    with storage.engine.connect() as mine:
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        count = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'hpo'"
        )
        assert mine.execute(count).scalar() == 2
    assert storage.engine.pool.checkedout() == 0
    storage.engine.dispose()


def test_a_connection_that_the_server_closed_is_replaced(database):
    """A restarted or killed connection at rest does not fail the next call."""
    initialize(database)
    storage, other = connect(database), connect(database)
    storage.get_all_studies()
    with other.engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert storage.get_all_studies() == []


def test_every_connection_notices_a_host_that_has_vanished(database):
    """A connection asks whether the other side is still there, so that no call waits for hours."""
    initialize(database)
    storage = connect(database)
    with storage.engine.connect() as connection:
        asked = connection.connection.driver_connection.get_dsn_parameters()
    assert asked["keepalives_idle"] == "30"
    assert asked["tcp_user_timeout"] == "30000"
    storage.engine.dispose()


def test_where_no_connection_is_left_the_remedy_is_named(database):
    """A database whose connections are used up is one line that says what to do."""
    initialize(database)
    url = parse_url(database)
    role, name = f"few_{url.database}", url.database
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'p' CONNECTION LIMIT 0"))
        try:
            remedy = r"has no connection left .* role .*; raise max_connections"
            with pytest.raises(StorageError, match=remedy) as caught:
                connect(url.set(username=role, password="p").render_as_string(hide_password=False))
            assert "\n" not in str(caught.value)
            assert f"/{name}?" in str(caught.value)
        finally:
            connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()


def test_blocks_that_run_one_at_a_time_do(database):
    """A second block begins when the first has ended, also where that one failed."""
    events = []

    def second():
        with one_at_a_time(database):
            events.append("second")

    def first():
        with one_at_a_time(database) as connection:
            thread.start()
            waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            wait_until(lambda: connection.execute(waiting).scalar())
            events.append("first")
            raise KeyError

    thread = threading.Thread(target=second)
    with pytest.raises(KeyError):
        first()
    thread.join(limit(30))
    assert events == ["first", "second"]


@pytest.mark.parametrize(
    ("revision", "remedy"),
    [("v3.0.0.a", "optuna storage upgrade --storage"), ("v99.0.0.a", "install the Optuna that made them")],
)
def test_tables_of_another_optuna_are_refused_with_the_way_on(database, revision, remedy):
    """Tables of an older Optuna name the upgrade, those of a newer one that Optuna; no password is shown."""
    initialize(database)
    engine = create_engine(parse_url(database))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    engine.dispose()
    with pytest.raises(StorageError, match=remedy) as caught:
        connect(database)
    assert parse_url(database).password not in str(caught.value)
    assert ("postgresql+psycopg2://" in str(caught.value)) == ("upgrade" in remedy)


def test_clients_hold_two_connections_each_at_work_and_one_at_rest(ready_database):
    """Forty clients hold 80 connections and no more, so that 200 have room where max_connections is 500."""
    with ThreadPoolExecutor(4) as pool:
        storages = list(pool.map(lambda _: connect(ready_database), range(40)))
    here = "datname = current_database() AND application_name = 'hpo'"
    with create_engine(ready_database).connect() as watching:  # its application name is another

        def held():
            watching.rollback()  # a transaction sees one moment of this view
            return watching.execute(text(f"SELECT count(*) FROM pg_stat_activity WHERE {here}")).scalar()

        study_id = storages[0].create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")
        wait_until(lambda: held() == 40)  # a server process takes a moment to leave
        # At work: one connection is in use, as for a beat, while Optuna takes the other.
        with ExitStack() as stack:
            for storage in storages:
                stack.enter_context(storage.engine.connect()).execute(text("SELECT 1"))
                assert storage.get_study_name_from_id(study_id) == "study"
            assert held() == 80
        wait_until(lambda: held() == 40)  # a server process takes a moment to leave
    for storage in storages:
        storage.engine.dispose()


@contextmanager
def encoded(database, encoding):
    """The URL of another database on the same server, with this encoding."""
    name = parse_url(database).database + "_encoded"
    engine = create_engine(database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"))
        try:
            yield parse_url(database).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def test_a_database_without_all_letters_is_refused_before_it_has_tables(database):
    """A new database whose encoding has not all letters is refused in one line that makes a better one."""
    with encoded(database, "LATIN1") as url:
        for refusing in (initialize, try_to_initialize):
            with pytest.raises(StorageError, match=r"has not all letters; make .* ENCODING 'UTF8' TEMPLATE template0"):
                refusing(url)
        assert not is_initialized(url)


def test_a_database_of_bytes_holds_any_letters(database):
    """In a database with the encoding SQL_ASCII, as some clusters have it, a study may have any name and any texts."""
    with encoded(database, "SQL_ASCII") as url:
        initialize(url)
        storage = connect(url)
        refuse_letters(storage, "표정 연구 ß", url)
        study = optuna.create_study(study_name="표정 연구 ß", storage=storage)
        trial = study.ask()
        trial.suggest_categorical("종류", ["가", "나"])
        trial.set_user_attr("메모", "좋다")
        again = optuna.load_study(study_name="표정 연구 ß", storage=connect(url)).trials[0]
        assert (again.params, again.user_attrs) == (trial.params, {"메모": "좋다"})
        storage.engine.dispose()


def test_a_name_that_an_old_database_cannot_hold_is_refused(database, monkeypatch):
    """In a database with few letters that an earlier hpo has made, a name that it cannot hold is refused."""
    monkeypatch.setattr(database_module, "ALL_LETTERS", ("UTF8", "LATIN1"))
    with encoded(database, "LATIN1") as url:
        initialize(url)
        storage = connect(url)
        refuse_letters(storage, "Gesichter für Ärzte", url)
        with pytest.raises(StorageError, match='has not the letters of the study name "표정"; make a database'):
            refuse_letters(storage, "표정", url)
        storage.engine.dispose()


def test_a_role_that_may_make_no_tables_is_found_before_the_search(database):
    """Whether the tables may be made is tried, and nothing stays of it: since Postgres 15 `public` is closed."""
    engine = create_engine(database)
    role = parse_url(database).database + "_role"
    with engine.begin() as connection:
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
        connection.execute(text(f"CREATE ROLE {role} LOGIN PASSWORD 'x'"))
        connection.execute(text(f"GRANT CREATE ON DATABASE {parse_url(database).database} TO {role}"))
    url = parse_url(database).set(username=role, password="x").render_as_string(hide_password=False)
    with pytest.raises(StorageError, match="permission denied for schema public"):
        try_to_initialize(url)
    with engine.begin() as connection:
        connection.execute(text(f"GRANT CREATE ON SCHEMA public TO {role}"))
    try_to_initialize(url)
    with engine.begin() as connection:
        left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'hpo_check%'"
        assert connection.execute(text(left)).scalar_one() == 0
        connection.execute(text(f"DROP OWNED BY {role}"))
        connection.execute(text(f"DROP ROLE {role}"))
    engine.dispose()
