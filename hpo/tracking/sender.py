"""Sends what a tracker is told in a thread of its own: a trial never waits for a tracking server, nor fails with it."""

from __future__ import annotations

import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from hpo.tracking.tracked_trial import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hpo.tracking.tracked_trial import State, TrackedTrial, TrackingServer
    from trainer.fit import Epoch

WAITING = 1000  # calls that wait for the server at most; what comes then is dropped
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two attempts: each pause is twice the one before
PATIENCE_SECONDS = 600.0  # for which one call is tried
CLOSING_SECONDS = 10.0  # that the end of a worker waits for what is not sent yet


class Sender:
    """Calls a tracking server in the order in which it is told to; safe from any thread.

    Args:
        name: of the tracker, for people.
        server: that is called.
        say: takes a line, once, on what keeps it from being called; called in the thread.
    """

    def __init__(self, name: str, server: TrackingServer, say: Callable[[str], object]) -> None:
        self._name, self._server, self._say, self._said = name, server, say, False
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self._closing = threading.Event()
        # A daemon, because it may wait for a server that never answers.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def send(self, call: Callable[[TrackingServer], None]) -> None:
        """Call the server, when it is this call's turn; drop the call where too many wait."""
        try:
            self._calls.put_nowait(lambda: call(self._server))
        except queue.Full:
            self._warn("does not keep up")

    def close(self) -> None:
        """Send what waits, for a limited time."""
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            self._warn("does not keep up")
        self._closing.set()
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._warn("has not taken all of it in time")

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            pause, until = FIRST_PAUSE, time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    call()
                    break
                except Exception as error:  # noqa: BLE001 - nothing that goes wrong there is worth a trial
                    self._warn(one_line(error))
                if self._closing.is_set() or time.monotonic() > until:
                    break
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _warn(self, problem: str) -> None:
        if not self._said:
            self._said = True
            self._say(f"track: {self._name}: {problem}; trials go on, and what it does not take is missing there")


class SentRun:
    """One run of a trial, as the thread of a `Sender` tells a server of it.

    Args:
        sender: of the worker.
        trial: whose run it is.
        parameters: by which the trial is trained; asked for with the first epoch.
    """

    def __init__(self, sender: Sender, trial: TrackedTrial, parameters: Callable[[], Mapping[str, Any]]) -> None:
        self._sender, self._trial, self._parameters, self._begun = sender, trial, parameters, False

    def write(self, epoch: Epoch) -> None:
        """Tell of an epoch."""
        trial, number, values = self._trial, epoch.number, values_of(epoch)
        if not self._begun:
            self._begun, parameters = True, self._parameters()
            self._sender.send(lambda server: server.begin(trial, parameters))
        self._sender.send(lambda server: server.log(trial, number, values))

    def close(self, state: State) -> None:
        """Tell that the run has ended."""
        trial = self._trial
        if self._begun:
            self._sender.send(lambda server: server.end(trial, state))


def one_line(error: Exception) -> str:
    """An error as one short line, without what may be the password of a URL."""
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return re.sub(r"//[^/\s]*@", "//…@", line)[:300]
