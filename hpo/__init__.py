"""The search: study file, workers, progress, export, command line; `search`, `open_study`, `load_bundle` for Python."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api import open_study as open_study
    from hpo.api import search as search
    from hpo.bundle.ensemble import load_bundle as load_bundle

_HOMES = {"open_study": "hpo.api", "search": "hpo.api", "load_bundle": "hpo.bundle.ensemble"}


def __getattr__(name: str) -> Any:
    """What notebooks and scripts call is imported when it is first asked for: `hpo --help` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
