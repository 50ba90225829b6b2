"""Where the time of a worker goes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna

    from hpo.worker.time_limit import TimeLimit


class Stopwatch:
    """Where the time of a worker goes, in seconds by heading; what no heading claims is "between"."""

    def __init__(self, started: float) -> None:
        self._started = started  # time.perf_counter() at the start of the process
        # time.perf_counter() at the end of the last training, where the worker did not wait for a place since
        self._training_ended: float | None = None
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

    @contextmanager
    def waiting_for_a_place(self) -> Iterator[None]:
        """Claim the time of the block as idle; the next training does not follow at once on the one before."""
        with self.time("idle"):
            yield
        self._training_ended = None

    def seconds(self) -> dict[str, float]:
        """All headings, adding up to the age of the process, but for what runs at this moment; and the notes."""
        age = time.perf_counter() - self._started
        return {**self._seconds, "between": max(0.0, age - sum(self._seconds.values())), **self._notes}

    def started_up(self) -> None:
        """Claim all time until now for the start-up."""
        self._seconds["start_up"] = time.perf_counter() - self._started

    def training_begins(self) -> None:
        """Note the time since the end of the training before as turnover; one before which nothing ran has none."""
        if self._training_ended is not None:
            self.note("turnover", time.perf_counter() - self._training_ended)

    def training_ended(self) -> None:
        """Remember when the last training ended."""
        self._training_ended = time.perf_counter()

    @property
    def storage(self) -> float:
        """Seconds claimed for the storage so far."""
        return self._seconds["storage"]


class TrainingTime:
    """Divides the time of one training, from now to `claim`, among preparing, waiting for data, and training.

    What is claimed for the storage meanwhile belongs to none of them.
    """

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._begun, self._claimed_before = time.perf_counter(), stopwatch.storage
        self._data_seconds = 0.0
        self._preparing_seconds: float | None = None  # before the first step; None until an epoch has ended

    def epoch_ended(self, seconds: float, data_seconds: float) -> None:
        """Say that an epoch has ended just now, which took so many seconds, and waited so many of them for data."""
        if self._preparing_seconds is None:
            to_first_step = time.perf_counter() - self._begun - seconds
            self._preparing_seconds = to_first_step - self._seconds_of_storage
            self._stopwatch.note("to_first_step", to_first_step)
        self._data_seconds += data_seconds

    def claim(self) -> None:
        """Claim the time since the beginning."""
        seconds, preparing = time.perf_counter() - self._begun, self._preparing_seconds or 0.0
        training = seconds - self._data_seconds - preparing - self._seconds_of_storage
        for heading, amount in (("data", self._data_seconds), ("preparing", preparing), ("training", training)):
            self._stopwatch.add(heading, amount)

    @property
    def _seconds_of_storage(self) -> float:
        return self._stopwatch.storage - self._claimed_before


class TimedTrial:
    """A trial whose calls are claimed for the storage, and that ends before its time limit."""

    def __init__(self, trial: optuna.Trial, stopwatch: Stopwatch, limit: TimeLimit) -> None:
        self._trial, self._stopwatch, self._limit = trial, stopwatch, limit

    def should_prune(self) -> bool:
        """Whether the time limit or the pruner ends the trial."""
        if self._limit.is_too_short():
            return True
        with self._stopwatch.time("storage"):
            return self._trial.should_prune()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._trial, name)
        if not callable(attribute):
            return attribute

        def timed(*arguments: Any, **named: Any) -> Any:
            with self._stopwatch.time("storage"):
                return attribute(*arguments, **named)

        return timed
