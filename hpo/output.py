"""Where commands write what an option names: what cannot be written is refused before the work begins."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpo.errors import HpoError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO


def refuse_bad_file(command: str, path: Path, *, new: bool = False) -> None:
    """Raise HpoError where a command cannot write a file; folders that are missing are made when it is written.

    Args:
        command: begins the line of a failure.
        path: of the file.
        new: what is there already is not written over.
    """
    if path.is_dir() or not path.name:
        raise HpoError(f"{command}: {path} is a folder; name a file")
    if new:
        _refuse_existing(command, path)
    if path.exists() and not path.is_file():
        raise HpoError(f"{command}: {path} is no file; name one that may be written over, or that is not there yet")
    _refuse_bad_place(command, path)


def refuse_bad_folder(command: str, path: Path) -> None:
    """Raise HpoError where a command cannot make a folder; those above it that are missing are made, too."""
    _refuse_existing(command, path)
    _refuse_bad_place(command, path)


@contextmanager
def new_csv(command: str, path: Path) -> Iterator[TextIO]:
    """A new file to write rows into; folders that are missing are made.

    Args:
        command: begins the line of a failure.
        path: of the file.

    Raises:
        HpoError: the file exists, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8", errors="surrogateescape", newline="") as opened:
            yield opened
    except OSError as error:
        raise HpoError(f"{command}: {path} cannot be written: {error.strerror}; name another file") from error


def _refuse_existing(command: str, path: Path) -> None:
    if os.path.lexists(path):
        raise HpoError(f"{command}: {path} exists already; remove it or choose another name")


def _refuse_bad_place(command: str, path: Path) -> None:
    above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise HpoError(f"{command}: {path} cannot be written: {above} is no folder; choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise HpoError(f"{command}: {path} cannot be written: you may not write into {above}; choose another place")
