"""A small disk, and what fills it."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager


class NoSmallDiskError(Exception):
    """No small disk can be mounted here; the text says why."""


@contextmanager
def small_disk(folder, megabytes=1):
    """Mount a disk at a folder while the block runs; raises NoSmallDiskError where this user may not."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NoSmallDiskError(str(error)) from None
    if done.returncode:
        raise NoSmallDiskError(done.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Fill the disk of a folder to its last byte; returns the file to be removed."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return filler
