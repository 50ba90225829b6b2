"""The thread that watches a search."""

from __future__ import annotations

from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace

import psycopg2
import pytest
from sqlalchemy.exc import OperationalError

from hpo.supervision import monitor
from hpo.supervision.monitor import Monitor, Observation, pause_after
from storage.errors import StorageError
from tests.support.waiting import limit

pytestmark = pytest.mark.unit


@pytest.fixture
def reports(monkeypatch):
    """Starts a monitor that sees one snapshot after the other, or that error; gives what it reports."""
    monkeypatch.setattr(monitor, "OBSERVE_SECONDS", 0.01)
    started = []

    def start(*seen, refused=None):
        left, found = list(seen), SimpleQueue()

        def take_snapshot(*_):
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        @contextmanager
        def reopen():
            if refused:
                raise refused
            yield

        monkeypatch.setattr(monitor, "take_snapshot", take_snapshot)
        opened = SimpleNamespace()
        started.append(Monitor(opened, reopen=reopen, report=found.put))
        started[-1].start()
        return [found.get(timeout=limit(30)) for _ in seen]

    yield start
    for each in started:
        each.end()


def away():
    """The error of a database that does not answer."""
    return OperationalError("SELECT 1", {}, psycopg2.OperationalError("gone"))


def test_each_observation_is_reported_once(reports):
    """A database that does not answer is one report, with the reason where it cannot be started again."""
    end = ValueError("the end")
    assert reports(away(), "seen", end) == [Observation(None, "gone"), Observation("seen"), end]
    refused = StorageError("the disk is full")
    assert reports(away(), away(), end, refused=refused)[:2] == [Observation(None, "the disk is full")] * 2


def test_whatever_ends_the_observations_is_reported(reports):
    """No error ends the thread in silence, also none of opening the storage once more."""
    refused = KeyError("getpwnam")
    assert reports(away(), refused=refused) == [refused]


def test_long_observations_are_rare():
    """Observations take at most a twentieth of the time, and come at least once a minute."""
    assert [pause_after(seconds) for seconds in (0.0, 0.01, 0.5, 2.0, 30.0)] == [1.0, 1.0, 10.0, 40.0, 60.0]
