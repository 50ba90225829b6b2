"""`[study] track` before a real MLflow server, and the offline mode of Weights & Biases."""

from __future__ import annotations

import dataclasses
import re
import socket
import subprocess
import sys
import urllib.request

import pytest

from hpo.tracking.trackers import add_bundle
from storage.budget import Limits
from storage.requeue import requeue
from tests.integration.conftest import harness  # noqa: F401 - a fixture
from tests.support.waiting import wait_until

pytestmark = pytest.mark.tracking

TEST = {"metrics": {"test": {"macro_f1": 0.75, "accuracy": 0.5}}}


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory):
    """The address of an MLflow server of this machine."""
    pytest.importorskip("mlflow.server", reason="mlflow is not installed: make tracking-test")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = ["--backend-store-uri", "sqlite:///runs.db", "--artifacts-destination", "artifacts"]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: _answers(address), 60)
        yield address
        server.terminate()


def _answers(address):
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=2).status == 200  # noqa: S310 - this machine
    except OSError:
        return False


def bundle(folder):
    """A folder such as a bundle."""
    (folder / "bundle").mkdir()
    (folder / "bundle/recipe.toml").write_text('loss = "own"\n')
    return folder / "bundle"


@pytest.mark.filterwarnings("default")  # those of its packages are its own
def test_mlflow_has_a_run_a_trial_below_one_of_the_study(harness, mlflow_server, monkeypatch, tmp_path):  # noqa: F811
    """Parameters, curves and states; a trial that another worker continues goes on in its run; the bundle is there."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    study = harness(more='track = "mlflow"')
    study.dead_worker()
    requeue(study.opened.storage.engine, "dead")
    study.work()
    client = MlflowClient()
    experiment = client.get_experiment_by_name("colours").experiment_id

    def find(which):
        return client.search_runs([experiment], f"tags.`hpo.trial` = '{which}'")

    [parent], [first], [second] = find("parent"), find(0), find(2)
    assert (parent.info.run_name, parent.info.status) == ("colours", "FINISHED")
    assert find(1) == []  # it continues trial 0
    assert study.trials[1].user_attrs["first_run"] == 0
    for run, trial in ((first, study.trials[1]), (second, study.trials[2])):
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.data.tags["hpo.state"]) == ("FINISHED", "complete")
        assert run.data.params["learning_rate"] == str(trial.params["learning_rate"])
        assert run.data.params["image_size"] == "8"
        curve = client.get_metric_history(run.info.run_id, "valid/macro_f1")
        assert {metric.step: metric.value for metric in curve} == pytest.approx(trial.intermediate_values)
    said = list(add_bundle(study.opened, study.trials[1], bundle(tmp_path), TEST))
    assert said == ["track: mlflow: the bundle is with the run of trial 0"]
    assert [file.path for file in client.list_artifacts(first.info.run_id, "bundle")] == ["bundle/recipe.toml"]
    assert client.get_run(first.info.run_id).data.metrics["test/macro_f1"] == 0.75
    study.file = dataclasses.replace(study.file, limits=Limits(trials=3))
    study.work("next")
    assert len(client.search_runs([experiment])) == 4  # the parent is still one


@pytest.mark.filterwarnings("default")
def test_wandb_has_a_run_a_trial_in_the_group_of_the_study(harness, monkeypatch, tmp_path):  # noqa: F811
    """In its offline mode each trial leaves a run with parameters and curves, and the bundle, for `wandb sync`."""
    pytest.importorskip("wandb", reason="wandb is not installed: make tracking-test")
    monkeypatch.setenv("WANDB_MODE", "offline")
    study = harness(more='track = ["wandb"]')
    study.work()
    owner = re.sub(r"[^\w.-]", "-", study.opened.owner)
    runs = {
        path.name.rpartition("-")[2]: path
        for path in (study.file.folder / "wandb/wandb").glob(f"offline-run-*{owner}-*")
    }
    assert sorted(runs) == ["0", "1"]
    for number, folder in runs.items():
        [log] = folder.glob("*.wandb")
        kept = log.read_bytes()
        for text in ("valid/macro_f1", "learning_rate", "colours", f"trial {number}", "complete"):
            assert text.encode() in kept, text
    said = list(add_bundle(study.opened, study.trials[0], bundle(tmp_path), TEST))
    assert said == ["track: wandb: the bundle is with the run of trial 0"]
