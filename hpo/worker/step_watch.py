"""Finds a training that hangs: in a step that takes far longer than those before it."""

from __future__ import annotations

import statistics
import time
from collections import deque

FACTOR = 30  # that many times the median of the steps before it
KEPT = 1000  # durations of steps, the last ones


class StepWatch:
    """Watches the steps of one training; safe from any thread.

    Watched is the time from the end of one step to that of the next of the same epoch. The last step of an epoch is
    followed by the validation, which takes less long than the epoch itself: what has taken no longer does not hang.

    Args:
        minutes: that a step may take at least.
    """

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._durations: deque[float] = deque(maxlen=KEPT)  # seconds
        self._epoch_seconds = 0.0  # of its steps so far
        self._since: float | None = None  # when the step began that is watched, by time.monotonic()

    def begin(self) -> None:
        """Forget all steps: another training begins, or one has ended."""
        self._durations.clear()
        self.epoch_ended()

    def step_ended(self) -> None:
        """A step has ended; what follows belongs to no step until `step_begins`."""
        if self._since is not None:
            seconds = time.monotonic() - self._since
            self._durations.append(seconds)
            self._epoch_seconds += seconds
        self._since = None

    def step_begins(self) -> None:
        """The next step of the epoch begins."""
        self._since = time.monotonic()

    def epoch_ended(self) -> None:
        """The epoch and its validation have ended; the first step of the next one is not watched."""
        self._since, self._epoch_seconds = None, 0.0

    def hang(self) -> str | None:
        """Why the training hangs, as one line; None while it does not."""
        since = self._since
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds <= max(60 * self._minutes, self._epoch_seconds):
            return None
        median = statistics.median(self._durations.copy() or [0.0])
        if seconds <= FACTOR * median:
            return None
        return f"hung: a step has taken {seconds / 60:.1f} minutes, the median of those before it is {median:.2g} s"
