"""`hpo pause`, `resume` and `stop`, on a search that runs."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def test_a_search_is_paused_resumed_and_stopped_from_another_terminal(faulty_study):
    """A pause or a stop takes the workers' trials within seconds; what continues them counts with them."""
    study = faulty_study(trials=3, epochs=60, step_seconds=0.5)

    def command(*words, **faults):
        process = study.begin(*words, **faults)
        assert process.end() == 0, process.printed
        return process.printed

    def are(state, count):
        return wait_until(lambda: [place.state for place in study.places].count(state) == count)

    search = study.begin("search", "--workers", "1")
    wait_until(lambda: [place.epoch for place in study.places if place.epoch])  # its worker takes longest to start
    worker = study.worker()
    wait_until(lambda: study.place_of(worker, epoch=1))
    assert 'the study "faults" is paused: its 2 workers leave their trials in the queue' in command("pause")
    are("waiting", 2)
    shown = json.loads(command("status", "--json"))
    assert (shown["halt"], len(shown["workers"])) == ("pause", 2)
    assert "paused; `hpo resume` lets it go on" in command("status")
    assert command("list") == "faults: 2 trials, none complete, paused\n"
    assert "its workers go on" in command("resume")
    are("running", 2)
    assert command("list") == "faults: 2 trials, none complete, 2 workers at work\n"
    assert 'the study "faults" is stopped: its 2 workers' in command("stop")
    assert (search.end(), worker.end()) == (0, 0)
    assert "the study was stopped: trials that ran are back in the queue" in search.printed
    are("waiting", 2)
    printed = command("logs", "0")
    assert re.search(r"trial 0 was interrupted: the study was paused; continued as trial \d+\n$", printed)
    refused = study.begin("workers", "--workers", "1")
    assert refused.end() == 1
    assert "hpo: workers: the study is stopped; `hpo resume faults.toml` lets workers begin again" in refused.printed

    command("search", "--workers", "2", step_seconds=0)
    tally = study.tally()
    assert tally.problems == ()
    assert tally.resumed
    # In Optuna's tables there are more than these three: an interrupted trial and its continuation are two of them.
    assert command("list").startswith("faults: 3 trials, best macro-F1")
    assert '"faults" was begun with these settings; 3 trials' in command("check")
    last = next(place.trial for place in study.places if place.number == 0)
    assert last > 2
    assert f"trial {last} continues trial " in command("logs", str(last))
    assert "3 of 3" in command("status", "--watch")
