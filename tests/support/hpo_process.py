"""A program that runs in the background, `hpo` or a script: it gets signals, and its output and exit code are read."""

from __future__ import annotations

import os
import uuid
from multiprocessing.connection import wait

from tests.support.fork_server import REAPING, begin
from tests.support.waiting import limit


class HpoProcess:
    """A program that runs in a process of its own.

    Args:
        words: `-m hpo` or a script, and its arguments.
        folder: in which it runs.
        variables: added to the environment.

    Attributes:
        name: of the worker that it runs; None where it runs another command.
    """

    def __init__(self, words, folder, variables):
        self.name, self._output = None, folder / f"{uuid.uuid4().hex}.out"
        self._process = begin(words, folder, {**os.environ, **variables}, self._output, self._output)

    def send(self, number):
        """Send it a signal."""
        os.kill(self._process.pid, number)

    @property
    def runs(self):
        """Whether it still does."""
        with REAPING:
            return self._process.is_alive()

    def end(self, seconds=120.0):
        """Wait for its end; returns its exit code, or less the number of the signal that ended it.

        Args:
            seconds: that its end takes at most on an idle machine.
        """
        assert wait([self._process.sentinel], limit(seconds)), f"it still runs: {self.printed}"
        with REAPING:
            self._process.join()
            return self._process.exitcode

    @property
    def printed(self):
        """All that it has printed so far."""
        return self._output.read_text() if self._output.exists() else ""
