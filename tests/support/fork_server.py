"""Programs in forks of one process that has imported what they need: a start takes a tenth of a second and not five."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

LAZY = (
    "albumentations",
    "alembic.command",
    "hpo.report.page",
    "matplotlib.backends.backend_agg",
    "matplotlib.font_manager",
    "matplotlib.style",
    "optuna.storages._rdb.storage",
    "psycopg2.extras",
    "scipy.special",
)
PRELOADED = (
    "tests.support.faulty_hpo",
    "tests.support.forked_workers",
    "hpo.worker.worker",
    "hpo.supervision.search",
    "hpo.bundle.export",
    "hpo.dashboard.server",
    "trainer.data",
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([*PRELOADED, *LAZY])
REAPING = threading.Lock()  # a process is started and its exit code read by one thread at a time
SUPERVISORS = ("search", "nested", "workers", "confirm", "demo")  # the commands that launch workers


def begin(words, folder, environment, out, err):
    """Start what Python would run with these words: `-m hpo` or a script, and its arguments.

    Args:
        folder: in which it runs.
        environment: all of its variables.
        out, err: files for what it prints; they may be one.
    """
    process = PROCESSES.Process(target=_main, args=(words, folder, environment, out, err))
    with REAPING:
        process.start()
    return process


def run_program(words, folder, environment, timeout):
    """Run such words to their end; returns the exit code and what was printed."""
    out, err = (folder / f".{name}-{os.getpid()}-{threading.get_ident()}" for name in ("out", "err"))
    process = begin(words, folder, environment, out, err)
    ended = wait([process.sentinel], timeout)
    with REAPING:
        if not ended:
            process.kill()
        process.join()
    done = subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())
    out.unlink()
    err.unlink()
    if not ended:
        raise subprocess.TimeoutExpired(done.args, timeout, done.stdout, done.stderr)
    return done


def _main(words, folder, environment, out, err):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    for descriptor, file, mode in ((0, Path(os.devnull), "rb"), (1, out, "ab"), (2, err, "ab")):
        with file.open(mode) as opened:
            os.dup2(opened.fileno(), descriptor)
    if any(word in SUPERVISORS for word in words[1:3]):
        from tests.support.forked_workers import fork_workers

        fork_workers()
    execute(words)


def execute(words):
    """Do in this process what Python would do with these words."""
    if words[0] == "-m":
        sys.argv[:] = words[1:]
        import hpo.cli

        hpo.cli.main(words[2:])
    else:
        sys.argv[:] = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
