"""A training that hangs is found; one that is slow is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import hpo.worker.step_watch
from hpo.worker.step_watch import StepWatch

pytestmark = pytest.mark.unit


@pytest.fixture
def clock(monkeypatch):
    """The clock of the watch, in seconds."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(hpo.worker.step_watch, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def trained(clock, *, steps, seconds):
    """A watch of ten minutes after so many steps of so many seconds each."""
    watch = StepWatch(10)
    watch.step_ended()
    for _ in range(steps):
        watch.step_begins()
        clock.now += seconds
        watch.step_ended()
    watch.step_begins()
    return watch


def test_a_step_hangs_that_takes_ten_minutes_and_thirty_times_the_median(clock):
    """Both have to be exceeded; the reason has both numbers."""
    quick = trained(clock, steps=5, seconds=2.0)
    clock.now += 600
    assert quick.hang() is None
    clock.now += 60
    assert quick.hang() == "hung: a step has taken 11.0 minutes, the median of those before it is 2 s"
    slow = trained(clock, steps=5, seconds=40.0)
    clock.now += 1100
    assert slow.hang() is None
    clock.now += 200
    assert slow.hang()
    first = trained(clock, steps=0, seconds=0)
    clock.now += 601
    assert first.hang()


def test_a_validation_does_not_hang_that_takes_no_longer_than_its_epoch(clock):
    """After the last step of an epoch all validation images are looked at, which no step before has told."""
    watch = trained(clock, steps=100, seconds=10.0)
    clock.now += 900
    assert watch.hang() is None
    clock.now += 200
    assert watch.hang()


def test_what_is_no_step_does_not_hang(clock):
    """Between steps a checkpoint may wait for its store, and between epochs and trainings the database may be away."""
    watch = trained(clock, steps=5, seconds=1.0)
    for interrupt in (watch.step_ended, watch.epoch_ended, watch.begin):
        watch.step_begins()
        interrupt()
        clock.now += 10_000
        assert watch.hang() is None
