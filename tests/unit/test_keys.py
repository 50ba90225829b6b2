"""The keys under which studies and trials keep things, and the states of places."""

from __future__ import annotations

import re
from typing import get_args

import optuna
import pytest
import torch
from optuna.trial import TrialState

from storage import keys, schema
from storage.artifacts.artifacts import naming
from storage.keys import ARTIFACT_KEY, BEST_EPOCH_KEY, END_STATES, METRICS_KEY, PLACE_STATES, EndState, PlaceState
from trainer.objective import objective
from trainer.resources import Resources
from trainer.space import Space

pytestmark = pytest.mark.unit

STORED = {
    "SETTINGS_KEY": "hpo:settings",
    "VALUE_RANGES_KEY": "hpo:value_ranges",
    "ID_KEY": "hpo:id",
    "TAKEN_OVER_KEY": "hpo:taken_over_from",
    "SEARCH_KEY": "hpo:search",
    "TEST_USE_KEY": "hpo:test_use:",
    "TEST_SCORE_KEY": "hpo:test_score:",
    "CONFIRMATION_KEY": "hpo:confirmation",
    "MICRO_BATCH_KEY": "hpo:micro_batch: ",
    "SPEED_KEY": "hpo:speed: ",
    "NO_RECIPE_LEFT_KEY": "hpo:no_recipe_left",
    "EARLIER_KEY": "hpo:learn_from",
    "DEFAULT_KEY": "hpo:default_recipe",
    "CONTROL_KEY": "trained_to_the_end",
    "REPEATS_KEY": "repeats",
    "FIRST_RUN_KEY": "first_run",
    "SAME_RECIPE_KEY": "same_recipe_as",
    "RESUMED_KEY": "resumed_after_epoch",
    "CHECKPOINT_KEY": "checkpoint",
    "REASON_KEY": "reason",
    "ORIGIN_KEY": "taken_over_from",
    "QUEUED_KEY": "queued_by",
    "WAY_KEY": "proposed",
    "CONFIRMS_KEY": "confirms",
    "BEST_EPOCH_KEY": "best_epoch",
    "METRICS_KEY": "metrics",
    "HOST_KEY": "host",
    "DEVICE_KEY": "device",
    "THREADS_KEY": "threads",
    "ENVIRONMENT_KEY": "environment",
    "MADE_KEY": "hpo:made",
    "ARTIFACT_KEY": "artifacts:",
}


def test_no_key_changes_its_text():
    """Studies that were begun earlier hold these texts: a changed one would lose what they keep."""
    assert {name: value for name, value in vars(keys).items() if name.endswith("_KEY")} == STORED
    assert keys.WEIGHTS_NAME == "weights.safetensors"
    assert keys.PICTURES == ("learning_curves.png", "confusion_matrix.png", "most_wrong.png")


@pytest.mark.usefixtures("one_thread")
def test_the_objective_writes_two_of_the_keys(colours, extensions):
    """The training, which knows nothing of the storage, keeps the best epoch and its metrics under these keys."""
    fixed = {"backbone": "linear", "pretrained": False, "image_size": 16, "epochs": 1}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    trial = study.ask()
    objective(trial, Space(fixed, extensions), colours, resources=Resources(torch.device("cpu")))
    assert trial.user_attrs.keys() == {BEST_EPOCH_KEY, METRICS_KEY}


def test_optuna_lists_a_file_that_a_trial_names():
    """The key of a file is the one by which Optuna finds what its own `upload_artifact` keeps."""
    study = optuna.create_study()
    attributes = naming("id", "picture.png")
    assert [key.removeprefix(ARTIFACT_KEY) for key in attributes] == ["id"]
    study.add_trial(optuna.trial.create_trial(value=1.0, system_attrs=attributes))
    [found] = optuna.artifacts.get_all_artifact_meta(study.trials[0], storage=study._storage)
    assert (found.artifact_id, found.filename, found.mimetype) == ("id", "picture.png", "image/png")


def test_the_database_takes_the_states_that_a_place_can_have():
    """The check of the table `hpo.place` names the same states as the type; an end state is one of them."""
    *_, checked = re.findall(r"CHECK \(state IN \(([^)]*)\)", "".join(schema.STEPS))
    assert {state.strip(" '") for state in checked.split(",")} == set(get_args(PlaceState)) == set(PLACE_STATES)
    assert set(END_STATES) == set(get_args(EndState)) == set(PLACE_STATES) - {"paused", "running", "waiting"}
    assert len(TrialState) == len(PLACE_STATES) - 1
