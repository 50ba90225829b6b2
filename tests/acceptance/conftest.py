"""What acceptance tests share."""

from __future__ import annotations

import uuid
from contextlib import ExitStack

import pytest

from tests.conftest import opened
from tests.support.faulty_study import FaultyStudy
from tests.support.postgres_server import PostgresServer
from tests.support.small_disk import NoSmallDiskError, small_disk


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A Postgres that tests may stop, start and cut off."""
    server = PostgresServer(opened(tmp_path_factory.mktemp("server"), tmp_path_factory.getbasetemp()))
    yield server
    server.stop()


@pytest.fixture
def faulty_study(tmp_path, server):
    """Makes a small study on a database of its own; what runs on it is ended after the test."""
    with ExitStack() as stack:

        def make(folder="faulty", **settings):
            url = server.make_database(f"faulty_{uuid.uuid4().hex}")
            return stack.enter_context(FaultyStudy(tmp_path / folder, url, **settings))

        yield make


@pytest.fixture
def mount_small_disk():
    """Mounts disks of one megabyte at folders, until the end of the test."""
    with ExitStack() as stack:

        def mount(folder):
            try:
                stack.enter_context(small_disk(folder))
            except NoSmallDiskError as error:
                pytest.skip(f"no small disk can be mounted here: {error}")

        yield mount
