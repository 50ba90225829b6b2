"""The connections of the dashboard: how many may be open, of one address and in all, and how long they may idle."""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from contextlib import suppress
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import WSGITask

from hpo.dashboard.access import network_of

CONNECTIONS = 200  # that are open at once; fewer than the files that any system lets a process open
CONNECTIONS_OF_ADDRESS = 50  # of one network; a browser opens six
HEADER_SECONDS = 10.0  # in which the header of a request arrives whole
# In a request's environment:
PEER = "hpo.peer"  # who sent it, where REMOTE_ADDR is what anyone may have claimed
BY_PROXY = "hpo.by_proxy"  # whether the proxy that is believed has sent it


class _Request(WSGITask):  # type: ignore[misc]  # waitress has no types
    """A request, which tells the application what it has to know of who sent it."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        trusted, sender = self.channel.adj.trusted_proxy, self.channel.addr[0]
        environ[BY_PROXY] = trusted in ("*", sender)
        if trusted == "*":
            environ[PEER] = sender
        return environ


class Connection(HTTPChannel):  # type: ignore[misc]  # waitress has no types
    """A connection that makes room for itself, so that those which wait never keep a new one out.

    Where an address has too many connections, the one of them that has been idle longest is closed. Where there are too
    many in all, that happens to the address with the most. A connection whose request is being answered stays.
    """

    task_class = _Request

    def __init__(self, server: Any, sock: socket.socket, addr: tuple[Any, ...], *more: Any, **options: Any) -> None:
        super().__init__(server, sock, addr, *more, **options)
        self.network = network_of(addr[0])
        self._header_since: float | None = time.monotonic()  # None while no header is under way
        self._make_room()

    def readable(self) -> bool:
        """Whether bytes are wanted. The server asks this of each connection at least once a second."""
        if self._header_since is not None and time.monotonic() - self._header_since > HEADER_SECONDS:
            self.end()
        return bool(super().readable())

    def received(self, data: bytes) -> bool:
        """Take bytes of a request."""
        taken = bool(super().received(data))
        if self.request is None or self.request.headers_finished:
            self._header_since = None
        elif self._header_since is None:
            self._header_since = time.monotonic()
        return taken

    def _make_room(self) -> None:
        """Close what has been idle longest, where this connection is one too many."""
        by_network: dict[str, list[Connection]] = defaultdict(list)
        for each in self._map.values():
            if isinstance(each, Connection) and not each.will_close:
                by_network[each.network].append(each)
        crowd = by_network[self.network]
        is_proxy = self.adj.trusted_proxy in ("*", self.addr[0])  # which speaks for many
        if is_proxy or len(crowd) <= CONNECTIONS_OF_ADDRESS:
            if sum(map(len, by_network.values())) <= CONNECTIONS:
                return
            crowd = max(by_network.values(), key=len)
        idle = [each for each in crowd if each is not self and not each.requests]
        if idle:
            min(idle, key=lambda each: each.last_activity).end()

    def end(self) -> None:
        """Have the server close this connection, also where the other side reads nothing of what it is sent."""
        self.will_close = True
        with suppress(OSError):  # the other side is gone already
            self.socket.shutdown(socket.SHUT_RDWR)


def limit_connections(server: TcpWSGIServer | MultiSocketServer) -> None:
    """Have a server, and each of its listening sockets, take its connections within the limits of this module."""
    sockets = list(server.map.values()) if isinstance(server, MultiSocketServer) else [server]
    for each in sockets:
        if isinstance(each, TcpWSGIServer):
            each.channel_class = Connection
