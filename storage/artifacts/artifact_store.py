"""Where files are kept, by URL: a folder or S3, as Optuna's ArtifactStore that can say what it holds."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol
from urllib.parse import urlsplit

from optuna.artifacts.exceptions import ArtifactNotFound

from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

COPY_BYTES = 1 << 20
ARTIFACT_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*")  # nothing that could lead out of a folder


@dataclass(frozen=True)
class StoredFile:
    """A file in a store, by its artifact's id; a name in `.tmp` is what a write that was broken off has left.

    Attributes:
        artifact_id: the id.
        size_bytes: its size.
        age_seconds: since it was written, by the store's clock and ours.
    """

    artifact_id: str
    size_bytes: int
    age_seconds: float


class ArtifactFiles(Protocol):
    """Optuna's ArtifactStore that can also say what it holds. Whatever keeps it from doing so is a StorageError."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact for reading; raises Optuna's ArtifactNotFound where there is none."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact in place of the one there may be, whole or not at all."""

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact; where there is none, Optuna's ArtifactNotFound or nothing."""

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """What is there with an id that begins with the prefix."""


class FolderFiles:
    """A folder that all workers reach."""

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
                with temporary.open("wb") as file:
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
        """What is there with an id that begins with the prefix."""
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


def bucket_of(url: str) -> tuple[str, str] | None:
    """Bucket and key prefix (without slashes around it) of `s3://bucket/prefix`; None for a folder's path.

    Raises:
        StorageError: it is neither. The message shows nothing of it that could be a secret.
    """
    if "://" not in url:
        return None
    parsed = urlsplit(url)
    if parsed.scheme != "s3":
        raise StorageError(f"artifacts: {parsed.scheme}:// is not known; write s3://BUCKET/PREFIX or a folder's path")
    if "@" in parsed.netloc or parsed.query or parsed.fragment:
        raise StorageError("artifacts: write s3://BUCKET/PREFIX and no more; AWS_… variables hold the credentials")
    if not parsed.netloc:
        raise StorageError("artifacts: the URL names no bucket; write s3://BUCKET/PREFIX")
    return parsed.netloc, parsed.path.strip("/")


def open_store(url: str) -> ArtifactFiles:
    """The store that a URL names, `s3://bucket/prefix` or a folder's path; nothing is asked of it yet.

    Raises:
        StorageError: the URL is wrong, or S3's client is not installed or cannot be set up.
    """
    bucket = bucket_of(url)
    if bucket is None:
        return FolderFiles(Path(url))
    try:
        from storage.artifacts.s3_store import S3Files
    except ModuleNotFoundError as error:
        raise StorageError(f"artifacts: s3:// needs the package {error.name}; pip install 'hpo[s3]'") from None
    return S3Files(*bucket)


def probe(store: ArtifactFiles) -> None:
    """Find out whether a store can be written to, listed, read and cleared.

    Raises:
        StorageError: it cannot.
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
    """Store a file under an id, in place of what may be there, whole or not at all.

    Raises:
        StorageError: the file cannot be read, or the store not be written to.
    """
    try:
        with file.open("rb") as content:
            store.write(artifact_id, content)
    except OSError as error:
        raise StorageError(f"artifacts: {file} cannot be read: {error.strerror or error}") from error


def get(store: ArtifactFiles, artifact_id: str, to: Path) -> bool:
    """Copy what is stored under an id to a file; False, and no file, where there is nothing.

    Raises:
        StorageError: the store cannot be read, or the file not be written.
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
