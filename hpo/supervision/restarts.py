"""Why a worker has died, when it starts again, and when it is given up."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from hpo.errors import ENDING_SIGNALS, EXIT_FAILED, exit_code

AT_ONCE_SECONDS = 30.0  # a worker that dies younger, without an epoch done, has died at once
HOPELESS_DEATHS = 5  # at once and in a row; after that many a worker is given up
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before a worker starts again; doubled from death to death
RAISED = re.compile(r"^[\w.]+(?:Error|Exception): .+$", re.MULTILINE)  # the line of a traceback that names the cause
FORESEEN = re.compile(r"^hpo: (.*(?:\n  .*)*)$", re.MULTILINE)  # its line, and those indented below it
LONG_LIFE_SECONDS = 60.0  # after a life longer than that the pauses begin at the first one again


class Restarts:
    """When a worker that has died starts again, and when it is given up."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._at_once = 0

    def pause_after(self, lived_seconds: float, *, worked: bool) -> float | None:
        """Seconds until the next start; None where it has died at once too often.

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
        cause: in one line; of a foreseen failure with the indented lines below it.
        may_pass: whether another start may end better.
        printed: all that it printed, where that holds more than the cause.
    """

    cause: str
    may_pass: bool
    printed: str | None = None


def explain_death(code: int, printed: str) -> Death:
    """Why a worker has ended with an exit code other than 0, by that and what it has printed."""
    if code < 0:
        cause = f"ended by signal {-code} ({signal.strsignal(-code) or 'without a name'})"
        return Death(cause, may_pass=True, printed=printed or None)  # CUDA aborts, and has printed why
    if code in map(exit_code, ENDING_SIGNALS):
        return Death("told to end by somebody else", may_pass=True)
    foreseen = FORESEEN.findall(printed)
    if code == EXIT_FAILED and foreseen:
        return Death(foreseen[-1], may_pass=foreseen[-1].startswith("storage: "))
    *earlier, last = printed.splitlines() or [f"exit code {code}, and it printed nothing"]
    raised = RAISED.findall(printed)  # CUDA's errors have advice in the lines below, and more is printed at the exit
    return Death(raised[-1] if raised else last, may_pass=True, printed=printed if earlier else None)
