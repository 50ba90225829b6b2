"""Which images there are: a folder or a CSV manifest -> paths, classes and groups."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import DataError
from trainer.images.duplicates import find_copies, keep_copies_together
from trainer.images.files import nfc, path_bytes, some
from trainer.images.folders import LAYOUT, read_folder
from trainer.images.manifest import read_csv
from trainer.images.sides import SIDES, Splits
from trainer.remote.urls import joined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.images.fetched import Fetched
    from trainer.images.listing import Listing


@dataclass(frozen=True, eq=False)
class Index:
    """Which images there are, in the order of their paths; every other array of images follows this order.

    root: the folder, or the folder of the CSV.
    paths: N paths below root, with "/" between folders; absolute where a CSV says so of a file outside; URLs without
        secrets where the images were fetched.
    labels: int64 [N], each a position in `classes`.
    groups: int64 [N]; images with the same number belong together; without groups each image has its own.
    classes: names in alphabetical order.
    ignored: files of a folder that are no images by their ending, or lie outside of the class folders.
    sides: int64 [N], each a position in `trainer.images.sides.SIDES`, where the data themselves give the side of the
        split; None where they do not.
    unlabelled: paths of images to be held out that have no class, and so can only be predicted.
    written: the classes as their source writes them, "1.0" for "1", if it does so in one way; None for `classes`.
        Only the digest holds them, so that it is the one that earlier versions gave the same data.
    group_names: of each number in `groups`, as the CSV or the pattern has it; without groups the paths.
    checksums: SHA-256 in hex of each image that was fetched, by its path.
    fetched: where these are; None where no image can be one of them.
    """

    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    sides: NDArray[np.int64] | None = None
    unlabelled: tuple[str, ...] = ()
    written: tuple[str, ...] | None = None
    group_names: tuple[str, ...] = ()
    checksums: Mapping[str, str] = field(default_factory=dict)
    fetched: Fetched | None = None

    @property
    def files(self) -> list[Path]:
        """The image files, in the order of the paths."""
        return [self.file(path) for path in self.paths]

    def file(self, path: str) -> Path:
        """Where the image of a path is on this machine."""
        return self.fetched.file(path) if self.fetched and path in self.checksums else self.root / path

    def reference(self, path: str, folder: Path) -> str:
        """How a list in a folder names an image: by its URL, or by the way from there."""
        if path in self.checksums:
            return path
        if self.fetched and self.fetched.base and not path.startswith("/"):
            return joined(self.fetched.base, path)
        return os.path.relpath(self.root.absolute() / path, folder.absolute())

    @property
    def given_sides(self) -> tuple[str, ...]:
        """The sides of the split that the data themselves give."""
        return () if self.sides is None else tuple(SIDES[side] for side in np.unique(self.sides))

    @cached_property
    def digest(self) -> str:
        """SHA-256 in hex over path, class, group and size of each file: the same data has the same digest everywhere.

        Of an image that was fetched its own SHA-256 counts, too: what a URL stands for may differ from day to day.

        Raises:
            DataError: an image is gone.
        """
        digest, names = hashlib.sha256(), self.written or self.classes
        for path, label, group, status in zip(
            self.paths, self.labels.tolist(), self.groups.tolist(), self._files, strict=True
        ):
            checksum = f"\0{self.checksums[path]}" if path in self.checksums else ""
            digest.update(path_bytes(f"{nfc(path)}\0{names[label]}\0{group}\0{status.st_size}{checksum}\n"))
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
        return find_copies(self.files, [status.st_size for status in self._files])

    @property
    def groups_with_copies(self) -> NDArray[np.int64]:
        """The groups, those that share files of the same bytes as one: int64 [N]; raises as `copies` does."""
        return keep_copies_together(self.groups, self.copies)

    @cached_property
    def _files(self) -> list[os.stat_result]:
        files = []
        for file in self.files:
            try:
                files.append(file.stat())
            except OSError as error:
                raise DataError(f"{str(file)!r} cannot be read: {error.strerror}; restore it") from error
        return files


@dataclass(frozen=True)
class Grouping:
    r"""Which images belong together, and so on one side of the split; and which side the data themselves give.

    Attributes:
        column: of a CSV; names the group of each image (a person, a patient, a scene). Where neither is given, a column
            "group" is taken if there is one.
        pattern: a regular expression with one capture group, searched in the path; what it captures is the group:
            r"person(\d+)" puts "cat/person7_a.jpg" and "dog/person7_b.jpg" into one. At most one of the two is given.
        splits: which folders, or which column of a CSV, name the side of the split.
    """

    column: str | None = None
    pattern: str | None = None
    splits: Splits = field(default_factory=Splits)


def read_index(path: Path, grouping: Grouping | None = None, fetched: Fetched | None = None) -> Index:
    """List the images of a folder with one folder a class, or of a CSV with the columns path,label[,group][,split].

    The folders of the classes may also lie in folders like train, val and test; their images are then on these sides.

    grouping: which images belong together, and how sides of the split are named.
    fetched: where images that a CSV names by URLs are fetched; None refuses them.

    Links are followed and hidden files and folders left out.

    Raises:
        DataError: nothing there, fewer than two classes, a class without images, a manifest with mistakes, images
            that the pattern does not match.
    """
    grouping = grouping or Grouping()
    group, group_pattern, splits = grouping.column, grouping.pattern, grouping.splits
    pattern = None if group_pattern is None else _compile(group_pattern)
    if not path.exists():
        raise DataError(f"{str(path)!r} does not exist; give a folder of images or a CSV")
    if path.is_dir():
        if group is not None:
            raise DataError(
                f"group = {group!r} names a column of a CSV, but {str(path)!r} is a folder: use group_pattern"
            )
        if splits.column is not None:
            raise DataError(
                f"[data.splits] column = {splits.column!r} is for a CSV, but {str(path)!r} is a folder: "
                "name those of its folders that are sides in train, valid and test"
            )
        root, listing = path, read_folder(path, splits)
    elif path.suffix.lower() == ".csv":
        if group is not None and pattern is not None:
            raise DataError(f"group = {group!r} and group_pattern = {group_pattern!r} exclude each other; give one")
        root, listing = path.parent, read_csv(path, group, splits, fetched)
    else:
        raise DataError(f"{str(path)!r} is neither a folder nor a .csv, .zip or .tar file; {LAYOUT}")
    keys = listing.groups if pattern is None else _captured(listing.paths, pattern)
    # The order of the normalised names is the same on every system; macOS may hand out Korean letters in pieces.
    sides = listing.sides or ["" for _ in listing.paths]
    rows = sorted(zip(listing.paths, listing.labels, keys, sides, strict=True), key=lambda row: (nfc(row[0]), row[0]))
    classes = tuple(sorted(set(listing.labels)))
    if len(classes) < 2:
        raise DataError(f"{str(path)!r} has the one class {classes[0]!r} and needs two at least; {LAYOUT}")
    number = {name: position for position, name in enumerate(classes)}
    first_seen: dict[str, int] = {}
    return Index(
        root=root,
        paths=tuple(name for name, *_ in rows),
        labels=np.array([number[label] for _, label, *_ in rows], np.int64),
        sides=None if listing.sides is None else np.array([SIDES.index(side) for *_, side in rows], np.int64),
        groups=np.array([first_seen.setdefault(key, len(first_seen)) for _, _, key, _ in rows], np.int64),
        classes=classes,
        ignored=tuple(sorted(listing.ignored)),
        unlabelled=tuple(sorted(listing.unlabelled)),
        written=_written(listing, classes),
        group_names=tuple(first_seen),  # complete by now: `groups` has filled it
        checksums=listing.checksums,
        fetched=fetched,
    )


def _written(listing: Listing, classes: Sequence[str]) -> tuple[str, ...]:
    ways: dict[str, set[str]] = {}
    for label, written in zip(listing.labels, listing.written, strict=True):
        ways.setdefault(label, set()).add(written)
    return tuple(min(ways[name]) if len(ways[name]) == 1 else name for name in classes)


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
            f"({some(sorted(lost))}); correct it or rename them"
        )
    return keys
