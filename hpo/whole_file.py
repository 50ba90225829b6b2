"""Files and folders that others see whole or not at all."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

TEMPORARY = re.compile(r"\.hpo-[0-9a-f]{32}\.tmp")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new, empty file beside `path` to write into; it takes the place of `path` when the block has ended well.

    Its name cannot be foreseen and it is opened once, as a new file: where others may write into the folder, no link
    of theirs is written through. A link at `path` itself is replaced, not followed. The umask says who may read it.
    Folders that are missing are made. What a killed process has left there goes.

    Raises:
        OSError: nothing can be written there.
    """
    with _temporary(path.absolute().parent, _make_file) as (temporary, descriptor):
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
        temporary.replace(path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new, empty folder beside `path` to write into; it gets that name when the block has ended well.

    As for `whole_file`; but where `path` is there, it stays.

    Raises:
        OSError: nothing can be written there, or `path` is there.
    """
    with _temporary(path.absolute().parent, _make_folder) as (temporary, _):
        yield temporary
        temporary.rename(path)


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


@contextmanager
def _temporary(folder: Path, make: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """A file or folder that `make` makes and opens, locked as long as this process lives; it is gone after the block.

    Where the file system has no locks it is not locked, and stays if the process is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    while True:
        temporary = folder / f".hpo-{uuid.uuid4().hex}.tmp"
        descriptor = make(temporary)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():  # else another process has taken it for a leftover, before it was locked
            break
        os.close(descriptor)
    try:
        yield temporary, descriptor
    finally:
        _remove(temporary)
        with suppress(OSError):  # now, even if a forked child still has it open
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _remove_leftovers(folder: Path) -> None:
    """Remove what no living process holds any more; what cannot be locked, or removed, stays."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if TEMPORARY.fullmatch(entry.name)]
    for name in names:
        leftover = folder / name
        with suppress(OSError):
            mode = os.O_RDONLY if leftover.is_dir() else os.O_RDWR  # NFS locks no file that cannot be written to
            descriptor = os.open(leftover, mode | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(leftover)
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
