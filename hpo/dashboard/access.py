"""Who may see the dashboard: a password, slowed guesses, signed sessions, and requests that other sites have made."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from itsdangerous import BadSignature, TimestampSigner

from hpo.errors import HpoError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORTEST_PASSWORD = 12  # characters of one that was given
SESSION_SECONDS = 12 * 3600
FREE_GUESSES = 5  # wrong passwords in a row of one address that are answered at once
LONGEST_WAIT = 60.0  # seconds after each further one; so others behind the same address are never out for longer
FORGET_SECONDS = 900.0  # after which an address begins anew
ADDRESSES = 10_000  # that are remembered


def make_password() -> str:
    """A password of 128 random bits."""
    return secrets.token_urlsafe(16)


def check_password(given: str) -> str:
    """The password as it was given; raises HpoError where it is empty or too short."""
    if len(given) < SHORTEST_PASSWORD:
        raise HpoError(
            f"dashboard: the password has {len(given)} characters, and needs {SHORTEST_PASSWORD};"
            " `openssl rand -base64 18` makes one"
        )
    return given


@dataclass
class _Guesses:
    wrong: int
    last: float  # time.monotonic()

    @property
    def wait(self) -> float:
        """Seconds from the last one to the next that counts."""
        return min(2.0 ** (self.wrong - FREE_GUESSES), LONGEST_WAIT) if self.wrong >= FREE_GUESSES else 0.0


class Password:
    """A password that can only be guessed slowly from one address; safe from any thread.

    A right one that comes too early counts as little as a wrong one, so that guesses in between tell nothing. Nor does
    a right one end the slowing: it may be someone else's, behind the same proxy. Nobody is held meanwhile: whoever
    asks learns how long to wait.
    """

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._guesses: OrderedDict[str, _Guesses] = OrderedDict()  # the address that was quiet for longest first
        self._lock = threading.Lock()

    def admit(self, given: str, address: str) -> bool | float:
        """True for the right password, False for a wrong one, or the seconds to wait until one is looked at."""
        network, now = _network(address), time.monotonic()
        with self._lock:
            guesses = self._guesses.get(network)
            if guesses and now - guesses.last > FORGET_SECONDS:
                guesses = None
            if guesses and (wait := guesses.last + guesses.wait - now) > 0:
                return wait
            if hmac.compare_digest(given.encode(errors="surrogateescape"), self._password):
                return True
            self._guesses[network] = _Guesses(guesses.wrong + 1 if guesses else 1, now)
            self._guesses.move_to_end(network)
            if len(self._guesses) > ADDRESSES:
                self._guesses.popitem(last=False)
            return False


def _network(address: str) -> str:
    """Whom an address belongs to: one machine has a whole /64 of IPv6, but not of the IPv4 addresses in it."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(ipaddress.ip_network((parsed, 64), strict=False) if parsed.version == 6 else parsed)


class Sessions:
    """Signed sessions, which outlive a restart with the same password; safe from any thread.

    The key comes from the password by scrypt (RFC 7914), so that whoever has got hold of a session can hardly guess it.

    Attributes:
        cookie: name of their cookie. Browsers send cookies to all ports of a host, so each password needs its own.
    """

    def __init__(self, password: str) -> None:
        key = hashlib.scrypt(password.encode(), salt=b"hpo dashboard: sessions", n=2**14, r=8, p=1)
        self._signer = TimestampSigner(key, salt=b"hpo dashboard", digest_method=hashlib.sha256)
        self.cookie = f"hpo-{hmac.digest(key, b'the name of the cookie', 'sha256').hex()[:12]}"
        self._ended: dict[bytes, float] = {}  # tokens of those that were logged out, each with the time of that
        self._lock = threading.Lock()

    def begin(self) -> str:
        """A new session, for a cookie."""
        return self._signer.sign(secrets.token_urlsafe(16)).decode()

    def is_open(self, session: str) -> bool:
        """Whether we have begun a session not too long ago, and nobody has ended it."""
        return self._token(session) is not None

    def end(self, session: str) -> None:
        """End a session, if it is an open one, wherever its cookie was copied to."""
        token, now = self._token(session), time.time()
        if token is None:
            return
        with self._lock:
            self._ended = {each: at for each, at in self._ended.items() if now - at < SESSION_SECONDS}
            self._ended[token] = now

    def _token(self, session: str) -> bytes | None:
        """What was signed for an open session, whose signature can be written in several ways; None for any other."""
        try:
            token = self._signer.unsign(session, max_age=SESSION_SECONDS)
        except BadSignature:
            return None
        return None if token in self._ended else token


def is_cross_site(environ: Mapping[str, Any]) -> bool:
    """Whether a browser says that another site, or another port of this host, has made it send a request.

    A name of the attacker's that leads to us (DNS rebinding) gains nothing: the browser has no session for it.
    """
    if site := environ.get("HTTP_SEC_FETCH_SITE"):
        return site not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2].lower() != environ.get("HTTP_HOST", "").lower()


def local_path(wanted: str) -> str:
    """A path of ours that a login may lead to; / for anything else, such as `//evil.example`."""
    return wanted if re.fullmatch(r"/(?!/)[\w\-.~%/?&=+,:@]*", wanted, re.ASCII) else "/"
