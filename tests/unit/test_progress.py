"""What a search shows while it runs."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from hpo.dashboard.notes import study_note
from hpo.study.expected_gain import ExpectedGain
from hpo.study.queue_outlook import queue_lines
from hpo.study.status import Best, Snapshot
from hpo.study.status_table import render
from hpo.study.stop_rules import LastGain
from hpo.supervision.progress import Progress
from hpo.units import duration
from hpo.worker.stopwatch import Stopwatch, TimedTrial
from hpo.worker.time_limit import TimeLimit
from storage.budget import Limits, StopRules, Used
from storage.rungs import RungCount
from storage.study_rows import PlaceRow, WorkerRow
from trainer.objective_metric import MACRO_F1
from trainer.recipe import Recipe
from trainer.wording import counted

pytestmark = pytest.mark.unit

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def place(number, state, **more):
    """A place with what matters here."""
    values = {"worker": None, "trial": number, "reason": None, "epoch": 0, "epochs": None, "score": None}
    return PlaceRow(number=number, state=state, **{**values, "best": None, "seconds": 65.0, **more})


def snapshot(*places):
    """A search of 10 trials with one worker."""
    worker = WorkerRow("w1", "host", 42, "cpu", NOW, 2.0, gone=False)
    used = Used(len(places), 0.5, 1.0)
    return Snapshot("s", "postgresql://db/x", Limits(trials=10), used, places, [worker], Best(0, 0.9, Recipe()))


def printed(shown):
    """What a console prints of it."""
    console = Console(file=io.StringIO(), width=120)
    console.print(shown)
    return console.file.getvalue()


def test_the_table_shows_each_worker_and_the_budget():
    """A running trial's epoch, last and best macro-F1 and time, the budget and the best so far are shown."""
    running = place(1, "running", worker="w1", epoch=3, epochs=9, score=0.5, best=0.75)
    text = printed(render(snapshot(place(0, "complete", best=0.9), running)))
    assert "host:42" in text
    for cell in ("3/9", "0.5000", "0.7500", "1 min 05 s", "1 of 10", "1 complete, 1 running", "0.9000 (trial 0)"):
        assert cell in text


def test_the_budget_counts_what_has_ended_and_says_where_a_limit_was_passed():
    """What runs or waits has not used up a trial yet; a limit that was lowered or passed is named."""
    running = [place(number, "running") for number in range(2)]
    assert "0 of 10\n" in printed(render(snapshot(*running)))
    ended = snapshot(*[place(number, "complete") for number in range(4)])
    assert "4, above the limit of 1\n" in printed(render(replace(ended, limits=Limits(trials=1))))
    assert "0.50, above the limit of 0.25\n" in printed(render(replace(ended, limits=Limits(hours=0.25))))
    assert "0.50 of 2\n" in printed(render(replace(ended, limits=Limits(hours=2))))


def test_a_search_without_trials_says_so_once():
    """Before the first trial nothing more is said; what was taken over is."""
    assert printed(render(replace(snapshot(), best=None))).endswith("\nno trials yet\n")
    assert printed(render(snapshot())).endswith("\nno trials yet; best macro-F1 0.9000 (trial 0)\n")
    assert "1 running; no trial is complete yet" in printed(render(replace(snapshot(place(0, "running")), best=None)))


def test_counting_is_for_terminals_alone():
    """How many images are decoded shows in a terminal while it lasts, and nowhere else."""
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
        with Progress(console).counting("decoding") as count:
            before = console.file.getvalue()
            count(1, 2000)
            count(1999, 2000)
        assert before == ""
        assert ("decoding: 1,999 of 2,000" in console.file.getvalue()) == terminal
        assert terminal or console.file.getvalue() == ""


def test_without_a_terminal_each_pause_is_told_once():
    """A trial that is paused, goes on, is paused later and ends is three lines; the table counts the paused ones."""
    console = Console(file=io.StringIO(), width=200)
    with Progress(console) as progress:
        progress.show(snapshot())
        for shown in (
            place(0, "paused", best=0.5, paused_after=3),
            place(0, "paused", best=0.5, paused_after=3),
            place(0, "running", best=0.5),
            place(0, "running", trial=4, best=0.6, paused_after=6),
            place(0, "paused", trial=4, best=0.6, paused_after=6),
            place(0, "complete", trial=7, best=0.7),
        ):
            progress.show(snapshot(shown))
    assert [line.split(",")[0] for line in console.file.getvalue().splitlines()] == [
        "trial 0 paused after epoch 3",
        "trial 4 paused after epoch 6",
        "trial 7 complete",
    ]
    text = printed(render(replace(snapshot(place(0, "paused", paused_after=3)), rungs=[RungCount(3, 5, 3, False)])))
    assert "paused trials go on if they come among the best half: 3 of 5 after epoch 3" in text


def test_without_a_terminal_each_end_is_told_once():
    """Where stdout is no terminal, each trial that ends is one line, and those of earlier searches are none."""
    console = Console(file=io.StringIO(), width=40)
    with Progress(console) as progress:
        progress.show(snapshot(place(0, "complete", best=0.9)))
        progress.show(snapshot(place(0, "complete", best=0.9), place(1, "running")))
        for _ in range(2):
            progress.show(snapshot(place(0, "complete", best=0.9), place(1, "failed", reason="OSError: no")))
    assert console.file.getvalue() == "trial 1 failed, 1 min 05 s; best 0.9000 (trial 0): OSError: no\n"


def test_what_ends_a_search_before_its_budget_is_shown():
    """The table has how far target and patience are, and why no further trial begins; so have note and JSON."""
    rules = StopRules(target=0.95, patience=4)
    stands = replace(
        snapshot(place(0, "complete")),
        stop_rules=rules,
        gain=LastGain(0, 0.9, 0.01, 3, MACRO_F1),
        reason_to_end="enough is found",
    )
    table = printed(render(stands))
    assert "0.9000, the target is 0.95\n" in table
    assert re.search(r"without a gain .* 3 of 4 *\n", table)
    assert "no further trial begins: enough is found\n" in table
    assert "**No further trial begins**: enough is found" in study_note(stands, 1)
    assert "Budget: 3 of 4 without a gain" in study_note(stands, 1)
    assert stands.as_json()["last_gain"] == {"trial": 0, "macro_f1": 0.9, "noise": 0.01, "trainings": 3}
    assert stands.finished
    assert not replace(stands, places=[place(0, "running")]).finished


@pytest.mark.parametrize(
    ("stands", "lines"),
    [
        ({}, ["workers that are free take the queued recipes next; each counts in the budget as any trial"]),
        ({"workers": []}, ["no worker is at work: `hpo search 's 1.toml'` tries what is queued"]),
        (
            {"limits": Limits(trials=1)},
            ["the budget is used up: raise [budget], and `hpo search 's 1.toml'` tries what is queued"],
        ),
        (
            {"reason_to_end": "target is 0.9", "halt": "stop"},
            [
                "no further trial begins: target is 0.9: raise it, and `hpo search 's 1.toml'` tries what is queued",
                "the study is stopped: `hpo search 's 1.toml'` lets it go on, and tries what is queued",
            ],
        ),
        ({"halt": "pause"}, ["the study is paused: `hpo resume 's 1.toml'` lets its workers take what is queued"]),
        (
            {"halt": "pause", "workers": []},
            [
                "the study is paused: `hpo resume 's 1.toml'` lets its workers take what is queued",
                "no worker is at work: `hpo search 's 1.toml'` tries what is queued",
            ],
        ),
        (
            {"paused_hosts": ["another", "host"]},
            ["the hosts of all workers are paused: `hpo resume 's 1.toml' --host host` lets them take what is queued"],
        ),
    ],
)
def test_what_is_queued_is_promised_only_what_happens(stands, lines):
    """`hpo try` says what has to be done first where no worker takes a queued recipe as things stand."""
    assert queue_lines(replace(snapshot(place(0, "complete")), **stands), Path("s 1.toml")) == lines


def test_json_has_the_documented_form():
    """`hpo status --json` has study, storage, trials by state, budget, best, and workers that live or died."""
    running = place(1, "running", worker="w1", epoch=3)
    shown = snapshot(place(0, "complete"), running).as_json()
    keys = {
        "study",
        "storage",
        "trials",
        "budget",
        "best",
        "metric",
        "workers",
        "dead_workers",
        "halt",
        "paused_hosts",
        "front",
        "expected_gain",
        "earlier_studies",
        "paused_checkpoints",
        "early_ranks",
    }
    assert set(shown) == keys | {"reason_to_end", "last_gain"}
    assert shown["trials"] == {"complete": 1, "pruned": 0, "failed": 0, "paused": 0, "running": 1, "waiting": 0}
    assert shown["budget"]["used"] == {"trials": 2, "hours": 0.5, "gpu_hours": 1.0}
    assert shown["best"]["recipe"]["loss"] == "cross_entropy"
    assert shown["workers"] == [
        {"host": "host", "pid": 42, "device": "cpu", "trial": 1, "epoch": 3, "beat_seconds_ago": 2.0}
    ]


def test_what_further_trials_may_bring_is_shown():
    """`hpo status` has the expected gain where there is one."""
    stands = snapshot(place(0, "complete"))
    assert stands.as_json()["expected_gain"] is None
    stands = replace(stands, expected=ExpectedGain(8, 0.0031, 1.25, 0.009))
    assert stands.expected.line() in printed(render(stands))
    assert stands.as_json()["expected_gain"] == {"trials": 8, "macro_f1": 0.0031, "gpu_hours": 1.25, "noise": 0.009}


def test_paused_hosts_are_shown_with_the_way_to_let_them_go_on():
    """`hpo status` names each host that is paused by itself."""
    stands = replace(snapshot(place(0, "complete")), paused_hosts=["node 1", "node-2"])
    shown = printed(render(stands))
    assert "node 1 is paused; `hpo resume --host 'node 1'` lets it go on" in shown
    assert "node-2 is paused; `hpo resume --host node-2` lets it go on" in shown
    assert stands.as_json()["paused_hosts"] == ["node 1", "node-2"]


def test_a_search_is_finished_when_nothing_is_left_to_do():
    """A used-up budget with a place that waits or runs is no finished search."""
    ended = [place(number, "complete") for number in range(9)]
    assert snapshot(*ended, place(9, "failed")).finished
    assert not snapshot(*ended, place(9, "waiting")).finished
    assert not snapshot(*ended, place(9, "running")).finished
    assert not snapshot(*ended).finished
    paused = snapshot(*ended, place(9, "paused", paused_after=3))
    assert not replace(paused, rungs=[RungCount(3, 3, 2, False)]).finished  # half of three, rounded up, may go on
    assert replace(paused, rungs=[RungCount(3, 2, 1, False)]).finished
    assert not replace(paused, rungs=[RungCount(3, 2, 1, True)]).finished  # as the best of two may, too
    assert replace(paused, rungs=[RungCount(3, 3, 2, True)], limits=Limits(trials=10, hours=0.5)).finished


@pytest.mark.parametrize("spent", [Used(10, 5.0, 0.0), Used(10, 0.0, 5.0), Used(3, 5.0, 0.0)])
def test_what_waits_when_the_hours_are_used_up_keeps_no_search_unfinished(spent):
    """A place that waits for hours that are used up never runs again; one that runs still ends."""
    limits = Limits(trials=10, hours=5, gpu_hours=5)
    assert replace(snapshot(place(0, "waiting")), used=spent, limits=limits).finished
    assert not replace(snapshot(place(0, "waiting")), used=Used(10, 4.0, 4.0), limits=limits).finished
    assert not replace(snapshot(place(0, "running")), used=spent, limits=limits).finished


def test_trials_from_outside_are_named():
    """Better trials that were told or added from outside are shown by number, the first five of them."""
    assert "from outside" not in printed(render(snapshot()))
    assert "without a part in this: trial 3, 5\n" in printed(render(replace(snapshot(), from_outside=[3, 5])))
    assert "trial 0, 1, 2, 3, 4, …\n" in printed(render(replace(snapshot(), from_outside=range(6))))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s"), (11_220, "3 h 07 min")]
)
def test_durations_read_well(seconds, text):
    """A time span has two units at most."""
    assert duration(seconds) == text


def test_a_wait_for_a_place_is_no_turnover():
    """The time between two trainings that follow each other counts; a pause does not."""
    stopwatch = Stopwatch(0.0)
    for _ in range(2):
        stopwatch.training_begins()
        stopwatch.training_ended()
    assert stopwatch.seconds()["turnover_count"] == 1
    with stopwatch.waiting_for_a_place():
        pass
    stopwatch.training_begins()
    assert stopwatch.seconds()["turnover_count"] == 1
    assert stopwatch.seconds()["idle"] > 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (12_345, "12,345 images")]
)
def test_numbers_have_the_noun_that_belongs_to_them(count, text):
    """One image is not called images."""
    assert counted(count, "image") == text
    assert counted(count, "image is", "images are") == f"{text} {'is' if count == 1 else 'are'}"


def test_a_trials_calls_are_claimed_for_the_storage():
    """Time in a trial's methods counts as storage, and what is claimed by nobody as between."""

    class SlowTrial:
        number = 3

        def report(self, value, step):
            """Take as long as a far database."""
            import time

            time.sleep(0.05)
            return value, step

    import time

    stopwatch = Stopwatch(time.perf_counter())
    trial = TimedTrial(SlowTrial(), stopwatch, TimeLimit(None, []))
    assert trial.number == 3
    assert trial.report(1, step=2) == (1, 2)
    time.sleep(0.02)
    seconds = stopwatch.seconds()
    assert seconds["storage"] >= 0.05
    assert seconds["between"] >= 0.02
