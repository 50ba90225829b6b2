"""The folder beside a study file: closed to other users from the first moment, and narrowed where it is not."""

import os
import stat
from contextlib import suppress
from pathlib import Path

PARTS = ("artifacts", "pixels", "tensorboard")  # what root closes by itself, see `make_private`


def make_private(folder: Path) -> None:
    """Make the folder, closed to others, if it is missing.

    The Postgres of root runs as another user, who goes through the folder to the data. So that of root may be entered,
    not listed, and its other parts are closed.

    Raises:
        OSError: it cannot be made.
    """
    root = os.geteuid() == 0
    folder.mkdir(mode=0o711 if root else 0o700, parents=True, exist_ok=True)
    if root:
        for part in PARTS:
            with suppress(OSError):  # whoever uses it says what is wrong
                (folder / part).mkdir(mode=0o700, exist_ok=True)


def narrow(folder: Path) -> str | None:
    """Close a folder that is open to others, and return a line that says so; None where there was nothing to do.

    A link is not followed, since a folder that came from elsewhere may hold one to anywhere.
    """
    root = os.geteuid() == 0
    line = _close(folder, 0o711 if root else 0o700)
    parts = [_close(folder / part, 0o700) for part in PARTS] if root and not folder.is_symlink() else []
    return line or next((part for part in parts if part), None)


def _close(folder: Path, widest: int) -> str | None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or not mode & ~widest & 0o077:
            return None
        os.fchmod(descriptor, widest)
    finally:
        os.close(descriptor)
    return f"{folder} was open to other users of this machine (mode {mode:04o}); it is closed now (mode {widest:04o})"
