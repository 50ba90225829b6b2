"""The command `hpo dashboard`. Its imports are in the function, so that `hpo --help` is fast."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from hpo.study.from_options import open_study_from

if TYPE_CHECKING:
    import argparse


def run_dashboard(options: argparse.Namespace) -> int:
    """`hpo dashboard`: the study in a browser, until a signal ends it."""
    from hpo.dashboard.access import check_password, make_password

    given = options.password()
    password = make_password() if given is None else check_password(given)
    from hpo.dashboard.server import ServerOptions, is_local, serve

    def tell(address: str) -> None:
        print(f"the dashboard of the study: {address}")
        if given is None:
            print(f"password, for this time: {password}")
        if not is_local(options.host):
            print("others can read along: see docs/dashboard.md for TLS", file=sys.stderr)
        print("Ctrl-C ends it", flush=True)

    server = ServerOptions(options.host, options.port, password, proxy=options.proxy, read_only=options.read_only)
    with open_study_from(options) as opened:
        return serve(opened, server, tell)
