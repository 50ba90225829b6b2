"""The switch between transactions and single statements."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from storage.autocommit import autocommit

pytestmark = pytest.mark.unit


class Driver:
    """A connection in whose switch a signal arrives."""

    closed = 0
    is_on = False

    @property
    def autocommit(self):
        """Whether each statement is a transaction."""
        return self.is_on

    @autocommit.setter
    def autocommit(self, is_on):
        self.is_on = is_on
        if is_on:
            raise KeyboardInterrupt


def test_an_interruption_leaves_no_connection_switched():
    """A connection that goes back to the pool makes transactions again, whenever the signal came."""
    driver = Driver()

    @contextmanager
    def connect():
        yield SimpleNamespace(connection=SimpleNamespace(driver_connection=driver))

    with pytest.raises(KeyboardInterrupt), autocommit(SimpleNamespace(connect=connect)):
        pass
    assert not driver.is_on
