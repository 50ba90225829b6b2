"""What is interrupted, lost, refused or away: a worker and its trials go on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
from functools import partial

import optuna
import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from hpo.errors import HpoError
from hpo.worker.checkpoints import Checkpoints
from hpo.worker.runs import Runs, shares
from hpo.worker.shutdown import Shutdown
from storage.budget import Limits
from storage.errors import StorageError
from storage.halts import begin_halt, end_halt
from storage.heartbeat import WorkerPresence
from storage.outage_retry import OutageRetry
from storage.places import Lease
from storage.requeue import requeue
from storage.worker_transactions import WorkerTransactions
from tests.integration.conftest import FIXED, ScriptedLoss, lines_of, stop_of, undisturbed, weights_of
from tests.support.waiting import paced, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def hear(monkeypatch):
    """Has workers beat at once; a function that waits until the only one has heard what was told before."""
    monkeypatch.setattr("hpo.worker.heartbeat.BEAT_SECONDS", 0.02)
    heard, reap = [], WorkerPresence.reap

    def count(presence):  # is called after each beat, when what it told is known
        heard.append(1)
        reap(presence)

    monkeypatch.setattr(WorkerPresence, "reap", count)

    def wait():
        before = len(heard)
        wait_until(lambda: len(heard) >= before + 2, every=0.01)  # the first of these beats may have begun before

    return wait


@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
def test_an_interrupted_trial_goes_on_where_it_was_left(harness, step):
    """A worker that is told to stop leaves its trial at the next step, and another one ends it bit for bit the same."""
    whole = undisturbed(harness)
    study = harness(ScriptedLoss({step: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    assert [(place.state, place.reason) for place in study.places] == [("waiting", "interrupted")]
    study.stop = Shutdown()
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]
    left, again = study.trials
    assert left.state is TrialState.FAIL
    assert again.user_attrs["repeats"] == 0
    assert again.user_attrs["resumed_after_epoch"] == (step - 1) // 3
    assert again.intermediate_values == whole.trials[0].intermediate_values
    for key in ("best_epoch", "metrics"):
        assert again.user_attrs[key] == whole.trials[0].user_attrs[key]
    kept, other = weights_of(study, 1), weights_of(whole, 0)
    assert all(torch.equal(kept[name], other[name]) for name in other)
    assert study.own_loss.taken == 6  # no step was taken twice
    assert any("going on after epoch" in line for line in lines_of(study, 1))
    epochs = [(share.trial, share.first, share.last) for share in shares(again, study.trials)]
    assert epochs == ([(0, 1, 1), (1, 2, 2)] if step > 3 else [(1, 1, 2)])
    assert study.checkpoints == []


@pytest.mark.parametrize("damage", [lambda whole: whole[:-10], lambda _whole: b"", lambda whole: b"x" + whole[1:]])
def test_a_damaged_checkpoint_costs_time_only(harness, damage):
    """Where a checkpoint is damaged, the log says so, and the trial begins anew and ends bit for bit the same."""
    whole = undisturbed(harness)
    study = harness(ScriptedLoss({5: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    [checkpoint] = study.checkpoints
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    study.stop = Shutdown()
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]
    assert any(line.startswith("checkpoint: ") and "damaged" in line for line in lines_of(study, 1))
    assert study.trials[1].intermediate_values == whole.trials[0].intermediate_values
    assert "resumed_after_epoch" not in study.trials[1].user_attrs
    assert study.checkpoints == []


def test_a_trial_failed_from_outside_is_dropped_and_the_next_one_taken(harness, hear):
    """Who fails a running trial, in the dashboard, say, stops it, and its worker goes on with the next one."""

    def fail():
        study.opened.study.tell(0, state=TrialState.FAIL)
        hear()

    study = harness(ScriptedLoss({2: fail}), recipe=FIXED)
    study.work()
    first, second = study.places
    assert (first.state, first.reason) == ("failed", "told failed from outside")
    assert second.state == "complete"
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.own_loss.taken == 2 + 6  # it did not go on to the end of the first one
    assert study.checkpoints == []


def test_a_trial_told_complete_from_outside_is_dropped(harness):
    """A value that somebody else tells stands, and the worker finds out at the end of the epoch."""
    study = harness(ScriptedLoss({2: lambda: study.opened.study.tell(0, 0.5)}), trials=1, recipe=FIXED)
    study.work()
    assert [place.state for place in study.places] == ["complete"]
    assert study.trials[0].value == 0.5
    assert study.own_loss.taken == 3


def test_a_deleted_study_ends_its_workers_with_one_line(harness, hear):
    """A worker whose study is deleted meanwhile says so and ends."""

    def delete():
        study.opened.storage.delete_study(study.opened.study_id)
        hear()

    study = harness(ScriptedLoss({2: delete}), recipe=FIXED)
    with pytest.raises(HpoError, match='the study "colours" was deleted'):
        study.work()


def pause_until_waiting(study, seen, hear):
    """Pause a study in the middle of a step, and resume it once its place waits; `seen` takes how it looked then."""

    def resume():
        wait_until(lambda: [place.state for place in study.places] == ["waiting"], every=0.01)
        seen.extend(study.places)
        with study.opened.storage.engine.begin() as connection:
            end_halt(connection, study.opened.study_id)

    with study.opened.storage.engine.begin() as connection:
        begin_halt(connection, study.opened.study_id, "pause")
    threading.Thread(target=resume).start()
    hear()


def test_a_paused_study_goes_on_where_it_was(harness, hear, monkeypatch):
    """A pause takes the trials from all workers within seconds; they wait, and go on when it is over."""
    monkeypatch.setattr("hpo.worker.worker.IDLE_SECONDS", 0.02)
    seen = []
    study = harness(ScriptedLoss({2: lambda: pause_until_waiting(study, seen, hear)}), recipe=FIXED)
    study.work()
    assert [(place.state, place.reason) for place in seen] == [("waiting", "the study was paused")]
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert study.own_loss.taken == 12


def test_a_stopped_study_ends_its_workers(harness, hear):
    """A stop takes the trials from all workers, which end, and none begins before it is lifted."""

    def stop():
        with study.opened.storage.engine.begin() as connection:
            begin_halt(connection, study.opened.study_id, "stop")
        hear()

    study = harness(ScriptedLoss({2: stop}), recipe=FIXED)
    study.work("first")
    study.work("second")
    assert [(place.state, place.reason) for place in study.places] == [("waiting", "the study was stopped")]
    with study.opened.storage.engine.begin() as connection:
        end_halt(connection, study.opened.study_id)
    study.work("third")
    assert [place.state for place in study.places] == ["complete", "complete"]


def test_a_paused_host_leaves_its_trial_to_another_one_which_may_end_the_search(harness, hear, monkeypatch):
    """What a paused host was training goes on elsewhere; its worker waits for its return, or for the search's end."""
    monkeypatch.setattr("hpo.worker.worker.IDLE_SECONDS", 0.02)
    elsewhere, seen = [], []

    def search_elsewhere():
        wait_until(lambda: [place.state for place in study.places] == ["waiting"], every=0.01)
        time.sleep(paced(0.3))  # in which the worker here, whose place is free again, takes none
        seen.extend(study.places)
        monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
        study.work("elsewhere")

    def pause():
        study.opened.rows.pause_host("here")
        elsewhere.append(threading.Thread(target=search_elsewhere))
        elsewhere[0].start()
        hear()

    study = harness(ScriptedLoss({2: pause}), recipe=FIXED)
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    study.work("here")
    elsewhere[0].join()
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    assert [(place.state, place.reason) for place in seen] == [("waiting", "its host was paused")]
    assert [(place.state, place.worker) for place in study.places] == [("complete", "elsewhere")] * 2
    assert study.own_loss.taken == 12
    study.file = dataclasses.replace(study.file, limits=Limits(trials=3))
    looks, halt = itertools.count(1), Lease.halt

    def halt_of_two(lease):
        number, found = next(looks), halt(lease)
        if number == 2:
            study.opened.rows.resume_host("here")
        return found

    monkeypatch.setattr(Lease, "halt", halt_of_two)
    study.work("here again")  # nothing runs and nothing waits, but a new trial may begin
    assert [place.worker for place in study.places] == ["elsewhere", "elsewhere", "here again"]
    assert next(looks) > 2  # it waited


def test_a_pause_that_ends_as_a_worker_asks_for_a_place_ends_no_worker(harness, monkeypatch):
    """A worker that gets no place in a pause, and then sees that there is none any more, takes one after all."""
    monkeypatch.setattr("hpo.worker.worker.IDLE_SECONDS", 0.02)
    study, halt = harness(trials=1, recipe=FIXED), Lease.halt

    def halt_of_a_moment_later(lease):
        study.opened.rows.end_halt("pause")
        return halt(lease)

    study.opened.rows.begin_halt("pause")
    monkeypatch.setattr(Lease, "halt", halt_of_a_moment_later)
    study.work()
    assert [place.state for place in study.places] == ["complete"]


def test_a_trial_is_run_again_only_where_that_can_help(harness):
    """What the disk or the memory refuses may work later; what the recipe does wrong it does again."""

    def refuse(error):
        raise error

    errors = {2: OSError(28, "No space left on device"), 6: MemoryError(), 13: ValueError("no")}
    steps = ScriptedLoss({step: partial(refuse, error) for step, error in errors.items()})
    study = harness(steps, recipe=FIXED, retries=2)
    study.work()
    assert [(place.state, place.reason) for place in study.places] == [("complete", None), ("failed", "ValueError: no")]
    reasons = [trial.user_attrs.get("reason", "").partition(";")[0] for trial in study.trials]
    assert reasons == ["OSError: [Errno 28] No space left on device", "MemoryError", "", "ValueError: no"]


def test_a_broken_gpu_ends_its_worker_and_another_runs_the_trial(harness):
    """After an error that leaves a process without its GPU the worker ends, and its trial waits for another one."""

    def break_down():
        raise RuntimeError("CUDA error: unspecified launch failure")

    study = harness(ScriptedLoss({2: break_down}), trials=1, recipe=FIXED)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        study.work("broken")
    assert [place.state for place in study.places] == ["waiting"]
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]


def test_a_store_that_is_away_for_a_while_is_waited_for(harness, monkeypatch):
    """A complete trial waits until its weights can be kept, and a checkpoint that cannot be written costs nothing."""
    monkeypatch.setattr("hpo.worker.checkpoints.STORE_PAUSE", 0.05)

    def go_away():
        folder.parent.mkdir(exist_ok=True)
        if folder.exists():  # made with .hpo where root's Postgres has to get through that
            folder.rmdir()
        folder.write_text("a file in the folder's place")
        threading.Thread(target=come_back).start()

    def come_back():
        wait_until(lambda: study.own_loss.taken >= 6, every=0.02)
        time.sleep(paced(0.3))
        folder.unlink()

    study = harness(ScriptedLoss({1: go_away}), trials=1, recipe=FIXED)
    folder = study.file.folder / "artifacts"
    study.work()
    assert [place.state for place in study.places] == ["complete"]
    assert weights_of(study, 0)
    assert sum(line.startswith("checkpoint: ") for line in lines_of(study, 0)) == 1


def test_who_dies_between_the_steps_of_beginning_leaves_nothing_behind(harness, monkeypatch):
    """A worker that dies before its trial runs leaves a waiting one, which the next one runs under the same number."""
    study = harness()
    monkeypatch.setattr(study.opened.storage, "set_trial_state_values", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        study.dead_worker()
    monkeypatch.undo()
    requeue(study.opened.storage.engine, "dead")
    assert [trial.state for trial in study.trials] == [TrialState.WAITING]
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE]


def another(study, name="other"):
    """The runs of another worker."""
    lease = Lease(study.opened.storage.engine, study.opened.study_id, name)
    WorkerPresence(study.opened.storage.engine, study.opened.study_id, name).join("host", 2, "cpu")
    return Runs(study.opened, lease, {})


def lost_answer(monkeypatch, method, *, call=1):
    """Let the answer to the n-th call of a method of a worker be lost after it came through; it is called again."""
    real, seen = WorkerTransactions.run, []

    def run(transactions, function):
        result = real(transactions, function)
        if function.__qualname__.partition(".<locals>")[0] == method:
            seen.append(function)
            if len(seen) == call:
                return real(transactions, function)
        return result

    monkeypatch.setattr(WorkerTransactions, "run", run)


@pytest.mark.parametrize(
    "method", ["WorkerPresence.join", "Lease.take", "Lease.name_trial", "Lease.finish", "WorkerPresence.leave"]
)
def test_an_answer_that_was_lost_changes_nothing(harness, monkeypatch, method):
    """Where a connection breaks between a commit and its answer, the repetition does no more than the first attempt."""
    study = harness(recipe=FIXED)
    lost_answer(monkeypatch, method)
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE]


def test_the_repeated_naming_of_a_repeated_trial_changes_nothing(harness, monkeypatch):
    """A trial is repeated once, also where the answer about its successor is lost."""
    study = harness(trials=1)
    study.dead_worker()
    requeue(study.opened.storage.engine, "dead")
    lost_answer(monkeypatch, "Lease.name_trial", call=2)
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_worker_requeued_while_it_took_a_place_can_be_requeued_again(harness):
    """A place of a worker that others have given up already comes back, too, when it is missed again."""
    study = harness(trials=1)
    engine = study.opened.storage.engine
    runs = another(study, "late")
    requeue(engine, "late")  # while its taking is under way
    assert runs.begin()
    with engine.begin() as connection:  # and it dies before its first beat
        connection.execute(text("UPDATE hpo.worker SET gone = beaten WHERE id = 'late'"))
    requeue(engine, "late")
    study.work()
    assert [place.state for place in study.places] == ["complete"]


def test_a_worker_that_was_settled_for_lets_go_without_a_traceback(harness, monkeypatch):
    """Told, frozen, reaped and settled by another: the worker that comes back drops it and goes on."""
    real, frozen = Runs._settle, []

    def settle(runs, place, *how):
        if runs._lease.worker == "worker" and not frozen:
            frozen.append(place)
            requeue(study.opened.storage.engine, "worker")
            assert another(study).begin() is None
        return real(runs, place, *how)

    monkeypatch.setattr(Runs, "_settle", settle)
    study = harness(trials=1, recipe=FIXED)
    study.work()
    assert [place.state for place in study.places] == ["complete"]


def test_a_worker_that_was_frozen_before_its_trial_ran_leaves_it_to_whoever_runs_it(harness, monkeypatch):
    """A worker that comes back between the naming and the running of its trial takes the next one."""
    other = []

    def finish():
        runs, run = other
        runs.complete(run, 0.5)

    study = harness(ScriptedLoss({2: finish}), recipe=FIXED)
    real = study.opened.storage.set_trial_state_values

    def set_state(*arguments, **options):
        if not other:
            requeue(study.opened.storage.engine, "worker")
            other.append(another(study))
            other.append(other[0].begin())
        return real(*arguments, **options)

    monkeypatch.setattr(study.opened.storage, "set_trial_state_values", set_state)
    study.work()
    assert [(place.state, place.worker) for place in study.places] == [("complete", "other"), ("complete", "worker")]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.own_loss.taken == 6


def test_a_resumed_study_begins_each_trial_once(harness, hear, monkeypatch):
    """What was heard of a pause before it ended ends no trial that began after it."""
    monkeypatch.setattr("hpo.worker.heartbeat.BEAT_SECONDS", 0.3)
    monkeypatch.setattr("hpo.worker.worker.IDLE_SECONDS", 0.01)
    study = harness(ScriptedLoss({2: lambda: pause_until_waiting(study, [], hear)}), trials=1, recipe=FIXED)
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_store_that_refuses_to_clear_ends_no_worker(harness, monkeypatch):
    """Weights that cannot be removed stay for the next one to remove; the worker goes on."""

    def refuse(*_):
        raise StorageError("artifacts: no answer")

    monkeypatch.setattr("storage.artifacts.artifacts.discard", refuse)
    study = harness(recipe=FIXED, more="keep_weights = 1\n")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert study.checkpoints == []


def test_an_outage_after_a_complete_trial_ends_no_worker(harness, monkeypatch):
    """Clearing weights waits for the database as everything else does."""
    import storage.study_rows

    real, away = storage.study_rows.kept_files, [1]

    def kept_files(*arguments):
        if away:
            away.pop()
            raise OperationalError("SELECT", {}, Exception("server closed the connection unexpectedly"))
        return real(*arguments)

    monkeypatch.setattr("storage.study_rows.kept_files", kept_files)
    study = harness(trials=1, recipe=FIXED)
    study.opened = dataclasses.replace(study.opened, outage_retry=OutageRetry())
    study.work()
    assert not away
    assert [place.state for place in study.places] == ["complete"]


def test_a_checkpoint_is_waited_for_where_the_store_is_away(harness, monkeypatch):
    """A store that is away when a trial is to go on costs none of its epochs."""
    monkeypatch.setattr("hpo.worker.checkpoints.STORE_PAUSE", 0.05)
    study = harness(ScriptedLoss({5: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    study.stop = Shutdown()
    folder, away = study.file.folder / "artifacts", study.file.folder / "away"
    folder.rename(away)
    folder.write_text("a file in the folder's place")

    def come_back():
        time.sleep(paced(0.5))
        folder.unlink()
        away.rename(folder)

    threading.Thread(target=come_back).start()
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]
    assert study.trials[1].user_attrs["resumed_after_epoch"] == 1
    assert study.own_loss.taken == 6


def test_a_checkpoint_of_another_recipe_is_let_go(harness, monkeypatch):
    """Where a checkpoint does not fit the program any more, the trial begins anew instead of failing."""
    study = harness(ScriptedLoss({5: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    study.stop = Shutdown()
    real = Checkpoints.resume

    def resume_another_recipe(checkpoints):
        if found := real(checkpoints):
            recipe = {**found.values["recipe"], "pooling": "max"}
            return dataclasses.replace(found, values={**found.values, "recipe": recipe})
        return None

    monkeypatch.setattr(Checkpoints, "resume", resume_another_recipe)
    study.work("next")
    assert [place.state for place in study.places] == ["complete"]
    assert "another recipe" in study.trials[1].user_attrs["reason"]


def test_a_checkpoint_that_could_not_be_written_is_tried_again_soon(harness, monkeypatch):
    """A write that fails after a long wait does not put the next one off for hours."""
    study = harness()
    checkpoints = Checkpoints(study.opened, study.dead_worker()[1], print)
    clock = [1000.0]
    monkeypatch.setattr("hpo.worker.checkpoints.time.monotonic", lambda: clock[0])

    def fail(*_):
        clock[0] += 60
        raise StorageError("artifacts: no answer")

    monkeypatch.setattr(type(study.opened.artifacts), "write", fail)
    monkeypatch.setattr("hpo.worker.checkpoints.encode", lambda _checkpoint: b"")
    checkpoints.write(lambda: None)
    assert not checkpoints.is_due(epoch_ended=False)
    clock[0] += 31
    assert checkpoints.is_due(epoch_ended=False)


def test_a_study_that_is_deleted_between_two_looks_ends_its_workers_with_one_line(harness, monkeypatch):
    """Whatever a worker of a deleted study is at, it says so and ends."""

    def delete(*_):
        study.opened.storage.delete_study(study.opened.study_id)

    study = harness(ScriptedLoss({2: delete}), recipe=FIXED)
    with pytest.raises(HpoError, match='the study "colours" was deleted'):
        study.work()
    monkeypatch.setattr(
        Runs, "_name_waiting_trial", lambda *_: delete() or optuna.load_study(study_name="x", storage="sqlite://")
    )
    study = harness(recipe=FIXED, name="second")
    with pytest.raises(HpoError, match='the study "second" was deleted'):
        study.work("another")


def test_a_place_that_was_told_is_settled_also_where_the_hours_are_over(harness):
    """A trial that was complete when its worker died is settled, though no trial may begin any more."""
    study = harness(trials=1)
    _, run = study.dead_worker()
    study.opened.study.tell(run.trial, 0.25)
    requeue(study.opened.storage.engine, "dead")
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.worker SET started = now() - interval '2 hours'"))
    study.file = dataclasses.replace(study.file, limits=Limits(trials=1, hours=1))
    study.work()
    assert [place.state for place in study.places] == ["complete"]


def test_two_workers_of_one_name_are_one_too_many(harness):
    """A name that was used before is refused in one line."""
    study = harness()
    another(study, "me")
    with pytest.raises(StorageError, match='worker: the name "me" was used before'):
        study.work("me")


def test_a_stop_in_an_outage_is_no_failed_run(harness):
    """What a worker that was told to end still held goes to the next as interrupted, and uses up no retry."""
    study = harness(trials=1)
    study.dead_worker("stopped")
    stopped = WorkerPresence(study.opened.storage.engine, study.opened.study_id, "stopped")
    stopped.leave({"idle": 1.0}, interrupted=True)
    with study.opened.storage.engine.connect() as connection:
        row = connection.execute(text("SELECT state, reason, failed_runs FROM hpo.place")).one()
        seconds = connection.execute(text("SELECT seconds FROM hpo.worker")).scalar_one()
    assert tuple(row) == ("waiting", "interrupted", 0)
    assert json.dumps(seconds) == '{"idle": 1.0}'
