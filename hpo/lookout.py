"""A search watched from a thread of its own: a database that does not answer holds nobody else up."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpo.status import take_snapshot
from storage.errors import StorageError
from storage.lease import bury
from storage.patience import cause_of, is_outage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hpo.status import Snapshot
    from hpo.study import OpenStudy
    from hpo.study_file import StudyFile

LOOK_SECONDS = 1.0  # between two looks


@dataclass(frozen=True)
class Look:
    """One look at the search.

    Attributes:
        snapshot: how it stands; None where the database did not answer.
        problem: why it did not.
        is_last: whether this is the look that `end` asked for.
    """

    snapshot: Snapshot | None
    problem: str = ""
    is_last: bool = False


class Lookout:
    """Looks at a search again and again, hands back what dead workers held, and restarts the embedded Postgres.

    Args:
        file: what is searched.
        url: of the storage.
        opened: the study in it.
        reopen: opens the storage once more, which starts an embedded Postgres that has crashed.
        report: takes each look, and an error that is no outage; called in the thread.
    """

    def __init__(
        self,
        file: StudyFile,
        url: str,
        opened: OpenStudy,
        *,
        reopen: Callable[[], AbstractContextManager[object]],
        report: Callable[[Look | Exception], None],
    ) -> None:
        self.starts_processes = threading.Lock()  # held while this thread has children, which nobody else may reap
        self._file, self._url, self._opened, self._reopen, self._report = file, url, opened, reopen, report
        self._dead: deque[tuple[str, bool]] = deque()
        self._wake, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)  # may wait for a database that never answers

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def bury(self, worker: str, *, by_us: bool) -> None:
        """Hand back what a worker held that has died, now or as soon as the database answers."""
        self._dead.append((worker, by_us))
        self._wake.set()

    def end(self) -> None:
        """Look once more, when all the dead are buried, and end; while the database does not answer, go on."""
        self._ending.set()
        self._wake.set()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            ending = self._ending.is_set()
            try:
                while self._dead:
                    worker, by_us = self._dead[0]
                    bury(self._opened.storage.engine, worker, by_us=by_us)
                    self._dead.popleft()
                is_last = ending
                self._report(Look(take_snapshot(self._file, self._url, self._opened), is_last=is_last))
            except Exception as error:  # noqa: BLE001 - what is no outage is the main thread's to raise
                if not is_outage(error):
                    self._report(error)
                    return
                is_last = False
                self._report(Look(None, problem=cause_of(error)))
                self._open_again()
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()

    def _open_again(self) -> None:
        try:
            with self.starts_processes, self._reopen():
                pass
        except StorageError as error:
            self._report(Look(None, problem=str(error)))
