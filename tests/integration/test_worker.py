"""A worker and the places of the budget: what was interrupted, lost or broken."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy import text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from storage import logs
from storage.budget import Limits
from storage.requeue import requeue
from tests.integration.conftest import SmallMemory
from tests.support.waiting import limit
from trainer.space import Space

pytestmark = pytest.mark.integration


def test_a_dead_workers_trial_is_run_again_with_its_recipe(harness):
    """The trial of a dead worker fails, another with its parameters takes its place, and the budget stays exact."""
    study = harness()
    trial = study.dead_worker()[1].trial
    trial.suggest_categorical("loss", ("cross_entropy", "own"))
    requeue(study.opened.storage.engine, "dead")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    dead, again, other = study.trials
    assert (dead.state, dead.user_attrs["reason"]) == (TrialState.FAIL, "its worker died; run again as another trial")
    assert again.user_attrs["repeats"] == 0
    assert again.params["loss"] == dead.params["loss"]
    assert "repeats" not in other.user_attrs


def test_a_trial_that_kills_its_workers_is_given_up(harness):
    """A trial whose workers died more often than `retries` allows is failed with that reason, and not run again."""
    study = harness()
    study.dead_worker()
    requeue(study.opened.storage.engine, "dead")
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.place SET failed_runs = 2"))
    study.work()
    first, second = study.places
    assert (first.state, first.reason) == ("failed", "given up after 2 runs, the last: its worker died")
    assert second.state == "complete"
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_was_told_before_its_worker_died_is_not_run_again(harness):
    """A worker that dies between telling a result and closing its place has lost nothing."""
    study = harness()
    study.opened.study.tell(study.dead_worker()[1].trial, 0.25)
    requeue(study.opened.storage.engine, "dead")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert len(study.trials) == 2
    assert study.trials[0].value == 0.25


def test_a_worker_whose_place_was_given_away_drops_its_trial(harness):
    """A worker that comes back after its place was given to another changes nothing, and takes the next one."""
    given_away = []

    def own_loss(logits, labels):
        if not given_away:
            requeue(study.opened.storage.engine, "frozen")
            runs, run = study.dead_worker("other")
            runs.complete(run, 0.5)
            given_away.append(run.place.number)
        return torch.nn.functional.cross_entropy(logits, labels)

    study = harness(own_loss)
    study.opened.study.tell(study.opened.study.ask(), 0.1)  # the default recipe, which would come first
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work("frozen")
    assert [place.state for place in study.places] == ["complete", "complete"]
    frozen = study.trials[1]
    assert frozen.params["loss"] == "own"
    assert frozen.state is TrialState.FAIL
    assert frozen.intermediate_values == {}


def test_a_failing_trial_keeps_its_reason_and_its_log(harness):
    """A trial that raises is failed with one line, its log has the traceback, and the worker goes on."""

    def own_loss(logits, labels):
        print("a word from the loss")
        raise ValueError("three\nlines\nhere")

    study = harness(own_loss)
    study.opened.study.tell(study.opened.study.ask(), 0.1)
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work()
    assert (study.places[0].state, study.places[0].reason) == ("failed", "ValueError: three")
    failed = study.trials[1]
    assert (failed.state, failed.user_attrs["reason"]) == (TrialState.FAIL, "ValueError: three")
    with study.opened.storage.engine.connect() as connection:
        lines = [line for _, line in logs.read(connection, study.opened.study_id, 1)]
    assert lines[0] == "a word from the loss"
    assert "ValueError: three" in lines


def test_a_loss_that_is_not_finite_fails_the_trial_with_that_reason(harness):
    """NaN is a reason of its own, not a value of the study."""
    study = harness(lambda logits, _labels: logits.sum() * float("nan"))
    study.opened.study.tell(study.opened.study.ask(), 0.1)
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work()
    assert study.trials[1].user_attrs["reason"].startswith("the loss is nan: a lower learning_rate")


def test_a_trial_is_complete_only_with_its_weights_safe(harness, tmp_path, monkeypatch):
    """Where the artifacts cannot be written for long, a trial is run again, and failed with that reason in the end."""
    monkeypatch.setattr("hpo.worker.checkpoints.STORE_SECONDS", 0.1)
    monkeypatch.setattr("hpo.worker.checkpoints.STORE_PAUSE", 0.05)
    study = harness()
    (tmp_path / ".hpo").mkdir()
    (tmp_path / ".hpo" / "artifacts").write_text("a file in the folder's place")
    study.work()
    assert [place.state for place in study.places] == ["failed", "failed"]
    assert all(place.reason.startswith("given up after 2 runs, the last: artifacts: ") for place in study.places)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 4


def test_time_is_kept_under_its_headings(harness):
    """Where a worker's time went is in the database when it has left."""
    study = harness()
    study.work()
    with study.opened.storage.engine.connect() as connection:
        seconds = connection.execute(text("SELECT seconds FROM hpo.worker")).scalar_one()
    headings = {"start_up", "preparing", "training", "data", "storage", "idle", "between"}
    notes = {"to_first_step", "to_first_step_count", "turnover", "turnover_count"}
    assert set(seconds) == headings | notes
    assert (seconds["to_first_step_count"], seconds["turnover_count"]) == (2, 1)
    assert 0 < seconds["preparing"] < seconds["to_first_step"]
    assert 0 < seconds["turnover"] < limit(5)
    assert seconds["training"] > 0
    assert seconds["storage"] > 0


def test_workers_that_begin_together_try_different_recipes(harness):
    """The sampler's seed differs from place to place, and is the same for the same study seed and place."""
    from hpo.study.forest_sampler import TrialForest
    from hpo.study.samplers import make_sampler

    def proposed(place):
        sampler = make_sampler(study.file, place, TrialForest(study.file.space))
        return sampler.sample_relative(study.opened.study, study.trials[0], {})

    study = harness()
    assert proposed(0) == proposed(0)
    assert proposed(0) != proposed(1)


def test_what_fits_into_memory_is_remembered_for_all_workers(harness):
    """The first trial that runs out of memory notes in the study what fits, and no later one tries more."""
    study = harness()
    space = Space({**study.file.space.as_dict(), "backbone": "small memory"}, study.file.space.extensions)
    study.file = file = dataclasses.replace(study.file, space=space)
    SmallMemory.asked = 0
    study.work("first")
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert SmallMemory.asked == 2  # 8 and 4 images, in the first trial
    kept = {key: size for key, size in study.opened.study.user_attrs.items() if "micro_batch" in key}
    assert kept == {"hpo:micro_batch: small memory, 8 px, cpu": 2}
    study.file = dataclasses.replace(file, limits=Limits(trials=3))
    study.work("second")
    assert SmallMemory.asked == 2
    with study.opened.storage.engine.connect() as connection:
        lines = [line for _, line in logs.read(connection, study.opened.study_id, 0)]
    assert "the device's memory ran out: 4 images go through the model at once from here" in lines


def test_tensorboard(harness):
    """With `tensorboard = true` each trial leaves its learning curves and parameters where TensorBoard finds them."""
    study = harness(more="tensorboard = true")
    study.work()
    folder = study.file.folder / "tensorboard" / "colours"
    assert sorted(path.name for path in folder.iterdir()) == ["trial-00000", "trial-00001"]
    for trial in study.trials:
        log = EventAccumulator(str(folder / f"trial-{trial.number:05}")).Reload()
        scores = {event.step: event.value for event in log.Scalars("valid/macro_f1")}
        assert scores == pytest.approx(trial.intermediate_values)
        assert [event.step for event in log.Scalars("train/loss")] == [1, 2]
        [parameters] = log.Tensors("recipe/text_summary")
        assert f"learning_rate = {trial.params['learning_rate']}" in parameters.tensor_proto.string_val[0].decode()


def test_tensorboard_that_cannot_write_costs_no_trial(harness, tmp_path):
    """Where TensorBoard's folder cannot be written, the trial's log says so and the trial goes on."""
    study = harness(more="tensorboard = true")
    study.file.folder.mkdir(exist_ok=True)
    (study.file.folder / "tensorboard").write_text("a file in the folder's place")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    with study.opened.storage.engine.connect() as connection:
        lines = [line for _, line in logs.read(connection, study.opened.study_id, 0)]
    assert sum("tensorboard: the logs cannot be written" in line for line in lines) == 1


@pytest.mark.parametrize("name", ["..", ".", "a/../b", "/etc"])
def test_no_name_of_a_study_leads_out_of_its_folder(name, harness):
    """TensorBoard's logs of a study are in a folder of their own, whatever the study is called."""
    file = dataclasses.replace(harness().file, name=name)
    folder = file.tensorboard_folder
    assert folder.resolve().parent == (file.folder / "tensorboard").resolve()
