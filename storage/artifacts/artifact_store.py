"""What a store of files is, and what is done with one: a file is put there, fetched, or removed."""

from __future__ import annotations

import io
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from optuna.artifacts.exceptions import ArtifactNotFound

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class StoredFile:
    """A file in a store. One whose id ends in `.tmp` was left by a write that did not come to its end.

    Attributes:
        artifact_id: the name under which the store keeps it.
        size_bytes: its size.
        age_seconds: seconds since it was written: this machine's time less that of the store.
    """

    artifact_id: str
    size_bytes: int
    age_seconds: float


class ArtifactFiles(Protocol):
    """Optuna's ArtifactStore that can also list its files. Each method raises StorageError where the store fails."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading; raises Optuna's ArtifactNotFound where there is none."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact, whole or not at all; one that has this id already is replaced."""

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; where there is none, Optuna's ArtifactNotFound or nothing."""

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """The files whose ids begin with the prefix."""


def probe(store: ArtifactFiles) -> None:
    """Write a small file to a store, list it, read it and remove it.

    Raises:
        StorageError: one of these is not possible.
    """
    artifact_id, content = f"probe-{uuid.uuid4().hex}", b"can this be read again?"
    store.write(artifact_id, io.BytesIO(content))
    read = b""
    with suppress(ArtifactNotFound), store.open_reader(artifact_id) as reader:
        read = reader.read()
    listed = [file.size_bytes for file in store.files(artifact_id)]
    discard(store, artifact_id)
    if (read, listed) != (content, [len(content)]):
        raise StorageError("artifacts: what was written to the store did not come back as it was; use another one")


def put(store: ArtifactFiles, artifact_id: str, file: Path) -> None:
    """Store a file under an id, whole or not at all; what is stored under this id already is replaced.

    Raises:
        StorageError: the file cannot be read, or the store cannot be written to.
    """
    try:
        with file.open("rb") as content:
            store.write(artifact_id, content)
    except OSError as error:
        raise StorageError(f"artifacts: {file} cannot be read: {error.strerror or error}") from error


def get(store: ArtifactFiles, artifact_id: str, to: Path) -> bool:
    """Copy what is stored under an id to a file; returns False, and makes no file, where nothing is stored under it.

    Raises:
        StorageError: the store cannot be read, or the file cannot be written.
    """
    try:
        with store.open_reader(artifact_id) as source, to.open("wb") as target:
            shutil.copyfileobj(source, target, COPY_BYTES)
    except ArtifactNotFound:
        return False
    except OSError as error:
        raise StorageError(f"artifacts: {to} cannot be written: {error.strerror or error}") from error
    return True


def discard(store: ArtifactFiles, artifact_id: str) -> None:
    """Remove what is stored under an id, if it is there.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    with suppress(ArtifactNotFound):
        store.remove(artifact_id)
