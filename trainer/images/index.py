"""Which images there are: a folder or a CSV manifest -> paths, classes and groups."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import DataError
from trainer.images.duplicates import find_copies
from trainer.images.spreadsheets import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval", "holdout"})
SHOWN = 5  # names in a message
LAYOUT = "make one folder a class (cat/1.jpg, dog/2.jpg), or write a CSV with the columns path,label"


@dataclass(frozen=True, eq=False)
class Index:
    """Which images there are, in the order of their paths; every other array of images follows this order.

    root: the folder, or the folder of the CSV.
    paths: N paths below root, with "/" between folders; absolute where a CSV says so of a file outside.
    labels: int64 [N], each a position in `classes`.
    groups: int64 [N]; images with the same number belong together; without groups each image has its own.
    classes: names in alphabetical order.
    ignored: files of a folder that are no images by their ending, or lie outside of the class folders.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex over path, class, group and size of each file: the same data has the same digest everywhere.

        Raises:
            DataError: an image is gone.
        """
        digest = hashlib.sha256()
        for path, label, group, status in zip(
            self.paths, self.labels.tolist(), self.groups.tolist(), self._files, strict=True
        ):
            digest.update(path_bytes(f"{nfc(path)}\0{self.classes[label]}\0{group}\0{status.st_size}\n"))
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the digest and the time of change of each file, which tells their states on one machine.

        Raises:
            DataError: an image is gone.
        """
        times = ",".join(str(status.st_mtime_ns) for status in self._files)
        return hashlib.sha256(f"{self.digest}:{times}".encode()).hexdigest()

    @cached_property
    def copies(self) -> NDArray[np.int64]:
        """Which images are files of the same bytes: int64 [N], the position of the first one with these bytes.

        Raises:
            DataError: an image is gone.
        """
        return find_copies([self.root / path for path in self.paths], [status.st_size for status in self._files])

    @cached_property
    def _files(self) -> list[os.stat_result]:
        files = []
        for path in self.paths:
            try:
                files.append((self.root / path).stat())
            except OSError as error:
                raise DataError(f"{str(self.root / path)!r} cannot be read: {error.strerror}; restore it") from error
        return files


@dataclass(frozen=True)
class Grouping:
    r"""Which images belong together, and so on one side of the split; at most one of the two is given.

    Attributes:
        column: of a CSV; names the group of each image (a person, a patient, a scene). Where neither is given, a column
            "group" is taken if there is one.
        pattern: a regular expression with one capture group, searched in the path; what it captures is the group:
            r"person(\d+)" puts "cat/person7_a.jpg" and "dog/person7_b.jpg" into one.
    """

    column: str | None = None
    pattern: str | None = None


def read_index(path: Path, grouping: Grouping | None = None) -> Index:
    """List the images of a folder with one folder a class, or of a CSV with the columns path,label[,group].

    grouping: which images belong together.

    Links are followed and hidden files and folders left out.

    Raises:
        DataError: nothing there, fewer than two classes, a class without images, a manifest with mistakes, images
            that the pattern does not match.
    """
    group, group_pattern = (grouping.column, grouping.pattern) if grouping else (None, None)
    pattern = None if group_pattern is None else _compile(group_pattern)
    if not path.exists():
        raise DataError(f"{str(path)!r} does not exist; give a folder of images or a CSV")
    if path.is_dir():
        if group is not None:
            raise DataError(
                f"group = {group!r} names a column of a CSV, but {str(path)!r} is a folder: use group_pattern"
            )
        root, (names, labels, ignored) = path, _read_folder(path)
        keys = names
    elif path.suffix.lower() == ".csv":
        if group is not None and pattern is not None:
            raise DataError(f"group = {group!r} and group_pattern = {group_pattern!r} exclude each other; give one")
        root, ignored = path.parent, []
        names, labels, keys = _read_csv(path, group)
    else:
        raise DataError(f"{str(path)!r} is neither a folder nor a .csv file; {LAYOUT}")
    if pattern is not None:
        keys = _captured(names, pattern)
    # The order of the normalised names is the same on every system; macOS may hand out Korean letters in pieces.
    rows = sorted(zip(names, map(nfc, labels), keys, strict=True), key=lambda row: (nfc(row[0]), row[0]))
    classes = tuple(sorted({label for _, label, _ in rows}))
    if len(classes) < 2:
        raise DataError(f"{str(path)!r} has the one class {classes[0]!r} and needs two at least; {LAYOUT}")
    number = {name: position for position, name in enumerate(classes)}
    first_seen: dict[str, int] = {}
    return Index(
        root=root,
        paths=tuple(name for name, _, _ in rows),
        labels=np.array([number[label] for _, label, _ in rows], np.int64),
        groups=np.array([first_seen.setdefault(key, len(first_seen)) for _, _, key in rows], np.int64),
        classes=classes,
        ignored=tuple(sorted(ignored)),
    )


def _read_folder(root: Path) -> tuple[list[str], list[str], list[str]]:
    """Paths and labels of the images, and the ignored files."""
    names, labels, ignored, empty, broken = [], [], [], [], []
    try:
        status = root.stat()
        children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
        folders = [child for child in children if child.is_dir()]
        ignored += [child.name for child in children if not child.is_dir()]
        if not folders:
            loose = sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in ignored)
            found = f"{loose} images and no class folders" if loose else "no images"
            raise DataError(f"{str(root)!r} has {found}; {LAYOUT}")
        if len(folders) > 1 and {folder.name.lower() for folder in folders} <= SPLIT_NAMES:
            parts = _some([folder.name for folder in folders])
            raise DataError(f"{str(root)!r} holds the parts of a split ({parts}), not classes; {LAYOUT}")
        for folder in folders:
            files = {
                file.relative_to(root).as_posix(): file for file in walk(folder, ((status.st_dev, status.st_ino),))
            }
            images = [name for name, file in files.items() if file.suffix.lower() in IMAGE_SUFFIXES]
            names += images
            labels += [folder.name] * len(images)
            ignored += files.keys() - set(images)
            broken += [name for name in images if not files[name].is_file()]
            if not images:
                empty.append(folder.name)
    except OSError as error:
        raise DataError(f"{str(error.filename)!r} cannot be read: {error.strerror}; allow it or take it out") from error
    problems = []
    if empty:
        problems.append(f"no images in the class folders {_some(empty)}: fill or remove them")
    if broken:
        problems.append(f"{len(broken)} links that lead nowhere ({_some(sorted(broken))}): mend or remove them")
    if problems:
        raise DataError(f"{str(root)!r}: {'; '.join(problems)}")
    return names, labels, ignored


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


def _read_csv(path: Path, group: str | None) -> tuple[list[str], list[str], list[str]]:
    """Paths, labels and group names (the path itself where there is no group column)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            rows = [
                (reader.line_num, [text_of(cell.strip()) for cell in row]) for row in reader if any(map(str.strip, row))
            ]
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not UTF-8; save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{str(path)!r} line {reader.line_num}: {error}; correct the line") from error
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}; allow it") from error
    if group is None and "group" in header:
        group = "group"
    columns = ["path", "label", *([] if group is None else [group])]
    if missing := [column for column in columns if column not in header]:
        raise DataError(
            f"{str(path)!r} has no column {_some(missing)}, but {_some(header)}; name them, with commas between"
        )
    if not rows:
        raise DataError(f"{str(path)!r} lists no images; add a row for each")

    places = [header.index(column) for column in columns]
    uneven = [f"line {line}" for line, row in rows if len(row) > len(header)]
    padded = [(line, row + [""] * (len(header) - len(row))) for line, row in rows]
    holes = [f"line {line}" for line, row in padded if not all(row[place] for place in places)]
    labels = [row[places[1]] for _, row in padded]
    written = [row[places[0]] for _, row in padded]
    names = [_on_disk(path.parent, name) for name in written]
    unknown = [name for name, found in zip(written, names, strict=True) if name and found is None]
    found = [name or "" for name in names]
    twice = [name for name, times in Counter(found).items() if name and times > 1]
    problems = [
        f"{len(cases)} {problem} ({_some(cases)})"
        for cases, problem in (
            (uneven, "rows with more cells than the header, where a comma may want quotes"),
            (holes, "rows with an empty cell"),
            (unknown, "files that do not exist"),
            (twice, "paths listed more than once"),
        )
        if cases
    ]
    if problems:
        raise DataError(f"{str(path)!r}: {'; '.join(problems)}; correct these rows")
    return found, labels, found if group is None else [nfc(row[places[2]]) for _, row in padded]


def _on_disk(root: Path, name: str) -> str | None:
    """The shortest way from root to the file, with its letters composed as the disk has them; None if there is none."""
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        with suppress(OSError):  # a name too long for the system
            if form and (root / form).is_file():
                path, above = Path(os.path.normpath(form)), root.absolute()
                return (path.relative_to(above) if path.is_relative_to(above) else path).as_posix()
    return None


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(nfc(pattern))
    except re.error as error:
        raise DataError(f"group_pattern = {pattern!r} is no regular expression: {error}; correct it") from error
    if compiled.groups != 1:
        raise DataError(
            f"group_pattern = {pattern!r} has {compiled.groups} capture groups and needs one: "
            "put ( ) around what names the group, and (?: ) around the rest"
        )
    return compiled


def _captured(names: Sequence[str], pattern: re.Pattern[str]) -> list[str]:
    matches = [pattern.search(nfc(name)) for name in names]
    keys = [match[1] or "" if match else "" for match in matches]
    if lost := [name for name, key in zip(names, keys, strict=True) if not key]:
        raise DataError(
            f"group_pattern = {pattern.pattern!r} finds no group in {len(lost)} of {len(names)} paths "
            f"({_some(sorted(lost))}); correct it or rename them"
        )
    return keys


def _some(names: Iterable[str]) -> str:
    """The first names, quoted and with control characters escaped, so that a message stays one short line."""
    names = list(names)
    return ", ".join(map(repr, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")


def nfc(text: str) -> str:
    """The one way of writing that all systems agree on: macOS writes letters with accents in another one."""
    return unicodedata.normalize("NFC", text)


def path_bytes(text: str) -> bytes:
    """The bytes of a text with file names, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")
