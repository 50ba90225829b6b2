"""Files behind http and https URLs."""

from __future__ import annotations

import time
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2

from trainer.remote.answer import CHUNK_BYTES, CONNECT_SECONDS, READ_SECONDS, THREADS, Answer, FetchError, State

if TYPE_CHECKING:
    from collections.abc import Iterator

USER_AGENT = "hpo-images"  # some servers refuse those that send none of their own
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
HINTS = {
    401: "it wants a login: write it into the URL, https://USER:PASSWORD@…, or take a signed URL",
    403: "access is denied; if the URL is a signed one, it may have expired",
    404: "there is nothing at this URL",
    410: "it is gone",
    429: "the server wants fewer requests; try again later",
}


class WebServers:
    """All servers of the web. Proxies and certificates are those that the environment names (HTTPS_PROXY and such)."""

    def __init__(self) -> None:
        self._client = httpx2.Client(
            follow_redirects=True,
            timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=THREADS, max_keepalive_connections=THREADS),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        )

    @contextmanager
    def open(self, url: str) -> Iterator[Answer]:
        """Ask for a file."""
        with self._response("GET", url) as response:
            yield Answer(_state_of(response), response.iter_bytes(CHUNK_BYTES))

    def look(self, url: str) -> State:
        """Ask for the state of a file; where a server refuses to tell it alone, the file is asked for and not read."""
        try:
            with self._response("HEAD", url) as response:
                return _state_of(response)
        except FetchError:
            with self._response("GET", url) as response:
                return _state_of(response)

    def close(self) -> None:
        """Let go of all connections."""
        self._client.close()

    @contextmanager
    def _response(self, method: str, url: str) -> Iterator[httpx2.Response]:
        """The good answer to a request. The client gets no password within a URL, as it may log that."""
        parts = urlsplit(url)
        login = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
        plain = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        try:
            with self._client.stream(method, plain, auth=login) as response:
                if response.status_code != HTTPStatus.OK:
                    raise _refused(response)
                yield response
        except httpx2.TimeoutException as error:
            raise FetchError(f"the server does not answer within {READ_SECONDS:g} seconds", passing=True) from error
        except httpx2.TransportError as error:
            raise FetchError(f"the server cannot be reached: {error}", passing=True) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise FetchError(str(error)) from error


def _refused(response: httpx2.Response) -> FetchError:
    status = response.status_code
    said = f"{status} {response.reason_phrase}".strip()
    hint = HINTS.get(status)
    return FetchError(
        f"{said}: {hint}" if hint else said, passing=status in PASSING, wait_seconds=_pause(response.headers)
    )


def _pause(headers: httpx2.Headers) -> float | None:
    """What `Retry-After` asks for, in seconds."""
    told = headers.get("Retry-After", "")
    return float(told) if told.isdecimal() else _moment(told, -time.time())


def _state_of(response: httpx2.Response) -> State:
    headers = response.headers
    size = headers.get("Content-Length", "")
    whole = size.isdecimal() and "Content-Encoding" not in headers
    return State(int(size) if whole else None, headers.get("ETag"), _moment(headers.get("Last-Modified", "")))


def _moment(told: str, shift: float = 0.0) -> float | None:
    """Seconds since 1970 of a date as mails have it."""
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() + shift)
    except (ValueError, OverflowError):
        return None
