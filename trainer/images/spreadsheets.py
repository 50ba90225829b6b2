"""CSVs for programs and spreadsheets: what would be a formula has an apostrophe before it, and is read without it."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

# What begins a formula, also as a character of full width; a tab and an end of line may hide what does.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cell_of(text: str) -> str:
    """The cell for a text; `text_of` reads it back. Numbers with a sign, such as -1, are no formulas."""
    return f"'{text}" if _is_formula(text.lstrip("'")) else text


def text_of(cell: str) -> str:
    """The text that `cell_of` made a cell of."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def write_rows(file: TextIO, rows: Iterable[Iterable[str]]) -> None:
    r"""Write rows of cells as CSV, whose lines end with a single \n, as other programs than spreadsheets expect.

    file: opened with newline="".
    rows: of cells that `cell_of` has made, or that cannot be formulas.
    """
    for row in rows:
        line = io.StringIO()
        csv.writer(line).writerow(row)  # ends with \r\n, so that a cell with one of these is put into quotes
        file.write(f"{line.getvalue()[:-2]}\n")


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None
