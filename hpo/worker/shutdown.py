"""How a worker is asked to end, and the signals that ask it."""

from __future__ import annotations

import logging
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

OUTAGE_SECONDS = 8.0  # for which a worker that is to end still waits for a database that is away
LAST_SECONDS = 16.0  # after the first signal, when the process ends whatever it does; others requeue its trial

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shutdown:
    """Whether a worker has been asked to end; safe from any thread.

    Attributes:
        parent: process without which the worker is to end; None to work without one.
        asked: set once the worker is to end: it hands its trial back at the next step.
        given_up: set once it no longer waits for a database that is away.
    """

    parent: int | None = None
    asked: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask the worker to end."""
        if not self.asked.is_set():
            self.asked.set()
            timer = threading.Timer(OUTAGE_SECONDS, self.given_up.set)
            timer.daemon = True
            timer.start()

    def ask_if_parent_is_gone(self) -> None:
        """Ask the worker to end where the process without which it is to end has ended."""
        if self.parent is not None and os.getppid() != self.parent:
            logger.warning("the process that started this worker is gone: the worker stops")
            self.ask()


@contextmanager
def asked_by_signals(shutdown: Shutdown) -> Iterator[list[int]]:
    """While the block runs, SIGTERM, SIGINT and SIGHUP ask for the shutdown; yields the list of those that came.

    A SIGINT that is not the first signal ends the process at once. A thread of its own hears the signals, since the
    main one may be inside a driver or a model for longer than a machine that is taken away allows. Where the process
    has not ended `LAST_SECONDS` after the first signal, that thread ends it.
    """
    received: list[int] = []
    heard, told = socket.socketpair()
    told.setblocking(False)

    def listen() -> None:
        while number := heard.recv(1):
            if received and number[0] == signal.SIGINT:
                os._exit(exit_code(signal.SIGINT))
            if not received:
                timer = threading.Timer(LAST_SECONDS, os._exit, (exit_code(number[0]),))
                timer.daemon = True
                timer.start()
            received.append(number[0])
            shutdown.ask()

    threading.Thread(target=listen, daemon=True).start()
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        numbers.append(signal.SIGHUP)
    # Python writes a signal's number to the socket only where the signal has a handler.
    handlers = {number: signal.signal(number, lambda *_: None) for number in numbers}
    earlier = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    try:
        yield received
    finally:
        signal.set_wakeup_fd(earlier)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        told.close()
