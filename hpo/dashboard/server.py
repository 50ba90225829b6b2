"""The server of the dashboard."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING

from waitress import create_server
from waitress.server import MultiSocketServer

from hpo.dashboard.login_gate import LoginGate
from hpo.dashboard.routes import Dashboard
from hpo.errors import ENDING_SIGNALS, HpoError, exit_code
from storage.outage_retry import is_outage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from wsgiref.types import WSGIApplication

    from waitress.server import TcpWSGIServer

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile

THREADS = 16
LARGEST_REQUEST = 48_000_000  # bytes: a file of 36 MB, in base64
LARGEST_HEADERS = 32_768  # bytes

logger = logging.getLogger(__name__)


def serve(
    file: StudyFile,
    url: str,
    opened: OpenStudy,
    password: str,
    *,
    host: str,
    port: int,
    proxy: str | None,
    read_only: bool,
    started: Callable[[str], None],
) -> int:
    """Serve the dashboard of a study until a signal ends it; returns the exit code.

    Args:
        file: the study's.
        url: of its storage.
        opened: the study, without patience: a request is told of an outage at once.
        password: of whoever may come in.
        host: to listen at.
        port: to listen at; 0 takes any.
        proxy: address of a reverse proxy whose word is taken for who asks, and by http or https; `*` is any.
        read_only: refuse what changes something.
        started: called with the address when requests are answered.

    Raises:
        HpoError: the address cannot be listened at.
        RecipeError: the study names functions of one's own that the file's extensions do not hold.
    """
    dashboard = Dashboard(file, url, opened, read_only=read_only)
    server = listen(LoginGate(dashboard.application, password, read_only=read_only), host, port, proxy)
    codes: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        codes.append(exit_code(number))
        sys.exit(codes[0])  # which the server takes for the wish that it ends

    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
            signal.signal(number, end)
    threading.Thread(target=_read_ahead, args=(dashboard,), daemon=True).start()
    started(address_of(server, host))
    server.run()
    return codes[0]


def listen(
    application: WSGIApplication, host: str, port: int, proxy: str | None = None
) -> TcpWSGIServer | MultiSocketServer:
    """A server that holds its port, and answers as soon as it runs; the arguments are those of `serve`.

    Raises:
        HpoError: the address cannot be listened at.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a full queue is no news where a page has many files
    behind = {"trusted_proxy": proxy, "trusted_proxy_headers": {"x-forwarded-for", "x-forwarded-proto"}}
    try:
        return create_server(
            application,
            host=host,
            port=port,
            threads=THREADS,
            ident=None,
            max_request_body_size=LARGEST_REQUEST,
            max_request_header_size=LARGEST_HEADERS,
            clear_untrusted_proxy_headers=True,
            log_socket_errors=False,
            **(behind if proxy else {}),
        )
    except OSError as error:
        raise HpoError(f"dashboard: cannot listen at {host}, port {port}: {error.strerror or error}") from None
    except ValueError:  # so says waitress of a name that has no address
        raise HpoError(f"dashboard: cannot listen at {host}, port {port}: there is no such address") from None


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
    """Read the study once, so that the first who asks for it need not wait."""
    try:
        dashboard.page.answer(0)
    except Exception as error:  # noqa: BLE001 - nobody waits for this; whoever asks for the study is told
        if not is_outage(error):
            logger.warning("the study cannot be read: %s", error)
