"""What tests of all tiers share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import create_engine, text

from storage.database import initialize, parse_url
from storage.embedded.server import embedded_postgres
from tests.support.fork_server import run_program
from tests.support.waiting import limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

ROOT = Path(__file__).parent.parent
BASE = pytest.StashKey[str]()
TIERS = ("acceptance", "integration", "unit")  # the longest tests first
WATCHED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
STORAGE_VARIABLES = ("HPO_STORAGE", "HPO_STORAGE_FILE", "HPO_ARTIFACTS", "PGPASSFILE", "PGPASSWORD")


def paint(file: Path, colour: tuple[int, int, int], seed: int) -> None:
    """Write a small noisy image of one colour: classes of such images are easy to learn."""
    noise = np.random.default_rng(seed).integers(-30, 30, (16, 16, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(file)


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests a temporary folder of their own, and signals as in a terminal.

    pytest closes its usual folder to all others, again at each start of any pytest; the account that runs root's
    Postgres has to get through. What is started in the background, or by nohup, ignores signals, and so would all that
    the tests start.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.timeout is None:
        config.option.timeout = limit(float(config.getini("timeout")))
    if config.option.basetemp is None:
        config.option.basetemp = config.stash[BASE] = tempfile.mkdtemp(prefix="hpo-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the temporary folder."""
    if folder := config.stash.get(BASE, None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that the short tests at the end let the processes end together.

    That is one tier after the other, and in each the modules that one process runs as a whole.
    """

    def key(item: pytest.Item) -> tuple[int, bool]:
        tier = item.path.parent.name
        return TIERS.index(tier) if tier in TIERS else -1, not shares_fixtures(item.path)

    items.sort(key=key)


@cache
def shares_fixtures(module: Path) -> bool:
    """Whether the tests of a module share what a fixture of it makes once."""
    return 'scope="module"' in module.read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Let --dist loadscope keep together what shares fixtures, and nothing else."""
    if config.getvalue("dist") != "loadscope":
        return None
    from tests.support.scheduling import FixtureScheduling  # pytest-xdist need not be installed

    config.option.loadscopereorder = False
    return FixtureScheduling(config, log)


def opened(folder: Path, base: Path) -> Path:
    """Let others through to a temporary folder, not into it."""
    shared = [base.parent] if "PYTEST_XDIST_WORKER" in os.environ else []  # where several pytests share the work
    for path in (*shared, base, folder):
        path.chmod(0o711)
    return folder


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """No test leaves a handler of a signal behind in pytest's process, or takes one away."""
    before = _handlers()
    yield
    assert _handlers() == before, "the test has left a handler of a signal behind: give it `own_signals`"


def _handlers() -> dict[signal.Signals, object]:
    return {number: signal.getsignal(number) for number in WATCHED_SIGNALS}


@pytest.fixture
def own_signals(signals_as_before: None) -> Iterator[None]:
    """Lets a test run what sets handlers of signals for its process, as `hpo.cli.main` does."""
    before = _handlers()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def tmp_path(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test."""
    return opened(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three classes with twelve images each."""
    for name, colour in {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}.items():
        for number in range(12):
            paint(tmp_path / "photos" / name / f"{number}.png", colour, number)
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Postgres of this test run."""
    with embedded_postgres(opened(tmp_path_factory.mktemp("postgres"), tmp_path_factory.getbasetemp())) as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for setting in ("fsync", "full_page_writes", "synchronous_commit"):  # none of its data outlives the run
                connection.execute(text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url


@contextmanager
def new_database(postgres: str, name: str, template: str = "template1") -> Iterator[str]:
    """Make a database on a server, a copy of the template, and drop it after the block; yields its URL."""
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield parse_url(postgres).set(database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def database(postgres: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of this test."""
    with new_database(postgres, f"test_{abs(hash(request.node.nodeid))}") as url:
        yield url


@pytest.fixture(scope="session")
def tables(postgres: str) -> Iterator[str]:
    """The name of a database with Optuna's tables and ours, which is there to be copied."""
    with new_database(postgres, "tables") as url:
        initialize(url)
        yield "tables"


@pytest.fixture
def ready_database(postgres: str, tables: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database of this test with Optuna's tables and ours, which take longer to make than to copy."""
    with new_database(postgres, f"ready_{abs(hash(request.node.nodeid))}", tables) as url:
        yield url


@pytest.fixture
def hpo(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the real command line in the test's folder, with no storage but what the test gives."""
    return hpo_in(tmp_path)


def hpo_in(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs the real command line in a folder, with no storage but what it is given."""

    def run(
        *arguments: object, timeout: float = 180, program: tuple[str, ...] | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name not in STORAGE_VARIABLES}
        words = [*(program or ("-m", "hpo")), *map(str, arguments)]
        environment |= variables
        # What libraries read as they are imported needs a process that imports them.
        if words[0] != "-c" and variables.keys() <= set(STORAGE_VARIABLES):
            return run_program(words, folder, environment, limit(timeout))
        return subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit(timeout),
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run
