"""The beats of one worker, in a thread of their own, and what they tell about the run that trains meanwhile."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hpo.errors import EXIT_FAILED
from storage.heartbeat import BEAT_SECONDS, INTERRUPTED
from storage.outage_retry import is_outage
from storage.places import LostPlaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hpo.worker.runs import Run
    from hpo.worker.shutdown import Shutdown
    from hpo.worker.step_watch import StepWatch
    from hpo.worker.stopwatch import Stopwatch
    from storage.heartbeat import WorkerPresence

HALT_REASONS = {
    "pause": "the study was paused",
    "stop": "the study was stopped",
    "host pause": "its host was paused",
}

GIVE_UP_SECONDS = 20.0  # for which a process that is to end waits for the database

logger = logging.getLogger(__name__)


class Heartbeat:
    """Beats every few seconds, requeues the runs of workers that no longer do, and keeps what it hears.

    Args:
        presence: of the worker in the database.
        stopwatch: whose times each beat keeps there.
        shutdown: whether the worker is to end.
        steps: watches the steps of the run that trains. Where one hangs, the process is ended.
        give_up: takes that run and the reason before, and lets it wait for another worker.
    """

    def __init__(
        self,
        presence: WorkerPresence,
        stopwatch: Stopwatch,
        shutdown: Shutdown,
        steps: StepWatch,
        give_up: Callable[[Run, str], None],
    ) -> None:
        self._presence, self._stopwatch, self._shutdown = presence, stopwatch, shutdown
        self._steps, self._give_up = steps, give_up
        self._watched_run: Run | None = None
        self._lost_run: Run | None = None  # the last one of which a beat told that it no longer counts
        self._halted: tuple[Run, str] | None = None  # the last one that a pause or a stop has met, and which of them

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat_until, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    @contextmanager
    def watching(self, run: Run) -> Iterator[None]:
        """While the block runs, find out whether this run still counts, and whether its study is paused or stopped."""
        self._steps.begin()
        self._watched_run = run
        try:
            yield
        finally:
            self._watched_run = None
            self._steps.begin()

    def reason_to_leave(self, run: Run) -> str | None:
        """Why a run is to be left to another worker; None where it is to go on.

        Raises:
            LostPlaceError: it no longer counts.
        """
        if self._lost_run is run:
            raise LostPlaceError
        if self._shutdown.asked.is_set():
            return INTERRUPTED
        return self._halted[1] if self._halted and self._halted[0] is run else None

    def _end_process(self, run: Run, reason: str) -> None:
        """End this process, whose main thread hangs, once its run waits for another worker."""
        timer = threading.Timer(GIVE_UP_SECONDS, os._exit, (EXIT_FAILED,))  # the database may be away
        timer.daemon = True
        timer.start()
        line = f"trial {run.trial.number} {reason}; the worker ends, and the trial goes on from its checkpoint\n"
        os.write(2, line.encode())  # what Python calls stderr is the log of the trial meanwhile
        try:
            self._give_up(run, reason)
        finally:
            os._exit(EXIT_FAILED)

    def _beat_until(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_SECONDS):
            self._shutdown.ask_if_parent_is_gone()
            try:
                run = self._watched_run
                if run and (reason := self._steps.hang()):
                    self._end_process(run, reason)
                standing = self._presence.beat(self._stopwatch.seconds())
                if run and run is self._watched_run:  # what the beat tells is about this run
                    if standing.trial != run.trial.number:
                        self._lost_run = run
                    if standing.halt:
                        self._halted = run, HALT_REASONS[standing.halt]
                self._presence.reap()
            except Exception as error:  # the next beat tries again
                if not is_outage(error):  # of an outage whoever waits for the database has told
                    logger.warning("the database did not take a beat", exc_info=True)
