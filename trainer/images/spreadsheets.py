"""Cells of CSVs that a spreadsheet would take for formulas: written with an apostrophe before them, read without it."""

from __future__ import annotations

import re

# What begins a formula, also as a character of full width; a tab and an end of line may hide what does.
_FORMULA = re.compile(r"\s*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def cell_of(text: str) -> str:
    """The cell for a text; `text_of` reads it back. Numbers with a sign, such as -1, are no formulas."""
    return f"'{text}" if _is_formula(text.lstrip("'")) else text


def text_of(cell: str) -> str:
    """The text that `cell_of` made a cell of."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None
