"""Files of pixels: each is written once for all processes of a host; the least recently used ones make room."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.image_size import ImageSize

    Put = Callable[[int, NDArray[np.uint8]], None]  # (number of the picture, its pixels)

# What `pixels_file` and `aspects_file` make; nothing else is ever removed.
OURS = re.compile(r"[0-9a-f]{16}-(aspects|\d+(x\d+)?-[a-z]+(-[a-z]+)?)\.npy")
TEMPORARY = ".tmp"
LOCK = "building.lock"


@dataclass(frozen=True)
class PixelCache:
    """A folder for files of pixels.

    Attributes:
        folder: made when it is needed.
        limit_bytes: the most that the files in it may have together; None: whatever the disk holds.
    """

    folder: Path
    limit_bytes: float | None = None


def pixels_file(folder: Path, fingerprint: str, size: ImageSize, interpolation: str, resize: str = "stretch") -> Path:
    """Where in the cache the pixels of these images are kept, at this size and by these ways of resizing."""
    way = interpolation if resize == "stretch" else f"{interpolation}-{resize}"
    return folder / f"{fingerprint[:16]}-{size}-{way}.npy"


def aspects_file(folder: Path, fingerprint: str) -> Path:
    """Where in the cache the aspects of these images are kept."""
    return folder / f"{fingerprint[:16]}-aspects.npy"


def memory_mapped(
    file: Path, shape: tuple[int, int, int, int], fill: Callable[[Put], None], limit_bytes: float | None = None
) -> NDArray[np.uint8]:
    """A read-only uint8 array of this shape, memory-mapped from a .npy file that is written if it is not there yet.

    Any number of processes may call at once: in a folder one of them builds and the others wait. A file under its name
    is always complete; that it holds what `fill` gives is the caller's promise, its shape alone is checked.

    A file stays in use until its array and those of forked processes are gone. What is in use is never removed.

    Args:
        file: its folder is made.
        shape: [pictures, height, width, channels].
        fill: called with a function that takes each picture, from any thread, in any order.
        limit_bytes: the most that files of pixels in this folder may have together. Before a new one is written, those
            that were opened longest ago are removed until it fits; likewise where the disk itself has too little space.

    Raises:
        DataError: the file does not fit, or cannot be written.
    """
    complete = _open(file, shape)  # without the lock: a finished file in a read-only folder is enough
    if complete is None:
        with exclusive(file):
            complete = _open(file, shape)  # another process may have built it while we waited
            if complete is None:
                _build(file, shape, fill, limit_bytes)
                complete = _open(file, shape)
    if complete is None:
        raise DataError(f"{str(file)!r} was written but cannot be read back; check the disk or choose another cache")
    return complete


def _open(file: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    try:
        with file.open("rb") as opened:
            with suppress(OSError):  # a file system without locks
                # The lock outlives the closing: it also belongs to the copy of the descriptor that the memory map has.
                fcntl.flock(opened, fcntl.LOCK_SH)
            if os.fstat(opened.fileno()).st_nlink == 0:  # removed between the opening and the lock
                return None
            np.lib.format.read_magic(opened)
            found, fortran_order, dtype = np.lib.format.read_array_header_1_0(opened)
            if found != shape or fortran_order or dtype != np.uint8:
                return None
            pixels: NDArray[np.uint8] = np.memmap(opened, np.uint8, "r", offset=opened.tell(), shape=shape)
    except (OSError, ValueError, EOFError):  # not there, or not what we wrote
        return None
    with suppress(OSError):  # of somebody else, or read-only
        os.utime(file)  # the time of the last use
    return pixels


def _build(file: Path, shape: tuple[int, ...], fill: Callable[[Put], None], limit_bytes: float | None) -> None:
    """Write the file under a temporary name and rename it once its bytes are on the disk; the lock is ours."""
    temporary = file.with_name(file.name + TEMPORARY)
    picture_bytes = shape[1] * shape[2] * shape[3]
    with writing(file), ExitStack() as undo:
        _remove_leftovers(file)
        _make_room(file, shape[0] * picture_bytes, limit_bytes)
        undo.callback(temporary.unlink, missing_ok=True)
        with temporary.open("xb", buffering=0) as out:  # new: a link that others have put there is not written through
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            start = out.tell()

            def put(number: int, pixels: NDArray[np.uint8]) -> None:
                # Not through a writable memory map: a full disk would kill the process there instead of telling it.
                offset, rest = start + number * picture_bytes, memoryview(pixels.tobytes())
                with writing(file):
                    while rest:
                        written = os.pwrite(out.fileno(), rest, offset)
                        offset, rest = offset + written, rest[written:]

            fill(put)
            os.fsync(out.fileno())
        temporary.replace(file)


def _remove_leftovers(file: Path) -> None:
    """Remove what builders that died have left: whoever has the lock is the only one alive."""
    file.with_name(file.name + TEMPORARY).unlink(missing_ok=True)
    for leftover in file.parent.glob(f"*{TEMPORARY}"):
        if OURS.fullmatch(leftover.name.removesuffix(TEMPORARY)):
            leftover.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Kept:
    """A file of pixels in the cache; `used` is when it was last opened, in nanoseconds."""

    file: Path
    size_bytes: int
    used: int


def _make_room(file: Path, needed: int, limit_bytes: float | None) -> None:
    """Remove files until `needed` bytes fit, those first that were opened longest ago; none where that is no help.

    A process that has one of them open loses nothing by its removal, but the disk gets its space back only from the
    last of them: so what is in use is kept, and counts.
    """
    if limit_bytes is not None and needed > limit_bytes:
        raise DataError(
            f"{str(file)!r} needs {needed / 1e9:.3g} GB and pixels may have {limit_bytes / 1e9:.3g} GB in all; "
            "raise [data] pixels_gb or choose a smaller image_size"
        )
    kept = [] if limit_bytes is None else _kept(file)
    held = sum(other.size_bytes for other in kept)
    free = shutil.disk_usage(file.parent).free
    limit = float("inf") if limit_bytes is None else limit_bytes
    with ExitStack() as locks:
        chosen: list[_Kept] = []
        freed = 0
        for other in sorted(kept, key=lambda other: other.used):
            if (held - freed + needed > limit or free + freed < needed) and _lock_unused(other.file, locks):
                chosen.append(other)
                freed += other.size_bytes
        if held - freed + needed > limit:
            raise DataError(
                f"{str(file)!r} needs {needed / 1e9:.3g} GB, and of the {limit / 1e9:.3g} GB that pixels may have in "
                f"all {(held - freed) / 1e9:.3g} GB are in use; end what uses them, raise [data] pixels_gb or choose a "
                "smaller image_size"
            )
        if free + freed < needed:
            raise DataError(
                f"{str(file)!r} needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                "free some space, choose another cache or a smaller image_size"
            )
        for other in chosen:
            other.file.unlink(missing_ok=True)


def _kept(file: Path) -> list[_Kept]:
    kept = []
    for other in file.parent.iterdir():
        if OURS.fullmatch(other.name) and other != file:  # a broken file under our own name is about to be replaced
            status = other.stat()
            kept.append(_Kept(other, status.st_size, status.st_mtime_ns))
    return kept


def _lock_unused(file: Path, locks: ExitStack) -> bool:
    """Keep others from opening a file that nobody has open; False where somebody has, or where that cannot be told."""
    with ExitStack() as mine, suppress(OSError):
        opened = mine.enter_context(file.open("r+b"))  # to write: NFS locks no others exclusively
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locks.enter_context(mine.pop_all())
        return True
    return False


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold the lock of the folder of a file, which is made; the lock's own file stays for the next.

    The system takes it back from a process that dies.
    """
    with ExitStack() as held:
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context(file.with_name(LOCK).open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        held.callback(fcntl.flock, lock, fcntl.LOCK_UN)  # now, even if a forked child still has the file open
        yield


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Raise DataError, with this file, where something cannot be written."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise DataError(
            f"{str(file)!r} cannot be written: {cause}; free some space or choose a cache that you may write to"
        ) from error
