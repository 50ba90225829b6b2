"""The table [confirm]: what is trained again to confirm a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.study.table import Table

MOST = 1000  # recipes, or folds


@dataclass(frozen=True)
class ConfirmSettings:
    """The table [confirm]; the defaults are those of `hpo confirm`, too: see docs/benchmarks.md.

    Attributes:
        top: how many of the best recipes are trained again, beside the default one.
        repeats: on how many folds, at least 2.
    """

    top: int = 3
    repeats: int = 4


def read_confirm_settings(table: Table) -> ConfirmSettings:
    """Read the table [confirm]; what is wrong with it is noted there."""
    top = table.number("top", whole=True, low=1, high=MOST)
    repeats = table.number("repeats", whole=True, low=2, high=MOST)
    table.no_more()
    return ConfirmSettings(int(top or ConfirmSettings.top), int(repeats or ConfirmSettings.repeats))
