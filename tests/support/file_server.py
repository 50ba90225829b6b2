"""A web server of the files in a folder that fails as a test wants it to."""

from __future__ import annotations

import hashlib
import threading
import time
from base64 import b64encode
from collections import Counter
from contextlib import closing, contextmanager
from email.utils import formatdate
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.support.waiting import wait_until


class FileServer:
    """What a server has been asked, and how it fails.

    Attributes:
        url: of the folder, without a slash at its end.
        asked: how often it was asked for each path, /cat/1.png, by GET.
        statuses: HTTP statuses of the next answers of a path; after them the file is sent.
        short: paths whose answers end before the last byte.
        slow_seconds: before each answer.
        stuck: paths that get no answer as long as they are in it.
        login: USER:PASSWORD that it wants; None wants none.
        retry_after: sent with each status, if it is any.
        connections: those that are open.
    """

    def __init__(self, folder, port):
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"
        self.asked, self.statuses, self.short, self.stuck = Counter(), {}, set(), set()
        self.slow_seconds, self.login, self.retry_after = 0.0, None, None
        self.connections = set()

    def wait_until_left(self):
        """Wait until all who have asked before are gone, and what they have asked is counted."""
        with closing(HTTPConnection(urlsplit(self.url).netloc)) as mine:  # let in after those who came before
            mine.request("HEAD", "/")
            mine.getresponse()
        wait_until(lambda: not self.connections)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        served, path = self.server.served, unquote(urlsplit(self.path).path)
        if self.command == "GET":
            served.asked[path] += 1
        time.sleep(served.slow_seconds)
        while path in served.stuck:
            time.sleep(0.02)
        status = served.statuses[path].pop(0) if served.statuses.get(path) else 200
        if served.login and self.headers.get("Authorization") != f"Basic {b64encode(served.login.encode()).decode()}":
            status = 401
        file = served.folder / path[1:]
        if status == 200 and not file.is_file():
            status = 404
        body = file.read_bytes() if status == 200 else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 200:
            self.send_header("ETag", f'"{hashlib.md5(body).hexdigest()}"')  # noqa: S324 - as S3 does
            self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        elif served.retry_after:
            self.send_header("Retry-After", served.retry_after)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:-9] if path in served.short else body)
        self.close_connection = path in served.short

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        """Nothing."""


class _Server(ThreadingHTTPServer):
    def process_request(self, request, client_address):
        self.served.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        super().shutdown_request(request)
        self.served.connections.discard(request)

    def handle_error(self, *_):
        """Say nothing of those who left before the answer."""


@contextmanager
def file_server(folder):
    """A server of the files in a folder while the block runs."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        server.served = FileServer(folder, server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.served
        finally:
            server.shutdown()
            thread.join()
