"""How long tests wait: for conditions, with limits that grow with HPO_TEST_PATIENCE on a slow machine."""

from __future__ import annotations

import os
import time

PATIENCE = float(os.environ.get("HPO_TEST_PATIENCE", "3"))  # 1: an idle machine of two cores


def scaled(seconds):
    """A limit of time in seconds, as it is on an idle machine, for this one."""
    return seconds * PATIENCE


def wait_until(condition, seconds=60.0):
    """Wait until the condition returns something true; returns that.

    Args:
        condition: is called again and again, every 0.05 s.
        seconds: after which it raises AssertionError; scaled.
    """
    end = time.monotonic() + scaled(seconds)
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {scaled(seconds):.0f} s")
