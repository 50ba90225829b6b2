"""What a command line of `hpo predict` stands for: bundles, and rows of images with what is known of them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from dataclasses import dataclass, replace
from glob import glob, has_magic
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpo.bundle.bundle import INFO, ORIGIN, read_bundle
from hpo.errors import HpoError
from trainer.errors import DataError
from trainer.images.archives import archive_of, at_hand
from trainer.images.fetched import Fetched
from trainer.images.files import image_files, nfc, path_bytes, some, walk
from trainer.images.manifest import MISSING, class_name, on_disk, places, url_of
from trainer.images.remote_source import fetch_source, is_file, is_image_url, is_list
from trainer.images.spreadsheets import text_of
from trainer.remote.urls import is_url, public_url
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from hpo.bundle.bundle import Bundle

SHOWN_CLASSES = 5


@dataclass(frozen=True)
class Row:
    """An image to predict.

    Attributes:
        file: of the image.
        path: how it was named: the cell of a CSV as it stands there, else the path of the file, or its URL.
        true: its class, where that is told and the bundles know it.
        label: what a CSV says of its class, whether the bundles know it or not; empty where it says nothing.
        columns: headings and cells of the other columns of its CSV, the cells as they stand there.
    """

    file: Path
    path: str
    true: str | None = None
    label: str = ""
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Known:
    """Of how many rows the true class is known.

    Attributes:
        known: rows with a class of the bundles.
        missing: rows of which nothing is told.
        unknown: how many rows have which label that is no class of the bundles, the most frequent first.
    """

    known: int
    missing: int
    unknown: Mapping[str, int]

    def line(self) -> str | None:
        """What is to be said of the rows whose class is not known, if any."""
        if not (self.missing or self.unknown):
            return None
        begun = "left out of these metrics" if self.known else "no metrics, as no true class is known"
        told = [f"{self.missing} without a label"] if self.missing else []
        if self.unknown:
            shown = ", ".join(f"{label!r}: {count}" for label, count in list(self.unknown.items())[:SHOWN_CLASSES])
            more = ", …" if len(self.unknown) > SHOWN_CLASSES else ""
            told.append(f"{sum(self.unknown.values())} with a label that is no class of the bundle ({shown}{more})")
        way_on = "" if self.known else "; a CSV with the columns path,label tells them, or folders named as the classes"
        return f"{begun}: {', '.join(told)}{way_on}"


def known_of(rows: Iterable[Row]) -> Known:
    """Of how many of these rows the true class is known."""
    rest = [row.label for row in rows if row.true is None]
    told = (path_bytes(label).decode(errors="backslashreplace") for label in rest if label and label not in MISSING)
    unknown = Counter(told)  # of a CSV that is not UTF-8 as text that can be shown
    return Known(len(list(rows)) - len(rest), len(rest) - unknown.total(), dict(unknown.most_common()))


def groups_of(rows: Sequence[Row], bundle: Bundle) -> NDArray[np.int64]:
    """Which rows belong together, by equal numbers: int64 [rows]; the same file is one, however often it is listed.

    Of the rows of a CSV the column says so that named the group in the bundle's study, else a column "group".
    """
    column = (bundle.members[0] if bundle.members else bundle).info.get(ORIGIN, {}).get("data", {}).get("group")
    numbers: dict[tuple[str, str], int] = {}

    def key(row: Row) -> tuple[str, str]:
        columns = dict(row.columns)
        if name := columns.get(column) or columns.get("group"):
            return "group", class_name(text_of(name.strip()))
        return "file", str(row.file)

    return np.array([numbers.setdefault(key(row), len(numbers)) for row in rows], np.int64)


def find_bundles(inputs: Sequence[str]) -> tuple[list[Bundle], list[str]]:
    """Tell the bundles, which come first on a command line, from what stands for images, which follows them.

    The first is taken for a bundle in any case, others where they hold a bundle.json. A folder that holds bundles and
    nothing else stands for all of them.

    Raises:
        HpoError: the first is no bundle, bundles have different classes, or nothing stands for images.
    """
    count = 1 + sum(1 for _ in takewhile(_bundles_of, inputs[1:]))
    bundles, rest = read_bundles(inputs[:count]), list(inputs[count:])
    if not rest:
        raise HpoError(
            "predict: no images are given; name folders, image files, patterns, archives or a CSV after the bundles"
        )
    for given in rest:
        if _bundles_of(given):
            raise HpoError(f"predict: {given} is a bundle; name it before the images")
    return bundles, rest


def read_bundles(inputs: Sequence[str]) -> list[Bundle]:
    """Read bundles that vote together; a folder that holds bundles and nothing else stands for all of them.

    Raises:
        HpoError: something given is no bundle, or bundles have different classes.
    """
    bundles = [read_bundle(folder) for given in inputs for folder in _bundles_of(given) or [Path(given)]]
    for bundle in bundles[1:]:
        if bundle.classes != bundles[0].classes:
            raise HpoError(
                f"predict: {bundles[0].folder} and {bundle.folder} cannot vote together, their classes differ: "
                f"{_difference(bundles[0], bundle)}"
            )
    return bundles


def find_images(
    inputs: Sequence[str], classes: Sequence[str], command: str = "predict", *, unpack: Path | None = None
) -> list[Row]:
    """The images that folders, files, patterns, CSVs and archives stand for, in their order.

    Each row of a CSV is one, with the class in its column label; other files come once each. Their class is told by the
    outermost folder of a class's name below the folder that was given, or by that folder itself where none below it has
    such a name; of files and patterns by the folder that holds the file.

    Args:
        inputs: of the command line; also URLs of images, CSVs and archives, and prefixes of S3.
        classes: those that true classes may be.
        command: begins the line of a failure.
        unpack: a folder in which archives are unpacked, and what is at URLs is fetched; the rows are good as long as it
            is there. None takes neither.

    Raises:
        HpoError: something given does not exist, a CSV has mistakes, or there is no image at all.
    """
    same = {class_name(known): known for known in classes} | {nfc(known): known for known in classes}
    rows: list[Row] = []
    seen: set[Path] = set()
    for given in inputs:
        if not given:
            raise HpoError(f"{command}: one of the images that are given has no name; leave it out, or name a path")
        if is_url(given):
            rows += _rows_fetched(given, unpack, same, command)
            continue
        matches = [Path(given)]
        if has_magic(given) and not matches[0].exists():
            matches = [Path(match) for match in sorted(glob(given, recursive=True))]  # noqa: PTH207 - absolute ones, too
        if not matches:
            raise HpoError(f"{command}: nothing matches {given}")
        for path in matches:
            if unpack and archive_of(path):
                rows += _rows_packed(path, unpack, same, command)
                continue
            if path.is_dir():
                found = [row for row in _rows_below(path, same, command) if row.file not in seen]
            elif path.suffix.lower() == ".csv":
                rows += _rows_listed(path, same, command, Fetched(unpack) if unpack else None)
                continue
            elif path.is_file():
                found = [Row(path, str(path), _class_of(_name_of(path.parent), same))] if path not in seen else []
            else:
                raise HpoError(f"{command}: {path} does not exist")
            rows += found
            seen.update(row.file for row in found)
    return rows


def _bundles_of(given: str) -> list[Path]:
    """The folder itself where it is a bundle, the folders in it where all that it shows are bundles, else none."""
    folder = Path(given)
    if (folder / INFO).is_file():
        return [folder]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return inside if all((path / INFO).is_file() for path in inside) else []


def _difference(first: Bundle, second: Bundle) -> str:
    said = []
    for one, other in ((first, second), (second, first)):
        if only := [name for name in one.classes if name not in other.classes]:
            more = ", …" if len(only) > SHOWN_CLASSES else ""
            said.append(f"only {one.folder} has {', '.join(only[:SHOWN_CLASSES])}{more}")
    return "; ".join(said) or "they have another order"


def _class_of(name: str, same: Mapping[str, str]) -> str | None:
    """The class that has this name, by the mapping from the names of all."""
    return same.get(nfc(name)) or same.get(class_name(name))


def _name_of(folder: Path) -> str:
    """The name of a folder, also of one that was given as `.` or `..`."""
    return Path(os.path.abspath(folder)).name  # noqa: PTH100 - a link keeps the name that it has


def _rows_below(folder: Path, same: Mapping[str, str], command: str) -> list[Row]:
    """The images of a folder, sorted."""
    by_folder: dict[Path, list[Path]] = {}
    for file in walk(folder):
        by_folder.setdefault(file.parent, []).append(file)
    files = sorted(image for together in by_folder.values() for image in image_files(together))
    if not files:
        raise HpoError(f"{command}: there is no image in {folder}")
    classes = []
    for file in files:
        around = (_class_of(name, same) for name in file.relative_to(folder).parts[:-1])
        classes.append(next((name for name in around if name is not None), None))
    if not any(name is not None for name in classes):
        classes = [_class_of(_name_of(folder), same)] * len(files)
    return [Row(file, str(file), name) for file, name in zip(files, classes, strict=True)]


def _rows_packed(archive: Path, unpack: Path, same: Mapping[str, str], command: str) -> Iterator[Row]:
    """The rows of an archive: of a CSV in it, else its images, named as if it were a folder."""
    try:
        found = at_hand(archive, unpack)
    except DataError as error:
        raise HpoError(f"{command}: {error}") from error
    if found.suffix.lower() == ".csv":
        yield from _rows_listed(found, same, command, Fetched(unpack))
        return
    if found.is_file():
        yield Row(found, str(archive), _class_of(_name_of(found.parent), same))
        return
    if not found.is_dir():
        raise HpoError(f"{command}: {archive} does not exist")
    for row in _rows_below(found, same, command):
        yield replace(row, path=str(archive / row.file.relative_to(found)))


def _rows_fetched(url: str, unpack: Path | None, same: Mapping[str, str], command: str) -> Iterator[Row]:
    """The rows of what is at a URL: of a CSV, of an archive or a prefix, named as if it were a folder, or an image."""
    name = public_url(url)
    if unpack is None:
        raise HpoError(f"{command}: {name} is a URL; give a file or a folder")
    try:
        if not is_image_url(url):
            found = fetch_source(url, unpack)
            if is_list(url):
                yield from _rows_listed(found, same, command, Fetched(unpack, url))
            else:
                rows = _rows_packed(found, unpack, same, command) if is_file(url) else _rows_below(found, same, command)
                for row in rows:
                    yield replace(row, path=row.path.replace(str(found), name.rstrip("/"), 1))
            return
        Fetched(unpack).fetch_listed([url])
    except DataError as error:
        raise HpoError(f"{command}: {error}") from error
    yield Row(Fetched(unpack).file(name), name, _class_of(name.split("/")[-2], same))


def _rows_listed(path: Path, same: Mapping[str, str], command: str, fetched: Fetched | None) -> Iterator[Row]:
    """The rows of a CSV, whose images are fetched where it names URLs."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [text_of(cell.strip()) for cell in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
        has_label = any(name.casefold() == "label" for name in header)
        at = places(path, header, ["path", "label"] if has_label else ["path"])
    except (OSError, csv.Error) as error:
        raise HpoError(f"{command}: {path} cannot be read: {error}") from error
    except DataError as error:
        raise HpoError(f"{command}: {error}") from error
    rows = [(line, row + [""] * (len(header) - len(row))) for line, row in rows]
    written = [text_of(row[at[0]].strip()) for _, row in rows]
    urls = {name: url for name in written if (url := url_of(name, fetched))}
    files = [name if name in urls else on_disk(path.parent, name) for name in written]
    missing = [name for name, file in zip(written, files, strict=True) if name and file is None]
    problems = [
        f"{counted(len(cases), one, many)} ({some(cases)})"
        for cases, one, many in (
            (
                [f"line {line}" for line, row in rows if len(row) > len(header)],
                "row with more cells than the header",
                "rows with more cells than the header",
            ),
            (
                [f"line {line}" for (line, _), name in zip(rows, written, strict=True) if not name],
                "row without a path",
                "rows without a path",
            ),
            (missing, "file that does not exist", "files that do not exist"),
        )
        if cases
    ]
    if problems or not rows:
        listed = "; ".join(problems) or "it lists no images"
        remedy = "give a header with a column path, and a path for each image"
        if len(problems) == 1 and missing:
            remedy = f"its paths are looked for from {path.parent}: correct them, or move the list"
        raise HpoError(f"{command}: {path}: {listed}; {remedy}")
    if urls and fetched is None:
        raise HpoError(f"{command}: {path} lists URLs; give a list of files")
    try:
        if urls and fetched:
            fetched.fetch_listed(list(urls.values()))
    except DataError as error:
        raise HpoError(f"{command}: {error}") from error
    for (_, row), name in zip(rows, files, strict=True):
        image = fetched.file(public_url(urls[name])) if fetched and name in urls else path.parent / (name or "")
        label = text_of(row[at[1]].strip()) if has_label else ""
        others = tuple(pair for place, pair in enumerate(zip(header, row, strict=True)) if place != at[0])
        yield Row(image, row[at[0]], _class_of(label, same) if label else None, label, others)
