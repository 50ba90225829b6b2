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
from trainer.images.spreadsheets import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

# Labels that pandas, R and spreadsheets write where there is none; not "none", which is the name of many a class.
MISSING = frozenset(
    {"nan", "NaN", "Nan", "NAN", "-nan", "-NaN", "<NA>", "NA", "N/A", "n/a", "#N/A", "#NA", "null", "Null", "NULL"}
)
MOST_DIGITS = 19  # of a whole number that was written as a float
_FLOAT = re.compile(r"[+-]?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?")  # as programs write them: with a point


def read_csv(path: Path, group: str | None) -> Listing:
    """List the images of a CSV with the columns path,label[,group].

    group: column that names the group of each image; None takes a column "group" if there is one.

    Raises:
        DataError: it cannot be read, lacks a column or has one twice, or has rows with mistakes; all are named.
    """
    header, rows = _read_rows(path)
    if group is None and "group" in header:
        group = "group"
    columns = ["path", "label", *([] if group is None else [group])]
    at = places(path, header, columns)
    if not rows:
        raise DataError(f"{str(path)!r} lists no images; add a row for each")

    uneven = [f"line {line}" for line, row in rows if len(row) > len(header)]
    padded = [(line, row + [""] * (len(header) - len(row))) for line, row in rows]
    holes = [f"line {line}" for line, row in padded if not all(row[place] for place in at)]
    labels = [row[at[1]] for _, row in padded]
    missing = [f"line {line}: {row[at[1]]}" for line, row in padded if row[at[1]] in MISSING]
    written = [row[at[0]] for _, row in padded]
    names = [on_disk(path.parent, name) for name in written]
    unknown = [name for name, found in zip(written, names, strict=True) if name and found is None]
    found = [name or "" for name in names]
    twice = [name for name, times in Counter(found).items() if name and times > 1]
    problems = [
        f"{len(cases)} {problem} ({some(cases)})"
        for cases, problem in (
            (uneven, "rows with more cells than the header, where a comma may want quotes"),
            (holes, "rows with an empty cell"),
            (missing, "rows whose label says that it is missing"),
            (unknown, "files that do not exist"),
            (twice, "paths listed more than once"),
        )
        if cases
    ]
    if problems:
        raise DataError(f"{str(path)!r}: {'; '.join(problems)}; correct these rows, or take them out")
    return Listing(
        paths=found,
        labels=[class_name(label) for label in labels],
        groups=found if group is None else [nfc(row[at[2]]) for _, row in padded],
        written=[nfc(label) for label in labels],
    )


def class_name(label: str) -> str:
    """The class that a label names, its letters composed: of a whole number written as a float ("1.0") that number."""
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


def on_disk(root: Path, name: str) -> str | None:
    """The shortest way from root to the file, with its letters composed as the disk has them; None if there is none."""
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        with suppress(OSError):  # a name too long for the system
            if form and (root / form).is_file():
                path, above = Path(os.path.normpath(form)), root.absolute()
                return (path.relative_to(above) if path.is_relative_to(above) else path).as_posix()
    return None
