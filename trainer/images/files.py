"""Files of images: which they are by their ending, and how their names are compared and shown."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from trainer.images.formats import UnreadableError, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg",
     ".jpf", ".jpg", ".jpx", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)  # fmt: skip
SHOWN = 5  # names in a message


def walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """All files below but hidden ones; a link back into one of the folders above (by device and inode) ends there."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for child in folder.iterdir():
        if child.name.startswith("."):
            continue
        if child.is_dir():
            yield from walk(child, (*above, here))
        else:
            yield child


def image_files(files: Iterable[Path]) -> list[Path]:
    """Those that are images by their ending; where none is, those without an ending that turn out to be images."""
    files = list(files)
    by_ending = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    return by_ending or [file for file in files if not file.suffix and file.is_file() and is_image(file)]


def is_image(file: Path) -> bool:
    """Whether a file can be opened as an image, whatever its name says."""
    try:
        with opened(file):
            return True
    except UnreadableError:
        return False


def some(names: Iterable[str]) -> str:
    """The first names, quoted and with control characters escaped, so that a message stays one short line."""
    names = list(names)
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def nfc(text: str) -> str:
    """The one way of writing that all systems agree on: macOS writes letters with accents in another one."""
    return unicodedata.normalize("NFC", text)


def path_bytes(text: str) -> bytes:
    """The bytes of a text with file names, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")
