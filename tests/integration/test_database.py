"""URLs, tables and connections."""

from __future__ import annotations

import subprocess
import sys

import optuna
import pytest
from sqlalchemy import text

from storage.database import connect, initialize, parse_url, public_url
from storage.errors import StorageError

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
    ends = [process.communicate(timeout=60) for process in processes]
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
