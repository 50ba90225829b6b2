"""Searches that end before their budget is used up, and trials that end before their last epoch."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from hpo.study.status import take_snapshot
from storage.budget import StopRules
from storage.keys import BEST_EPOCH_KEY, METRICS_KEY
from tests.integration.conftest import FIXED, ScriptedLoss, lines_of

pytestmark = pytest.mark.integration


def with_file(study, **changes):
    """The study, whose file says so from now on."""
    study.file = replace(study.file, **changes)
    study.opened = replace(study.opened, file=study.file)
    return study


def test_no_trial_begins_once_the_target_is_reached(harness, caplog):
    """Workers end at the target, although trials are left and one waits; with a higher target they go on."""

    def interrupt_another():
        study.dead_worker()
        study.opened.rows.requeue("dead")

    study = harness(ScriptedLoss({1: interrupt_another}), trials=3, recipe=FIXED)
    with_file(study, stop_rules=StopRules(target=1e-6)).work()
    snapshot = take_snapshot(study.opened)
    assert [place.state for place in study.places] == ["complete", "waiting"]
    assert (snapshot.finished, snapshot.counts["waiting"]) == (True, 1)
    assert "has reached" in snapshot.reason_to_end
    assert snapshot.as_json()["reason_to_end"] == snapshot.reason_to_end
    assert f"no further trial begins: {snapshot.reason_to_end}" in caplog.text
    with_file(study, stop_rules=StopRules()).work("another")
    assert [place.state for place in study.places] == ["complete"] * 3


def test_no_trial_begins_once_the_patience_is_used_up(harness):
    """A search ends after so many full trainings without a gain, and shows how many there were."""
    study = with_file(harness(trials=9, recipe=FIXED | {"seed": list(range(40))}), stop_rules=StopRules(patience=2))
    study.work()
    snapshot = take_snapshot(study.opened)
    assert (snapshot.finished, snapshot.gain.trainings) == (True, 2)
    assert len(study.places) == snapshot.gain.trial + 3 < 9
    assert "2 of 2" in [str(spent) for spent in snapshot.spent]


@pytest.fixture
def take_seconds(monkeypatch):
    """A function by which the clock of trials and epochs goes on by so many seconds; otherwise it stands still."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("hpo.worker.time_limit.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("trainer.fit.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def take(seconds):
        clock.now += seconds

    return take


def test_a_trial_ends_in_the_epoch_in_which_its_time_is_over(harness, take_seconds):
    """A trial whose first epoch takes too long is pruned without a result, with the reason."""
    study = with_file(harness(ScriptedLoss({2: lambda: take_seconds(2)}), trials=1, recipe=FIXED), trial_minutes=0.02)
    study.work()
    assert [place.state for place in study.places] == ["pruned"]
    assert study.places[0].reason == "ended in epoch 1, as [budget] trial_minutes = 0.02 are over"
    assert study.places[0].reason in lines_of(study, 0)
    assert study.trials[0].intermediate_values == {}
    assert study.trials[0].user_attrs[BEST_EPOCH_KEY] == 0


def test_a_trial_ends_before_an_epoch_that_its_time_is_too_short_for(harness, take_seconds):
    """A trial whose next epoch would take too long is pruned with what it has reached."""
    study = with_file(harness(ScriptedLoss({2: lambda: take_seconds(12)}), trials=1, recipe=FIXED), trial_minutes=0.35)
    study.work()
    assert study.places[0].reason == "ended after epoch 1, as another one would pass [budget] trial_minutes = 0.35"
    assert METRICS_KEY in study.trials[0].user_attrs
    assert list(study.trials[0].intermediate_values) == [1]


def test_time_without_a_worker_is_none_of_a_trial(harness):
    """A trial whose worker died before a night without any has its minutes still, and is trained to its end."""
    study = with_file(harness(trials=1, recipe=FIXED), trial_minutes=10.0)
    study.dead_worker()
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("UPDATE trials SET datetime_start = datetime_start - interval '10 hours'"))
        connection.execute(text("UPDATE hpo.worker SET beaten = beaten - interval '9 hours 59 minutes'"))
    study.opened.rows.requeue("dead")
    assert study.trials[0].duration.total_seconds() == pytest.approx(60, abs=20)
    study.work()
    assert [place.state for place in study.places] == ["complete"]


def test_a_trial_without_a_beat_ends_no_sooner_than_it_began(harness):
    """A trial whose worker died before its first beat in it has taken no time, and not less than none."""
    study = harness(trials=1, recipe=FIXED)
    study.dead_worker()
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.worker SET beaten = beaten - interval '1 hour'"))
    study.opened.rows.requeue("dead")
    assert study.trials[0].duration.total_seconds() == 0
