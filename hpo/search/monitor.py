"""A search watched from a thread of its own: a database that does not answer holds nobody else up."""

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

OBSERVE_SECONDS = 1.0  # between two looks, at least
LOOK_SHARE = 20  # times as long as a look is the pause after it: many who look leave the database to the workers
LONGEST_PAUSE = 60.0  # seconds between two looks, at most


@dataclass(frozen=True)
class Observation:
    """One look at the search.

    Attributes:
        snapshot: how it stands; None where the database did not answer.
        problem: why it did not.
        is_last: whether this is the look that `end` asked for.
    """

    snapshot: Snapshot | None
    problem: str = ""
    is_last: bool = False


class Monitor:
    """Looks at a search again and again, hands back what dead workers held, and restarts the embedded Postgres.

    Args:
        opened: the study.
        reopen: opens the storage once more, which starts an embedded Postgres that has crashed.
        report: takes each look, and the error that ends them, which is no outage; called in the thread.
    """

    def __init__(
        self,
        opened: OpenStudy,
        *,
        reopen: Callable[[], AbstractContextManager[object]],
        report: Callable[[Observation | Exception], None],
    ) -> None:
        self.starts_processes = threading.Lock()  # held while this thread has children, which nobody else may reap
        self._opened, self._reopen, self._report = opened, reopen, report
        self._dead: deque[tuple[str, bool]] = deque()
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)  # may wait for a database that never answers

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def requeue(self, worker: str, *, by_us: bool) -> None:
        """Hand back what a worker held that has died, now or as soon as the database answers."""
        self._dead.append((worker, by_us))
        self._wake.set()

    def end(self) -> None:
        """Look once more, when all the dead are buried, and end; while the database does not answer, go on."""
        self._ending.set()
        self._wake.set()

    def _run(self) -> None:
        try:
            is_last = False
            while not is_last:
                ending, begun = self._ending.is_set(), time.monotonic()
                look = self._look(ending=ending)
                is_last = look.is_last
                self._report(look)
                self._wake.wait(pause_after(time.monotonic() - begun) if look.snapshot else OBSERVE_SECONDS)
                self._wake.clear()
        except Exception as error:  # noqa: BLE001 - the main thread's to raise
            self._report(error)

    def _look(self, *, ending: bool) -> Observation:
        try:
            while self._dead:
                worker, by_us = self._dead[0]
                self._opened.rows.requeue(worker, by_us=by_us)
                self._dead.popleft()
            return Observation(take_snapshot(self._opened), is_last=ending)
        except Exception as error:
            if not is_outage(error):
                raise
            return Observation(None, problem=self._open_again() or cause_of(error))

    def _open_again(self) -> str | None:
        """Open the storage once more; why that was refused, where it was."""
        try:
            with self.starts_processes, self._reopen():
                return None
        except StorageError as error:
            return str(error)


def pause_after(look_seconds: float) -> float:
    """Seconds to the next look, after one that took so long."""
    return min(max(OBSERVE_SECONDS, LOOK_SHARE * look_seconds), LONGEST_PAUSE)
