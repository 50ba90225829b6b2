"""Worker processes of this machine, each started again when it dies, until the search ends or a signal comes."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError, exit_code
from hpo.hardware import cores
from hpo.supervision.launcher import launch, reap_orphans, stop
from hpo.supervision.monitor import OBSERVE_SECONDS, Monitor, Observation
from hpo.supervision.notifier import Notifier
from hpo.supervision.restarts import HOPELESS_DEATHS, Death, Restarts, explain_death
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType

    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot
    from hpo.supervision.launcher import Launched
    from hpo.supervision.progress import Progress

STOP_SECONDS = 25.0  # for a worker to end when told to; it needs up to 20 to hand its trial back
LAST_OBSERVATION_SECONDS = 5.0  # for which the last snapshot of a stopped or given up search is waited for


@dataclass(frozen=True)
class WorkerPlan:
    """Which workers a supervisor runs, and how it starts them.

    Attributes:
        command: the program and its arguments that start one worker on its study.
        workers: how many.
        gpus: those that they may use; empty for the CPU. Where there are fewer GPUs than workers, workers share them.
        reopen: opens the storage once more, which starts an embedded Postgres that has crashed.
        notify: URL that is told of problems and the end; None where nobody is.
    """

    command: Sequence[str]
    workers: int
    gpus: Sequence[str]
    reopen: Callable[[], AbstractContextManager[object]]
    notify: str | None = field(default=None, repr=False)

    def confirming(self) -> WorkerPlan:
        """The same workers on the study that confirms theirs."""
        return replace(self, command=[*self.command, "--confirm"])


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
    plan: WorkerPlan,
    *,
    tell_starts: bool = False,
) -> Supervised:
    """Run workers to the end of the search, or until SIGINT, SIGTERM or SIGHUP; call it in the main thread.

    A worker that dies is started again. One that dies at once too often, or for a reason that stays, is given up.

    Args:
        opened: the study to search.
        progress: takes what there is to show.
        plan: the workers to run.
        tell_starts: also tell when a worker starts and when it ends well.

    Raises:
        HpoError: workers were given up, and the search is not at its end.
    """
    events: SimpleQueue[int | Observation | Exception] = SimpleQueue()  # the handler of a signal may call its `put`
    monitor = Monitor(opened, reopen=plan.reopen, report=events.put)
    notifier = Notifier(plan.notify, opened.rows, progress.say) if plan.notify else None
    workers = _Workers(plan, monitor, events, progress, notifier, tell_starts=tell_starts)
    with _signals_to(events.put), progress:
        monitor.start()
        try:
            workers.work()
        finally:
            stop(workers.running)
        monitor.end()
        snapshot = workers.wait_for_last_observation()
    if workers.signals:
        progress.say(_stopped(snapshot))
        return Supervised(exit_code(workers.signals[0]), None, frozenset(workers.names))
    failure = "; ".join(dict.fromkeys(workers.failures)) or None
    if notifier:
        notifier.end(failure)
    if failure and not (snapshot and snapshot.finished):
        raise HpoError(failure)
    return Supervised(EXIT_DONE, snapshot, frozenset(workers.names))


@dataclass
class _Slot:
    """One of the workers of a plan: the process that runs now, or when the next one starts."""

    gpu: str | None
    worker: Launched | None = None  # the process that runs
    due: float = 0.0  # where none runs: when the next one starts, by time.monotonic()
    closed: bool = False  # no further one is started
    restarts: Restarts = field(default_factory=Restarts)


class _Workers:
    """The workers of one `supervise`."""

    def __init__(
        self,
        plan: WorkerPlan,
        monitor: Monitor,
        events: SimpleQueue[int | Observation | Exception],
        progress: Progress,
        notifier: Notifier | None,
        *,
        tell_starts: bool,
    ) -> None:
        self.names: set[str] = set()
        self.signals: list[int] = []
        self.failures: list[str] = []
        self._monitor, self._events, self._progress, self._tell_starts = monitor, events, progress, tell_starts
        self._notifier = notifier
        self._command, self._threads = plan.command, max(1, cores() // plan.workers)
        gpus: Sequence[str | None] = plan.gpus or [None]
        self._slots = [_Slot(gpus[number % len(gpus)]) for number in range(plan.workers)]
        self._worked: set[str] = set()  # workers that have brought a trial forward by an epoch
        self._snapshot: Snapshot | None = None  # the last one
        self._answers = False  # whether the database answered at the last observation
        self._problem = ""  # why the database does not answer, as it was told last
        self._kill_at: float | None = None  # when workers that have not ended are killed, by time.monotonic()

    @property
    def running(self) -> list[Launched]:
        """The workers that run."""
        return [slot.worker for slot in self._slots if slot.worker]

    def work(self) -> None:
        """Start workers, and start them again, until none is left to run."""
        while not all(slot.closed for slot in self._slots):
            if event := self._next_event():
                self._handle(event)
            self._collect_ended()
            self._start_due()
            if self._kill_at is not None and time.monotonic() > self._kill_at:
                stop(self.running, at_once=True)

    def wait_for_last_observation(self) -> Snapshot | None:
        """The last snapshot; None where the search was stopped or given up and the database does not answer."""
        begun = time.monotonic()
        while True:
            event = self._next_event()
            if event:
                self._handle(event)
            if isinstance(event, Observation) and event.is_last:
                return event.snapshot
            # After a search that has ended well this waits as long as the database needs, as the workers do.
            if (self.signals or self.failures) and time.monotonic() - begun > LAST_OBSERVATION_SECONDS:
                return None

    def _next_event(self) -> int | Observation | Exception | None:
        try:
            return self._events.get(timeout=OBSERVE_SECONDS)
        except Empty:
            return None

    def _handle(self, event: int | Observation | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        if isinstance(event, int):
            if event != signal.SIGCHLD:  # the worker that has ended is found in any case
                self._tell_workers_to_end(event)
        elif event.snapshot:
            self._show(event.snapshot)
        else:
            self._answers = False
            if event.problem != self._problem:
                self._progress.say(f"the database does not answer, which the workers wait for: {event.problem}")
            self._problem = event.problem

    def _show(self, snapshot: Snapshot) -> None:
        if self._problem:
            self._progress.say("the database answers again")
        self._snapshot, self._answers, self._problem = snapshot, True, ""
        self._worked |= {place.worker for place in snapshot.places if place.worker and place.epoch}
        self._progress.show(snapshot)
        if self._notifier:
            self._notifier.look(snapshot)

    def _tell_workers_to_end(self, number: int) -> None:
        """A signal has come that ends this process: have the workers end first."""
        if not self.signals:
            again = " (Ctrl-C again ends at once)" if number == signal.SIGINT else ""
            self._progress.say(f"stopping: each trial goes back to the queue{again}")
            stop(self.running)
            self._kill_at = time.monotonic() + STOP_SECONDS
        elif number == signal.SIGINT:
            stop(self.running, at_once=True)
        self.signals.append(number)
        self._close_empty_slots()

    def _close_empty_slots(self) -> None:
        for slot in self._slots:
            slot.closed = slot.closed or slot.worker is None

    def _start_due(self) -> None:
        if self.signals or not self._answers or self._snapshot is None:
            return  # a worker that starts while the database does not answer would die
        if self._snapshot.needs_no_worker:
            self._close_empty_slots()
            return
        for slot in self._slots:
            if slot.worker is None and not slot.closed and time.monotonic() >= slot.due:
                try:
                    slot.worker = launch(self._command, self._threads, slot.gpu)
                except OSError as error:
                    self._restart_or_give_up(
                        slot, "a worker", 0.0, Death(f"it cannot be started: {error}", may_pass=True)
                    )
                    continue
                self.names.add(slot.worker.name)
                if self._tell_starts:
                    on = "the CPU" if slot.gpu is None else f"GPU {slot.gpu}"
                    self._progress.say(f"{_shown(slot.worker)} has started on {on}")

    def _collect_ended(self) -> None:
        """Find the workers that have ended, and collect orphaned processes."""
        for slot in self._slots:
            worker = slot.worker
            if worker is None or (code := worker.process.poll()) is None:
                continue
            lived, printed, slot.worker = time.monotonic() - worker.started, worker.printed(), None
            worker.output.close()
            if code:  # it may not have handed its trial back
                self._monitor.requeue(worker.name, by_us=bool(self.signals))
            if code and not self.signals:
                self._restart_or_give_up(
                    slot, _shown(worker), lived, explain_death(code, printed), worked=worker.name in self._worked
                )
                continue
            slot.closed = True
            if self._tell_starts:
                self._progress.say(f"{_shown(worker)} has ended")
        if self._monitor.starts_processes.acquire(blocking=False):
            reap_orphans({worker.process.pid for worker in self.running})
            self._monitor.starts_processes.release()

    def _restart_or_give_up(self, slot: _Slot, shown: str, lived: float, death: Death, *, worked: bool = False) -> None:
        """Plan the next start of a worker that has died, or give it up."""
        if death.printed:
            self._progress.say(death.printed)
        pause = slot.restarts.pause_after(lived, worked=worked) if death.may_pass else None
        if pause is not None:
            slot.due = time.monotonic() + pause
            self._progress.say(f"{shown} has died: {death.cause}; it starts again in {pause:g} s")
            return
        slot.closed = True
        often = f"workers: one died at once {HOPELESS_DEATHS} times in a row: " if death.may_pass else ""
        self.failures.append(f"{often}{death.cause}")
        if others := sum(not slot.closed for slot in self._slots):
            line = f"{shown} is given up, {counted(others, 'goes on', 'go on')}: {self.failures[-1]}"
            self._progress.say(line)
            if self._notifier:
                self._notifier.tell_given_up(line)


def _shown(worker: Launched) -> str:
    return f"worker {socket.gethostname()}:{worker.process.pid}"


def _stopped(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "stopped: the database does not say how the search stands; the same command resumes"
    done = counted(snapshot.ended, "trial is done", "trials are done")
    return f"stopped: {done}, {snapshot.counts['waiting']} went back to the queue; the same command resumes"


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
