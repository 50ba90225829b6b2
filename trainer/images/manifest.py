"""A CSV that lists images -> paths, classes and groups."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.files import nfc, some
from trainer.images.listing import Listing
from trainer.images.sides import SIDES, refuse_unknown_classes, side_of_word
from trainer.images.spreadsheets import text_of
from trainer.remote.urls import is_url, joined, public_url
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.images.fetched import Fetched
    from trainer.images.sides import Splits

# Labels that pandas, R and spreadsheets write where there is none; not "none", which is the name of many a class.
MISSING = frozenset(
    {"nan", "NaN", "Nan", "NAN", "-nan", "-NaN", "<NA>", "NA", "N/A", "n/a", "#N/A", "#NA", "null", "Null", "NULL"}
)
MOST_DIGITS = 19  # of a whole number that was written as a float
_FLOAT = re.compile(r"[+-]?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?")  # as programs write them: with a point


def read_csv(path: Path, group: str | None, splits: Splits, fetched: Fetched | None = None) -> Listing:
    """List the images of a CSV with the columns path,label[,group][,split].

    Where no image of the side test has a label, they have no class, need no group, and are only there to be predicted.

    group: column that names the group of each image; None takes a column "group" if there is one.
    splits: which column names the side of the split of each image, and by which words.
    fetched: where images behind URLs are kept; None takes none.

    Raises:
        DataError: it cannot be read, lacks a column or has one twice, or has rows with mistakes; all are named. Or
            images cannot be fetched.
    """
    header, rows = _read_rows(path)
    columns = {"path": "path", "label": "label"}
    for what, column in (("group", group), ("split", splits.column or ("split" if splits.named else None))):
        if column is not None or (what in header and (what == "group" or splits.known)):
            columns[what] = column or what
    at = dict(zip(columns, places(path, header, list(columns.values())), strict=True))
    if not rows:
        raise DataError(f"{str(path)!r} lists no images; add a row for each")

    uneven = [f"line {line}" for line, row in rows if len(row) > len(header)]
    lines = [line for line, _ in rows]
    cells = {what: [row[place] if place < len(row) else "" for _, row in rows] for what, place in at.items()}
    sides, strange = _sides_of_rows(lines, cells["split"], splits) if "split" in cells else ([], [])
    tested = [label for label, side in zip(cells["label"], sides, strict=False) if side == "test"]
    nameless = bool(tested) and all(label == "" or label in MISSING for label in tested)
    labelled = [not nameless or side != "test" for side in sides] or [True] * len(rows)
    holes = [
        f"line {line}"
        for row, line in enumerate(lines)
        if not all(cells[what][row] for what in (cells if labelled[row] else ("path",)))
    ]
    missing = [
        f"line {line}: {label}"
        for line, label, wants in zip(lines, cells["label"], labelled, strict=True)
        if wants and label in MISSING
    ]
    urls = {name: url for name in cells["path"] if (url := url_of(name, fetched))}
    names = [public_url(urls[name]) if name in urls else on_disk(path.parent, name) for name in cells["path"]]
    unknown = [name for name, found in zip(cells["path"], names, strict=True) if name and found is None]
    found = [name or "" for name in names]
    twice = [name for name, times in Counter(found).items() if name and times > 1]
    problems = [
        f"{counted(len(cases), one, many)} ({some(cases)})"
        for cases, one, many in (
            *(
                (cases, f"row {problem}", f"rows {problem}")
                for cases, problem in (
                    (uneven, "with more cells than the header, where a comma may want quotes"),
                    (holes, "with an empty cell"),
                    (missing, "whose label says that it is missing"),
                    (strange, f"whose {columns.get('split')} names no side: {_known_words(splits)}"),
                )
            ),
            (unknown, "file that does not exist", "files that do not exist"),
            (twice, "path listed more than once", "paths listed more than once"),
        )
        if cases
    ]
    if problems:
        raise DataError(f"{str(path)!r}: {'; '.join(problems)}; correct these rows, or take them out")

    if urls and fetched is None:
        raise DataError(f"{str(path)!r} lists URLs, which are fetched into a cache: give load_data a PixelCache")
    checksums = fetched.fetch_listed(list(urls.values())) if urls and fetched else {}

    def kept(values: Sequence[str]) -> list[str]:
        return [value for value, wants in zip(values, labelled, strict=True) if wants]

    labels = kept(cells["label"])
    listing = Listing(
        paths=kept(found),
        labels=[class_name(label) for label in labels],
        groups=[class_name(name) for name in kept(cells["group"])] if "group" in cells else kept(found),
        written=[nfc(label) for label in labels],
        sides=kept(sides) if sides else None,
        unlabelled=[name for name, wants in zip(found, labelled, strict=True) if not wants],
        checksums=checksums,
    )
    if listing.sides is not None:
        refuse_unknown_classes(str(path), listing.labels, listing.sides)
    return listing


def _sides_of_rows(lines: Sequence[int], words: Sequence[str], splits: Splits) -> tuple[list[str], list[str]]:
    """The side of each row, "" where its word names none; and those that do not, each with its line."""
    if named := splits.named:
        sides = [named.get(nfc(word)) or named.get(class_name(word), "") for word in words]
    else:
        known = [side_of_word(word) for word in words]
        sides = [side if side in SIDES else "" for side in known]
    strange = [
        f"line {line}: {word}" for line, word, side in zip(lines, words, sides, strict=True) if word and not side
    ]
    return sides, strange


def _known_words(splits: Splits) -> str:
    if splits.named:
        return f"[data.splits] names {some(splits.named)}"
    return (
        "train, val and test are known, others are named in [data.splits], or write splits = false to leave it unread"
    )


def class_name(label: str) -> str:
    """The class, or group, that a cell names, its letters composed; of a whole number as a float (1.0) that number."""
    if _FLOAT.fullmatch(label):
        number = Decimal(label)
        if number == number.to_integral_value() and number.adjusted() < MOST_DIGITS:
            return str(int(number))
    return nfc(label)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each row that is not empty with the number of its line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(reader, [])]
            return header, [
                (reader.line_num, [text_of(cell.strip()) for cell in row]) for row in reader if any(map(str.strip, row))
            ]
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is not UTF-8; save it as CSV UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{str(path)!r} line {reader.line_num}: {error}; correct the line") from error
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read: {error.strerror}; allow it") from error


def places(path: Path, header: Sequence[str], columns: Sequence[str]) -> list[int]:
    """Where these columns of a CSV stand; each must be there once, however its letters are written.

    Raises:
        DataError: one is not there, or is there twice.
    """
    if missing := [column for column in columns if column not in header]:
        raise DataError(
            f"{str(path)!r} has no column {some(missing)}, but {some(header)}; name them, with commas between"
        )
    for column in columns:
        same = [name for name in header if nfc(name).casefold() == nfc(column).casefold()]
        if len(same) > 1:
            raise DataError(
                f"{str(path)!r} has {len(same)} columns called {column!r} ({some(same)}); leave one, rename the others"
            )
    return [header.index(column) for column in columns]


def url_of(name: str, fetched: Fetched | None) -> str | None:
    """The URL that a cell of a CSV names, by itself or below the URL of the CSV; None for a path."""
    if is_url(name):
        return name
    return joined(fetched.base, name) if fetched and fetched.base and name else None


def on_disk(root: Path, name: str) -> str | None:
    """The shortest way from root to the file, with its letters composed as the disk has them; None if there is none."""
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        with suppress(OSError):  # a name too long for the system
            if form and (root / form).is_file():
                path, above = Path(os.path.normpath(form)), root.absolute()
                return (path.relative_to(above) if path.is_relative_to(above) else path).as_posix()
    return None
