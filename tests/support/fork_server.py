"""Commands in forks of one process that has imported what they need: a start takes a tenth of a second and not five."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from pathlib import Path

LAZY = ("albumentations", "alembic.command", "optuna.storages._rdb.storage", "psycopg2.extras", "scipy.special")
PRELOADED = (
    "tests.support.faulty_hpo",
    "hpo.worker.worker",
    "hpo.supervision.search",
    "hpo.bundle.export",
    "hpo.dashboard.server",
    "trainer.data",
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([*PRELOADED, *LAZY])
REAPING = threading.Lock()  # a process is started and its exit code read by one thread at a time


def run_hpo(arguments, folder, environment, timeout):
    """Run `hpo` as if it had been started anew; returns its exit code and what it has printed."""
    out, err = (folder / f".{name}-{os.getpid()}-{threading.get_ident()}" for name in ("out", "err"))
    process = PROCESSES.Process(target=_main, args=(folder, environment, out, err, arguments))
    with REAPING:
        process.start()
    ended = wait([process.sentinel], timeout)
    with REAPING:
        if not ended:
            process.kill()
        process.join()
    done = subprocess.CompletedProcess(["hpo", *arguments], process.exitcode, out.read_text(), err.read_text())
    out.unlink()
    err.unlink()
    if not ended:
        raise subprocess.TimeoutExpired(done.args, timeout, done.stdout, done.stderr)
    return done


def _main(folder, environment, out, err, arguments):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file, mode in ((0, Path(os.devnull), "rb"), (1, out, "wb"), (2, err, "wb")):
        with file.open(mode) as opened:
            os.dup2(opened.fileno(), descriptor)
    sys.argv[:] = ["hpo"]
    import hpo.cli

    hpo.cli.main(arguments)
