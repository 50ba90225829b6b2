"""A server that takes messages, or does not, as a test wants it to."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Webhook:
    """What a server has been sent.

    Attributes:
        url: where it listens, with a token in its path.
        messages: that it has taken.
        asked: how many requests have come.
        answers: HTTP statuses of the next answers; after them 200. None answers nothing until the server ends.
    """

    token = "s3cret-token"

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/hooks/{self.token}"
        self.messages, self.asked, self.answers, self.ending = [], 0, [], threading.Event()

    def answer(self, body):
        """The status of the answer to a request."""
        self.asked += 1
        status = self.answers.pop(0) if self.answers else 200
        if status is None:
            self.ending.wait()
        elif status == 200:
            self.messages.append(json.loads(body))
        return status or 503


@contextmanager
def webhook():
    """A server that takes messages while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            status = taken.answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 302:
                self.send_header("Location", taken.url)
            self.end_headers()

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        taken = Webhook(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield taken
        finally:
            taken.ending.set()
            server.shutdown()
            thread.join()
