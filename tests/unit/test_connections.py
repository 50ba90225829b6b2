"""The limits of the dashboard's connections, at a server that runs."""

from __future__ import annotations

import base64
import http.client
import itertools
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from waitress import wasyncore

from hpo.dashboard import connections
from hpo.dashboard.access import Passwords
from hpo.dashboard.connections import BY_PROXY, CONNECTIONS, CONNECTIONS_OF_ADDRESS
from hpo.dashboard.login_gate import LoginGate
from hpo.dashboard.server import listen
from tests.support.waiting import limit, wait_until

pytestmark = pytest.mark.unit

SECRET = "correct horse battery"
HOST = "127.0.0.1"
WAITING = {  # what a connection may have sent that waits for the rest of it
    "nothing": b"",
    "half a header": b"GET /login HTTP/1.1\r\nHost: a\r\nX-",
    "no body": b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
    "a request that is answered": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
}


class Server:
    """A server in a thread, whose connections a test opens from addresses of its choice."""

    def __init__(self, stack, application, proxy=None):
        self._stack, self._server = stack, listen(application, HOST, 0, proxy)
        thread = threading.Thread(target=self._server.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(self._server.trigger.pull_trigger, lambda: wasyncore.close_all(self._server._map))
        stack.callback(self._server.task_dispatcher.shutdown)

    @property
    def address(self):
        """Where it listens."""
        return HOST, self._server.effective_port

    def connect(self, source=HOST, sent=b""):
        """An open connection from an address, which has sent this."""
        opened = socket.create_connection(self.address, timeout=limit(10), source_address=(source, 0))
        self._stack.enter_context(opened)
        opened.sendall(sent)
        return opened

    def open_connections(self):
        """How many connections are open."""
        return len(self._server.active_channels)

    def ask(self, path="/healthz", source=HOST, **more):
        """The answer to one request on a connection of its own."""
        client = http.client.HTTPConnection(*self.address, timeout=limit(10), source_address=(source, 0))
        client.request(more.pop("method", "GET"), path, **more)
        answer = client.getresponse()
        answer.read()
        client.close()
        return answer


@pytest.fixture
def serve():
    """Starts a server, which ends with the test."""
    with ExitStack() as stack:
        yield lambda application=None, proxy=None: Server(
            stack, application or LoginGate(None, Passwords(SECRET)), proxy
        )


def is_closed(opened):
    """Whether the server has closed a connection."""
    opened.setblocking(False)
    try:
        while opened.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


@pytest.mark.parametrize("sent", WAITING.values(), ids=list(WAITING))
def test_connections_that_wait_keep_nobody_out(serve, sent):
    """However many connections of an address wait, and for what, the next one of it is answered at once."""
    server = serve()
    waiting = [server.connect(sent=sent) for _ in range(CONNECTIONS_OF_ADDRESS * 6)]
    begun = time.monotonic()
    assert server.ask().status == 200
    assert time.monotonic() - begun < limit(2)
    assert server.open_connections() <= CONNECTIONS_OF_ADDRESS
    assert is_closed(waiting[0])
    assert not is_closed(waiting[-1])


def test_a_crowd_of_one_address_closes_no_connection_of_another(serve):
    """Who has few connections keeps them, though they have been idle for longer."""
    server = serve()
    mine = [server.connect("127.0.0.2") for _ in range(3)]
    for _ in range(CONNECTIONS_OF_ADDRESS * 2):
        server.connect()
    assert server.ask(source="127.0.0.2").status == 200
    assert [is_closed(each) for each in mine] == [False] * 3


def test_a_crowd_of_many_addresses_keeps_nobody_out(serve):
    """Where there are too many connections in all, those of the address with the most are closed, the idlest first."""
    server = serve()
    mine = server.connect("127.0.0.2")
    crowd = [server.connect(f"127.0.1.{1 + number // 2}") for number in range(2 * CONNECTIONS // 2 + 50)]
    assert server.ask(source="127.0.0.3").status == 200
    assert server.open_connections() <= CONNECTIONS
    assert sum(map(is_closed, crowd)) >= 50
    assert not is_closed(mine)


@pytest.mark.parametrize(("proxy", "kept"), [("*", True), (HOST, True), ("192.0.2.1", False), (None, False)])
def test_a_proxy_may_have_more_connections(serve, proxy, kept):
    """An address that is believed to be a proxy speaks for many, and is bounded only by the connections in all."""
    server = serve(proxy=proxy)
    opened = [server.connect() for _ in range(CONNECTIONS_OF_ADDRESS + 20)]
    assert server.ask().status == 200
    assert is_closed(opened[0]) is not kept
    for _ in range(CONNECTIONS):
        server.connect()
    assert server.ask().status == 200
    assert is_closed(opened[0])


def test_a_request_that_is_being_answered_is_not_cut_off(serve):
    """A connection whose answer takes long is not idle, however many others come."""
    begun, go_on = threading.Event(), threading.Event()

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            begun.set()
            go_on.wait(limit(30))
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    server = serve(application)
    slow = server.connect(sent=b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    assert begun.wait(limit(10))
    for _ in range(CONNECTIONS_OF_ADDRESS * 2):
        server.connect()
    assert server.ask().status == 200
    go_on.set()
    assert slow.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_a_header_has_seconds_to_arrive(serve, monkeypatch):
    """A connection without the whole header of a request is closed though it goes on sending; others may wait."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    server = serve()
    opened = {name: server.connect(sent=sent) for name, sent in WAITING.items()}
    second = server.connect(sent=WAITING["a request that is answered"])
    wait_until(lambda: second.recv(1, socket.MSG_PEEK))
    second.sendall(WAITING["half a header"])
    for _ in wait_and_drip(opened["half a header"], second):
        if server.open_connections() <= 2:
            break
    closed = {name: is_closed(each) for name, each in opened.items()}
    assert closed == {name: name in ("nothing", "half a header") for name in WAITING}
    assert is_closed(second)


def wait_and_drip(*opened):
    """Send one byte on each connection, ten times a second, until the time that a test may take is over."""
    until = time.monotonic() + limit(10)
    while time.monotonic() < until:
        for each in opened:
            try:
                each.send(b"x")
            except ConnectionError:
                continue
        time.sleep(0.1)
        yield


@pytest.mark.parametrize("form", [True, False], ids=["the form", "a header"])
@pytest.mark.parametrize("proxy", ["*", HOST])
def test_addresses_that_are_only_claimed_free_no_guesses(serve, proxy, form):
    """Where any proxy is believed, who claims another address for each guess is slowed all the same."""
    server, numbers = serve(proxy=proxy), itertools.count(1)

    def guess(password, source=HOST):
        headers = {"X-Forwarded-For": f"198.51.100.{next(numbers)}"}
        if form:
            return server.ask("/login", source, method="POST", body=f"password={password}", headers=headers).status
        headers["Authorization"] = f"Basic {base64.b64encode(f':{password}'.encode()).decode()}"
        return server.ask("/nowhere", source, headers=headers).status

    wrong = 403 if form else 401
    answers = [guess("wrong") for _ in range(60)]
    assert answers[:50] == [wrong] * 50
    assert (429 in answers[50:]) is (proxy == "*")
    assert guess("wrong", "127.0.0.2") == wrong


@pytest.mark.parametrize(
    ("proxy", "source", "by_proxy"),
    [(HOST, HOST, True), (HOST, "127.0.0.2", False), (None, HOST, False), ("*", "127.0.0.2", True)],
)
def test_the_application_is_told_what_has_come_by_the_proxy(serve, proxy, source, by_proxy):
    """A request is the proxy's where the proxy itself has sent it, whatever its headers claim."""
    told = []

    def application(environ, start_response):
        told.append(environ[BY_PROXY])
        start_response("200 OK", [("Content-Length", "0")])
        return []

    server = serve(application, proxy)
    assert server.ask(source=source, headers={"X-Forwarded-For": HOST, "X-Forwarded-Groups": "lab"}).status == 200
    assert told == [by_proxy]
