"""The password, sessions and cross-site requests of the dashboard."""

from __future__ import annotations

import time

import pytest

from hpo.dashboard import access
from hpo.dashboard.access import Guesses, Passwords, Sessions, check_password, is_cross_site, local_path, make_password
from hpo.errors import HpoError

pytestmark = pytest.mark.unit

SECRET = "correct horse battery"


@pytest.fixture
def clock(monkeypatch):
    """Both clocks, which only the test moves on."""

    class Clock:
        now = 1_000_000.0

    monkeypatch.setattr(time, "time", lambda: Clock.now)
    monkeypatch.setattr(time, "monotonic", lambda: Clock.now)
    return Clock


def test_passwords_are_strong_or_refused():
    """A made password is long and never the same; a short one that is given is refused by a line without it."""
    assert len(check_password(make_password())) >= 20
    assert make_password() != make_password()
    for short in ("", "hunter2 1234"[:11]):
        with pytest.raises(HpoError, match=f"has {len(short)} characters, and needs 12") as refused:
            check_password(short)
        assert not short or short not in str(refused.value)


def test_the_two_passwords_differ():
    """The same password for viewers would let none of them only look."""
    with pytest.raises(HpoError, match="the viewers' password is that of those who may change something"):
        Passwords(SECRET, SECRET)
    with pytest.raises(HpoError, match="the viewers' password has 5 characters"):
        check_password("short", "viewers' ")
    assert SECRET not in repr(Passwords(SECRET))


def test_guesses_are_slowed_by_address(clock):
    """After five wrong passwords an address waits, longer each time, up to a minute; others do not."""
    guesses = Guesses(Passwords(SECRET))
    for _ in range(5):
        assert guesses.admit("wrong", "192.0.2.1") is None
    waits = []
    for _ in range(9):
        waits.append(guesses.admit(SECRET, "192.0.2.1"))
        clock.now += waits[-1]
        assert guesses.admit("wrong", "192.0.2.1") is None
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert guesses.admit(SECRET, "192.0.2.2") == "editor"
    clock.now += 60
    assert guesses.admit(SECRET, "192.0.2.1") == "editor"


def test_guesses_are_slowed_by_peer_where_the_address_is_only_claimed(clock):
    """Fifty wrong passwords of a peer, whatever addresses it claims, and it waits up to 10 s; other peers do not."""
    guesses = Guesses(Passwords(SECRET))
    for number in range(50):
        assert guesses.admit("wrong", f"198.51.100.{number}", "192.0.2.1") is None
    waits = []
    for number in range(6):
        waits.append(guesses.admit(SECRET, f"203.0.113.{number}", "192.0.2.1"))
        clock.now += waits[-1]
        assert guesses.admit("wrong", f"203.0.113.{number}", "192.0.2.1") is None
    assert waits == [1, 2, 4, 8, 10, 10]
    assert guesses.admit(SECRET, "203.0.113.99", "192.0.2.2") == "editor"
    assert guesses.admit(SECRET, "192.0.2.1") == "editor"  # the guesses that it has sent are not its own
    clock.now += 10
    assert guesses.admit(SECRET, "203.0.113.99", "192.0.2.1") == "editor"


def test_visitors_behind_a_peer_are_slowed_each_by_itself(clock):
    """The first of them that guesses waits, and the others come in by the same peer."""
    guesses = Guesses(Passwords(SECRET))
    for _ in range(5):
        assert guesses.admit("wrong", "198.51.100.1", "192.0.2.1") is None
    assert guesses.admit("wrong", "198.51.100.1", "192.0.2.1") == 1.0
    assert guesses.admit(SECRET, "198.51.100.2", "192.0.2.1") == "editor"


def test_a_right_password_does_not_hide_guesses_behind_the_same_address(clock):
    """A program or proxy that sends the right one again and again lets others of its address guess no faster."""
    guesses = Guesses(Passwords(SECRET))
    for _ in range(5):
        assert guesses.admit(SECRET, "192.0.2.1") == "editor"
        assert guesses.admit("wrong", "192.0.2.1") is None
    assert guesses.admit("wrong", "192.0.2.1") == 1.0
    clock.now += 1
    assert guesses.admit(SECRET, "192.0.2.1") == "editor"
    assert guesses.admit("wrong", "192.0.2.1") is None
    assert guesses.admit("wrong", "192.0.2.1") == 2.0


def test_a_right_password_that_comes_too_early_tells_nothing(clock):
    """While an address waits, a right password is answered as a wrong one is, and changes nothing."""
    guesses = Guesses(Passwords(SECRET))
    for _ in range(6):
        guesses.admit("wrong", "192.0.2.1")
    assert guesses.admit(SECRET, "192.0.2.1") == guesses.admit("wrong", "192.0.2.1") == 1.0


def test_guesses_are_forgotten_and_few_are_remembered(clock, monkeypatch):
    """A quarter of an hour later an address begins anew, and of very many addresses the last ones are remembered."""
    monkeypatch.setattr(access, "ADDRESSES", 100)
    guesses = Guesses(Passwords(SECRET))
    for _ in range(20):
        guesses.admit("wrong", "192.0.2.1")
        clock.now += 60
    clock.now += 900
    assert guesses.admit("wrong", "192.0.2.1") is None
    assert guesses.admit("wrong", "192.0.2.1") is None
    for number in range(1000):
        guesses.admit("wrong", f"198.51.100.{number}" if number < 256 else f"2001:db8:{number:x}::1")
    assert len(guesses._guesses) == 100


def test_a_machine_with_many_ipv6_addresses_is_one(clock):
    """All addresses of a /64 share their guesses."""
    guesses = Guesses(Passwords(SECRET))
    for number in range(5):
        assert guesses.admit("wrong", f"2001:db8::{number:x}") is None
    assert guesses.admit("wrong", "2001:db8::ffff") == 1.0
    assert guesses.admit("wrong", "2001:db8:0:1::1") is None


def test_ipv4_addresses_written_as_ipv6_are_as_many(clock):
    """Addresses of IPv4 in those of IPv6 are no one's network, and the same as without."""
    guesses = Guesses(Passwords(SECRET))
    for _ in range(5):
        guesses.admit("wrong", "::ffff:192.0.2.1")
    assert guesses.admit(SECRET, "192.0.2.1") == 1.0
    assert guesses.admit(SECRET, "::ffff:192.0.2.2") == "editor"


@pytest.mark.parametrize("given", ["", "Correct horse battery", f"{SECRET} ", "ä", "\udcff", "x" * 5000])
def test_only_the_password_opens(given):
    """Whatever is not the password, byte for byte, is wrong."""
    assert Guesses(Passwords(SECRET)).admit(given, "192.0.2.1") is None


def test_sessions_outlive_a_restart_but_no_new_password(clock):
    """A session of the same password is open also to the next process; of another password, or changed, it is not."""
    session = Sessions(SECRET).begin()
    again = Sessions(SECRET)
    assert again.is_open(session)
    assert not Sessions(f"{SECRET}!").is_open(session)
    forged = ("A" if session[0] != "A" else "B") + session[1:]
    for other in (forged, session[:-1], session.rpartition(".")[0], "", "..", "ä", session + "\n"):
        assert not again.is_open(other)
    clock.now += 12 * 3600 + 1
    assert not again.is_open(session)


def test_a_session_that_was_logged_out_stays_closed(clock):
    """A copy of the cookie is worth nothing after a logout, and what was logged out is not remembered for ever."""
    sessions = Sessions(SECRET)
    mine, other = sessions.begin(), sessions.begin()
    sessions.end(mine)
    assert not sessions.is_open(mine)
    assert sessions.is_open(other)
    sessions.end("made up")
    assert len(sessions._ended) == 1
    clock.now += 12 * 3600 - 1
    sessions.end(sessions.begin())
    clock.now += 2
    sessions.end(sessions.begin())
    assert len(sessions._ended) == 2


def test_a_session_that_was_logged_out_is_closed_however_it_is_written(clock):
    """The signature of a session can be written in several ways, and a logout closes all of them."""
    sessions = Sessions(SECRET)
    session = sessions.begin()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    ways = {session + "=", session + "==", *(session[:-1] + letter for letter in letters)}
    assert sum(map(sessions.is_open, ways)) > 1
    sessions.end(session)
    assert not any(map(sessions.is_open, ways))


def test_each_password_has_a_cookie_of_its_own():
    """Dashboards on one host do not log each other out, and the same password is one login."""
    assert Sessions(SECRET).cookie == Sessions(SECRET).cookie
    assert Sessions(SECRET).cookie != Sessions(f"{SECRET}!").cookie
    assert Sessions(SECRET).cookie.startswith("hpo-")


@pytest.mark.parametrize(
    ("headers", "crosses"),
    [
        ({}, False),  # no browser
        ({"HTTP_SEC_FETCH_SITE": "same-origin"}, False),
        ({"HTTP_SEC_FETCH_SITE": "none"}, False),
        ({"HTTP_SEC_FETCH_SITE": "same-site"}, True),  # another port of this host
        ({"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": "http://localhost:8080"}, True),
        ({"HTTP_ORIGIN": "http://localhost:8080"}, False),
        ({"HTTP_ORIGIN": "http://LOCALHOST:8080"}, False),
        ({"HTTP_ORIGIN": "http://localhost:3000"}, True),
        ({"HTTP_ORIGIN": "https://evil.example"}, True),
        ({"HTTP_ORIGIN": "null"}, True),
        ({"HTTP_ORIGIN": "http://["}, True),
        ({"HTTP_ORIGIN": ""}, True),
    ],
)
def test_requests_of_other_sites_are_known(headers, crosses):
    """Fetch metadata tells who made a browser send a request, and where there is none, the origin does."""
    assert is_cross_site({"HTTP_HOST": "localhost:8080", **headers}) is crosses


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [
        ("/dashboard/studies/1/trials?numbers=3&a=%20b", "/dashboard/studies/1/trials?numbers=3&a=%20b"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
        ("/a\tb", "/"),
        ("/\n", "/"),
        ("", "/"),
        ("dashboard", "/"),
    ],
)
def test_a_login_leads_to_our_own_pages_alone(wanted, led_to):
    """A link to the login cannot lead to another site."""
    assert local_path(wanted) == led_to
