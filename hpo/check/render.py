"""How `hpo check` shows its findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from trainer.quality.checks import Case, Finding

STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
SHOWN = 3  # cases of a finding; --json has all
SHOWN_PATHS = 4  # of a case


def render(findings: Sequence[Finding]) -> RenderableType:
    """A row for each finding: its level, its check, what was found, what to do, and the first cases."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        lines = [finding.message]
        if finding.remedy:
            lines.append(f"-> {finding.remedy}")
        lines += [f"   {_shown(case)}" for case in finding.cases[:SHOWN]]
        if len(finding.cases) > SHOWN:
            lines.append(f"   and {len(finding.cases) - SHOWN:,} more, all of them in --json")
        table.add_row(Text(finding.level, STYLES[finding.level]), Text(finding.check), Text("\n".join(lines)))
    return table


def _shown(case: Case) -> str:
    """A case in one line; control characters in names are escaped."""
    names = ", ".join(map(repr, case.paths[:SHOWN_PATHS])) + (", …" if len(case.paths) > SHOWN_PATHS else "")
    return ": ".join(part for part in (names, case.note) if part)
