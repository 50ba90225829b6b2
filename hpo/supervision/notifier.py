"""Sends what somebody is to be told of a search to a URL, in a thread of its own, which holds nothing else up."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from hpo.study.notify_url import shown_host
from hpo.supervision.messages import end_of, problem_message, problems_of
from hpo.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.study.status import Snapshot
    from storage.study_rows import StudyRows

TIMEOUT_SECONDS = 10.0  # of one attempt
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds between attempts; after the last one a message is given up
QUIET_SECONDS = 60.0  # between two messages about problems; what happens meanwhile is in the second
END_SECONDS = 15.0  # that the end of a search waits for its message


class Notifier:
    """Tells a URL what goes wrong in a search, and its end: of several machines one does so, and once.

    What went wrong before the first snapshot is told of by nobody.

    Args:
        url: that takes one JSON object by POST; it may hold a secret, and is never shown whole.
        rows: of the study.
        say: takes a line on what was not delivered; called in the thread.
    """

    def __init__(self, url: str, rows: StudyRows, say: Callable[[str], object]) -> None:
        self._url, self._rows, self._say = url, rows, say
        self._known: set[str] | None = None  # the problems of the snapshots so far; None before the first
        self._told_at = -QUIET_SECONDS  # when problems were told of last, by time.monotonic()
        self._given_up: list[str] = []  # workers of this machine, of which nobody else can tell
        self._snapshot: Snapshot | None = None
        self._ended = False
        self._reason: str | None = None
        self._wake = threading.Event()
        # A daemon, because it may wait for a server that never answers.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def look(self, snapshot: Snapshot) -> None:
        """Tell, before long, what is new in a snapshot."""
        self._snapshot = snapshot
        self._wake.set()

    def tell_given_up(self, line: str) -> None:
        """Tell that a worker of this machine is not started again, with the next snapshot."""
        self._given_up.append(line)

    def end(self, reason: str | None) -> None:
        """Tell how the search has ended, by the last snapshot, and wait for that, but not for long.

        Args:
            reason: why the workers of this machine were given up; None where they were not.
        """
        self._reason, self._ended = reason, True
        self._wake.set()
        self._thread.join(END_SECONDS)
        if self._thread.is_alive():
            self._say(f"notify: {shown_host(self._url)} has not taken the message within {END_SECONDS:.0f} s")

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            ended, snapshot = self._ended, self._snapshot
            if snapshot:
                try:
                    if self._known is None:
                        self._known = set(problems_of(snapshot))
                    if ended or time.monotonic() - self._told_at > QUIET_SECONDS:
                        self._tell_problems(snapshot, self._known)
                    if ended and (found := end_of(snapshot, socket.gethostname(), self._reason)):
                        self._tell_end(*found)
                except Exception as error:  # noqa: BLE001 - no message is worth a search
                    # Of an outage the supervisor tells; the next snapshot brings the same problems.
                    self._say_undelivered(f"{type(error).__name__} in the storage") if ended else None
            if ended:
                return

    def _tell_problems(self, snapshot: Snapshot, known: set[str]) -> None:
        problems = {event: line for event, line in problems_of(snapshot).items() if event not in known}
        ours = self._rows.claim_notifications(problems)
        known.update(problems)
        given_up = self._given_up[:]
        if lines := [*(problems[event] for event in ours), *given_up]:
            del self._given_up[: len(given_up)]
            self._told_at = time.monotonic()
            self._send(problem_message(snapshot, lines))

    def _tell_end(self, event: str, message: dict[str, Any]) -> None:
        if self._rows.claim_notifications([event]):
            self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        """Send a message, in several attempts where the server or the way to it fails."""
        for pause in (*PAUSES, None):
            problem, may_pass = self._post(message)
            if problem is None:
                return
            if pause is None or not may_pass:
                self._say_undelivered(problem)
                return
            time.sleep(pause)

    def _post(self, message: dict[str, Any]) -> tuple[str | None, bool]:
        """Why one attempt has failed, None where it has not, and whether another one may not."""
        headers = {"Content-Type": "application/json", "User-Agent": f"hpo/{VERSION}"}
        asked = urllib.request.Request(self._url, json.dumps(message).encode(), headers)  # noqa: S310 - https or this host
        try:
            with urllib.request.build_opener(_NoRedirects).open(asked, timeout=TIMEOUT_SECONDS):
                return None, True
        except urllib.error.HTTPError as error:
            with error:
                return f"it answered {error.code}", error.code == http.client.TOO_MANY_REQUESTS or error.code >= 500
        except urllib.error.URLError as error:
            reason = error.reason
            return (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__, True
        except (OSError, http.client.HTTPException) as error:
            return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__, True

    def _say_undelivered(self, problem: str) -> None:
        self._say(f"notify: a message to {shown_host(self._url)} was not delivered: {problem}")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes an answer that leads elsewhere for a failure: a POST would arrive there without its body."""

    def redirect_request(self, *_: Any) -> None:
        """No request."""
