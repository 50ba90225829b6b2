"""Files that people add in the browser, and remove there: no bytes without a name, and no name without its bytes."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

from bottle import request, response
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import UpdateFinishedTrialError
from optuna_dashboard._bottle_util import parse_data_uri
from optuna_dashboard.artifact._backend import get_study_artifact_meta, list_study_artifacts, list_trial_artifacts

from storage.artifacts.artifact_store import discard
from storage.artifacts.artifacts import drop_file, kept_files, naming
from storage.errors import StorageError
from storage.keys import ARTIFACT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage

    from hpo.study.open_study import OpenStudy


class Files:
    """Answers what optuna-dashboard's page asks for files, as its own routes do.

    Those change the store before the database, and remove whatever id they are given: a role that may not change the
    database would still lose its files, or leave some that nothing names.

    Args:
        storage: as optuna-dashboard has it.
        opened: a study of this storage.
    """

    def __init__(self, storage: BaseStorage, opened: OpenStudy) -> None:
        self._storage, self._store, self._engine = storage, opened.artifacts, opened.storage.engine

    def add_to_study(self, study_id: int) -> dict[str, Any]:
        """Keep the file that the request brings for a study."""
        artifact_id = self._add(lambda key, value: self._storage.set_study_system_attr(study_id, key, value))
        files = list_study_artifacts(self._storage.get_study_system_attrs(study_id))
        return {"artifact_id": artifact_id, "artifacts": files}

    def add_to_trial(self, study_id: int, trial_id: int) -> dict[str, Any]:
        """Keep the file that the request brings for a trial; raises UpdateFinishedTrialError where it has ended."""
        trial = self._storage.get_trial(trial_id)
        if trial.state.is_finished():
            raise UpdateFinishedTrialError
        artifact_id = self._add(lambda key, value: self._storage.set_trial_system_attr(trial_id, key, value))
        of_study, of_trial = (
            self._storage.get_study_system_attrs(study_id),
            self._storage.get_trial(trial_id).system_attrs,
        )
        return {"artifact_id": artifact_id, "artifacts": list_trial_artifacts(of_study, of_trial, trial)}

    def remove_from_study(self, study_id: int, artifact_id: str) -> dict[str, Any]:
        """Remove a file that a study names; raises Optuna's ArtifactNotFound where it does not."""
        if get_study_artifact_meta(self._storage, study_id, artifact_id) is None:
            raise ArtifactNotFound
        self._storage.set_study_system_attr(study_id, ARTIFACT_KEY + artifact_id, json.dumps(None))
        discard(self._store, artifact_id)
        return {}

    def remove_from_trial(self, study_id: int, trial_id: int, artifact_id: str) -> dict[str, Any]:
        """Remove a file that a trial names, ended or not; raises Optuna's ArtifactNotFound where it does not."""
        with self._engine.connect() as connection:
            for kept in kept_files(connection, study_id):
                if (kept.trial_id, kept.artifact_id) == (trial_id, artifact_id):
                    drop_file(self._store, connection, kept)
                    return {}
        raise ArtifactNotFound

    def _add(self, name: Callable[[str, str], None]) -> str:
        """Store the file of the request, then name it; the bytes go again where that fails. Returns the id."""
        artifact_id = str(uuid.uuid4())
        _, data = parse_data_uri(request.json.get("file"))
        attributes = naming(artifact_id, request.json.get("filename", ""))
        self._store.write(artifact_id, BytesIO(data))
        try:
            for key, value in attributes.items():
                name(key, value)
        except Exception:
            with suppress(StorageError):
                discard(self._store, artifact_id)
            raise
        response.status = 201
        return artifact_id
