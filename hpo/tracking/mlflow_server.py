"""Trials as runs of MLflow, below one parent run for their study. MLFLOW_TRACKING_URI names the server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlflow import MlflowClient

    from hpo.tracking.tracked_trial import State, TrackedTrial

STATUS: dict[State, str] = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
STUDY_TAG, TRIAL_TAG, STATE_TAG = "hpo.study", "hpo.trial", "hpo.state"
PARENT = "parent"  # in place of a trial's number
LONGEST = 6000  # characters of a parameter that MLflow takes


class MlflowServer:
    """MLflow's server, asked by its own client; not safe from several threads at once."""

    def __init__(self) -> None:
        self._connected: MlflowClient | None = None
        self._experiments: dict[str, str] = {}  # ids by name
        self._runs: dict[tuple[str, str], str] = {}  # ids by the study's id and the trial's number

    def begin(self, trial: TrackedTrial, parameters: Mapping[str, Any]) -> None:
        """Begin the run of a trial, or go on with it."""
        from mlflow.entities import Param

        run = self._run(trial)
        self._client.update_run(run, status="RUNNING")
        params = [Param(name, str(value)[:LONGEST]) for name, value in parameters.items()]
        self._client.log_batch(run, params=params)

    def log(self, trial: TrackedTrial, epoch: int, values: Mapping[str, float]) -> None:
        """Keep what an epoch gave, as metrics at that step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self._run(trial), metrics=metrics)

    def end(self, trial: TrackedTrial, state: State) -> None:
        """End the run, with its state as a tag."""
        run = self._run(trial)
        self._client.set_tag(run, STATE_TAG, state)
        self._client.set_terminated(run, STATUS[state])

    def add_bundle(self, trial: TrackedTrial, folder: Path, scores: Mapping[str, float]) -> None:
        """Keep a bundle as artifacts below `bundle`, and its scores as metrics."""
        run = self._run(trial)
        self._client.log_artifacts(run, str(folder), "bundle")
        for name, value in scores.items():
            self._client.log_metric(run, name, value)

    @property
    def _client(self) -> MlflowClient:
        if self._connected is None:
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would be in the trial's log
            from mlflow import MlflowClient

            self._connected = MlflowClient()
        return self._connected

    def _run(self, trial: TrackedTrial) -> str:
        """The id of the run of a trial, made where there is none."""
        key = trial.owner, str(trial.number)
        if key not in self._runs:
            from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

            parent = self._find_or_make(trial, PARENT, trial.study, {})
            self._runs[key] = self._find_or_make(trial, key[1], trial.name, {MLFLOW_PARENT_RUN_ID: parent})
        return self._runs[key]

    def _find_or_make(self, trial: TrackedTrial, which: str, name: str, tags: Mapping[str, str]) -> str:
        experiment = self._experiment(trial.study)
        wanted = f"tags.`{STUDY_TAG}` = '{trial.owner}' AND tags.`{TRIAL_TAG}` = '{which}'"

        def oldest() -> str | None:
            found = self._client.search_runs(
                [experiment], wanted, max_results=1, order_by=["attributes.start_time ASC"]
            )
            return found[0].info.run_id if found else None

        if (run := oldest()) is not None:
            return str(run)
        marks = {STUDY_TAG: trial.owner, TRIAL_TAG: which, **tags}
        made = str(self._client.create_run(experiment, tags=marks, run_name=name).info.run_id)
        if which == PARENT:
            self._client.set_terminated(made)  # it holds the others together, and nothing runs in it
        first = oldest() or made
        if first != made:  # another worker was faster
            self._client.delete_run(made)
        return str(first)

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which has the name of the study."""
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            self._experiments[name] = found.experiment_id if found else self._client.create_experiment(name)
        return self._experiments[name]
