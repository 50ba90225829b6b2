"""The wish that a worker ends."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

OUTAGE_SECONDS = 8.0  # that a worker which is to end still waits for a database that is away


@dataclass(frozen=True)
class Stop:
    """The wish that a worker ends, safe from any thread and from a signal handler.

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
