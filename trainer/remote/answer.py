"""What a server says of a file, and why it does not give it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

CONNECT_SECONDS, READ_SECONDS = 10.0, 30.0  # to reach a server, and between two pieces of its answer
CHUNK_BYTES = 2**18
THREADS = 16  # requests at a time: they wait for the network


@dataclass(frozen=True)
class State:
    """What tells one state of a file from another; each None where the server does not say it.

    size: in bytes.
    etag: the server's name of this state.
    modified: when it was changed, in seconds since 1970.
    """

    size: int | None
    etag: str | None
    modified: float | None


@dataclass(frozen=True)
class Answer:
    """A file that is on its way."""

    state: State
    chunks: Iterator[bytes]


class FetchError(Exception):
    """Why a file is not to be had, in a few words without its URL.

    passing: whether another attempt may have it.
    wait_seconds: how long the server wants to be left alone before.
    """

    def __init__(self, why: str, *, passing: bool = False, wait_seconds: float | None = None) -> None:
        super().__init__(" ".join(why.split()))
        self.passing, self.wait_seconds = passing, wait_seconds


class Server(Protocol):
    """What has files; any thread may ask it."""

    def open(self, url: str) -> AbstractContextManager[Answer]:
        """Ask for a file; raises FetchError, also while its bytes come."""

    def look(self, url: str) -> State:
        """Ask for the state of a file; raises FetchError."""
