"""What acceptance tests share."""

from __future__ import annotations

import subprocess
import uuid
from contextlib import ExitStack

import pytest

from tests.conftest import opened
from tests.drill import Drill
from tests.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A Postgres that tests may stop, start and cut off."""
    server = Server(opened(tmp_path_factory.mktemp("server"), tmp_path_factory.getbasetemp()))
    yield server
    server.stop()


@pytest.fixture
def drill(tmp_path, server):
    """Makes a small study on a database of its own; what runs on it is ended after the test."""
    with ExitStack() as stack:

        def make(folder="drill", **settings):
            url = server.make_database(f"drill_{uuid.uuid4().hex}")
            return stack.enter_context(Drill(tmp_path / folder, url, **settings))

        yield make


@pytest.fixture
def mount_small_disk():
    """Mounts disks of one megabyte at folders, until the end of the test."""
    mounted = []

    def mount(folder):
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk):
    """Fill a disk to its last byte; returns the file to be removed."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return filler
