"""A CSV that lists images -> paths, classes and groups."""

from __future__ import annotations

import csv
import os
import unicodedata
from collections import Counter
from contextlib import suppress
from pathlib import Path

from trainer.errors import DataError
from trainer.images.files import nfc, some
from trainer.images.spreadsheets import text_of


def read_csv(path: Path, group: str | None) -> tuple[list[str], list[str], list[str]]:
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
            f"{str(path)!r} has no column {some(missing)}, but {some(header)}; name them, with commas between"
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
        f"{len(cases)} {problem} ({some(cases)})"
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
