"""Workers that reach Postgres through PgBouncer."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from storage import logs
from storage.database import connect, initialize, one_at_a_time, parse_url, ping
from storage.embedded.programs import account, give
from storage.errors import StorageError
from storage.outage_retry import OutageRetry
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("pgbouncer") is None, reason="pgbouncer is not installed"),
]

INI = """
[databases]
* = host={socket} port=5432

[pgbouncer]
unix_socket_dir = {folder}
unix_socket_mode = 0777
listen_port = 6432
auth_type = scram-sha-256
auth_file = {folder}/userlist.txt
pool_mode = {mode}
max_client_conn = 30
default_pool_size = {size}
query_wait_timeout = 10
"""


@pytest.fixture
def bouncer(database, request):
    """The URL of the test's database through a PgBouncer in this mode, with this many connections to Postgres."""
    mode, size = request.param
    direct = parse_url(database)
    with tempfile.TemporaryDirectory(prefix="hpo-") as name:  # a socket's path is to be short
        folder = Path(name)
        give(folder)
        socket = direct.query["host"]
        (folder / "pgbouncer.ini").write_text(INI.format(socket=socket, folder=folder, mode=mode, size=size))
        (folder / "userlist.txt").write_text(f'"{direct.username}" "{direct.password}"\n')
        for file in folder.iterdir():
            give(file)
        program = [str(shutil.which("pgbouncer")), "--quiet", str(folder / "pgbouncer.ini")]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                program, stdout=log, stderr=log, user=account().pw_uid, group=account().pw_gid, extra_groups=[]
            )
        url = direct.set(query={"host": str(folder), "port": "6432"}).render_as_string(hide_password=False)
        wait_until(lambda: process.poll() is not None or (folder / ".s.PGSQL.6432").exists())
        assert process.poll() is None, (folder / "log").read_text()
        yield url
        process.terminate()
        process.wait()


def trials(url, count):
    """Run trials as a worker does."""
    storage = connect(url, OutageRetry())
    study = optuna.load_study(study_name="study", storage=storage)
    for _ in range(count):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.report(0.5, 1)
        with storage.engine.begin() as connection:
            logs.append(connection, study._study_id, trial.number, ["one line"])
        study.tell(trial, 0.5)
    return storage


@pytest.mark.parametrize(
    "bouncer", [("session", 20), ("transaction", 3)], indirect=True, ids=["session", "transaction"]
)
def test_workers_share_a_study_through_pgbouncer(bouncer, database):
    """Tables, trials and logs come through PgBouncer in session mode and, with fewer connections, transaction mode."""
    initialize(bouncer)
    with one_at_a_time(bouncer):
        storage = connect(bouncer)
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")
    with ThreadPoolExecutor(6) as pool:
        workers = list(pool.map(lambda _: trials(bouncer, 2), range(6)))
    direct = connect(database)
    assert [(trial.number, trial.state) for trial in direct.get_all_trials(1)] == [
        (number, TrialState.COMPLETE) for number in range(12)
    ]
    with direct.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM hpo.log")).scalar() == 12
    for each in (*workers, storage, direct):
        each.engine.dispose()


@pytest.mark.parametrize("bouncer", [("transaction", 3)], indirect=True, ids=["transaction"])
def test_workers_at_rest_hold_no_connection_of_postgres_in_transaction_mode(bouncer, database):
    """Behind PgBouncer in transaction mode 12 workers at rest take three connections of Postgres, at most."""
    initialize(bouncer)
    workers = [connect(bouncer) for _ in range(12)]
    assert sum(worker.engine.pool.checkedin() for worker in workers) == 12
    direct = connect(database)
    with direct.engine.connect() as connection:
        count = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert 1 <= connection.execute(count).scalar_one() <= 3
    for worker in (*workers, direct):
        worker.engine.dispose()


@pytest.mark.parametrize("bouncer", [("session", 30)], indirect=True, ids=["session"])
def test_pgbouncer_without_room_is_refused_with_the_remedy(bouncer):
    """A client that PgBouncer turns away is told in one line what to do."""
    initialize(bouncer)
    engines = [create_engine(bouncer) for _ in range(30)]
    connections = [engine.connect() for engine in engines]
    with pytest.raises(StorageError, match=r"no more connections allowed .* or run fewer workers"):
        ping(bouncer)
    for connection, engine in zip(connections, engines, strict=True):
        connection.close()
        engine.dispose()
