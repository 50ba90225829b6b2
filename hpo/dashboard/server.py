"""The server of the dashboard."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from waitress import create_server
from waitress.server import MultiSocketServer

from hpo.dashboard.connections import CONNECTIONS, limit_connections
from hpo.dashboard.login_gate import LoginGate
from hpo.dashboard.routes import Dashboard
from hpo.errors import ENDING_SIGNALS, HpoError, exit_code
from storage.outage_retry import is_outage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from wsgiref.types import WSGIApplication

    from waitress.server import TcpWSGIServer

    from hpo.dashboard.access import Passwords
    from hpo.dashboard.visitors import EditorHeader
    from hpo.study.open_study import OpenStudy

THREADS = 16
LARGEST_REQUEST = 48_000_000  # bytes: a file of 36 MB, in base64
LARGEST_HEADERS = 32_768  # bytes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerOptions:
    """How a dashboard is served.

    Attributes:
        host: address or name to listen at.
        port: to listen at; 0 takes one that is free.
        passwords: of which all visitors have to give one.
        proxy: IP address of a reverse proxy that is believed when it says who has sent a request, and how; `*` for any,
            None for none.
        read_only: whether requests that change something are refused.
        editors: what the proxy says of those who may change something; None where their password decides.
    """

    host: str
    port: int
    passwords: Passwords
    proxy: str | None = None
    read_only: bool = False
    editors: EditorHeader | None = None


def serve(opened: OpenStudy, options: ServerOptions, started: Callable[[str], None]) -> int:
    """Serve the dashboard of a study until a signal ends it; returns the exit code.

    Args:
        opened: the study, without `outage_retry`: a request learns of an outage at once.
        options: where to listen, and who may come in.
        started: called with the URL when requests are answered.

    Raises:
        HpoError: the address cannot be listened at.
        RecipeError: the study names functions of one's own that the file's extensions do not hold.
    """
    dashboard = Dashboard(opened, read_only=options.read_only)
    gate = LoginGate(dashboard.application, options.passwords, read_only=options.read_only, editors=options.editors)
    server = listen(gate, options.host, options.port, options.proxy)
    codes: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        codes.append(exit_code(number))
        sys.exit(codes[0])  # the server catches this, and stops

    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            signal.signal(number, end)
    threading.Thread(target=_read_ahead, args=(dashboard,), daemon=True).start()
    started(address_of(server, options.host))
    server.run()
    return codes[0]


def listen(
    application: WSGIApplication, host: str, port: int, proxy: str | None = None
) -> TcpWSGIServer | MultiSocketServer:
    """A server that listens at its port already, and answers as soon as it runs.

    Args:
        application: that answers.
        host: as in `ServerOptions`, and so the others.
        port: to listen at.
        proxy: that is believed.

    Raises:
        HpoError: the address cannot be listened at.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page with many files fills its queue
    behind = {"trusted_proxy": proxy, "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"}}
    try:
        server = create_server(
            application,
            host=host,
            port=port,
            threads=THREADS,
            ident=None,
            connection_limit=2 * CONNECTIONS,  # more than its connections leave open
            max_request_body_size=LARGEST_REQUEST,
            max_request_header_size=LARGEST_HEADERS,
            clear_untrusted_proxy_headers=True,
            log_socket_errors=False,
            **(behind if proxy else {}),
        )
    except OSError as error:
        raise HpoError(f"dashboard: cannot listen at {host}, port {port}: {error.strerror or error}") from None
    except ValueError:  # waitress raises it for a name that has no address
        raise HpoError(f"dashboard: cannot listen at {host}, port {port}: there is no such address") from None
    limit_connections(server)
    return server


def address_of(server: TcpWSGIServer | MultiSocketServer, host: str) -> str:
    """The URL by which a server is reached at its host."""
    # Where a name has two addresses each has a server, and with port 0 a port of its own.
    port = server.effective_listen[0][1] if isinstance(server, MultiSocketServer) else server.effective_port
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def is_local(host: str) -> bool:
    """Whether only this machine reaches what listens at an address or name."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_ahead(dashboard: Dashboard) -> None:
    """Read the study once, so that the first request for it is answered at once."""
    try:
        dashboard.page.answer(0)
    except Exception as error:  # noqa: BLE001 - nobody waits for this; a request for the study shows the reason
        if not is_outage(error):
            logger.warning("the study cannot be read: %s", error)
