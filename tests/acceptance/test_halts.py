"""`hpo pause`, `resume` and `stop`, on a search that runs."""

from __future__ import annotations

import pytest

from tests.acceptance.test_search import start_search, status, wait_for, write_study

pytestmark = pytest.mark.acceptance


def test_a_search_is_paused_resumed_and_stopped_from_another_terminal(hpo, tmp_path, photos, database):
    """A pause takes the workers' trials within seconds, and gives them back after it; a stop ends the search."""
    write_study(tmp_path, trials=3, epochs=20)
    search = start_search(tmp_path, database, "--workers", "2")

    def seen(condition):
        return wait_for(lambda: (now := status(hpo, HPO_STORAGE=database)) and condition(now) and now)

    def halt(command):
        done = hpo(command, "study.toml", HPO_STORAGE=database)
        assert done.returncode == 0, done.stderr
        return done.stdout

    seen(lambda now: any(worker["epoch"] for worker in now["workers"]))
    assert 'the study "colours" is paused: its 2 workers leave their trials' in halt("pause")
    paused = seen(lambda now: now["trials"]["running"] == 0)
    assert paused["trials"]["waiting"] == 2
    assert (paused["halt"], len(paused["workers"])) == ("pause", 2)
    assert "paused; `hpo resume` lets it go on" in hpo("status", "study.toml", HPO_STORAGE=database).stdout
    assert "its workers go on" in halt("resume")
    seen(lambda now: now["trials"]["running"] == 2)
    assert 'the study "colours" is stopped' in halt("stop")
    out, err = search.communicate(timeout=60)
    assert "the study was stopped: trials that ran are back in the queue" in out, err
    assert status(hpo, HPO_STORAGE=database)["workers"] == []

    done = hpo("search", "study.toml", "--workers", 2, HPO_STORAGE=database)
    assert done.returncode == 0, done.stderr
    now = status(hpo, HPO_STORAGE=database)
    assert now["trials"]["complete"] + now["trials"]["pruned"] == 3
    assert now["halt"] is None
    resumed = hpo("status", "study.toml", "--watch", HPO_STORAGE=database)
    assert resumed.returncode == 0
    assert "3 of 3" in resumed.stdout
