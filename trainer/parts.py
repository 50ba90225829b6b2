"""The name that `trainer.extensions` had before; it goes with the next release."""

from __future__ import annotations

import warnings
from typing import Any

from trainer.extensions import Extensions


def __getattr__(name: str) -> Any:
    """`Parts`, by its new name."""
    if name != "Parts":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = "trainer.parts.Parts is trainer.extensions.Extensions now; the old name goes with the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return Extensions
