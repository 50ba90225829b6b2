"""A small study on a real database, and what its workers meet."""

from __future__ import annotations

import dataclasses
import time
import tomllib

import pytest
import tomli_w
import torch

from hpo.study.open_study import create_study, load_study, model_of
from hpo.study.study_file import read_study_file
from hpo.worker.runs import Runs
from hpo.worker.shutdown import Shutdown
from hpo.worker.stopwatch import Stopwatch
from hpo.worker.worker import Worker
from storage import logs
from storage.database import connect
from storage.heartbeat import WorkerPresence
from storage.places import Lease
from storage.study_rows import places
from trainer.extensions import Extensions
from trainer.loaders import Loaders

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


class SmallMemory(torch.nn.Module):
    """A layer that has no memory for more than two images that are to be learned from."""

    asked = 0

    def forward(self, features):
        """The features as they are."""
        if features.requires_grad and len(features) > 2:
            SmallMemory.asked += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return features


def small_memory(classes, size):
    """The smallest model, in too small a memory."""
    return torch.nn.Sequential(linear(classes, size), SmallMemory())


@pytest.fixture
def drawn_pictures():
    """Has the pictures of trials drawn, for tests that are about them."""


@pytest.fixture(autouse=True)
def undrawn_pictures(request, monkeypatch):
    """Leaves out the pictures of trials, which take longer than such small trainings."""
    if "drawn_pictures" not in request.fixturenames:
        monkeypatch.setattr("hpo.worker.observer.draw_pictures", lambda *_: iter(()))


@pytest.fixture
def storage(ready_database):
    """Optuna's storage on a database of this test."""
    opened = connect(ready_database)
    yield opened
    opened.engine.dispose()


@pytest.fixture(scope="module")
def s3_url():
    """The URL of a local S3."""
    from moto.server import ThreadedMotoServer  # not above: most tests need no S3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_environment(s3_url, monkeypatch):
    """Has the environment name a local S3, and credentials for it."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class WorkerHarness:
    """A study on a database, and workers on it."""

    def __init__(self, folder, url, own_loss, more="", recipe=None, trials=2, retries=1, name="colours", pruner="none"):
        tables = tomllib.loads(STUDY.replace("[study]", f"[study]\n{more}"))
        tables["study"] |= {"name": name, "retries": retries, "pruner": pruner}
        tables["budget"] = {} if trials is None else {"trials": trials}
        tables["recipe"] |= recipe or {}
        (folder / "study.toml").write_text(tomli_w.dumps(tables))
        self.own_loss = own_loss
        extensions = Extensions(losses={"own": own_loss}, backbones={"linear": linear, "small memory": small_memory})
        self.file = read_study_file(folder / "study.toml", extensions)
        self.url, self.data = url, self.file.data.load(folder / ".hpo/pixels")
        self.stop = Shutdown()
        create_study(self.file, url, self.data)
        self.opened = load_study(self.file, url)

    def work(self, name="worker"):
        """Run a worker to the end of the budget."""
        Worker(
            dataclasses.replace(self.opened, file=self.file),
            self.data,
            name=name,
            loaders=Loaders(0),
            stopwatch=Stopwatch(time.perf_counter()),
            shutdown=self.stop,
        ).run()

    def dead_worker(self, name="dead"):
        """The runs of another worker, and one that it has begun."""
        lease = Lease(self.opened.storage.engine, self.opened.study_id, name)
        WorkerPresence(self.opened.storage.engine, self.opened.study_id, name).join("host", 1, "cpu")
        runs = Runs(self.opened, lease, {"host": "host"})
        return runs, runs.begin()

    @property
    def places(self):
        """All places of the budget."""
        with self.opened.storage.engine.connect() as connection:
            return places(connection, self.opened.study_id)

    @property
    def checkpoints(self):
        """The files of the checkpoints that are kept."""
        return list((self.file.folder / "artifacts").glob("*-checkpoint-*"))

    @property
    def trials(self):
        """All trials."""
        return self.opened.study.get_trials()


@pytest.fixture
def harness(tmp_path, photos, ready_database):
    """Makes a study whose own loss is the given one."""
    made = []

    def make(own_loss=torch.nn.functional.cross_entropy, **more):
        made.append(WorkerHarness(tmp_path, ready_database, own_loss, **more))
        return made[-1]

    yield make
    for one in made:
        one.opened.storage.engine.dispose()


class ScriptedLoss:
    """A loss that calls a function before the steps of these numbers, counted from 1 over all trials."""

    def __init__(self, actions):
        self.taken, self.actions = 0, actions

    def __call__(self, logits, labels):
        """Cross-entropy."""
        self.taken += 1
        self.actions.get(self.taken, lambda: None)()
        return torch.nn.functional.cross_entropy(logits, labels)


def stop_of(study):
    """Asks the worker of a study that is yet to be made to stop."""
    return lambda: study().stop.ask()  # noqa: PLW0108 - there is no study yet


FIXED = {"loss": "own", "mixing": "none"}  # three steps an epoch


def lines_of(study, trial):
    """What a trial printed."""
    with study.opened.storage.engine.connect() as connection:
        return [line for _, line in logs.read(connection, study.opened.study_id, trial)]


def weights_of(study, trial):
    """What a complete trial has learned."""
    model = model_of(study.trials[trial], study.opened, study.file.space.extensions, 3, torch.device("cpu"))
    return model.state_dict()


def undisturbed(harness):
    """The first trial of a study in which nothing happens."""
    study = harness(ScriptedLoss({}), name="undisturbed", trials=1, recipe=FIXED)
    study.work("undisturbed")
    return study
