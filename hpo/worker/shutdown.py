"""The wish that a worker ends, and the signals that bring it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpo.errors import exit_code

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTAGE_SECONDS = 8.0  # that a worker which is to end still waits for a database that is away
LAST_SECONDS = 16.0  # after which it ends whatever it is at: others miss its beat, and go on with its trial


@dataclass(frozen=True)
class Shutdown:
    """The wish that a worker ends; safe from any thread.

    Attributes:
        asked: the worker hands its trial back at the next step, and ends.
        given_up: it no longer waits for a database that is away.
    """

    asked: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Have the worker end."""
        if not self.asked.is_set():
            self.asked.set()
            last = threading.Timer(OUTAGE_SECONDS, self.given_up.set)
            last.daemon = True
            last.start()


@contextmanager
def asked_by_signals(stop: Shutdown) -> Iterator[list[int]]:
    """While the block runs, SIGTERM, SIGINT and SIGHUP ask for the stop; yields those that came.

    A second one that is SIGINT ends the process at once. They are heard by a thread of its own: the main one may stand
    in a driver or a model for longer than a machine that is taken away gives. What has not ended by then is ended here.
    """
    received: list[int] = []
    heard, told = socket.socketpair()
    told.setblocking(False)

    def listen() -> None:
        while number := heard.recv(1):
            if received and number[0] == signal.SIGINT:
                os._exit(exit_code(signal.SIGINT))
            if not received:
                last = threading.Timer(LAST_SECONDS, os._exit, (exit_code(number[0]),))
                last.daemon = True
                last.start()
            received.append(number[0])
            stop.ask()

    threading.Thread(target=listen, daemon=True).start()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        numbers.append(signal.SIGHUP)
    handlers = {
        number: signal.signal(number, lambda *_: None) for number in numbers
    }  # what makes the wakeup be written
    earlier = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(earlier)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        told.close()
