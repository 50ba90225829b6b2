"""Worker processes of this machine, each started again when it dies, until the search ends or a signal comes."""

from __future__ import annotations

import re
import signal
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from hpo.errors import ENDING_SIGNALS, EXIT_DONE, EXIT_FAILED, HpoError, exit_code
from hpo.hardware import cores
from hpo.search.launcher import launch, reap_orphans, stop
from hpo.search.monitor import OBSERVE_SECONDS, Monitor, Observation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType

    from hpo.search.launcher import Launched
    from hpo.search.progress import Progress
    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot

AT_ONCE_SECONDS = 30.0  # a worker that dies younger, without an epoch done, has died at once
HOPELESS_DEATHS = 5  # at once and in a row; after them a worker is given up
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a worker starts again; doubled from death to death
LONG_LIFE_SECONDS = 60.0  # after such a life the pauses begin anew
STOP_SECONDS = 25.0  # a worker that was told to end needs up to 20 to hand its trial back
LAST_OBSERVATION_SECONDS = 5.0  # that a database may take to say how a search stands that was stopped or given up


class Restarts:
    """When a worker that has died starts again, and when it is given up."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._at_once = 0

    def pause_after(self, lived_seconds: float, *, worked: bool) -> float | None:
        """Seconds until the next start; None where it would die at once again and again.

        Args:
            lived_seconds: from its start to its death.
            worked: whether it has brought a trial forward by an epoch.
        """
        died_at_once = lived_seconds < AT_ONCE_SECONDS and not worked
        self._at_once = self._at_once + 1 if died_at_once else 0
        if self._at_once == HOPELESS_DEATHS:
            return None
        begin_anew = not self._pause or worked or lived_seconds > LONG_LIFE_SECONDS
        self._pause = FIRST_PAUSE if begin_anew else min(2 * self._pause, LONGEST_PAUSE)
        return self._pause


@dataclass(frozen=True)
class Death:
    """Why a worker has ended other than well.

    Attributes:
        cause: in one line.
        may_pass: whether another start may end better.
        printed: all that it printed, where that holds more than the cause.
    """

    cause: str
    may_pass: bool
    printed: str | None = None


def death_of(code: int, printed: str) -> Death:
    """Why a worker has ended with an exit code other than 0, by that and what it has printed."""
    if code < 0:
        return Death(f"ended by signal {-code} ({signal.strsignal(-code) or 'without a name'})", may_pass=True)
    if code in map(exit_code, ENDING_SIGNALS):
        return Death("told to end by somebody else", may_pass=True)
    foreseen = re.findall(r"^hpo: (.*)$", printed, re.MULTILINE)
    if code == EXIT_FAILED and foreseen:
        return Death(foreseen[-1], may_pass=foreseen[-1].startswith("storage: "))
    *earlier, last = printed.splitlines() or [f"exit code {code}, and it printed nothing"]
    return Death(last, may_pass=True, printed=printed if earlier else None)


@dataclass(frozen=True)
class Staff:
    """Workers to run.

    Attributes:
        command: that starts one on its study.
        workers: how many.
        gpus: that they may use; empty for the CPU. Several workers share one where there are fewer.
        reopen: opens the storage once more, which starts an embedded Postgres that has crashed.
    """

    command: Sequence[str]
    workers: int
    gpus: Sequence[str]
    reopen: Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Supervised:
    """How the work of the workers ended.

    Attributes:
        code: exit code; other than 0 after a signal.
        snapshot: how the search stood after the last of them; None after a signal.
        names: of all that have run.
    """

    code: int
    snapshot: Snapshot | None
    names: frozenset[str]


def supervise(
    opened: OpenStudy,
    progress: Progress,
    staff: Staff,
    *,
    tell_starts: bool = False,
) -> Supervised:
    """Run workers to the end of the search, or until SIGINT, SIGTERM or SIGHUP; call it in the main thread.

    A worker that dies is started again; one that dies at once again and again, or for a reason that stays, is given up.

    Args:
        opened: the study to search.
        progress: takes what there is to show.
        staff: the workers to run.
        tell_starts: also tell when a worker starts and when it ends well.

    Raises:
        HpoError: workers were given up, and the search is not at its end.
    """
    events: SimpleQueue[int | Observation | Exception] = SimpleQueue()  # whose `put` a signal's handler may call
    monitor = Monitor(opened, reopen=staff.reopen, report=events.put)
    crew = _Crew(staff, monitor, events, progress, tell_starts=tell_starts)
    with _signals_to(events.put), progress:
        monitor.start()
        try:
            crew.work()
        finally:
            stop(crew.running)
        monitor.end()
        snapshot = crew.wait_for_the_last_look()
    if crew.signals:
        progress.say(_stopped(snapshot))
        return Supervised(exit_code(crew.signals[0]), None, frozenset(crew.names))
    if crew.failures and not (snapshot and snapshot.finished):
        raise HpoError("; ".join(dict.fromkeys(crew.failures)))
    return Supervised(EXIT_DONE, snapshot, frozenset(crew.names))


@dataclass
class _Seat:
    """Room for one worker at a time."""

    gpu: str | None
    worker: Launched | None = None  # that runs
    due: float = 0.0  # when the next starts, by time.monotonic(), where none runs
    closed: bool = False  # no further one starts
    restarts: Restarts = field(default_factory=Restarts)


class _Crew:
    """The workers of one `supervise`."""

    def __init__(
        self,
        staff: Staff,
        monitor: Monitor,
        events: SimpleQueue[int | Observation | Exception],
        progress: Progress,
        *,
        tell_starts: bool,
    ) -> None:
        self.names: set[str] = set()
        self.signals: list[int] = []
        self.failures: list[str] = []
        self._monitor, self._events, self._progress, self._tell_starts = monitor, events, progress, tell_starts
        self._command, self._threads = staff.command, max(1, cores() // staff.workers)
        gpus: Sequence[str | None] = staff.gpus or [None]
        self._seats = [_Seat(gpus[number % len(gpus)]) for number in range(staff.workers)]
        self._worked: set[str] = set()  # workers that have brought a trial forward by an epoch
        self._snapshot: Snapshot | None = None  # the last
        self._answers = False  # the database, at the last look
        self._problem = ""  # of the database, that was told
        self._kill_at: float | None = None

    @property
    def running(self) -> list[Launched]:
        """The workers that run."""
        return [seat.worker for seat in self._seats if seat.worker]

    def work(self) -> None:
        """Start workers, and start them again, until none is left to run."""
        while not all(seat.closed for seat in self._seats):
            if event := self._next_event():
                self._take(event)
            self._clear_away()
            self._start_due()
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                stop(self.running, at_once=True)

    def wait_for_the_last_look(self) -> Snapshot | None:
        """How the search stands at last; None where it was stopped or given up and the database does not answer."""
        begun = time.monotonic()
        while True:
            event = self._next_event()
            if event:
                self._take(event)
            if isinstance(event, Observation) and event.is_last:
                return event.snapshot
            # Workers that ended well know that there is nothing left: this can wait for the database as they have.
            if (self.signals or self.failures) and time.monotonic() - begun > LAST_OBSERVATION_SECONDS:
                return None

    def _next_event(self) -> int | Observation | Exception | None:
        try:
            return self._events.get(timeout=OBSERVE_SECONDS)
        except Empty:
            return None

    def _take(self, event: int | Observation | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, int):
            if event != signal.SIGCHLD:  # the worker that has ended is found in any case
                self._end(event)
        elif event.snapshot:
            self._see(event.snapshot)
        else:
            self._answers = False
            if event.problem != self._problem:
                self._progress.say(f"the database does not answer, which the workers wait for: {event.problem}")
            self._problem = event.problem

    def _see(self, snapshot: Snapshot) -> None:
        if self._problem:
            self._progress.say("the database answers again")
        self._snapshot, self._answers, self._problem = snapshot, True, ""
        self._worked |= {place.worker for place in snapshot.places if place.worker and place.epoch}
        self._progress.show(snapshot)

    def _end(self, number: int) -> None:
        """Tell the workers to end, by a signal that has come."""
        if not self.signals:
            again = " (Ctrl-C again ends at once)" if number == signal.SIGINT else ""
            self._progress.say(f"stopping: each trial goes back to the queue{again}")
            stop(self.running)
            self._kill_at = time.monotonic() + STOP_SECONDS
        elif number == signal.SIGINT:
            stop(self.running, at_once=True)
        self.signals.append(number)
        self._close_empty()

    def _close_empty(self) -> None:
        for seat in self._seats:
            seat.closed = seat.closed or seat.worker is None

    def _start_due(self) -> None:
        if self.signals or not self._answers or self._snapshot is None:
            return  # a worker that starts while the database is away would die of it
        if self._snapshot.finished:
            self._close_empty()
            return
        for seat in self._seats:
            if seat.worker is None and not seat.closed and time.monotonic() >= seat.due:
                try:
                    seat.worker = launch(self._command, self._threads, seat.gpu)
                except OSError as error:
                    self._bear(seat, "a worker", 0.0, Death(f"it cannot be started: {error}", may_pass=True))
                    continue
                self.names.add(seat.worker.name)
                if self._tell_starts:
                    on = "the CPU" if seat.gpu is None else f"GPU {seat.gpu}"
                    self._progress.say(f"{_shown(seat.worker)} has started on {on}")

    def _clear_away(self) -> None:
        """Find the workers that have ended, and let orphans go."""
        for seat in self._seats:
            worker = seat.worker
            if worker is None or (code := worker.process.poll()) is None:
                continue
            lived, printed, seat.worker = time.monotonic() - worker.started, worker.printed(), None
            worker.output.close()
            if code:  # it may have had no time, or no database, to hand its trial back
                self._monitor.requeue(worker.name, by_us=bool(self.signals))
            if code and not self.signals:
                self._bear(seat, _shown(worker), lived, death_of(code, printed), worked=worker.name in self._worked)
                continue
            seat.closed = True
            if self._tell_starts:
                self._progress.say(f"{_shown(worker)} has ended")
        if self._monitor.starts_processes.acquire(blocking=False):
            reap_orphans({worker.process.pid for worker in self.running})
            self._monitor.starts_processes.release()

    def _bear(self, seat: _Seat, shown: str, lived: float, death: Death, *, worked: bool = False) -> None:
        """Start a worker that has died again after a pause, or give it up."""
        if death.printed:
            self._progress.say(death.printed)
        pause = seat.restarts.pause_after(lived, worked=worked) if death.may_pass else None
        if pause is not None:
            seat.due = time.monotonic() + pause
            self._progress.say(f"{shown} has died: {death.cause}; it starts again in {pause:g} s")
            return
        seat.closed = True
        often = f"workers: one died at once {HOPELESS_DEATHS} times in a row: " if death.may_pass else ""
        self.failures.append(f"{often}{death.cause}")
        if others := sum(not seat.closed for seat in self._seats):
            self._progress.say(f"{shown} is given up, {others} go on: {self.failures[-1]}")


def _shown(worker: Launched) -> str:
    return f"worker {socket.gethostname()}:{worker.process.pid}"


def _stopped(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "stopped: the database does not say how the search stands; the same command resumes"
    done = snapshot.counts
    return (
        f"stopped: {done['complete'] + done['pruned'] + done['failed']} trials are done, {done['waiting']} went"
        " back to the queue; the same command resumes"
    )


@contextmanager
def _signals_to(take: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, hand over each signal that ends this process, or tells of the end of a child."""

    def on_signal(number: int, _frame: FrameType | None) -> None:
        take(number)

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGCHLD]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
