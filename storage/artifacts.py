"""Files of a trial, in a folder that all workers reach, as an Optuna ArtifactStore."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound

from storage.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


class FolderArtifactStore:
    """Optuna's file system store with whole files or none: a reader never meets half a file, even after a crash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = FileSystemArtifactStore(folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading; raises Optuna's ArtifactNotFound where there is none."""
        return self._files.open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact: temporary file, fsync, rename."""
        temporary = self._folder / f"{artifact_id}.{os.getpid()}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                shutil.copyfileobj(content_body, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._folder / artifact_id)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise StorageError(f"artifacts: {self._folder} cannot be written to: {error.strerror}") from error

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; raises Optuna's ArtifactNotFound where there is none."""
        self._files.remove(artifact_id)


def keep_file(store: FolderArtifactStore, trial: optuna.Trial, file: Path) -> None:
    """Keep a file of a running trial under its own name."""
    upload_artifact(artifact_store=store, study_or_trial=trial, file_path=str(file))


def fetch_file(store: FolderArtifactStore, storage: BaseStorage, trial: FrozenTrial, name: str, to: Path) -> None:
    """Copy the file of this name that a trial kept.

    Raises:
        StorageError: the trial kept none, or this store does not hold it.
    """
    for meta in get_all_artifact_meta(trial, storage=storage):
        if meta.filename == name:
            try:
                with store.open_reader(meta.artifact_id) as source, to.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except ArtifactNotFound:
                break
            return
    raise StorageError(
        f"artifacts: {name} of trial {trial.number} is not in this store; was it run on another machine?"
    )


def remove_files(store: FolderArtifactStore, storage: BaseStorage, study: optuna.Study) -> None:
    """Remove all files of all trials of a study that this store holds."""
    for trial in study.get_trials(deepcopy=False):
        for meta in get_all_artifact_meta(trial, storage=storage):
            with suppress(ArtifactNotFound):
                store.remove(meta.artifact_id)
