"""The private Postgres of a study: its first user starts it, its last user stops it; all reach it by a unix socket.

Several processes use one server, and any of them may be killed at any time. So the users are not counted: each holds a
file lock, which the kernel releases however the process ends. The folder has these files:

    users.lock     shared, held by every user while it uses the server
    start.lock     exclusive, held by whoever starts or stops the server
    server.json    what the users need to know of each other: `_State`
    password, postgres.log
    postgres/      data/, the cluster, and server.lock, exclusive, held by the server's own processes
"""

import fcntl
import json
import os
import platform
import secrets
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg2
from sqlalchemy.engine import URL

from storage.embedded.foreign import refuse_foreign_cluster, refuse_foreign_folder
from storage.embedded.programs import (
    ADVICE,
    account,
    give,
    make_folder,
    make_server_folder,
    reason_of,
    refuse_other_place,
    refuse_other_version,
    run,
)
from storage.embedded.sockets import (
    PORT,
    listens,
    make_socket_folder,
    refuse_foreign_socket,
    remove_socket_folder,
    socket_file,
    socket_folder,
)
from storage.errors import StorageError

_NAME = "hpo"  # name of the role and of the database
_SETTINGS = {
    "cluster_name": _NAME,  # a process list shows it
    "listen_addresses": "",  # the unix socket alone
    "port": PORT,
    "unix_socket_permissions": "0700",
    "max_connections": "200",  # two for each of 64 workers, and some more
    "shared_buffers": "64MB",  # a study is small, and the training needs the memory
    "log_checkpoints": "off",  # would be most of the log
}
_LOG_BYTES = 10_000_000  # above this size the next start begins a new log and keeps the old one
_START_SECONDS = 300  # after a crash the server first replays its write-ahead log
_STOP_SECONDS = 60
_NO_PID = 2**22 + 1  # above the largest process id of Linux and macOS


@dataclass(frozen=True)
class _State:
    place: str  # folder of the data: relative to the study's, or absolute below SYSTEM_FOLDER
    socket: str | None = None  # folder of the socket, for people to read: hpo derives it; None after a stop
    host: str | None = None  # where the server was started


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """Yield the SQLAlchemy URL of the private Postgres in `folder`, which runs while the block runs.

    Any number of blocks, threads and processes may use one folder. The URL holds the password.

    Raises:
        StorageError: the folder cannot hold a database, or the server cannot be started, reached or stopped.
    """
    folder = folder.resolve()
    with _explained(folder):
        make_folder(folder)
    with _locked(folder / "users.lock", fcntl.LOCK_SH) as users:
        try:
            with _explained(folder), _locked(folder / "start.lock", fcntl.LOCK_EX):
                url = _serve(folder)
            yield url
        finally:
            with _explained(folder), _locked(folder / "start.lock", fcntl.LOCK_EX):
                if _is_last(users):
                    _stop(folder)


def has_postgres(folder: Path) -> bool:
    """Whether a private Postgres was made in `folder`."""
    return (folder / "server.json").exists()


def data_folder(folder: Path) -> Path:
    """The folder of the data of the private Postgres in `folder`: below it, except where root uses it."""
    folder = folder.resolve()
    with _explained(folder):
        state = _load(folder)
    return folder / (state.place if state else "postgres")


def folders_of(folder: Path) -> list[Path]:
    """The folder of a private Postgres, and that of its data where it lies elsewhere, as it may where root uses it."""
    data = data_folder(folder)
    return [folder] if data.is_relative_to(folder.resolve()) else [folder, data]


def _serve(folder: Path) -> str:
    """Attach to the server or start it, prove that it answers, and return its URL."""
    state = _load(folder)
    if state is None:
        state = _State(place=make_server_folder(folder))
        _save(folder, state)
    server_folder = folder / state.place
    refuse_foreign_folder(server_folder, account().pw_uid)
    for attempts_left in (2, 1, 0):
        lock = _attach(folder, state)
        if lock is not None:
            try:
                _start(folder, state, lock)
            finally:
                os.close(lock)  # from here on the server alone holds it
        password, sockets = (folder / "password").read_text(), socket_folder(server_folder)
        refuse_foreign_socket(sockets)
        try:
            _make_database(str(sockets), password)
            break
        except psycopg2.Error as error:
            if attempts_left and not listens(sockets):
                continue  # it has crashed since we attached to it
            reason = " ".join(str(error).split())
            raise StorageError(f"the Postgres server of {folder} refuses its user: {reason}; {ADVICE}") from error
    query = {"host": str(sockets), "port": PORT}
    url = URL.create("postgresql+psycopg2", username=_NAME, password=password, database=_NAME, query=query)
    return url.render_as_string(hide_password=False)


def _attach(folder: Path, state: _State) -> int | None:
    """Wait until the running server answers, then return None; where none runs, return the lock for a new one to hold.

    Only the lock proves that a server runs: after a crash the process id in a file may be that of another program.
    """
    server_folder = folder / state.place
    deadline = time.monotonic() + _START_SECONDS
    while (lock := _try_lock(server_folder / "server.lock")) is None:
        ready, sockets = _is_ready(server_folder), socket_folder(server_folder)
        if ready and listens(sockets):
            return None
        if state.host != platform.node():  # another host that uses the same disk
            raise StorageError(
                f"the Postgres server of {folder} runs on the host {state.host}: run the command there, or {ADVICE}"
            )
        if ready and not socket_file(sockets).exists():  # a cleaner of /tmp has removed it; a restart makes it again
            _shut_down(server_folder)
        if time.monotonic() > deadline:
            raise StorageError(
                f"the Postgres server of {folder} does not answer: see postgres.log there and end its processes, "
                f"or {ADVICE}"
            )
        time.sleep(0.05)
    return lock


def _start(folder: Path, state: _State, lock: int) -> None:
    """Start the server, which inherits `lock`; make its cluster before, if there is none."""
    server_folder = folder / state.place
    if not (server_folder / "data").exists():
        _make_cluster(folder, server_folder)
    refuse_foreign_cluster(server_folder / "data", account().pw_uid)
    refuse_other_version(server_folder / "data")
    _forget_pid(server_folder / "data" / "postmaster.pid")
    sockets = socket_folder(server_folder)
    make_socket_folder(sockets)
    _save(folder, _State(place=state.place, socket=str(sockets), host=platform.node()))
    settings = {**_SETTINGS, "unix_socket_directories": str(sockets)}
    options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
    arguments = ("start", "--silent", "--wait", f"--timeout={_START_SECONDS}", f"--options={options}")
    path = folder / "postgres.log"
    if path.exists() and path.stat().st_size > _LOG_BYTES:
        path.replace(folder / "postgres.log.1")
    with os.fdopen(_open(path, os.O_APPEND), "a+b") as log:
        code, text = run("pg_ctl", *arguments, data=server_folder / "data", output=log, pass_fds=(lock,))
    if code != 0:
        raise StorageError(f"Postgres does not start in {server_folder}: {reason_of(text)}; see {path}, or {ADVICE}")


def _stop(folder: Path) -> None:
    """Stop the server, if it runs, and remove the folder of its socket."""
    state = _load(folder)
    if state is None or state.socket is None:
        return
    refuse_foreign_folder(folder / state.place, account().pw_uid)
    deadline = time.monotonic() + _STOP_SECONDS
    while (lock := _try_lock(folder / state.place / "server.lock")) is None:
        reason = _shut_down(folder / state.place)
        if time.monotonic() > deadline:
            raise StorageError(f"the Postgres server of {folder} does not stop: {reason}; end its processes")
        time.sleep(0.01)
    os.close(lock)
    remove_socket_folder(socket_folder(folder / state.place))
    _save(folder, _State(place=state.place))


def _shut_down(server_folder: Path) -> str:
    """Ask the server to end its sessions and stop, wait for it, and return what pg_ctl says."""
    arguments = ("stop", "--silent", "--mode=fast", "--wait", f"--timeout={_STOP_SECONDS}")
    return reason_of(run("pg_ctl", *arguments, data=server_folder / "data")[1])


def _make_cluster(folder: Path, server_folder: Path) -> None:
    """Run initdb in a temporary folder and rename that at the end: a kill leaves no incomplete cluster behind."""
    for leftover in server_folder.glob("new-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # where a caller was killed its initdb may still write into it
    new = Path(tempfile.mkdtemp(prefix="new-", dir=server_folder))
    password, file = secrets.token_urlsafe(32), new / "password"
    try:
        _write(file, password)
        give(file)
        give(new)
        arguments = (f"--username={_NAME}", f"--pwfile={file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C")
        code, text = run("initdb", *arguments, data=new / "data")
        if code != 0:
            raise StorageError(f"no database can be made in {server_folder}: {reason_of(text)}; {ADVICE}")
        _write(folder / "password", password)
        (new / "data").rename(server_folder / "data")
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _make_database(host: str, password: str) -> None:
    """Create the database if it is missing: an earlier caller may have been killed before it had done so."""
    connection = psycopg2.connect(
        host=host, port=PORT, user=_NAME, password=password, dbname="postgres", connect_timeout=30
    )
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (_NAME,))
            if cursor.rowcount == 0:
                cursor.execute(f"CREATE DATABASE {_NAME}")
    finally:
        connection.close()


def _forget_pid(path: Path) -> None:
    """Replace the process id that a crashed server left in its file; call it only while the server's lock is held.

    After a reboot that id may be another program's, and Postgres would not start. The rest of the file stays: it names
    shared memory, by which Postgres still finds out whether such a server runs after all.
    """
    with suppress(FileNotFoundError):
        _, newline, rest = path.read_bytes().partition(b"\n")
        if newline:
            path.write_bytes(b"%d\n%b" % (_NO_PID, rest))
        else:
            path.unlink()  # the machine crashed while it was written


def _is_ready(server_folder: Path) -> bool:
    try:
        return b"\nready" in (server_folder / "data" / "postmaster.pid").read_bytes()
    except FileNotFoundError:
        return False


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the Postgres database in {folder} cannot be used: {error}; {ADVICE}") from error


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    with _explained(path.parent):
        descriptor = _open(path)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough where a forked child has inherited it
        os.close(descriptor)


def _open(path: Path, flags: int = 0) -> int:
    """Open a private file to read and write, made if it is missing; a link is not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | flags, 0o600)


def _try_lock(path: Path) -> int | None:
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _is_last(users: int) -> bool:
    """Whether nobody else uses the server; if so, nobody else begins to use it before `users` is closed."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(users, fcntl.LOCK_UN)  # at once, so that of two that leave together the second is the last
        return False
    return True


def _load(folder: Path) -> _State | None:
    path = folder / "server.json"
    try:
        state = _State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise StorageError(f"{path} is damaged ({error}): put it back from a backup, or {ADVICE}") from error
    refuse_other_place(folder, state.place)
    return state


def _save(folder: Path, state: _State) -> None:
    _write(folder / "server.json", json.dumps(asdict(state)))


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner alone; it survives a crash of the machine."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # what a kill has left, or a link that would lead elsewhere
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
