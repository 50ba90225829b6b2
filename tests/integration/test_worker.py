"""A worker and the places of the budget: what was interrupted, lost or broken."""

from __future__ import annotations

import threading
import time

import optuna
import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy import text

from hpo.stopwatch import Stopwatch
from hpo.study import create_study, load_study
from hpo.study_file import read_study_file
from hpo.worker import Worker
from storage import logs
from storage.lease import Lease, bury, places
from trainer.parts import Parts

pytestmark = pytest.mark.integration

STUDY = """
[study]
name = "colours"
pruner = "none"
retries = 1
[data]
path = "photos"
[budget]
trials = 2
[recipe]
backbone = "linear"
image_size = 8
epochs = 2
batch_size = 8
loss = ["cross_entropy", "own"]
augment = "none"
"""


def linear(classes, size):
    """The smallest model."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * size * size, classes))


class Setting:
    """A study on a database, and workers on it."""

    def __init__(self, folder, url, own_loss):
        (folder / "study.toml").write_text(STUDY)
        parts = Parts(losses={"own": own_loss}, backbones={"linear": linear})
        self.file = read_study_file(folder / "study.toml", parts)
        self.url, self.data = url, self.file.data.load(folder / ".hpo/pixels")
        create_study(self.file, url, self.data)
        self.opened = load_study(self.file, url)

    def work(self, name="worker"):
        """Run a worker to the end of the budget."""
        Worker(
            self.file,
            self.opened,
            self.data,
            name=name,
            loaders=0,
            watch=Stopwatch(time.perf_counter()),
            stop=threading.Event(),
        ).run()

    def dead_worker(self, name="dead"):
        """Another worker's hold on a place, with a trial of it."""
        lease = Lease(self.opened.storage.engine, self.opened.study_id, name)
        lease.join("host", 1, "cpu")
        place = lease.take(self.file.limits)
        trial = self.opened.study.ask()
        lease.begin(place, trial.number)
        return lease, place, trial

    @property
    def places(self):
        """All places of the budget."""
        with self.opened.storage.engine.connect() as connection:
            return places(connection, self.opened.study_id)

    @property
    def trials(self):
        """All trials."""
        return self.opened.study.get_trials()


@pytest.fixture
def setting(tmp_path, photos, database):
    """Makes a study whose own loss is the given one."""
    made = []

    def make(own_loss=torch.nn.functional.cross_entropy):
        made.append(Setting(tmp_path, database, own_loss))
        return made[-1]

    yield make
    for one in made:
        one.opened.storage.engine.dispose()


def test_a_dead_workers_trial_is_run_again_with_its_recipe(setting):
    """The trial of a dead worker fails, another with its parameters takes its place, and the budget stays exact."""
    study = setting()
    _, _, trial = study.dead_worker()
    trial.suggest_categorical("loss", ("cross_entropy", "own"))
    bury(study.opened.storage.engine, "dead")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    dead, again, other = study.trials
    assert (dead.state, dead.user_attrs["reason"]) == (TrialState.FAIL, "its worker died; run again as another trial")
    assert again.user_attrs["repeats"] == 0
    assert again.params["loss"] == dead.params["loss"]
    assert "repeats" not in other.user_attrs


def test_a_trial_that_kills_its_workers_is_given_up(setting):
    """A trial whose workers died more often than `retries` allows is failed with that reason, and not run again."""
    study = setting()
    study.dead_worker()
    bury(study.opened.storage.engine, "dead")
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.place SET deaths = 2"))
    study.work()
    first, second = study.places
    assert (first.state, first.reason) == ("failed", "its worker died 2 times")
    assert second.state == "complete"
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_that_was_told_before_its_worker_died_is_not_run_again(setting):
    """A worker that dies between telling a result and closing its place has lost nothing."""
    study = setting()
    _, _, trial = study.dead_worker()
    study.opened.study.tell(trial, 0.25)
    bury(study.opened.storage.engine, "dead")
    study.work()
    assert [place.state for place in study.places] == ["complete", "complete"]
    assert len(study.trials) == 2
    assert study.trials[0].value == 0.25


def test_a_worker_whose_place_was_given_away_drops_its_trial(setting):
    """A worker that comes back after its place was given to another changes nothing, and takes the next one."""
    given_away = []

    def own_loss(logits, labels):
        if not given_away:
            bury(study.opened.storage.engine, "frozen")
            lease, place, trial = study.dead_worker("other")
            study.opened.study.tell(trial, 0.5)
            lease.finish(place, "complete")
            given_away.append(place.number)
        return torch.nn.functional.cross_entropy(logits, labels)

    study = setting(own_loss)
    study.opened.study.tell(study.opened.study.ask(), 0.1)  # the default recipe, which would come first
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work("frozen")
    assert [place.state for place in study.places] == ["complete", "complete"]
    frozen = study.trials[1]
    assert frozen.params["loss"] == "own"
    assert frozen.state is TrialState.RUNNING  # its new holder's to close
    assert frozen.intermediate_values == {}


def test_a_failing_trial_keeps_its_reason_and_its_log(setting):
    """A trial that raises is failed with one line, its log has the traceback, and the worker goes on."""

    def own_loss(logits, labels):
        print("a word from the loss")
        raise ValueError("three\nlines\nhere")

    study = setting(own_loss)
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


def test_a_loss_that_is_not_finite_fails_the_trial_with_that_reason(setting):
    """NaN is a reason of its own, not a value of the study."""
    study = setting(lambda logits, _labels: logits.sum() * float("nan"))
    study.opened.study.tell(study.opened.study.ask(), 0.1)
    study.opened.study.enqueue_trial({"loss": "own"})
    study.work()
    assert study.trials[1].user_attrs["reason"].startswith("the loss is nan in epoch 1")


def test_a_trial_is_complete_only_with_its_weights_safe(setting, tmp_path):
    """Where the artifacts cannot be written, the trial is failed with that reason."""
    study = setting()
    (tmp_path / ".hpo").mkdir()
    (tmp_path / ".hpo" / "artifacts").write_text("a file in the folder's place")
    study.work()
    assert [place.state for place in study.places] == ["failed", "failed"]
    assert all("artifacts" in place.reason for place in study.places)
    assert all(trial.state is TrialState.FAIL for trial in study.trials)


def test_time_is_kept_under_its_headings(setting):
    """Where a worker's time went is in the database when it has left."""
    study = setting()
    study.work()
    with study.opened.storage.engine.connect() as connection:
        seconds = connection.execute(text("SELECT seconds FROM hpo.worker")).scalar_one()
    assert set(seconds) == {"start_up", "training", "data", "storage", "idle", "between"}
    assert seconds["training"] > 0
    assert seconds["storage"] > 0


def test_workers_that_begin_together_try_different_recipes(setting):
    """The sampler's seed differs from place to place, and is the same for the same study seed and place."""
    from hpo.study import make_sampler

    def first_value(place):
        sampled = optuna.create_study(sampler=make_sampler(study.file, place))
        return sampled.ask().suggest_float("x", 0, 1)

    study = setting()
    assert first_value(0) == first_value(0)
    assert first_value(0) != first_value(1)
