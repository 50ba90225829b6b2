"""`hpo confirm` as a user runs it."""

from __future__ import annotations

import json
import signal

import optuna
import pytest

from hpo.study.confirmation import find_confirmation, mark_of
from storage.study_rows import places
from tests.support.tally import count
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


def trainings(study):
    """Fold and trial of each complete training that confirms a study, with its scores by epoch."""
    trials = find_confirmation(study.opened).study.get_trials()
    ended = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    found = {mark_of(trial): trial.intermediate_values for trial in ended}
    assert len(found) == len(ended)  # none is done twice
    return found


def test_a_confirmation_outlives_kills_and_a_restart_of_its_database(faulty_study, server):
    """Kill -9 and a restart of Postgres in the middle change no training of a confirmation, and not its winner."""
    printed, done = [], []
    for folder, disturbed in (("killed", True), ("calm", False)):
        study = faulty_study(folder, trials=4, epochs=3)

        def command(*words, study=study, **faults):
            process = study.begin(*words, **faults)
            assert process.end() == 0, process.printed
            return process.printed

        assert study.worker().end() == 0
        options = ("--top", "2", "--repeats", "3", "--workers", "1")
        if disturbed:
            study.hold()
            begun = study.begin("confirm", *options, hold_at_step=13)  # in its second training, of nine steps each

            def rows(study=study):
                confirmation = find_confirmation(study.opened)
                if confirmation is None:
                    return []
                with study.opened.storage.engine.connect() as connection:
                    return places(connection, confirmation.study_id)

            wait_until(lambda rows=rows: any(place.state == "complete" for place in rows()))
            wait_until(lambda rows=rows: any(place.state == "running" and place.epoch for place in rows()))
            begun.send(signal.SIGKILL)
            begun.end()
            worker = study.begin("worker", "--threads", "1", "--confirm", hold_at_step=13)
            wait_until(lambda rows=rows: sum(place.state == "complete" for place in rows()) > 1)
            server.restart("immediate")
            worker.send(signal.SIGKILL)
            worker.end()
            study.release()
        printed.append(command("confirm", *options))
        done.append(trainings(study))
        confirmation = find_confirmation(study.opened)
        assert count(confirmation.file, study.url).problems == ()
        # The search knows nothing of it: plain Optuna names the same best trial, and no trial was added.
        assert len(study.trials) == 4
        assert max(trial.value for trial in study.trials) == study.opened.study.best_value
        shown = json.loads(command("status", "--json"))["confirmation"]
        assert shown["planned"] == shown["trainings"] == 3 * len(shown["recipes"])
        assert f"confirmed winner: trial {shown['winner']}" in command("status")
    assert done[0] == done[1]
    assert {line for line in printed[0].splitlines() if line.startswith("confirmed winner")} == {
        line for line in printed[1].splitlines() if line.startswith("confirmed winner")
    }
    assert f"on 3 fresh folds: at most {shown['planned']} trainings" in printed[1]
    assert "faults: 4 trials, best macro-F1" in command("list")
    assert "/confirm" not in command("list")
    assert "epoch 3 of 3" in command("logs", "0", "--confirm")
    assert "the study was stopped" not in command("confirm", *options)  # there is nothing left to do
    assert command("delete", "--yes").startswith('the study "faults" is deleted')
    assert optuna.get_all_study_names(study.opened.storage) == []


def test_a_study_file_has_its_search_confirmed(faulty_study):
    """With [confirm] whoever finds the search at its end confirms it: search, worker, workers; none after a stop."""
    study = faulty_study(trials=2, epochs=2)

    def ask(table):
        text = study.file.path.read_text().partition("[confirm]")[0]
        study.file.path.write_text(f"{text}[confirm]\n{table}\n")

    def end(process, code=0):
        assert process.end() == code, process.printed
        return process.printed

    ask("top = 2\nrepeats = 2")
    study.hold()
    search = study.begin("search", "--workers", "1", hold_at_step=7)  # the first one of the second trial
    wait_until(lambda: [place.state for place in study.places] == ["complete", "running"])
    study.opened.rows.begin_halt("stop")
    study.wait_for_beats()
    study.release()
    assert "confirm" not in end(search)
    assert find_confirmation(study.opened) is None
    study.opened.rows.end_halt("stop")

    study.hold()
    worker = study.worker(hold_at_step=7)  # of the confirmation
    wait_until(lambda: (found := find_confirmation(study.opened)) and found.rows.read().places)
    worker.send(signal.SIGTERM)
    study.release()
    end(worker, 143)
    printed = end(study.begin("search", "--workers", "1"))
    assert "on 2 fresh folds: at most 4 trainings" in printed
    confirmed, _, rest = printed.partition("confirmed winner: trial ")
    assert "2 trials: 2 complete" in confirmed
    assert "this tests the winner on the held-out images" in rest
    assert "hpo confirm" not in printed
    assert len(trainings(study)) == 4

    ask("top = 2\nrepeats = 3")
    assert "all workers have ended: 6 complete" in end(study.begin("workers", "--workers", "1"))
    assert len(trainings(study)) == 6
    assert len(study.trials) == 3  # one of them is the run that was stopped
