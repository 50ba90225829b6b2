"""The command line around its commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.waiting import limit

pytestmark = pytest.mark.unit

HUNG_UP = """
import os, signal
from hpo import cli

def run_list(options):
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        print("went on")
        return 0
    finally:
        print("cleaned up")

cli.run_list = run_list
cli.main(["list"])
"""


def test_a_terminal_that_is_closed_ends_a_command_cleanly():
    """SIGHUP ends a command with what it has begun cleaned up and exit code 129; under nohup it ends nothing."""
    ended = subprocess.run(
        [sys.executable, "-c", HUNG_UP], capture_output=True, text=True, timeout=limit(60), check=False
    )
    assert (ended.returncode, ended.stdout) == (129, "cleaned up\n")
    ignoring = ["nohup", sys.executable, "-c", HUNG_UP]
    kept = subprocess.run(
        ignoring, capture_output=True, text=True, timeout=limit(60), check=True, stdin=subprocess.DEVNULL
    )
    assert kept.stdout == "went on\ncleaned up\n"


@pytest.mark.parametrize("url", ["hpo:secret@db/x", "hpo@db/x?password=secret", "hpo@db/x?sslpassword=secret"])
def test_no_password_on_the_command_line(url):
    """A password in --storage, also that of a client's key, is refused as wrong usage, and not repeated."""
    command = [sys.executable, "-m", "hpo", "list", "--storage", f"postgresql://{url}"]
    refused = subprocess.run(
        command, capture_output=True, text=True, timeout=limit(60), check=False, env=dict(os.environ)
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith("hpo: --storage: a password would stand in the process list")
    assert "secret" not in refused.stdout + refused.stderr
