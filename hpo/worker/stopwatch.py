"""Where the time of a worker goes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna


class Stopwatch:
    """Where the time of a worker goes, in seconds by heading; what no heading claims is "between"."""

    def __init__(self, started: float) -> None:
        self._started = started  # time.perf_counter() at the start of the process
        self._notes: dict[str, float] = {}
        self._seconds = dict.fromkeys(("start_up", "preparing", "training", "data", "storage", "idle"), 0.0)

    def note(self, name: str, seconds: float) -> None:
        """Add to a sum, and count, beside the headings: a time that belongs to several of them."""
        for key, amount in ((name, seconds), (f"{name}_count", 1)):
            self._notes[key] = self._notes.get(key, 0) + amount

    def add(self, heading: str, seconds: float) -> None:
        """Claim seconds for a heading."""
        self._seconds[heading] += seconds

    @contextmanager
    def time(self, heading: str) -> Iterator[None]:
        """Claim the time of the block for a heading."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.add(heading, time.perf_counter() - begun)

    def seconds(self) -> dict[str, float]:
        """All headings, adding up to the age of the process, but for what runs at this moment; and the notes."""
        age = time.perf_counter() - self._started
        return {**self._seconds, "between": max(0.0, age - sum(self._seconds.values())), **self._notes}

    def started_up(self) -> None:
        """Claim all time until now for the start-up."""
        self._seconds["start_up"] = time.perf_counter() - self._started

    @property
    def storage(self) -> float:
        """Seconds claimed for the storage so far."""
        return self._seconds["storage"]


class TimedTrial:
    """A trial whose calls are claimed for the storage."""

    def __init__(self, trial: optuna.Trial, watch: Stopwatch) -> None:
        self._trial, self._watch = trial, watch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._trial, name)
        if not callable(attribute):
            return attribute

        def timed(*arguments: Any, **named: Any) -> Any:
            with self._watch.time("storage"):
                return attribute(*arguments, **named)

        return timed
