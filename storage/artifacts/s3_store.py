"""Files of trials in S3 or a store that speaks its protocol; boto3 finds credentials, region and endpoint itself."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, cast

import boto3
from botocore import exceptions
from botocore.config import Config
from optuna.artifacts.exceptions import ArtifactNotFound

from storage.artifacts.artifact_store import COPY_BYTES, StoredFile
from storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECT_SECONDS, READ_SECONDS = 5, 20
ATTEMPTS = 3  # of a request; a caller that can wait longer repeats the call
DENIED = "access is denied; the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
REFUSED = "the credentials are refused; renew them"
HINTS = {
    "NoSuchBucket": "there is no such bucket; create it, or correct [study] artifacts or HPO_ARTIFACTS",
    "AccessDenied": DENIED,
    "403": DENIED,
    "InvalidAccessKeyId": REFUSED,
    "SignatureDoesNotMatch": REFUSED,
    "ExpiredToken": REFUSED,
    "InvalidToken": REFUSED,
}
LOGIN = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"


class S3Files:
    """The objects of a bucket whose keys begin with `prefix/`. S3 itself never shows a part of an object."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._folder = bucket, f"{prefix}/" if prefix else ""
        settings = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        with self._foreseen():
            self._client = boto3.client("s3", config=settings)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Fetch an artifact, whole, and open it for reading; raises Optuna's ArtifactNotFound where there is none."""
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with self._foreseen():
                found = self._client.get_object(Bucket=self._bucket, Key=self._folder + artifact_id)
                for chunk in found["Body"].iter_chunks(COPY_BYTES):
                    copy.write(chunk)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return cast("BinaryIO", copy)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact; a large one is sent in several requests, and appears when the last one has arrived."""
        with self._foreseen():
            self._client.upload_fileobj(content_body, self._bucket, self._folder + artifact_id)

    def remove(self, artifact_id: str) -> None:
        """Remove an artifact, if it is there."""
        with self._foreseen():
            self._client.delete_object(Bucket=self._bucket, Key=self._folder + artifact_id)

    def files(self, prefix: str) -> Iterator[StoredFile]:
        """The files whose ids begin with the prefix."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._foreseen():
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._folder + prefix):
                for found in page.get("Contents", ()):
                    age = datetime.now(UTC) - found["LastModified"]
                    yield StoredFile(found["Key"].removeprefix(self._folder), found["Size"], age.total_seconds())

    @contextmanager
    def _foreseen(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchKey":
                raise ArtifactNotFound(str(error)) from None
            raise self._failed(HINTS.get(code) or str(error)) from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
            raise self._failed(f"{error}; {LOGIN}") from error
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise self._failed(f"does not answer: {error}; is the network up, and AWS_ENDPOINT_URL right?") from error
        except exceptions.BotoCoreError as error:
            raise self._failed(str(error)) from error

    def _failed(self, why: str) -> StorageError:
        return StorageError(f"artifacts: s3://{self._bucket}/{self._folder}: {' '.join(why.split())}")
