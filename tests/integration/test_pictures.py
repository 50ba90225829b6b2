"""The pictures of trials as Optuna's artifacts: which trials have them, and what they cost a trial."""

from __future__ import annotations

import io

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from PIL import Image

from hpo.study.deletion import delete_study
from hpo.study.retention import take_inventory
from hpo.worker import observer
from hpo.worker.pictures import draw_pictures
from hpo.worker.shutdown import Shutdown
from storage.artifacts.artifacts import keep_file
from storage.artifacts.folder_store import FolderFiles
from storage.errors import StorageError
from storage.keys import PICTURES
from storage.requeue import requeue
from tests.integration.conftest import FIXED, ScriptedLoss, lines_of, stop_of, weights_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("drawn_pictures")]


def pictures_of(study, number):
    """The pictures that a trial names, with what its store holds of each."""
    metas = get_all_artifact_meta(study.trials[number], storage=study.opened.storage)
    found = {}
    for meta in metas:
        if meta.filename != "weights.safetensors":
            assert (meta.mimetype, meta.encoding) == ("image/png", None)
            with study.opened.artifacts.open_reader(meta.artifact_id) as reader:
                found[meta.filename] = Image.open(io.BytesIO(reader.read()))
                found[meta.filename].load()
    return found


@pytest.fixture
def results(monkeypatch):
    """What is given to be drawn, trial after trial."""
    given = []

    def drawn(result, *others):
        given.append(result)
        return draw_pictures(result, *others)

    monkeypatch.setattr(observer, "draw_pictures", drawn)
    return given


@pytest.fixture
def pruned(monkeypatch):
    """Lets every trial be pruned after its first epoch."""
    pruner = optuna.pruners.ThresholdPruner(lower=1.1)
    monkeypatch.setattr("hpo.worker.runs.make_pruner", lambda *_: pruner)


def test_a_complete_trial_has_its_pictures(harness):
    """A complete trial keeps three pictures, which are kept and go with the study."""
    study = harness(recipe=FIXED, more="keep_weights = 1\n")
    study.work()
    for number in (0, 1):
        pictures = pictures_of(study, number)
        assert pictures.keys() == set(PICTURES)
        assert {picture.format for picture in pictures.values()} == {"PNG"}
    inventory = take_inventory(study.opened, study.file.keep_weights)
    assert (len(inventory.kept), inventory.surplus) == (1 + 2 * 3, ())
    delete_study(study.opened)
    assert list(study.opened.artifacts.files("")) == []


@pytest.mark.usefixtures("pruned")
def test_a_pruned_trial_has_its_pictures(harness, results):
    """A pruned trial keeps three pictures, of the epochs that it had."""
    study = harness(trials=1, recipe=FIXED)
    study.work()
    assert study.trials[0].state is TrialState.PRUNED
    assert pictures_of(study, 0).keys() == set(PICTURES)
    assert [len(result.history) for result in results] == [1]
    inventory = take_inventory(study.opened, study.file.keep_weights)
    assert (len(inventory.kept), inventory.surplus) == (3, ())


def test_a_resumed_trial_has_pictures_of_all_its_epochs(harness, results):
    """The curves of a trial that went on from a checkpoint begin with its first epoch."""
    study = harness(ScriptedLoss({5: stop_of(lambda: study)}), trials=1, recipe=FIXED)
    study.work("stopped")
    assert results == []
    study.stop = Shutdown()
    study.work("next")
    assert study.trials[1].user_attrs["resumed_after_epoch"] == 1
    [result] = results
    assert result.history == list(study.trials[1].intermediate_values.values())
    assert len(result.train_losses) == 2
    assert all(loss > 0 for loss in result.train_losses)
    assert pictures_of(study, 0) == {}
    assert pictures_of(study, 1).keys() == set(PICTURES)


def test_a_failed_trial_has_none(harness, results):
    """A trial that fails draws nothing."""
    study = harness(ScriptedLoss({4: lambda: 1 / 0}), trials=1, retries=0, recipe=FIXED)
    study.work()
    assert [place.state for place in study.places] == ["failed"]
    assert results == []
    assert list(study.opened.artifacts.files("")) == []


def test_a_store_that_refuses_pictures_costs_no_trial(harness, monkeypatch):
    """Where a picture cannot be stored, a line in the log says so; the trial is complete at once."""
    write = FolderFiles.write

    def refusing(store, artifact_id, content):
        if content.read(4) == b"\x89PNG":
            raise StorageError("artifacts: no room")
        content.seek(0)
        write(store, artifact_id, content)

    monkeypatch.setattr(FolderFiles, "write", refusing)
    study = harness(trials=1, recipe=FIXED)
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert weights_of(study, 0)
    assert lines_of(study, 0)[-1] == "pictures: artifacts: no room; the trial ends without"
    assert pictures_of(study, 0) == {}


def test_a_picture_that_cannot_be_drawn_costs_no_trial(harness, monkeypatch):
    """Where drawing fails, a line in the log says so; the trial is complete, with the pictures before that one."""
    monkeypatch.setattr("hpo.worker.pictures.draw_most_wrong", lambda *_: 1 / 0)
    study = harness(trials=1, recipe=FIXED)
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]
    assert lines_of(study, 0)[-1] == "pictures: ZeroDivisionError: division by zero; the trial ends without"
    assert pictures_of(study, 0).keys() == set(PICTURES) - {"most_wrong.png"}


@pytest.mark.usefixtures("pruned")
def test_a_worker_that_has_lost_its_place_keeps_no_pictures(harness, monkeypatch):
    """A trial that another worker took over while its pictures were drawn gets them from that one alone."""

    def taken_while_drawn(*arguments):
        monkeypatch.setattr(observer, "draw_pictures", draw_pictures)
        requeue(study.opened.storage.engine, "worker")
        return draw_pictures(*arguments)

    monkeypatch.setattr(observer, "draw_pictures", taken_while_drawn)
    study = harness(trials=1, recipe={**FIXED, "epochs": 3})
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.PRUNED]
    assert pictures_of(study, 1).keys() == set(PICTURES)
    assert len(list(study.opened.artifacts.files(""))) == 3


def test_pictures_of_a_run_that_died_are_surplus(harness, tmp_path):
    """What a worker has kept that died before it told the trial is removed by `hpo prune-artifacts`."""
    study = harness(trials=1, recipe=FIXED)
    (tmp_path / "most_wrong.png").write_bytes(b"some")
    keep_file(study.opened.artifacts, study.dead_worker()[1].trial, tmp_path / "most_wrong.png", study.opened.owner)
    requeue(study.opened.storage.engine, "dead")
    study.work()
    [surplus] = take_inventory(study.opened, study.file.keep_weights).surplus
    assert surplus.why == "most_wrong.png of trial 0, which did not complete"
    assert pictures_of(study, 1).keys() == set(PICTURES)
