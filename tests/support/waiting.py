"""How long tests wait, and the pace at which they let things happen; HPO_TEST_PATIENCE makes both longer."""

from __future__ import annotations

import os
import time

PATIENCE = float(os.environ.get("HPO_TEST_PATIENCE", "1"))
MARGIN = 3.0  # a limit holds on a machine that is so many times slower than an idle one with two cores


def limit(seconds):
    """The longest time, in seconds, to wait for what takes at most this many on an idle machine with two cores."""
    return seconds * MARGIN * PATIENCE


def paced(seconds):
    """A duration in seconds that a test chooses itself, such as a grace period, a step of a training or a pause."""
    return seconds * PATIENCE


def wait_until(condition, seconds=60.0, every=0.05):
    """Wait until the condition returns something true; returns that.

    Args:
        condition: a function without arguments.
        seconds: that this takes at most on an idle machine.
        every: seconds between two calls of it.

    Raises:
        AssertionError: the time is up.
    """
    end = time.monotonic() + limit(seconds)
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"not within {limit(seconds):.0f} s")
