"""Starts and ends worker processes, each on a GPU of its own or on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


@dataclass(frozen=True)
class Launched:
    """A worker process of this one.

    Attributes:
        name: of the worker in the storage.
        process: its process.
        output: what it printed, a temporary file.
        gpu: the one that it sees; None for those that this process sees.
        started: when, by time.monotonic().
    """

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    gpu: str | None
    started: float

    def printed(self) -> str:
        """All that the worker has printed. The position in the file, which the worker shares, is not moved."""
        number = self.output.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace").strip()


def launch(command: Sequence[str], threads: int, gpu: str | None) -> Launched:
    """Start a worker process: `command` with a new name.

    Args:
        command: the program and its arguments, to which the name, the threads and this process as parent are added.
        threads: that the worker may use.
        gpu: what CUDA_VISIBLE_DEVICES is to name, from the start of the process; None to leave it.

    Raises:
        OSError: no process can be started.
    """
    name = str(uuid.uuid4())
    output = TemporaryFile()  # noqa: SIM115 - closed when the worker has ended
    process = subprocess.Popen(
        [*command, "--name", name, "--threads", str(threads), "--parent", str(os.getpid())],
        env=dict(os.environ) if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that Ctrl-C reaches this process alone, which then tells the workers
    )
    return Launched(name, process, output, gpu, time.monotonic())


def stop(launched: Sequence[Launched], *, at_once: bool = False) -> None:
    """Ask the workers to hand their trials back and end; or end them at once."""
    for worker in launched:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)


def reap_orphans(ours: Collection[int]) -> None:
    """Reap ended processes that became children of this one when their parent died, as happens to PID 1.

    Args:
        ours: process ids of the children that this process has started itself, which are not reaped here.
    """
    if not hasattr(os, "waitid"):  # macOS, where this process is never PID 1
        return
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        while (ended := os.waitid(os.P_ALL, 0, options)) and ended.si_pid not in ours:
            os.waitpid(ended.si_pid, 0)
    except ChildProcessError:
        pass


def own_command(script: str | None) -> list[str]:
    """How this program is called: `python -m hpo`, or by a script of the user's own."""
    return [sys.executable, script] if script else [sys.executable, "-m", "hpo"]
