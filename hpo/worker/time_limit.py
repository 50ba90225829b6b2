"""The time that one trial may take: `[budget] trial_minutes`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial


class TimeLimit:
    """The time of one trial, from now on and in its earlier runs.

    Args:
        minutes: that it may take; None for any time.
        earlier: its earlier runs.

    Attributes:
        reason: why the trial has to end, as one line; None while it has not.
    """

    def __init__(self, minutes: float | None, earlier: Sequence[FrozenTrial]) -> None:
        self._minutes = minutes
        self._begun = time.monotonic() - sum(each.duration.total_seconds() for each in earlier if each.duration)
        self._epoch, self._epoch_seconds = 0, 0.0
        self.reason: str | None = None

    def epoch_ended(self, number: int, seconds: float) -> None:
        """Say which epoch has ended, and how many seconds it took."""
        self._epoch, self._epoch_seconds = number, seconds

    def is_over(self) -> bool:
        """Whether the time has passed."""
        return self._ends(0.0, f"in epoch {self._epoch + 1}, as")

    def is_too_short(self) -> bool:
        """Whether the time will pass before the end of another epoch like the last one."""
        return self._ends(self._epoch_seconds, f"after epoch {self._epoch}, as another one would pass")

    def _ends(self, more_seconds: float, when: str) -> bool:
        if self._minutes is None or time.monotonic() - self._begun + more_seconds <= 60 * self._minutes:
            return False
        over = "" if more_seconds else " are over"
        self.reason = f"ended {when} [budget] trial_minutes = {self._minutes:g}{over}"
        return True
