"""Who has sent a request to the dashboard and what they may do, and the line of the log that says what they changed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.dashboard.connections import BY_PROXY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.dashboard.access import Role

VISITOR = "hpo.visitor"  # in a request's environment: the `Visitor` who has sent it
# How proxies say who somebody is; the first one that is there counts.
NAME_HEADERS = ("X-Forwarded-Email", "X-Forwarded-Preferred-Username", "X-Forwarded-User", "Remote-User")
LONGEST_SHOWN = 200  # characters of one part of a line
DONE = 400  # an HTTP status from here on says that nothing was done

changes = logging.getLogger("hpo.dashboard.changes")


@dataclass(frozen=True)
class EditorHeader:
    """What a proxy says of those who may change something.

    Attributes:
        name: of the header.
        value: one of those in it, which are separated by commas.
    """

    name: str
    value: str

    def names_editor(self, environ: Mapping[str, Any]) -> bool:
        """Whether the proxy says so of whoever has sent a request; what comes past the proxy says nothing."""
        return self.value in [each.strip() for each in _said_by_proxy(environ, self.name).split(",")]


@dataclass(frozen=True)
class Visitor:
    """Who has sent a request.

    Attributes:
        role: what they may do.
        name: as the proxy says, or the user name that a program sends with the password; "" where there is none.
        address: that they come from.
    """

    role: Role
    name: str
    address: str

    def __str__(self) -> str:
        return f"{shown(self.name) or 'somebody'} ({self.role}) from {shown(self.address) or 'an unknown address'}"


def visitor_of(environ: Mapping[str, Any], role: Role, user: str, editors: EditorHeader | None) -> Visitor:
    """Who has sent a request.

    Args:
        environ: of the request.
        role: that their password gives them.
        user: name that they have sent with it, which nobody has checked.
        editors: makes viewers of all whom the proxy does not name so; it makes nobody an editor.
    """
    if editors and not editors.names_editor(environ):
        role = "viewer"
    said = (_said_by_proxy(environ, name) for name in NAME_HEADERS)
    name = next(filter(None, said), "") or (f"{user}, as they say," if user else "")
    return Visitor(role, name, environ.get("REMOTE_ADDR", ""))


def log_change(visitor: Visitor | None, what: str, status: int) -> None:
    """Log that somebody has changed something, or was refused.

    Args:
        visitor: None where nobody was asked who they are.
        what: was to be done to what.
        status: of the HTTP answer.
    """
    changes.info("%s: %s: %s", visitor or "somebody", what, "done" if status < DONE else f"refused ({status})")


def shown(text: str) -> str:
    """A text that others have sent, as part of one line."""
    cut = text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def _said_by_proxy(environ: Mapping[str, Any], header: str) -> str:
    return environ.get(f"HTTP_{header.upper().replace('-', '_')}", "") if environ.get(BY_PROXY) else ""
