"""Observes a search in a thread of its own, so that a database that does not answer holds nothing else up."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.study.status import take_snapshot
from storage.errors import StorageError
from storage.outage_retry import cause_of, is_outage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot

OBSERVE_SECONDS = 1.0  # between two observations, at least
PAUSE_FACTOR = 20  # the pause is that many times as long as the observation before it, to spare the database
LONGEST_PAUSE = 60.0  # seconds between two observations, at most


@dataclass(frozen=True)
class Observation:
    """What the monitor found when it read how the search stands.

    Attributes:
        snapshot: how it stands; None where the database did not answer.
        problem: why it did not.
        is_last: whether this is the observation that `end` has asked for.
    """

    snapshot: Snapshot | None
    problem: str = ""
    is_last: bool = False


class Monitor:
    """Observes a search again and again, requeues what dead workers held, and restarts the embedded Postgres.

    Args:
        opened: the study.
        reopen: opens the storage once more, which starts an embedded Postgres that has crashed.
        report: takes each observation, or the error that has ended them, which is no outage; called in the thread.
    """

    def __init__(
        self,
        opened: OpenStudy,
        *,
        reopen: Callable[[], AbstractContextManager[object]],
        report: Callable[[Observation | Exception], None],
    ) -> None:
        self.starts_processes = threading.Lock()  # held while this thread has child processes, which no other may reap
        self._opened, self._reopen, self._report = opened, reopen, report
        self._dead: deque[tuple[str, bool]] = deque()
        self._wake, self._ending = threading.Event(), threading.Event()
        # A daemon, because it may wait for a database that never answers.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to observe."""
        self._thread.start()

    def requeue(self, worker: str, *, by_us: bool) -> None:
        """Requeue the trial of a worker that has died, now or as soon as the database answers; `by_us`: we ended it."""
        self._dead.append((worker, by_us))
        self._wake.set()

    def end(self) -> None:
        """Requeue the trials of all dead workers, observe once more, and end, as soon as the database answers."""
        self._ending.set()
        self._wake.set()

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                ending, begun = self._ending.is_set(), time.monotonic()
                observation = self._observe(ending=ending)
                is_last = observation.is_last
                self._report(observation)
                self._wake.wait(pause_after(time.monotonic() - begun) if observation.snapshot else OBSERVE_SECONDS)
                self._wake.clear()
        except Exception as error:  # noqa: BLE001 - the main thread raises it
            self._report(error)

    def _observe(self, *, ending: bool) -> Observation:
        try:
            while self._dead:
                worker, by_us = self._dead[0]
                self._opened.rows.requeue(worker, by_us=by_us)
                self._dead.popleft()
            return Observation(take_snapshot(self._opened), is_last=ending)
        except Exception as error:
            if not is_outage(error):
                raise
            return Observation(None, problem=self._reopen_storage() or cause_of(error))

    def _reopen_storage(self) -> str | None:
        """Open the storage once more; returns why that was refused, None where it was not."""
        try:
            with self.starts_processes, self._reopen():
                return None
        except StorageError as error:
            return str(error)


def pause_after(observed_seconds: float) -> float:
    """Seconds until the next observation, after one that took so many seconds."""
    return min(max(OBSERVE_SECONDS, PAUSE_FACTOR * observed_seconds), LONGEST_PAUSE)
