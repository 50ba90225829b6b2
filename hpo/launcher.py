"""Worker processes: one for each GPU, or as many as are asked for on a CPU; which GPUs and cores there are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STOP_SECONDS = 20.0  # that a worker has to hand its trial back


@dataclass(frozen=True)
class Launched:
    """A worker process of this one.

    Attributes:
        name: of the worker in the storage.
        process: its process.
        output: what it printed, a temporary file.
    """

    name: str
    process: subprocess.Popen[bytes]
    output: IO[bytes]

    def printed(self) -> str:
        """All that the worker has printed; the file's position is the worker's, and stays where it is."""
        file = self.output.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace").strip()


def launch(command: Sequence[str], workers: int, gpus: Sequence[str]) -> list[Launched]:
    """Start worker processes: `command` with a name for each, on one GPU each where there are any.

    Args:
        command: the program and its arguments, to which a name, threads and this process as parent are added.
        workers: how many.
        gpus: what CUDA_VISIBLE_DEVICES may name; several workers share one where there are fewer.
    """
    launched = []
    threads = max(1, cores() // workers)
    for number in range(workers):
        environment = dict(os.environ)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        name = str(uuid.uuid4())
        output = TemporaryFile()  # noqa: SIM115 - closed when the worker has ended
        process = subprocess.Popen(
            [*command, "--name", name, "--threads", str(threads), "--parent", str(os.getpid())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the workers through us, once
        )
        launched.append(Launched(name, process, output))
    return launched


def stop(launched: Sequence[Launched], *, at_once: bool = False) -> None:
    """Ask the workers to hand their trials back and end; or end them at once."""
    for worker in launched:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGKILL if at_once else signal.SIGTERM)


def visible_gpus(chosen: str | None) -> list[str]:
    """The GPUs of this machine that may be used, each as CUDA_VISIBLE_DEVICES names it.

    Args:
        chosen: the user's CUDA_VISIBLE_DEVICES; None where it is not set.
    """
    if chosen is not None:
        return [gpu.strip() for gpu in chosen.split(",") if gpu.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    whole = [line for line in listed.splitlines() if line.startswith("GPU ")]  # their MIG slices are lines, too
    return [str(number) for number in range(len(whole))]


def cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def own_command(script: str | None) -> list[str]:
    """How this program is called: `python -m hpo`, or by a script of the user's own."""
    return [sys.executable, script] if script else [sys.executable, "-m", "hpo"]
