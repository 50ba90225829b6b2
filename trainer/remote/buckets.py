"""Files in S3 or a store that speaks its protocol; boto3 finds credentials, region and endpoint itself."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore import UNSIGNED, exceptions
from botocore.config import Config

from trainer.remote.answer import CHUNK_BYTES, CONNECT_SECONDS, READ_SECONDS, THREADS, Answer, FetchError, State
from trainer.remote.urls import bucket_and_key

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
DENIED = "access is denied; the credentials need s3:GetObject and s3:ListBucket"
ANONYMOUS = f"access is denied without credentials; {LOGIN}"
REFUSED = "the credentials are refused; renew them"
HINTS = {
    "NoSuchKey": "there is no such object",
    "404": "there is no such object",
    "NoSuchBucket": "there is no such bucket",
    "InvalidAccessKeyId": REFUSED,
    "SignatureDoesNotMatch": REFUSED,
    "ExpiredToken": REFUSED,
    "InvalidToken": REFUSED,
}


class Buckets:
    """All buckets. Without credentials they are asked as anybody may ask public ones."""

    def __init__(self) -> None:
        with _foreseen():
            session = boto3.Session()
            self._anonymous = session.get_credentials() is None
            settings = Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": 1},  # who fetches tries again
                max_pool_connections=THREADS,
                signature_version=UNSIGNED if self._anonymous else None,
            )
            try:
                self._client = session.client("s3", config=settings)
            except ValueError as error:  # AWS_ENDPOINT_URL is no URL
                raise FetchError(str(error)) from error

    @contextmanager
    def open(self, url: str) -> Iterator[Answer]:
        """Ask for an object."""
        bucket, key = bucket_and_key(url)
        with _foreseen(anonymous=self._anonymous):
            found = self._client.get_object(Bucket=bucket, Key=key)
            with closing(found["Body"]) as body:
                yield Answer(_state_of(found, "ContentLength"), body.iter_chunks(CHUNK_BYTES))

    def look(self, url: str) -> State:
        """Ask for the state of an object."""
        bucket, key = bucket_and_key(url)
        with _foreseen(anonymous=self._anonymous):
            return _state_of(self._client.head_object(Bucket=bucket, Key=key), "ContentLength")

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()

    def list(self, url: str) -> Iterator[tuple[str, State]]:
        """The key of each object below a prefix, without the prefix, and its state."""
        bucket, prefix = bucket_and_key(url)
        pages = self._client.get_paginator("list_objects_v2")
        with _foreseen(anonymous=self._anonymous):
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                for found in page.get("Contents", ()):
                    yield found["Key"].removeprefix(prefix), _state_of(found, "Size")


def _state_of(found: dict[str, Any], size: str) -> State:
    return State(int(found[size]), found.get("ETag"), found["LastModified"].timestamp())


@contextmanager
def _foreseen(*, anonymous: bool = False) -> Iterator[None]:
    try:
        yield
    except exceptions.ClientError as error:
        code = str(error.response["Error"]["Code"])
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        why = (ANONYMOUS if anonymous else DENIED) if code in ("AccessDenied", "403") else HINTS.get(code, str(error))
        raise FetchError(why, passing=status >= 500 or status == 429 or code == "RequestTimeout") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
        raise FetchError(f"{error}; {LOGIN}") from error
    except (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
        raise FetchError(
            f"S3 does not answer: {error}; is the network up, and AWS_ENDPOINT_URL right?", passing=True
        ) from error
    except exceptions.BotoCoreError as error:
        raise FetchError(str(error)) from error
