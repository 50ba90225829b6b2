"""Telling a tracking server of trials, without one: nothing that it does delays or fails a trial."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from hpo.tracking import sender as sender_module
from hpo.tracking import trackers as trackers_module
from hpo.tracking.sender import Sender, SentRun
from hpo.tracking.tracked_trial import TrackedTrial, tracked
from hpo.tracking.trackers import add_bundle
from tests.support.waiting import limit, wait_until
from trainer.objective_metric import MACRO_F1

pytestmark = pytest.mark.unit

TRIAL = TrackedTrial("photos", "id", 7)


class Server:
    """A tracking server that notes what it is told, once it is up; the first calls fail."""

    def __init__(self, failures=0):
        self.told, self.failures, self.up = [], failures, threading.Event()
        self.up.set()

    def _take(self, *what):
        self.up.wait()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("https://me:s3cret@example.org/api is away\nand more")
        self.told.append(what)

    def begin(self, trial, parameters):
        """Note it."""
        self._take("begin", trial.number, parameters)

    def log(self, _, epoch, values):
        """Note it."""
        self._take("log", epoch, values["valid/macro_f1"])

    def end(self, _, state):
        """Note it."""
        self._take("end", state)

    def add_bundle(self, trial, _, scores):
        """Note it."""
        self._take("bundle", trial.number, scores)


def epoch(number):
    """An epoch as the training gives it."""
    validation = SimpleNamespace(score=number / 10, macro_f1=number / 10, accuracy=0.5, metric=MACRO_F1)
    return SimpleNamespace(
        number=number, train_loss=1.0, learning_rate=0.1, validation=validation, seconds=1.0, data_seconds=0.0
    )


def tell(sender, epochs=2):
    """Tell of a run of so many epochs."""
    run = SentRun(sender, TRIAL, lambda: {"loss": "focal"})
    for number in range(1, epochs + 1):
        run.write(epoch(number))
    run.close("complete")


@pytest.fixture
def said():
    """The lines that a sender has said."""
    return []


ALL = [("begin", 7, {"loss": "focal"}), ("log", 1, 0.1), ("log", 2, 0.2), ("end", "complete")]


def test_a_run_is_told_in_order(said):
    """Parameters with the first epoch, then each epoch, then the end; a run without an epoch is none."""
    server = Server()
    sender = Sender("mlflow", server, said.append)
    SentRun(sender, TRIAL, dict).close("interrupted")
    tell(sender)
    sender.close()
    assert server.told == ALL
    assert said == []


def test_an_outage_delays_what_is_told_and_loses_nothing(said, monkeypatch):
    """While the server fails it is asked again, and then told all in order; one line says so, without a password."""
    monkeypatch.setattr(sender_module, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(sender_module, "FIRST_PAUSE", 0.01)
    server = Server(failures=3)
    sender = Sender("mlflow", server, said.append)
    tell(sender)
    wait_until(lambda: len(server.told) == 4)
    sender.close()
    assert server.told == ALL
    assert said == [
        "track: mlflow: https://…@example.org/api is away; trials go on, and what it does not take is missing there"
    ]


def test_a_server_that_hangs_costs_no_time_and_little_memory(said, monkeypatch):
    """A trial goes on at once however much waits, too much is dropped with one line, and the end is not held up."""
    monkeypatch.setattr(sender_module, "WAITING", 50)
    monkeypatch.setattr(sender_module, "CLOSING_SECONDS", 0.1)
    server = Server()
    server.up.clear()
    sender, begun = Sender("wandb", server, said.append), time.monotonic()
    tell(sender, epochs=1000)
    assert time.monotonic() - begun < limit(1)
    sender.close()
    assert time.monotonic() - begun < limit(2)
    assert sender._calls.qsize() <= 50
    assert said == ["track: wandb: does not keep up; trials go on, and what it does not take is missing there"]
    server.up.set()


def test_a_call_that_never_works_is_given_up(said, monkeypatch):
    """What a server refuses for good does not keep it from being told of the next trials."""
    monkeypatch.setattr(sender_module, "PATIENCE_SECONDS", 0.0)
    server = Server(failures=1)
    sender = Sender("mlflow", server, said.append)
    tell(sender)
    sender.close()
    assert server.told == ALL[1:]
    assert len(said) == 1


def test_a_trial_that_goes_on_is_the_same_run():
    """What continues or repeats a trial has its number for the tracker."""
    again = SimpleNamespace(number=9, user_attrs={"first_run": 7, "repeats": 8})
    assert tracked(again, "photos", "id") == tracked(SimpleNamespace(number=7, user_attrs={}), "photos", "id") == TRIAL


def test_a_bundle_that_cannot_be_sent_is_said(monkeypatch, tmp_path):
    """The bundle is there whatever the server says, which is one line; else the line names the run."""
    opened = SimpleNamespace(file=SimpleNamespace(name="photos", track=("mlflow",), folder=tmp_path), owner="id")
    trial, info = SimpleNamespace(number=7, user_attrs={}), {"metrics": {"test": None}}
    server = Server(failures=1)
    monkeypatch.setattr(trackers_module, "MlflowServer", lambda: server)
    assert list(add_bundle(opened, trial, tmp_path, info)) == [
        "track: mlflow: the bundle could not be sent: https://…@example.org/api is away"
    ]
    assert list(add_bundle(opened, trial, tmp_path, info)) == ["track: mlflow: the bundle is with the run of trial 7"]
    assert server.told == [("bundle", 7, {})]
