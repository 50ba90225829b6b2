"""A visitor of a dashboard that really runs, without a browser."""

from __future__ import annotations

import http.client
import json
import re
from contextlib import closing
from urllib.parse import urlencode, urlsplit

from tests.support.waiting import limit, wait_until

ADDRESS = re.compile(
    r"the dashboard of the study: (http://\S+)\n(?:password, for this time: (\S+)\n)?[\s\S]*Ctrl-C ends it"
)


def address_of(dashboard):
    """Where a dashboard that was begun is to be found, and the password that it has made; once it is there."""
    shown = wait_until(lambda: ADDRESS.search(dashboard.printed) or (not dashboard.runs and dashboard.printed))
    assert not isinstance(shown, str), shown
    return shown[1], shown[2]


class DashboardClient:
    """A program that speaks HTTP, with the cookie that it got."""

    def __init__(self, address):
        self._where, self.cookie = urlsplit(address).netloc, None

    def ask(self, method, path, body=None, **headers):
        """Send a request; returns the status and the body, read as JSON where it is some."""
        if self.cookie:
            headers["Cookie"] = self.cookie.partition(";")[0]
        if isinstance(body, dict):
            body, headers["Content-Type"] = json.dumps(body), "application/json"
        with closing(http.client.HTTPConnection(self._where, timeout=limit(60))) as connection:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        self.cookie = answer.getheader("Set-Cookie") or self.cookie
        is_json = answer.getheader("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(content or "{}") if is_json else content.decode()

    def log_in(self, password, **headers):
        """Give the password; returns the status."""
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return self.ask("POST", "/login", urlencode({"password": password}), **headers)[0]
