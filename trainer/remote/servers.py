"""Which server has the file of a URL."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Self

from trainer.remote.answer import FetchError

if TYPE_CHECKING:
    from trainer.remote.answer import Server
    from trainer.remote.buckets import Buckets
    from trainer.remote.web import WebServers


class Servers:
    """Whom to ask for a URL; each is set up when it is first asked, and left when the block ends."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def of(self, url: str) -> Server:
        """Who has the file of a URL.

        Raises:
            FetchError: S3's client is not installed or cannot be set up.
        """
        with self._lock:
            return self.buckets if url.lower().startswith("s3:") else self._web

    @cached_property
    def buckets(self) -> Buckets:
        """S3."""
        try:
            from trainer.remote.buckets import Buckets
        except ModuleNotFoundError as error:
            raise FetchError(f"s3:// needs the package {error.name}; pip install 'hpo-images[s3]'") from None
        return self._open.enter_context(closing(Buckets()))

    @cached_property
    def _web(self) -> WebServers:
        from trainer.remote.web import WebServers  # takes a tenth of a second

        return self._open.enter_context(closing(WebServers()))
