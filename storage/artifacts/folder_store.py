"""Files of trials in a folder."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound

from storage.artifacts.artifact_store import COPY_BYTES, StoredFile
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARTIFACT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*")  # no path that leads out of the folder


class FolderFiles:
    """A folder that all workers can reach."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading; raises Optuna's ArtifactNotFound where there is none."""
        try:
            return self._path(artifact_id).open("rb")
        except FileNotFoundError:
            raise ArtifactNotFound(artifact_id) from None
        except OSError as error:
            raise self._failed("read", error) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact: temporary file, fsync, rename, fsync of the folder."""
        path = self._path(artifact_id)
        temporary = path.with_name(f"{artifact_id}.{uuid.uuid4().hex}.tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    shutil.copyfileobj(content_body, file, COPY_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed("written to", error) from error

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; raises Optuna's ArtifactNotFound where there is none."""
        try:
            self._path(artifact_id).unlink()
        except FileNotFoundError:
            raise ArtifactNotFound(artifact_id) from None
        except OSError as error:
            raise self._failed("written to", error) from error

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """The files whose ids begin with the prefix."""
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if entry.name.startswith(prefix):
                        with suppress(FileNotFoundError):  # another process has removed or renamed it
                            found = entry.stat()
                            yield StoredFile(entry.name, found.st_size, time.time() - found.st_mtime)
        except FileNotFoundError:  # nothing has been written yet
            return
        except OSError as error:
            raise self._failed("read", error) from error

    def _path(self, artifact_id: str) -> Path:
        if not ARTIFACT_ID.fullmatch(artifact_id):
            raise StorageError(f"artifacts: {artifact_id!r} is no id of a file; what the database names is wrong")
        return self._folder / artifact_id

    def _failed(self, what: str, error: OSError) -> StorageError:
        why = error.strerror or error
        return StorageError(f"artifacts: {self._folder} cannot be {what}: {why}; make room or give access there")
