"""Where the server of the dashboard listens."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from waitress import create_server

from hpo.cli import parser
from hpo.dashboard import server
from hpo.dashboard.server import address_of, listen
from hpo.errors import HpoError
from tests.support.waiting import limit

pytestmark = pytest.mark.unit


def application(environ, start_response):
    """Of which nothing is asked."""
    raise AssertionError


@pytest.mark.parametrize(
    ("given", "taken"), [("*", "*"), ("10.0.0.1", "10.0.0.1"), ("::0001", "::1"), ("caddy", None), ("10.0.0.0/8", None)]
)
def test_a_proxy_is_an_address_or_any(capsys, given, taken):
    """A name or a network, which the server would never find in a connection, is refused."""
    arguments = ["dashboard", "study.toml", "--proxy", given]
    if taken:
        assert parser().parse_args(arguments).proxy == taken
    else:
        with pytest.raises(SystemExit):
            parser().parse_args(arguments)
        assert f"{given} is no IP address" in capsys.readouterr().err


def test_the_printed_address_has_the_port_that_was_taken():
    """With port 0 it is the one that the system chose, of a name with two addresses that of the first."""
    for listened in ("127.0.0.1:0", "127.0.0.1:0 127.0.0.2:0"):
        listening = create_server(application, listen=listened)
        try:
            address = address_of(listening, "localhost")
            host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
            assert host == "localhost"
            with socket.create_connection(("127.0.0.1", int(port)), timeout=limit(10)):
                pass
        finally:
            listening.close()


def test_an_address_of_ipv6_stands_in_brackets():
    """As browsers take it."""
    listening = listen(application, "127.0.0.1", 0)
    try:
        assert address_of(listening, "::1") == f"http://[::1]:{listening.effective_port}/"
    finally:
        listening.close()


def test_a_name_without_an_address_is_one_line(monkeypatch):
    """A name that nobody knows is named, with the port."""

    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(HpoError, match="cannot listen at gpu-1, port 8080: there is no such address"):
        listen(application, "gpu-1", 8080)


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EACCES])
def test_an_address_that_is_not_to_be_had_is_one_line(monkeypatch, number):
    """The reason is that of the system."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(server, "create_server", refuse)
    with pytest.raises(HpoError, match=f"cannot listen at 192.0.2.1, port 80: {os.strerror(number)}$"):
        listen(application, "192.0.2.1", 80)
