"""Who may see the dashboard: passwords and slowed guesses, signed sessions, requests that other sites have sent."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from itsdangerous import BadSignature, TimestampSigner

from hpo.errors import HpoError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Role = Literal["editor", "viewer"]  # an editor may look and change something, a viewer only look

SHORTEST_PASSWORD = 12  # characters of one that was given
SESSION_SECONDS = 12 * 3600
FREE_GUESSES = 5  # wrong passwords in a row of one address that are answered at once
LONGEST_WAIT = 60.0  # seconds between two further ones; others behind the same address wait no longer than that
FREE_GUESSES_OF_PEER = 50  # of one peer, which sends what it says are the guesses of many addresses
LONGEST_WAIT_OF_PEER = 10.0  # seconds; it may be a proxy, behind which one visitor must not keep out all others
FORGET_SECONDS = 900.0  # without a guess, after which the wrong ones of an address are forgotten
ADDRESSES = 10_000  # whose wrong guesses are remembered


def make_password() -> str:
    """A password of 128 random bits."""
    return secrets.token_urlsafe(16)


def check_password(given: str, whose: str = "") -> str:
    """The password as it was given; raises HpoError where it is empty or too short, which says whose it is."""
    if len(given) < SHORTEST_PASSWORD:
        raise HpoError(
            f"dashboard: the {whose}password has {len(given)} characters, and needs {SHORTEST_PASSWORD};"
            " `openssl rand -base64 18` makes one"
        )
    return given


@dataclass
class _Wrong:
    wrong: int
    last: float  # time.monotonic()

    def wait(self, free: int, longest: float) -> float:
        """Seconds from the last guess until the next one is looked at."""
        return min(2.0 ** min(self.wrong - free, 16), longest) if self.wrong >= free else 0.0


@dataclass(frozen=True)
class Passwords:
    """The passwords of a dashboard.

    Attributes:
        editor: of those who may change something.
        viewer: of those who may only look; None where there is none.
    """

    editor: str = field(repr=False)
    viewer: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise HpoError where both are the same."""
        if self.editor == self.viewer:
            raise HpoError("dashboard: the viewers' password is that of those who may change something; give another")

    def by_role(self) -> dict[Role, str]:
        """Each password that there is."""
        given: dict[Role, str] = {"editor": self.editor}
        return given if self.viewer is None else {**given, "viewer": self.viewer}


class Guesses:
    """Passwords that can only be guessed slowly from one address; safe from any thread.

    An address that a request only claims to come from is any that its sender likes. So the guesses of the peer that has
    sent it count as well, where the two differ: more of them are free, and the waits are shorter.

    Before the wait is over the right password is refused as a wrong one is, so that early guesses tell nothing. The
    right password does not end the waits: it may come from somebody else behind the same proxy. A refused request is
    answered at once, with the seconds to wait.
    """

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = {role: password.encode() for role, password in passwords.by_role().items()}
        self._guesses: OrderedDict[str, _Wrong] = OrderedDict()  # by network or peer, the oldest guess first
        self._lock = threading.Lock()

    def admit(self, given: str, address: str, peer: str | None = None) -> Role | float | None:
        """The role that a password gives, None for a wrong one, or the seconds to wait until a guess is looked at.

        Args:
            given: the guess.
            address: that it comes from.
            peer: that has sent it, where the address is only what it claims; None where the address is certain.
        """
        limits = {network_of(address): (FREE_GUESSES, LONGEST_WAIT)}
        if peer is not None:
            limits[f"peer {network_of(peer)}"] = (FREE_GUESSES_OF_PEER, LONGEST_WAIT_OF_PEER)
        now = time.monotonic()
        with self._lock:
            known = {name: self._remembered(name, now) for name in limits}
            wait = max(guesses.last + guesses.wait(*limits[name]) - now for name, guesses in known.items())
            if wait > 0:
                return wait
            guess = given.encode(errors="surrogateescape")
            right = [role for role, password in self._passwords.items() if hmac.compare_digest(guess, password)]
            if right:
                return right[0]
            for name, guesses in known.items():
                self._guesses[name] = _Wrong(guesses.wrong + 1, now)
                self._guesses.move_to_end(name)
            while len(self._guesses) > ADDRESSES:
                self._guesses.popitem(last=False)
            return None

    def _remembered(self, name: str, now: float) -> _Wrong:
        """The wrong guesses of an address that are not forgotten."""
        guesses = self._guesses.get(name)
        return guesses if guesses and now - guesses.last <= FORGET_SECONDS else _Wrong(0, now)


def network_of(address: str) -> str:
    """The network whose machines count as one: one IPv4 address, or a /64 of IPv6, which one machine may own."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(ipaddress.ip_network((parsed, 64), strict=False) if parsed.version == 6 else parsed)


class Sessions:
    """Signed sessions, which stay valid after a restart with the same password; safe from any thread.

    The key is made from the password by scrypt (RFC 7914), which is slow: a stolen session hardly helps to guess the
    password.

    Attributes:
        cookie: name of their cookie. Browsers send cookies to all ports of a host, so each password needs its own.
    """

    def __init__(self, password: str) -> None:
        key = hashlib.scrypt(password.encode(), salt=b"hpo dashboard: sessions", n=2**14, r=8, p=1)
        self._signer = TimestampSigner(key, salt=b"hpo dashboard", digest_method=hashlib.sha256)
        self.cookie = f"hpo-{hmac.digest(key, b'the name of the cookie', 'sha256').hex()[:12]}"
        self._ended: dict[bytes, float] = {}  # token of a session that was logged out -> when, as time.time()
        self._lock = threading.Lock()

    def begin(self) -> str:
        """A new session, for a cookie."""
        return self._signer.sign(secrets.token_urlsafe(16)).decode()

    def is_open(self, session: str) -> bool:
        """Whether a session was begun here in the last `SESSION_SECONDS`, and not ended."""
        return self._token(session) is not None

    def end(self, session: str) -> None:
        """End a session, if it is open; copies of its cookie end with it."""
        token, now = self._token(session), time.time()
        if token is None:
            return
        with self._lock:
            self._ended = {each: at for each, at in self._ended.items() if now - at < SESSION_SECONDS}
            self._ended[token] = now

    def _token(self, session: str) -> bytes | None:
        """The token of an open session, without the signature, which can be written in several ways; else None."""
        try:
            token = self._signer.unsign(session, max_age=SESSION_SECONDS)
        except BadSignature:
            return None
        return None if token in self._ended else token


def is_cross_site(environ: Mapping[str, Any]) -> bool:
    """Whether a browser says that another site, or another port of this host, has made it send a request.

    An attacker whose own host name leads to this address (DNS rebinding) gets no further: the browser sends no session
    for that name.
    """
    if site := environ.get("HTTP_SEC_FETCH_SITE"):
        return site not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and origin.partition("://")[2].lower() != environ.get("HTTP_HOST", "").lower()


def local_path(wanted: str) -> str:
    """A path of ours that a login may lead to; / for anything else, such as `//evil.example`."""
    return wanted if re.fullmatch(r"/(?!/)[\w\-.~%/?&=+,:@]*", wanted, re.ASCII) else "/"
