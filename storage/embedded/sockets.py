"""The folder of a server's socket: its place follows from the server's lock, and from nothing that a file says."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from storage.embedded.programs import account, give
from storage.errors import StorageError

PORT = "5432"  # part of the socket's name; always given, so that a PGPORT of the user has no effect
_PARENT = Path("/tmp")  # noqa: S108 - the folder in it is private; a path of a socket has at most 103 bytes on macOS


def socket_folder(server_folder: Path) -> Path:
    """The place of the socket folder of a server; the same for all of its users, whatever their TMPDIR.

    Its name is the number of the lock file on its disk. A server keeps that file open, so no other one has the number.
    """
    found = (server_folder / "server.lock").lstat()
    return _PARENT / f"hpo-{os.geteuid()}-{found.st_dev:x}-{found.st_ino:x}"


def make_socket_folder(path: Path) -> None:
    """Make the private folder of a socket, or take over that of a server which has crashed.

    Raises:
        StorageError: something else is there, or the folder is not ours. It is left as it is.
    """
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        refuse_foreign_socket(path)
        _remove_sockets(path)
    give(path)


def refuse_foreign_socket(path: Path) -> None:
    """Raise StorageError if the socket folder exists and is not ours, or if others may enter it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    ours = (os.geteuid(), account().pw_uid)  # root's own before it was given to the account
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in ours or found.st_mode & 0o077:
        raise StorageError(f"{path}, where the server's socket belongs, is not a private folder of hpo's: remove it")


def remove_socket_folder(path: Path) -> None:
    """Remove the socket and its folder, if the folder is ours and holds nothing else."""
    with suppress(OSError, StorageError):
        refuse_foreign_socket(path)
        _remove_sockets(path)
        path.rmdir()


def _remove_sockets(path: Path) -> None:
    for name in (socket_file(path).name, f"{socket_file(path).name}.lock"):
        (path / name).unlink(missing_ok=True)


def socket_file(folder: Path) -> Path:
    """The socket in its folder."""
    return folder / f".s.PGSQL.{PORT}"


def listens(folder: Path) -> bool:
    """Whether somebody answers at the socket, which must be ours."""
    refuse_foreign_socket(folder)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_file(folder)))
        except OSError:
            return False
    return True
