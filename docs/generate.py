"""Writes the table of the recipe's fields into docs/study-file.md: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from trainer.recipe import DEFAULTS, RULES, show
from trainer.space import DEFAULT_SPACE

PAGE = Path(__file__).parent / "study-file.md"
MARKS = re.compile(r"(?<=<!-- fields: written by docs/generate.py -->\n).*?(?=<!-- end of fields -->)", re.DOTALL)


def fields_table() -> str:
    """A row for each field of the recipe: range, default, what is searched, meaning, source."""
    rows = ["| field | range | default | searched | meaning | source |", "| --- | --- | --- | --- | --- | --- |"]
    for name, rule in RULES.items():
        if rule.choices:
            values = ", ".join(f"`{choice}`" for choice in rule.choices)
        elif rule.low is not None:
            values = rule.limits
        else:
            values = "`true`, `false`" if isinstance(DEFAULTS[name], bool) else "any timm name"
        meaning = rule.meaning
        if rule.only_if:
            field, needed = rule.only_if
            values_needed = (value if isinstance(value, str) else show(value) for value in needed)
            meaning += f"; only where `{field}` is {' or '.join(f'`{value}`' for value in values_needed)}"
        cells = (f"`{name}`", values, f"`{show(DEFAULTS[name])}`", _searched(name), meaning, rule.source)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _searched(name: str) -> str:
    entry: Any = DEFAULT_SPACE.get(name)
    if entry is None:
        return "fixed"
    if isinstance(entry, list):
        return f"`[{', '.join(map(show, entry))}]`"
    return f"`{{ {', '.join(f'{key} = {show(value)}' for key, value in entry.items())} }}`"


def page() -> str:
    """The page with the table as the code has it."""
    return MARKS.sub(lambda _: fields_table(), PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
