"""From the URL in a study file to the store that it names: a folder or a bucket of S3."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from storage.artifacts.folder_store import FolderFiles
from storage.errors import StorageError

if TYPE_CHECKING:
    from storage.artifacts.artifact_store import ArtifactFiles


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
    """The store that a URL names, `s3://bucket/prefix` or a folder's path; the store itself is not yet asked anything.

    Raises:
        StorageError: the URL is wrong, or S3's client is not installed or cannot be set up.
    """
    bucket = bucket_of(url)
    if bucket is None:
        return FolderFiles(Path(url))
    try:
        from storage.artifacts.s3_store import S3Files
    except ModuleNotFoundError as error:
        raise StorageError(f"artifacts: s3:// needs the package {error.name}; pip install 'hpo-images[s3]'") from None
    return S3Files(*bucket)
