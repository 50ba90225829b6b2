"""The search: study file, workers, progress, export and the command line; `open_study` and `search` for Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api import open_study as open_study
    from hpo.api import search as search


def __getattr__(name: str) -> Any:
    """What notebooks and scripts call is imported when it is first asked for: `hpo --help` needs none of it."""
    if name not in ("open_study", "search"):
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    from hpo import api

    return getattr(api, name)
