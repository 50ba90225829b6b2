"""Files that people add and remove in the browser. Each name that the database holds has its bytes in the store."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

from bottle import request, response
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import UpdateFinishedTrialError

from hpo.dashboard.internals import decode_file, study_files, study_names_file, trial_files
from storage.artifacts.artifact_store import discard
from storage.artifacts.artifacts import naming
from storage.errors import StorageError
from storage.keys import ARTIFACT_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.storages import BaseStorage

    from hpo.study.open_study import OpenStudy


class Files:
    """Answers the requests of optuna-dashboard's page that add or remove files, in place of its own routes.

    Its own routes change the store before the database, and remove any id that they are given: where the role may not
    change the database, files would be lost, or kept without a name.

    Args:
        storage: the one that optuna-dashboard uses.
        opened: a study of this storage; the files of the others are in the same store.
    """

    def __init__(self, storage: BaseStorage, opened: OpenStudy) -> None:
        self._cached_storage, self._opened, self._store = storage, opened, opened.artifacts

    def add_to_study(self, study_id: int) -> dict[str, Any]:
        """Keep the file that the request brings for a study."""
        artifact_id = self._add(lambda key, value: self._cached_storage.set_study_system_attr(study_id, key, value))
        files = study_files(self._cached_storage.get_study_system_attrs(study_id))
        return {"artifact_id": artifact_id, "artifacts": files}

    def add_to_trial(self, study_id: int, trial_id: int) -> dict[str, Any]:
        """Keep the file that the request brings for a trial; raises UpdateFinishedTrialError where it has ended."""
        trial = self._cached_storage.get_trial(trial_id)
        if trial.state.is_finished():
            raise UpdateFinishedTrialError
        artifact_id = self._add(lambda key, value: self._cached_storage.set_trial_system_attr(trial_id, key, value))
        study_attributes = self._cached_storage.get_study_system_attrs(study_id)
        trial_attributes = self._cached_storage.get_trial(trial_id).system_attrs
        files = trial_files(study_attributes, trial_attributes, trial)
        return {"artifact_id": artifact_id, "artifacts": files}

    def remove_from_study(self, study_id: int, artifact_id: str) -> dict[str, Any]:
        """Remove a file that a study names; raises Optuna's ArtifactNotFound where it does not."""
        if not study_names_file(self._cached_storage, study_id, artifact_id):
            raise ArtifactNotFound
        self._cached_storage.set_study_system_attr(study_id, ARTIFACT_KEY + artifact_id, json.dumps(None))
        discard(self._store, artifact_id)
        return {}

    def remove_from_trial(self, study_id: int, trial_id: int, artifact_id: str) -> dict[str, Any]:
        """Remove a file that a trial names, ended or not; raises Optuna's ArtifactNotFound where it does not."""
        rows = replace(self._opened, study_id=study_id).rows
        for kept in rows.kept_files():
            if (kept.trial_id, kept.artifact_id) == (trial_id, artifact_id):
                rows.drop_file(self._store, kept)
                return {}
        raise ArtifactNotFound

    def _add(self, name: Callable[[str, str], None]) -> str:
        """Store the file of the request, then name it; the bytes go again where that fails. Returns the id."""
        artifact_id = str(uuid.uuid4())
        data = decode_file(request.json.get("file"))
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
