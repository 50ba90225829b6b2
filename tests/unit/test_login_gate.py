"""The login of the dashboard, before an application that says what it was asked."""

from __future__ import annotations

import itertools
import json
import time

import pytest
from werkzeug.test import Client

from hpo.dashboard.access import Passwords, Sessions
from hpo.dashboard.connections import BY_PROXY
from hpo.dashboard.login_gate import LoginGate
from hpo.dashboard.visitors import VISITOR, EditorHeader

pytestmark = pytest.mark.unit

SECRET = "correct horse battery"
TO_LOOK = "looking is all they may"
COOKIE = Sessions(SECRET).cookie
CHANGING = ("POST", "PUT", "DELETE", "PATCH")


def behind(environ, start_response):
    """The application behind the login."""
    headers = [("Content-Type", "text/plain"), ("Access-Control-Allow-Origin", "*")]
    if environ["PATH_INFO"].startswith("/dashboard"):
        headers.append(("Content-Security-Policy", "default-src 'self'"))
    start_response("200 OK", headers)
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}".encode()]


@pytest.fixture
def still(monkeypatch):
    """Stops the clock by which guesses are slowed."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)


@pytest.fixture
def visitor():
    """Makes a browser before a login gate; with a session if it is to be logged in."""

    def make(*, logged_in=False, read_only=False):
        client = Client(LoginGate(behind, Passwords(SECRET), read_only=read_only))
        if logged_in:
            client.set_cookie(COOKIE, Sessions(SECRET).begin())
        return client

    return make


def log_in(client, password=SECRET, **more):
    """Send the login's form."""
    return client.post("/login", data={"password": password, **more.pop("data", {})}, **more)


def test_the_password_opens_the_door_until_the_logout(visitor):
    """Who gives the password gets a cookie and the page that was wanted; a logout ends all of it."""
    client = visitor()
    led = client.get("/dashboard/studies/1?a=b")
    assert (led.status_code, led.headers["Location"]) == (303, "/login?next=/dashboard/studies/1%3Fa%3Db")
    shown = client.get(led.headers["Location"])
    assert 'value="/dashboard/studies/1?a=b"' in shown.text
    done = log_in(client, data={"next": "/dashboard/studies/1?a=b"})
    assert done.status_code == 303
    assert done.headers["Location"].endswith("/dashboard/studies/1?a=b")
    cookie = client.get_cookie(COOKIE)
    assert (cookie.http_only, cookie.path, cookie.same_site.lower(), cookie.secure) == (True, "/", "lax", False)
    assert client.get("/api/studies").text == "GET /api/studies"
    assert client.post("/api/studies").text == "POST /api/studies"
    session = cookie.value
    assert "Log out" in client.get("/logout").text
    assert client.get("/api/studies").status_code == 200  # looking at the page has ended nothing
    assert client.post("/logout").status_code == 303
    client.set_cookie(COOKIE, session)
    assert client.get("/api/studies").status_code == 401


def test_a_cookie_by_https_is_for_https_alone(visitor):
    """Where the request came by TLS, the browser sends the session by TLS alone."""
    client = visitor()
    log_in(client, base_url="https://hpo.example.org")
    assert client.get_cookie(COOKIE, "hpo.example.org").secure


@pytest.mark.parametrize("cookie", ["", "made up", "expired", "of another password"])
def test_without_a_session_nothing_gets_through(visitor, monkeypatch, cookie):
    """Pages lead to the login, and anything else is refused with a reason, whatever the method."""
    client = visitor()
    if cookie == "expired":
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now - 13 * 3600)
            cookie = Sessions(SECRET).begin()
    elif cookie == "of another password":
        cookie = Sessions("another password").begin()
    client.set_cookie(COOKIE, cookie)
    for method in ("GET", "HEAD", "OPTIONS", *CHANGING):
        for path in ("/", "/dashboard", "/dashboard/studies/1"):
            answer = client.open(path, method=method)
            if method in CHANGING:
                assert answer.status_code == 401
            else:
                assert answer.headers["Location"].startswith("/login?next=/")
        for path in (
            "/api/studies",
            "/static/x.js",
            "/artifacts/1/2/3",
            "/login/",
            "/x/../healthz",
            "/%2e",
            "/dashboards",
        ):
            answer = client.open(path, method=method)
            assert answer.status_code == 401
            assert "not logged in" in answer.text or method == "HEAD"


def test_wrong_passwords_are_refused_and_slowed(visitor, still):
    """A wrong password is told on the page; after five the answer is 429 with the time to wait."""
    client = visitor()
    for _ in range(5):
        answer = log_in(client, "wrong")
        assert (answer.status_code, "not the password" in answer.text) == (403, True)
        assert "Set-Cookie" not in answer.headers
    answer = log_in(client)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert "Try again in 1 s" in answer.text
    assert log_in(client, environ_base={"REMOTE_ADDR": "192.0.2.9"}).status_code == 303
    assert visitor(logged_in=True).get("/api/studies").status_code == 200


def test_a_program_or_proxy_may_send_the_password_each_time(visitor, still):
    """HTTP's basic authentication lets any user name in, and guesses by it are slowed as well."""
    client = visitor()
    assert client.get("/api/studies", auth=("anyone", SECRET)).status_code == 200
    assert "Set-Cookie" not in client.get("/api/studies", auth=("", SECRET)).headers
    assert client.get("/api/studies", headers={"Authorization": "Basic ???"}).status_code == 401
    assert client.get("/api/studies", environ_base={"HTTP_AUTHORIZATION": "Basic \xe9"}).status_code == 401
    assert client.get("/api/studies", headers={"Authorization": f"Bearer {SECRET}"}).status_code == 401
    for _ in range(3):
        assert client.get("/api/studies", auth=("anyone", "wrong")).status_code == 401
    answer = client.get("/api/studies", auth=("anyone", SECRET))
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
    assert "WWW-Authenticate" not in answer.headers  # else browsers would keep the password, and send it by themselves


def test_guesses_at_the_form_do_not_slow_single_sign_on(visitor, still):
    """Behind a proxy that sends the password all have one address, and nobody is kept out by another's wrong ones."""
    client = visitor()
    for _ in range(6):
        log_in(client, "wrong")
    assert log_in(client).status_code == 429
    assert client.get("/api/studies", auth=("anyone", SECRET)).status_code == 200


@pytest.mark.parametrize(
    "others",
    ["a@b=1", "a/b=c", 'x={"a": 1, "b": 2}', "x=a b", "=", "novalue", "x=\xe9", f"x{COOKIE}=1", f"x={COOKIE}=1", '"'],
)
def test_cookies_of_others_on_the_host_disturb_no_session(others):
    """Browsers send the cookies of all ports of a host; whatever those are, ours is found, or the login shown."""
    client = Client(LoginGate(behind, Passwords(SECRET)), use_cookies=False)
    session = f"{COOKIE}={Sessions(SECRET).begin()}"
    for cookies in (f"{others}; {session}", f"{session}; {others}", f"{others};{session}"):
        assert client.get("/api/studies", environ_base={"HTTP_COOKIE": cookies}).status_code == 200
    assert client.get("/dashboard", environ_base={"HTTP_COOKIE": others}).status_code == 303


def test_the_name_of_the_cookie_is_told_to_those_who_have_it(visitor):
    """It comes from the password, so a logout of someone without a session does not tell it."""
    assert "Set-Cookie" not in visitor().post("/logout").headers
    assert visitor(logged_in=True).post("/logout").headers["Set-Cookie"].startswith(f'{COOKIE}="";')


def test_requests_that_make_no_sense_are_answered(visitor):
    """Anyone may send them, so none is a fault of ours: a name of the host that is none, a form of another kind."""
    session = f"{COOKIE}={Sessions(SECRET).begin()}"
    for host in ("[", "a\0b", ""):
        answer = visitor().post("/logout", environ_overrides={"HTTP_HOST": host, "HTTP_COOKIE": session})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        answer = log_in(visitor(), environ_overrides={"HTTP_HOST": host})
        assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "a; b", ";"):
        assert visitor().post("/login", data=b"x", content_type=kind).status_code == 403


@pytest.mark.parametrize("logged_in", [True, False])
def test_other_sites_change_nothing(visitor, logged_in):
    """What another site makes a browser send is refused, with a session and without, the login included."""
    client = visitor(logged_in=logged_in)
    origins = ({"Origin": "https://evil.example"}, {"Origin": "http://["})
    senders = ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, *origins)
    for path, method, sender in itertools.product(
        ("/api/studies", "/login", "/logout", "/dashboard"), CHANGING, senders
    ):
        answer = client.open(path, method=method, headers=sender, data={"password": SECRET})
        assert (answer.status_code, "another site" in answer.json["reason"]) == (403, True)
    assert client.get("/dashboard", headers={"Sec-Fetch-Site": "cross-site"}).status_code == (200 if logged_in else 303)


def test_a_read_only_door_lets_no_change_through(visitor):
    """With --read-only whatever is no reading gets 403 with the reason; one may still log in and out."""
    client = visitor(logged_in=True, read_only=True)
    for method in CHANGING:
        answer = client.open("/api/studies/1", method=method)
        assert (answer.status_code, answer.json) == (403, {"reason": "this dashboard is read-only"})
    assert client.get("/api/studies").status_code == 200
    assert client.post("/logout").status_code == 303
    assert log_in(client).status_code == 303


@pytest.fixture
def with_viewers():
    """Makes a browser before a gate that also has a password of viewers; the application says who has come."""

    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(environ[VISITOR]).encode()]

    def make(editors=None):
        gate = LoginGate(application, Passwords(SECRET, TO_LOOK), editors=editors)
        return Client(lambda environ, start: gate({"REMOTE_ADDR": "192.0.2.9", **environ}, start))

    return make


def test_viewers_look_and_change_nothing(with_viewers, caplog):
    """The viewers' password opens all that is read, each change is 403 with the reason, and the log names who tried."""
    caplog.set_level("INFO", "hpo.dashboard.changes")
    client = with_viewers()
    assert log_in(client, TO_LOOK).status_code == 303
    for sent in ({}, {"auth": ("ci", TO_LOOK)}):
        for method in CHANGING:
            answer = client.open("/api/studies/1", method=method, **sent)
            assert (answer.status_code, answer.json) == (403, {"reason": "you may look, and change nothing"})
        assert client.get("/api/studies", **sent).text.startswith(
            "somebody (viewer)" if not sent else "ci, as they say,"
        )
        client.delete_cookie(Sessions(TO_LOOK).cookie)
    assert len(caplog.messages) == 2 * len(CHANGING)
    assert caplog.messages[0] == "somebody (viewer) from 192.0.2.9: POST /api/studies/1: refused (403)"
    assert TO_LOOK not in caplog.text


def test_the_last_login_says_what_one_may_do(with_viewers):
    """Whoever logs in with the other password has its rights alone, and a logout ends both."""
    client = with_viewers()
    for password, role in ((SECRET, "editor"), (TO_LOOK, "viewer"), (SECRET, "editor")):
        assert log_in(client, password).status_code == 303
        assert client.get("/api/studies").text == f"somebody ({role}) from 192.0.2.9"
    assert client.post("/logout").status_code == 303
    assert client.get("/api/studies").status_code == 401


def test_a_guess_counts_for_both_passwords(with_viewers, still):
    """A second password makes guessing no faster: five wrong ones, and the next has to wait."""
    client = with_viewers()
    assert [log_in(client, "wrong").status_code for _ in range(6)] == [403] * 5 + [429]


@pytest.mark.parametrize(
    ("by_proxy", "header", "password", "role"),
    [
        (True, "other, lab", SECRET, "editor"),
        (True, "lab", TO_LOOK, "viewer"),  # the header makes nobody an editor
        (True, "Lab", SECRET, "viewer"),
        (True, "laboratory", SECRET, "viewer"),
        (True, None, SECRET, "viewer"),
        (False, "lab", SECRET, "viewer"),  # it came past the proxy
    ],
)
def test_a_proxy_says_who_may_change_something(with_viewers, by_proxy, header, password, role):
    """With --editors only those whom the proxy itself names so may, and only with the password that lets them."""
    client = with_viewers(EditorHeader("X-Forwarded-Groups", "lab"))
    headers = {"X-Forwarded-Email": "ann@example.org", **({"X-Forwarded-Groups": header} if header else {})}
    sent = {"auth": ("", password), "headers": headers, "environ_overrides": {BY_PROXY: by_proxy}}
    name = "ann@example.org" if by_proxy else "somebody"
    assert client.get("/", **sent).text == f"{name} ({role}) from 192.0.2.9"
    assert client.post("/", **sent).status_code == (200 if role == "editor" else 403)


def test_names_that_others_send_stay_in_their_line(with_viewers):
    """What a visitor calls itself cannot begin a line of the log, nor fill it."""
    text = with_viewers().get("/", auth=("a\nb\x1b[2J" + "x" * 500, SECRET)).text
    assert text.startswith("a?b?[2Jxxx")
    assert len(text) < 300


def test_the_health_page_is_open_and_tells_nothing(visitor):
    """Anyone may ask whether the server answers, and learns no more."""
    answer = visitor().get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert visitor().get("/healthz/").status_code == 401


@pytest.mark.parametrize("logged_in", [True, False])
def test_all_answers_have_headers_that_keep_others_away(visitor, logged_in):
    """No answer may be framed, sniffed, read by other sites, or kept where others find it."""
    client = visitor(logged_in=logged_in)
    for path in ("/", "/login", "/logout", "/healthz", "/dashboard", "/api/x", "/static/x", "/artifacts/x"):
        headers = client.get(path).headers
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == ("private, no-cache" if path == "/static/x" else "no-store")
        assert "Access-Control-Allow-Origin" not in headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert len(headers.getlist("Content-Security-Policy")) == 1
        if path == "/artifacts/x":
            assert "sandbox" in headers["Content-Security-Policy"]
            assert "default-src 'none'" in headers["Content-Security-Policy"]
        if path == "/login":
            assert "script-src" not in headers["Content-Security-Policy"]
        if path == "/dashboard" and logged_in:
            assert headers["Content-Security-Policy"].startswith("default-src 'self';")


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", '"><script>alert(1)</script>'])
def test_the_login_page_takes_no_foreign_path(visitor, wanted):
    """What a link to the login wants stands on its page only if it is a path of ours, and leads nowhere else."""
    client = visitor()
    assert 'name="next" value="/"' in client.get("/login", query_string={"next": wanted}).text
    assert "<script" not in client.get("/login", query_string={"next": wanted}).text
    assert log_in(client, data={"next": wanted}).headers["Location"] in ("/", "http://localhost/")


def test_a_login_is_no_way_to_send_a_lot(visitor):
    """A form that is far too long is refused, and not looked at."""
    assert visitor().post("/login", data={"password": SECRET, "more": "x" * 5000}).status_code == 413


def test_reasons_are_json(visitor):
    """A refusal has the form that the page shows."""
    answer = visitor().get("/api/studies")
    assert answer.headers["Content-Type"] == "application/json"
    assert list(json.loads(answer.text)) == ["reason"]
