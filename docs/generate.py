"""Writes what the code knows into the documents: `make docs`.

The table of the recipe's fields goes to docs/study-file.md, layers and modules of the packages to docs/architecture.md.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

from trainer.recipe import DEFAULTS, RULES, show
from trainer.space import DEFAULT_SPACE

ROOT = Path(__file__).parent.parent
PACKAGES = ("hpo", "trainer", "storage")


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


def layers_table() -> str:
    """A row for each package: the layers that import-linter holds, the uppermost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rows = ["| package | its layers, the uppermost first: each imports only from those below it |", "| --- | --- |"]
    for contract in contracts:
        if contract["type"] == "layers":
            layers = (", ".join(f"`{name}`" for name in re.split(r" [|:] ", layer)) for layer in contract["layers"])
            rows.append(f"| `{contract['containers'][0]}` | {' → '.join(layers)} |")
    return "\n".join(rows) + "\n"


def modules_table() -> str:
    """For each folder of the packages what it is for, and a row for each of its modules: the line it begins with."""
    lines = []
    for folder in sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")):
        lines += [f"### {folder.relative_to(ROOT)}/", "", _first_line(folder / "__init__.py"), ""]
        modules = sorted(path for path in folder.glob("*.py") if not path.name.startswith("__"))
        lines += ["| module | what it holds |", "| --- | --- |"]
        lines += [f"| `{path.name}` | {_first_line(path)} |" for path in modules] + [""]
    return "\n".join(lines)


def _first_line(module: Path) -> str:
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def documents() -> dict[Path, str]:
    """The documents with what the code gives, by their paths."""
    written = {
        "study-file.md": {"fields": fields_table},
        "architecture.md": {"layers": layers_table, "modules": modules_table},
    }
    pages = {}
    for name, tables in written.items():
        text = (ROOT / "docs" / name).read_text(encoding="utf-8")
        for mark, table in tables.items():
            before, start, rest = text.partition(f"<!-- {mark}: written by docs/generate.py -->\n")
            _, end, after = rest.partition(f"<!-- end of {mark} -->")
            text = f"{before}{start}{table()}{end}{after}"
        pages[ROOT / "docs" / name] = text
    return pages


if __name__ == "__main__":
    for path, content in documents().items():
        path.write_text(content, encoding="utf-8")
