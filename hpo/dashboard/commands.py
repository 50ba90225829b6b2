"""The command `hpo dashboard`. Its imports are in the function, so that `hpo --help` is fast."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from hpo.errors import HpoError
from hpo.study.from_options import open_study_from

if TYPE_CHECKING:
    import argparse


def run_dashboard(options: argparse.Namespace) -> int:
    """`hpo dashboard`: the study in a browser, until a signal ends it."""
    from hpo.dashboard.access import Passwords, check_password, make_password

    if options.editors and not options.proxy:
        raise HpoError("dashboard: --editors believes a header of a proxy; name the proxy by --proxy, too")
    given, viewers = options.password(), options.viewer_password()
    password = make_password() if given is None else check_password(given)
    passwords = Passwords(password, None if viewers is None else check_password(viewers, "viewers' "))
    from hpo.dashboard.server import ServerOptions, is_local, serve
    from hpo.dashboard.visitors import EditorHeader, changes

    log = logging.StreamHandler()
    log.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    changes.addHandler(log)
    changes.setLevel(logging.INFO)

    def tell(address: str) -> None:
        print(f"the dashboard of the study: {address}")
        if given is None:
            print(f"password, for this time: {password}")
        if not is_local(options.host):
            print("others can read along: see docs/dashboard.md for TLS", file=sys.stderr)
        print("Ctrl-C ends it", flush=True)

    editors = options.editors and EditorHeader(*options.editors)
    server = ServerOptions(options.host, options.port, passwords, options.proxy, options.read_only, editors)
    with open_study_from(options) as opened:
        return serve(opened, server, tell)
