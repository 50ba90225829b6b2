"""What is told of a search by `[study] notify`, before a server that takes it or does not."""

from __future__ import annotations

import dataclasses
import time
from datetime import UTC, datetime

import pytest

from hpo.study.interruptions import FailedTrial
from hpo.study.notify_url import notify_problem
from hpo.study.status import Best, Snapshot
from hpo.supervision import notifier as notifier_module
from hpo.supervision.messages import end_of, problem_message, problems_of
from hpo.supervision.notifier import Notifier
from storage.budget import Limits, Used
from storage.study_rows import PlaceRow, WorkerRow
from tests.support.waiting import limit, wait_until
from tests.support.webhook import Webhook, webhook
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def place(number, state, reason=None):
    """A place with what matters here."""
    return PlaceRow(number, state, None, number, reason, 0, None, None, None, 60.0)


BUSY = Snapshot(
    "photos",
    "postgresql://db/x",
    Limits(trials=2),
    Used(1, 0.5, 1.0),
    [place(0, "complete")],
    [WorkerRow("w1", "gpu-1", 42, "cpu", NOW, 2.0, gone=False)],
    Best(0, 0.9, Recipe()),
)
BAD = dataclasses.replace(
    BUSY,
    places=[*BUSY.places, place(1, "failed", "ValueError: no"), place(2, "failed", "told failed from outside")],
    workers=[dataclasses.replace(BUSY.workers[0], gone=True, died=True)],
    failed={3: FailedTrial("hung: a step has taken 9 minutes", interrupted=True, continued_as=4)},
)
OVER = dataclasses.replace(BUSY, used=Used(2, 0.5, 1.0), places=[place(0, "complete"), place(1, "pruned")])


class Rows:
    """The storage of one study, for any number of machines."""

    def __init__(self):
        self.told = set()

    def claim_notifications(self, events):
        """Those that are new."""
        new = [event for event in events if event not in self.told]
        self.told.update(new)
        return new


@pytest.fixture
def hook(monkeypatch):
    """A server that takes messages, and pauses between attempts that a test can wait for."""
    monkeypatch.setattr(notifier_module, "PAUSES", (0.01, 0.01))
    with webhook() as taken:
        yield taken


@pytest.fixture
def said():
    """The lines that a notifier has said."""
    return []


def test_what_goes_wrong_has_a_line_for_people():
    """Workers that died, trials that hung, and trials that have failed for good, but for those that people failed."""
    assert list(problems_of(BUSY)) == []
    assert list(problems_of(BAD).values()) == [
        "worker gpu-1:42 has died; its trial goes on in another one",
        "trial 3 hung: a step has taken 9 minutes; continued as trial 4",
        "trial 1 has failed for good: ValueError: no",
    ]


def test_a_message_has_what_programs_and_chats_read():
    """The best trial, trials by state and the budget as JSON, and all of it in words as `text`."""
    event, message = end_of(OVER, "gpu-1", None)
    assert event == "finished, 2 trials, 2 ended"
    assert message == {
        "event": "finished",
        "study": "photos",
        "reason": "the search is over: the budget is used up",
        "best": {"trial": 0, "macro_f1": 0.9},
        "trials": {"complete": 1, "pruned": 1, "failed": 0, "paused": 0, "running": 0, "waiting": 0},
        "used": {"trials": 2, "hours": 0.5, "gpu_hours": 1.0},
        "text": "photos: the search is over: the budget is used up\n1 complete, 1 pruned, 0 failed; best trial 0,"
        " validation macro-F1 0.9000",
    }
    many = problem_message(BUSY, [f"line {number}" for number in range(25)])
    assert (len(many["problems"]), many["reason"].count("\n")) == (25, 20)
    assert many["reason"].endswith("line 19\nand 5 problems more")


@pytest.mark.parametrize(
    ("changes", "reason", "event", "said"),
    [
        ({"reason_to_end": "trial 0 has reached 0.9"}, None, "finished", "the search is over: trial 0 has reached 0.9"),
        ({"limits": Limits(trials=9)}, None, "finished", "the search is over: no recipe is left to try"),
        ({"halt": "stop", "halts": 1}, None, "stopped", "the search was stopped"),
        ({"limits": Limits(trials=9)}, "no GPU", "given_up", "workers on gpu-1 were given up: no GPU"),
        ({"limits": Limits(trials=9)}, "search: all failed", "given_up", "workers were given up: search: all failed"),
        ({}, "no GPU", "finished", "the search is over: the budget is used up"),
    ],
)
def test_each_kind_of_end_says_why(changes, reason, event, said):
    """The end has its reason: budget, target, space, a stop, or workers that were given up before it."""
    _, message = end_of(dataclasses.replace(OVER, **changes), "gpu-1", reason)
    assert (message["event"], message["reason"]) == (event, said)


def test_a_search_that_goes_on_elsewhere_is_not_over():
    """A machine whose workers have ended first leaves the message to the last one."""
    assert end_of(dataclasses.replace(OVER, places=[place(0, "complete"), place(1, "running")]), "gpu-1", None) is None


def test_of_several_machines_one_tells_and_once(hook, said):
    """Whatever two machines see at once, and again when the search is begun again, comes in one message each."""
    rows = Rows()
    for _ in range(2):
        machines = [Notifier(hook.url, rows, said.append) for _ in range(2)]
        for machine in machines:
            machine.look(BUSY)
            wait_until(lambda machine=machine: machine._known is not None)
            machine.look(BAD)
        wait_until(lambda: hook.messages)
        for machine in machines:
            machine.look(OVER)
            machine.end(None)
    assert [message["event"] for message in hook.messages] == ["problem", "finished"]
    assert len(hook.messages[0]["problems"]) == 3
    assert said == []


def test_what_was_wrong_before_is_told_of_by_nobody(hook, said):
    """A search that is begun again does not repeat what went wrong before."""
    machine = Notifier(hook.url, Rows(), said.append)
    machine.look(BAD)
    machine.end(None)
    assert [message["event"] for message in hook.messages] == ["finished"]


def test_problems_that_follow_at_once_wait_for_each_other(hook, said):
    """After a message about problems the next one waits for a minute, or for the end, and holds all of them."""
    machine = Notifier(hook.url, Rows(), said.append)
    machine.look(BUSY)
    wait_until(lambda: machine._known is not None)
    machine.tell_given_up("worker gpu-1:42 is given up")
    machine.look(BUSY)
    wait_until(lambda: hook.messages)
    machine.look(BAD)
    time.sleep(0.05)
    assert len(hook.messages) == 1
    machine.look(dataclasses.replace(BAD, used=Used(2, 0.5, 1.0)))
    machine.end(None)
    first, second, _ = hook.messages
    assert first["problems"] == ["worker gpu-1:42 is given up"]
    assert len(second["problems"]) == 3


@pytest.mark.parametrize(
    ("answers", "asked", "delivered", "line"),
    [
        ([503, 429], 3, 1, None),
        ([500, 500, 500], 3, 0, "notify: a message to 127.0.0.1 was not delivered: it answered 500"),
        ([404], 1, 0, "notify: a message to 127.0.0.1 was not delivered: it answered 404"),
        ([302], 1, 0, "notify: a message to 127.0.0.1 was not delivered: it answered 302"),
    ],
)
def test_a_message_is_tried_again_where_that_may_help(hook, said, answers, asked, delivered, line):
    """What a server may do better later is repeated, what is final is not, and the URL's secret is never shown."""
    hook.answers = answers
    machine = Notifier(hook.url, Rows(), said.append)
    machine.look(OVER)
    machine.end(None)
    assert (hook.asked, len(hook.messages)) == (asked, delivered)
    assert said == ([line] if line else [])


def test_nobody_who_listens_and_nobody_who_answers_hold_the_end_up(hook, said, monkeypatch):
    """The end waits for its message for a limited time, and says that it has not arrived."""
    hook.answers = [None]
    for url, seconds in ((hook.url, 0.3), ("http://127.0.0.1:1/s3cret-token", limit(10))):
        monkeypatch.setattr(notifier_module, "END_SECONDS", seconds)
        machine, begun = Notifier(url, Rows(), said.append), time.monotonic()
        machine.look(OVER)
        machine.end(None)
        assert time.monotonic() - begun < limit(3)
    assert said[0] == "notify: 127.0.0.1 has not taken the message within 0 s"
    assert said[1] == "notify: a message to 127.0.0.1 was not delivered: Connection refused"
    assert Webhook.token not in "".join(said)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://hooks.example.org/a?b=c", None),
        ("http://localhost:8000/x", None),
        ("http://127.0.0.2/x", None),
        ("http://[::1]:80/x", None),
        ("http://hooks.example.org/s3cret", "would send to hooks.example.org without encryption; write https://"),
        ("https://me:s3cret@example.org/", "has a user or password before its host"),
        ("ftp://example.org/s3cret", "is no URL"),
        ("https:///s3cret", "is no URL"),
        ("https://example.org:s3cret/", "is no URL"),
        ("https://exam ple.org/s3cret", "is no URL"),
        ("https://example.org/s3cret\n", "is no URL"),
        ("https://[s3cret", "is no URL"),
        ("s3cret", "is no URL"),
        ("", "is no URL"),
    ],
)
def test_a_url_that_cannot_be_told_is_refused_without_its_secret(url, problem):
    """It is https, or this machine, and what is wrong with it is said without it."""
    found = notify_problem(url)
    assert (found is None) if problem is None else found.startswith(problem)
    assert "s3cret" not in (found or "")
