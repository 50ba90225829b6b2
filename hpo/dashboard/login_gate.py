"""The login of the dashboard: a WSGI application that passes the requests of those who are logged in to another one."""

from __future__ import annotations

import base64
import html
import json
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bottle import Bottle, HTTPResponse, request, response

from hpo.dashboard.access import SESSION_SECONDS, Guesses, Sessions, is_cross_site, local_path
from hpo.dashboard.connections import PEER
from hpo.dashboard.visitors import VISITOR, log_change, shown, visitor_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from hpo.dashboard.access import Passwords, Role
    from hpo.dashboard.visitors import EditorHeader

OPEN_PAGES = ("/login", "/logout", "/healthz")
READING = ("GET", "HEAD", "OPTIONS")
LONGEST_LOGIN = 4096  # bytes
CLOSED = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"{CLOSED}; style-src 'unsafe-inline'; form-action 'self'"
# A file that somebody has uploaded must not run scripts with our rights. Pages show images of it all the same.
FILE_POLICY = f"{CLOSED}; style-src 'unsafe-inline'; sandbox"
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>hpo</title>
<style>
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas; color: CanvasText; }
  main { width: min(20rem, 84vw); padding: 2rem; border: 1px solid #8885; border-radius: 8px; }
  h1 { margin: 0; font-size: 1.3rem; } p { margin: 0 0 1.2rem; opacity: .7; }
  label { display: block; font-size: .9rem; } p.problem { color: #c62828; opacity: 1; margin: .8rem 0 0; }
  input, button { box-sizing: border-box; width: 100%; font: inherit; padding: .55rem .7rem; border-radius: 4px; }
  input { margin: .25rem 0 1rem; border: 1px solid #888; }
  button { border: 0; background: #1565c0; color: #fff; cursor: pointer; }
  button:focus-visible, input:focus-visible { outline: 2px solid #64b5f6; outline-offset: 1px; }
</style>
</head>
<body><main><h1>hpo</h1>BODY</main></body>
</html>
"""
LOGIN = """<p>The dashboard of a search</p>
<form method="post" action="/login">
<input type="hidden" name="next" value="NEXT">
<label>Password<input type="password" name="password" autocomplete="current-password" required autofocus></label>
<button>Log in</button></form>PROBLEM"""
LOGOUT = '<p>You are logged in.</p><form method="post" action="/logout"><button>Log out</button></form>'


class LoginGate:
    """Passes requests with a session, or with the password as HTTP's basic authentication, on to an application.

    What is passed on has its `Visitor` in its environment.

    Args:
        application: that answers them.
        passwords: of which all visitors have to give one.
        read_only: refuse all requests that change something.
        editors: makes viewers of all whom the proxy does not name so.
    """

    def __init__(
        self,
        application: WSGIApplication,
        passwords: Passwords,
        *,
        read_only: bool = False,
        editors: EditorHeader | None = None,
    ) -> None:
        self._application, self._read_only, self._editors = application, read_only, editors
        self._sessions = {role: Sessions(password) for role, password in passwords.by_role().items()}
        # Each counts its own wrong guesses: those in the form do not slow a proxy that sends the password in a header.
        self._form_guesses, self._header_guesses = Guesses(passwords), Guesses(passwords)
        self._pages = Bottle()
        self._pages.get("/healthz", callback=lambda: "ok\n")
        self._pages.get("/login", callback=lambda: _login_page(request.query.get("next", "/")))
        self._pages.post("/login", callback=self._log_in)
        self._pages.get("/logout", callback=lambda: _page(LOGOUT))
        self._pages.post("/logout", callback=self._log_out)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        path = environ.get("PATH_INFO") or "/"

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            return start_response(status, _guarded(path, headers), *more)

        if is_cross_site(environ) and environ["REQUEST_METHOD"] not in READING:
            answer = _refusal(403, "another site has sent this, or a proxy that does not pass on the Host header")
        elif path in OPEN_PAGES:
            answer = self._pages
        else:
            answer = self._admitted(environ, path)
        return answer(environ, start)

    def _admitted(self, environ: WSGIEnvironment, path: str) -> WSGIApplication:
        """What answers a request that asks for more than the login: the application, or a refusal."""
        user, given = _basic_authentication(environ.get("HTTP_AUTHORIZATION", ""))
        role: Role | float | None = self._role_of_session(environ)
        if role is None and given is not None:
            role = self._header_guesses.admit(given, environ.get("REMOTE_ADDR", ""), environ.get(PEER))
        if isinstance(role, float):
            return _refusal(429, "too many wrong passwords", {"Retry-After": str(math.ceil(role))})
        method = environ["REQUEST_METHOD"]
        if role is None:
            if method in READING and (path == "/" or f"{path}/".startswith("/dashboard/")):
                wanted = path + (f"?{query}" if (query := environ.get("QUERY_STRING")) else "")
                return _refusal(303, "log in", {"Location": f"/login?next={quote(wanted, safe='/')}"})
            return _refusal(401, "you are not logged in, or no longer: reload the page")
        environ[VISITOR] = visitor = visitor_of(environ, role, user, self._editors)
        if method in READING or (visitor.role == "editor" and not self._read_only):
            return self._application
        log_change(visitor, shown(f"{method} {path}"), HTTPStatus.FORBIDDEN)
        return _refusal(403, "this dashboard is read-only" if self._read_only else "you may look, and change nothing")

    def _log_in(self) -> str:
        if request.content_length > LONGEST_LOGIN:
            raise HTTPResponse("too long", 413)
        request.environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"  # bottle fails at one that is malformed
        wanted, address = request.forms.get("next", "/"), request.environ.get("REMOTE_ADDR", "")
        given, peer = request.forms.getunicode("password", ""), request.environ.get(PEER)
        admitted = self._form_guesses.admit(given, address, peer)
        if isinstance(admitted, str):
            secure = request.environ["wsgi.url_scheme"] == "https"
            # Lax: a link from elsewhere to a page is followed with the session, and nothing else that others send is.
            options = {"path": "/", "httponly": True, "samesite": "lax", "secure": secure, "max_age": SESSION_SECONDS}
            self._end_sessions(*self._sessions.keys() - {admitted})  # whoever logs in to look has no other rights left
            sessions = self._sessions[admitted]
            response.set_cookie(sessions.cookie, sessions.begin(), **options)
            return _lead(local_path(wanted))
        if admitted is None:
            response.status = 403
            return _login_page(wanted, "That is not the password.")
        seconds = math.ceil(admitted)
        response.status = 429
        response.set_header("Retry-After", str(seconds))
        return _login_page(wanted, f"Too many wrong passwords. Try again in {seconds} s.")

    def _log_out(self) -> str:
        self._end_sessions(*self._sessions)
        return _lead("/login")

    def _end_sessions(self, *roles: Role) -> None:
        for sessions in map(self._sessions.__getitem__, roles):
            if session := _cookie(request.environ, sessions.cookie):  # without one, the answer does not tell its name
                sessions.end(session)
                response.delete_cookie(sessions.cookie, path="/")

    def _role_of_session(self, environ: WSGIEnvironment) -> Role | None:
        """The role of whoever is logged in; None for nobody."""
        open_for = (role for role, each in self._sessions.items() if each.is_open(_cookie(environ, each.cookie)))
        return next(open_for, None)


def _cookie(environ: WSGIEnvironment, wanted: str) -> str:
    """A cookie that a request brings, or "". Read by hand: other programs' cookies may break a parser."""
    cookies = (pair.strip().partition("=") for pair in environ.get("HTTP_COOKIE", "").split(";"))
    return next((value for name, _, value in cookies if name == wanted), "")


def _guarded(path: str, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of an answer, with those that protect it from other sites and other users of the browser."""
    ours = {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        # optuna-dashboard's script is large and no secret: a browser may keep it, and asks each time if it has changed.
        "Cache-Control": "private, no-cache" if path.startswith("/static/") else "no-store",
    }
    given = {name.lower(): value for name, value in headers}
    if path.startswith("/artifacts/"):
        ours["Content-Security-Policy"] = FILE_POLICY
    elif policy := given.get("content-security-policy"):
        ours["Content-Security-Policy"] = f"{policy}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    else:
        ours["Content-Security-Policy"] = PAGE_POLICY
    replaced = {*(name.lower() for name in ours), "access-control-allow-origin"}
    return [(name, value) for name, value in headers if name.lower() not in replaced] + list(ours.items())


def _refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> WSGIApplication:
    """An application that answers with a reason, in the form of optuna-dashboard, whose page shows it."""

    def refuse(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = {"Content-Type": "application/json", **(headers or {})}
        start_response(f"{status} {HTTPStatus(status).phrase}", list(given.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [json.dumps({"reason": reason}).encode()]

    return refuse


def _basic_authentication(header: str) -> tuple[str, str | None]:
    """The user name and the password of HTTP's basic authentication; no password where there is none."""
    kind, _, encoded = header.partition(" ")
    if kind.lower() != "basic":
        return "", None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode(errors="surrogateescape").partition(":")
    except ValueError:  # it is not base64, or not even ASCII
        return "", ""
    return user, password


def _lead(path: str) -> str:
    """Redirect to a path of this host; bottle's `redirect` would add a host name, which may not be the browser's."""
    response.status = 303
    response.set_header("Location", path)
    return ""


def _login_page(wanted: str, problem: str = "") -> str:
    shown = f'<p class="problem" role="alert">{html.escape(problem)}</p>' if problem else ""
    return _page(LOGIN.replace("NEXT", html.escape(local_path(wanted))).replace("PROBLEM", shown))


def _page(body: str) -> str:
    return PAGE.replace("BODY", body)
