"""Images in a zip or tar file: unpacked once into a cache, for all processes that share it."""

from __future__ import annotations

import calendar
import hashlib
import lzma
import os
import posixpath
import shutil
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.cache import exclusive, writing
from trainer.images.files import some
from trainer.images.folders import LAYOUT, LEFT_BY_SYSTEMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Open = Callable[[], IO[bytes]]

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", *TARS)
UNPACKED = "unpacked"  # the folder in a cache
CHUNK_BYTES = 2**20
MOST_LINKS = 40  # from one to the next
LATEST = 2.0**33  # seconds since 1970, about the year 2242: a time that every file system can keep
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class _Entry:
    """A file in an archive: its name there, its size in bytes, when it was changed, and what opens it."""

    name: str
    size: int
    changed: float
    open: Open


def archive_of(path: Path) -> Path | None:
    """The archive that a path is, or that it leads into (photos.zip/labels.csv); None where it is or has none."""
    for part in (path, *path.parents):
        if part.name.lower().endswith(ARCHIVES) and part.is_file():
            return part
    return None


def at_hand(path: Path, cache: Path, on_progress: Callable[[int, int], None] | None = None) -> Path:
    """What a path stands for as files: an archive is unpacked into the cache, where that is not done yet.

    Any number of processes may call at once: one unpacks and the others wait. What was unpacked of an earlier state of
    the archive goes. Files keep their times, so that pixels that were made of them are found again.

    Args:
        path: anything; what is no archive, and does not lead into one, is returned as it is.
        cache: the folder that gets a folder `unpacked`.
        on_progress: called with the files done and the files in all, and only where they are unpacked.

    Returns:
        a folder, or a CSV: the one that lies in the archive, outermost, with the columns path and label.

    Raises:
        DataError: an archive that is broken, encrypted, or has names that lead out of it; or it does not fit.
    """
    archive = archive_of(path)
    if archive is None:
        return path
    state = archive.stat()
    of_path = hashlib.sha256(os.fsencode(archive.absolute())).hexdigest()[:8]
    of_state = hashlib.sha256(f"{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:8]
    folder = cache / UNPACKED / f"{of_path}-{of_state}" / archive.name.split(".")[0]
    if not folder.is_dir():
        with exclusive(folder.parent):
            if not folder.is_dir():  # another process may have unpacked it while we waited
                for earlier in folder.parents[1].glob(f"{of_path}-*"):
                    shutil.rmtree(earlier, ignore_errors=True)
                _unpack(archive, folder, on_progress)
    inner = path.relative_to(archive)
    return _lists_images(folder) or folder if inner == Path() else folder / inner


def _lists_images(folder: Path) -> Path | None:
    """The CSV in a folder, or in the only one in it, that lists images."""
    children = list(folder.iterdir())
    if len(children) == 1 and children[0].is_dir():
        children = list(children[0].iterdir())
    found = [child for child in children if child.suffix.lower() == ".csv" and _has_columns(child)]
    if len(found) > 1:
        names = some(sorted(child.relative_to(folder).as_posix() for child in found))
        raise DataError(f"an archive has several CSVs with the columns path and label ({names}): name one behind it")
    return found[0] if found else None


def _has_columns(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        header = [cell.strip(' \t\r\n"') for cell in opened.readline().split(",")]
    return "path" in header and "label" in header


def _unpack(archive: Path, folder: Path, on_progress: Callable[[int, int], None] | None) -> None:
    """Write the files of an archive below a folder that gets its name when all are there."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        with _reading(archive), _entries(archive) as entries:
            _refuse(archive, entries, folder)
            with writing(folder):
                temporary.mkdir(parents=True)
            for done, entry in enumerate(entries, 1):
                target = temporary / entry.name
                with entry.open() as packed, writing(folder):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        shutil.copyfileobj(packed, file, CHUNK_BYTES)
                    changed = min(max(entry.changed, 0.0), LATEST)
                    os.utime(target, (changed, changed))
                if on_progress is not None:
                    on_progress(done, len(entries))
        with writing(folder):
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.is_dir():
            shutil.rmtree(folder.parent, ignore_errors=True)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Say in one line what is wrong with an archive."""
    try:
        yield
    except BROKEN as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{str(archive)!r} cannot be unpacked: {cause}; copy or pack it again") from error
    except OSError as error:  # also of a stream that is no gzip
        cause = error.strerror or str(error)
        raise DataError(f"{str(archive)!r} cannot be unpacked: {cause}; copy or pack it again") from error


@contextmanager
def _entries(archive: Path) -> Iterator[list[_Entry]]:
    """The files in an archive, of several with one name the last; hidden ones are left out, and what systems add."""
    if archive.name.lower().endswith(TARS):
        with tarfile.open(archive) as tar:
            members = [_behind(tar, member) for member in tar if member.isreg() or member.issym() or member.islnk()]
            _refuse_cut(tar)
            yield _visible(_Entry(name, file.size, file.mtime, partial(_opened, tar, file)) for name, file in members)
    else:
        with zipfile.ZipFile(archive) as zipped:
            yield _visible(
                _Entry(_name(info), info.file_size, _changed(info), partial(zipped.open, info))
                for info in zipped.infolist()
                if not _name(info).endswith("/")
            )


def _refuse_cut(tar: tarfile.TarFile) -> None:
    """Raise ReadError where a tar does not end with zeros: at a broken member tarfile stops as if it were the end."""
    assert tar.fileobj is not None, "it is open"
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short or damaged")


def _behind(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, tarfile.TarInfo]:
    """The name of a member, and the file that it is or that it is a link to, in the same archive."""
    file, links = member, 0
    while not file.isreg():
        target = file.linkname if file.islnk() else posixpath.join(posixpath.dirname(file.name), file.linkname)
        links += 1
        try:
            file = tar.getmember(posixpath.normpath(target))
        except KeyError:
            raise tarfile.ReadError(f"{member.name!r} is a link to {file.linkname!r}, which is not in it") from None
        if links > MOST_LINKS:
            raise tarfile.ReadError(f"{member.name!r} is a link to itself")
    return member.name, file


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "it is a regular file"
    return file


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")  # some programs on Windows write it so


def _changed(info: zipfile.ZipInfo) -> float:
    try:
        return calendar.timegm((*info.date_time, 0, 0, 0))
    except ValueError:  # no date at all
        return 0.0


def _visible(entries: Iterable[_Entry]) -> list[_Entry]:
    named = {entry.name: entry for entry in entries}
    return [entry for entry in named.values() if not any(map(is_left_out, PurePosixPath(entry.name).parts))]


def is_left_out(part: str) -> bool:
    """Whether a part of a name says that a file is hidden, or was added by a system."""
    return part in LEFT_BY_SYSTEMS or (part.startswith(".") and part != "..")


def _refuse(archive: Path, entries: Sequence[_Entry], folder: Path) -> None:
    """Raise DataError for names that lead out of an archive, for none at all, and for files that find no room."""
    outside = [entry.name for entry in entries if entry.name.startswith("/") or ".." in entry.name.split("/")]
    if outside:
        raise DataError(f"{str(archive)!r} has names that lead out of it ({some(outside)}); pack it again without them")
    if not entries:
        raise DataError(f"{str(archive)!r} holds no files; {LAYOUT}")
    needed, free = sum(entry.size for entry in entries), shutil.disk_usage(folder.parents[1]).free
    if needed > free:
        raise DataError(
            f"{str(archive)!r} needs {needed / 1e9:.3g} GB in {str(folder.parent)!r}, where {free / 1e9:.3g} GB are"
            " free; free some space, or choose another cache"
        )
