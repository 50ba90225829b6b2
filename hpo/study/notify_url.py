"""The URL that is told how a search ends, which may hold a secret: what is wrong with it, and what of it is shown."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit


def notify_problem(url: object) -> str | None:
    """What is wrong with what may be a URL, without showing it; None where it will do."""
    parts = _split(url) if isinstance(url, str) else None
    if (
        parts is None
        or parts.scheme not in ("https", "http")
        or not parts.hostname
        or not re.fullmatch(r"[!-~]+", str(url))
    ):
        return "is no URL such as https://hooks.example.org/…"
    if parts.username is not None or parts.password is not None:
        return "has a user or password before its host; put a token into its path or query"
    if parts.scheme == "http" and not _is_local(parts.hostname):
        return f"would send to {parts.hostname} without encryption; write https://"
    return None


def shown_host(url: str) -> str:
    """The host of a URL that will do, which is no secret."""
    return urlsplit(url).hostname or ""


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError where it is none
    except ValueError:
        return None
    return parts


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
