"""What docs/operations.md says of several machines on one Postgres, done with real servers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy import create_engine, text

from storage import schema
from storage.budget import Limits, used
from storage.database import connect, initialize, is_initialized, parse_url, ping, public_url
from storage.embedded import programs
from storage.errors import StorageError
from storage.heartbeat import WorkerPresence
from storage.keys import REASON_KEY
from storage.places import Lease
from storage.requeue import DEATH
from storage.study_rows import places, workers
from tests.acceptance.test_search import write_study
from tests.conftest import ROOT, opened
from tests.support.postgres_server import free_port
from tests.support.webhook import webhook

pytestmark = pytest.mark.integration

PAGE = (ROOT / "docs/operations.md").read_text()
ROLES, RIGHTS = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)  # as the administrator; as the owner, after `hpo init`
CERTIFICATES = re.findall(r"^ {4}(openssl (?:.*\\\n)*.*)", PAGE, re.MULTILINE)
SECRET = "s3cret-of-the-role"


@contextmanager
def connected(url):
    """A connection whose every statement is a transaction."""
    engine = create_engine(parse_url(url), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def rendered(url, **changes):
    """The URL with changes, and with its password."""
    return parse_url(url).set(**changes).render_as_string(hide_password=False)


def execute(url, script):
    """Run the statements of a script, each by itself."""
    with connected(url) as connection:
        for statement in filter(None, map(str.strip, script.split(";"))):
            connection.execute(text(statement))


@pytest.fixture
def roles(postgres):
    """The URLs of the owner and of a worker, in a database that was made as the document has it."""
    name = "made_as_documented"
    execute(postgres, re.sub(r"DATABASE hpo\b", f"DATABASE {name}", ROLES))
    execute(postgres, "".join(f"ALTER ROLE hpo_{role} PASSWORD '{SECRET}';" for role in ("owner", "worker")))
    yield [rendered(postgres, database=name, username=f"hpo_{role}", password=SECRET) for role in ("owner", "worker")]
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE); DROP ROLE hpo_owner; DROP ROLE hpo_worker")


@pytest.fixture
def hook():
    """A server that takes what is told of a search."""
    with webhook() as taken:
        yield taken


@pytest.mark.skipif(not shutil.which("ps"), reason="ps, which shows the process list, is not installed")
def test_a_role_with_the_least_rights_searches_to_the_end_and_shows_its_password_to_nobody(
    hpo, tmp_path, photos, roles, hook
):
    """A role that may make no tables and delete no study searches and tells its end; no process list has a secret."""
    owner, worker = roles
    write_study(tmp_path, trials=2, epochs=1)
    assert hpo("init", "study.toml", HPO_STORAGE=owner).returncode == 0
    execute(owner, RIGHTS)
    secret = tmp_path / "secret"
    secret.write_text(f"{worker}\n")
    again = hpo("init", "study.toml", HPO_STORAGE_FILE=str(secret))
    assert again.returncode == 0, again.stderr

    seen = ""
    with subprocess.Popen(
        [sys.executable, "-m", "hpo", "search", "study.toml", "--workers", "1"],
        cwd=tmp_path,
        env={**os.environ, "HPO_STORAGE_FILE": str(secret), "HPO_NOTIFY": hook.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as search:
        while search.poll() is None:
            seen += subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout
            try:
                search.wait(0.3)
            except subprocess.TimeoutExpired:
                continue
        printed = search.stdout.read()
    assert search.returncode == 0, printed
    assert "2 trials: 2 complete" in printed
    assert re.search(r"hpo search study\.toml", seen)
    assert re.search(r"hpo worker \S+study\.toml --name", seen)
    assert SECRET not in seen
    assert [message["event"] for message in hook.messages] == ["finished"]
    assert hook.token not in seen + printed

    kept = sorted((tmp_path / ".hpo/artifacts").iterdir())
    refused = hpo("delete", "study.toml", "--yes", HPO_STORAGE=worker)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "the role may not delete" in refused.stderr
    assert sorted((tmp_path / ".hpo/artifacts").iterdir()) == kept != []
    assert hpo("delete", "study.toml", "--yes", HPO_STORAGE=owner).returncode == 0
    assert list((tmp_path / ".hpo/artifacts").iterdir()) == []


def test_what_a_role_has_no_right_to_is_one_line(hpo, tmp_path, photos, roles):
    """A role of a worker is told by one line, without SQL, that it cannot begin a study; one more right lets it."""
    owner, worker = roles
    write_study(tmp_path)
    initialize(owner)
    execute(owner, RIGHTS)
    refused = hpo("init", "study.toml", HPO_STORAGE=worker)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
    assert "the database refuses; use the role that owns its tables" in refused.stderr
    execute(owner, re.search(r"`(GRANT INSERT ON study_directions [^`]*)`", PAGE)[1])
    assert hpo("init", "study.toml", HPO_STORAGE=worker).returncode == 0
    assert "INSERT" not in refused.stderr
    assert hpo("init", "study.toml", HPO_STORAGE=owner).returncode == 0


def test_a_password_may_stand_in_a_pgpassfile(hpo, tmp_path, database):
    """`--storage` without a password finds it in PGPASSFILE, and is refused without one."""
    initialize(database)
    url = parse_url(database)
    shown = public_url(database)
    file = tmp_path / "pgpass"
    file.write_text(f"*:*:{url.database}:{url.username}:{url.password}\n")
    file.chmod(0o600)
    assert hpo("list", "--storage", shown, PGPASSFILE=str(file)).stdout == "no studies\n"
    refused = hpo("list", "--storage", shown, PGPASSFILE=os.devnull)
    assert refused.returncode == 1
    assert "no password supplied" in refused.stderr


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """The URL of a Postgres that is reached by TLS alone, and the folder of its certificates, made as documented."""
    installed = [Path(found).resolve() for found in (shutil.which("postgres"),) if found]
    installed += sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not installed:
        pytest.skip("the Postgres of the wheel is built without TLS, and there is no other on this machine")
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificates, is not installed")
    folder = opened(tmp_path_factory.mktemp("tls"), tmp_path_factory.getbasetemp())
    for command in CERTIFICATES:
        subprocess.run(
            ["bash", "-c", command.replace("db.example.org", "localhost")], cwd=folder, check=True, capture_output=True
        )
    (folder / "password").write_text("s3cret")
    for name in ("server.key", "password"):
        (folder / name).chmod(0o600)
        programs.give(folder / name)
    data = folder / programs.make_server_folder(folder) / "data"
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": folder / "server.crt",
        "ssl_key_file": folder / "server.key",
    }

    def run(program, *arguments):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(programs, "_programs", lambda: installed[-1].parent)
            code, printed = programs.run(program, *arguments, data=data)
        assert code == 0, printed

    run("initdb", "--username=hpo", f"--pwfile={folder / 'password'}", "--locale=C")
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    run("pg_ctl", "start", "--wait", "--silent", f"--options={options}")
    yield f"postgresql://hpo:s3cret@localhost:{port}/postgres", folder
    run("pg_ctl", "stop", "--wait", "--mode=immediate")


def test_a_server_whose_certificate_is_good_is_used_by_tls(tls):
    """With sslmode=verify-full Optuna's tables and ours are reached by TLS, and by TLS alone."""
    url, folder = tls
    verified = f"{url}?sslmode=verify-full&sslrootcert={folder / 'ca.crt'}"
    initialize(verified)
    storage = connect(verified)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "by TLS")
    with storage.engine.connect() as connection:
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.execute(text(encrypted)).scalar()
    storage.engine.dispose()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("ca.crt", "server.crt"), "certificate verify failed"),
        (("ca.crt", "absent.crt"), 'root certificate file ".*absent.crt" does not exist'),
        (("@localhost", "@127.0.0.1"), 'server certificate for "localhost".* does not match host name "127.0.0.1"'),
        (("verify-full", "disable"), "no pg_hba.conf entry .* no encryption"),
    ],
)
def test_a_server_that_cannot_be_verified_is_refused_in_one_line(tls, change, complaint):
    """Another authority, another host name and a connection without TLS are each refused by one line."""
    url, folder = tls
    with pytest.raises(StorageError, match=complaint) as refused:
        ping(f"{url}?sslmode=verify-full&sslrootcert={folder / 'ca.crt'}".replace(*change))
    assert "\n" not in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_study_goes_on_from_a_dump_that_was_taken_while_it_was_searched(database, postgres, tmp_path):
    """A restored dump shows what the study did; its runs are repeated there, and the original goes on."""
    initialize(database)
    storage = connect(database)
    study = optuna.create_study(storage=storage, study_name="colours", direction="maximize")
    study_id = storage.get_study_id_from_name("colours")
    busy, done = Lease(storage.engine, study_id, "busy"), Lease(storage.engine, study_id, "done")
    for lease in (done, busy):
        WorkerPresence(storage.engine, study_id, lease.worker).join("a host", 1, "cpu")
        study.add_trial(optuna.trial.create_trial(state=TrialState.WAITING))
        place = lease.take(Limits(trials=2))
        storage.set_trial_state_values(lease.name_trial(place), TrialState.RUNNING)
    study.tell(0, 0.75)
    done.finish(done.take(Limits()), "complete")

    copy = rendered(database, database=f"{parse_url(database).database}_copy")
    with connected(postgres) as connection:
        connection.execute(text(f"CREATE DATABASE {parse_url(copy).database}"))
    environment = {"PATH": os.defpath, "PGPASSWORD": parse_url(database).password}
    file = tmp_path / "hpo.dump"
    for program, *arguments, url in (
        ("pg_dump", "--format=custom", f"--file={file}", database),
        ("pg_restore", "--exit-on-error", str(file), "--dbname", copy),
    ):
        subprocess.run([programs._programs() / program, *arguments, public_url(url)], env=environment, check=True)
    restored = connect(copy)
    with storage.engine.connect() as ours, restored.engine.connect() as theirs:
        for rows in (places, workers):
            here, there = rows(ours, study_id), rows(theirs, study_id)
            assert [vars(row) | {"seconds": 0, "beat_seconds_ago": 0} for row in here] == [
                vars(row) | {"seconds": 0, "beat_seconds_ago": 0} for row in there
            ]
    assert restored.get_all_trials(study_id) == storage.get_all_trials(study_id)

    heir, watcher = Lease(restored.engine, study_id, "heir"), WorkerPresence(restored.engine, study_id, "heir")
    watcher.join("another host", 1, "cpu")
    assert heir.take(Limits(trials=2)) is None
    watcher.reap(grace_seconds=0)  # the first look; the beat of the dump never moves
    watcher.reap(grace_seconds=0)
    again = heir.take(Limits(trials=2))
    assert (again.number, again.earlier_trial, again.failed_runs, again.reason) == (1, 1, 1, DEATH)
    lost = restored.get_all_trials(study_id)[1]
    assert (lost.state, lost.user_attrs[REASON_KEY]) == (TrialState.FAIL, f"{DEATH}; run again as another trial")
    with restored.engine.connect() as connection:
        assert used(connection, study_id).trials == 2

    study.tell(1, 0.5)
    busy.finish(place, "complete")
    restored.engine.dispose()
    storage.engine.dispose()
    with connected(postgres) as connection:
        connection.execute(text(f"DROP DATABASE {parse_url(copy).database} WITH (FORCE)"))


def test_tables_of_an_older_hpo_are_refused_and_then_brought_up_to_date_by_init(database):
    """Workers refuse older tables by one line; `hpo init` renews them, also twice at once, and keeps what they hold."""
    optuna.storages.RDBStorage(rendered(database)).engine.dispose()
    with connected(database) as connection:
        connection.execute(text(schema.STEPS[0]))
        connection.execute(text("INSERT INTO studies (study_id, study_name) VALUES (7, 'old')"))
        connection.execute(
            text("INSERT INTO hpo.place (study_id, number, state, deaths, reason) VALUES (7, 0, 'waiting', 1, 'ill')")
        )
        assert is_initialized(database)
        with pytest.raises(StorageError, match="was made by an older hpo; stop all workers and run `hpo init STUDY`"):
            connect(database)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(initialize, [database] * 2))
        assert connection.execute(text("SELECT number FROM hpo.version")).scalars().all() == [len(schema.STEPS)]
    storage = connect(database)
    lease = Lease(storage.engine, 7, "new")
    WorkerPresence(storage.engine, 7, "new").join("a host", 1, "cpu")
    place = lease.take(Limits())
    assert (place.number, place.failed_runs, place.reason) == (0, 1, "ill")
    storage.engine.dispose()


def test_tables_of_a_newer_hpo_are_refused(database):
    """A worker of an older hpo does not touch newer tables."""
    initialize(database)
    execute(database, "UPDATE hpo.version SET number = number + 1")
    with pytest.raises(StorageError, match="is used by a newer hpo; install that one here, too"):
        connect(database)
