"""The GPUs and CPU cores of this machine that a command may use."""

from __future__ import annotations

import math
import os
import re
import subprocess
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from hpo.errors import HpoError

LISTED_GPU = re.compile(r"^GPU (\d+):")  # of nvidia-smi --list-gpus; the lines of its MIG slices follow it
LISTED_SLICE = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")
LIST_SECONDS = 10.0  # that the driver may take to list the GPUs
CONTROL_GROUP = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU time, in each period of so many
NAMED_GPU = re.compile(r"\d+|(GPU|MIG)-.+")


def visible_gpus(chosen: str | None) -> list[str]:
    """The GPUs of this machine that may be used, each as CUDA_VISIBLE_DEVICES names it.

    One that MIG cuts into slices is those slices.

    Args:
        chosen: the user's CUDA_VISIBLE_DEVICES; None where it is not set. As CUDA does, what comes after something
            that is no GPU is passed over.

    Raises:
        HpoError: the driver does not answer.
    """
    if chosen is not None:
        return list(takewhile(NAMED_GPU.fullmatch, (gpu.strip() for gpu in chosen.split(","))))
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, check=True, text=True, timeout=LIST_SECONDS
        ).stdout
    except subprocess.TimeoutExpired:
        raise HpoError(
            f"GPUs: nvidia-smi has not listed them within {LIST_SECONDS:g} s: the driver is in trouble; put it right,"
            " or set CUDA_VISIBLE_DEVICES to those to use, empty for the CPU"
        ) from None
    except (OSError, subprocess.CalledProcessError):
        return []
    slices: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if gpu := LISTED_GPU.match(line):
            slices[gpu[1]] = []
        elif (part := LISTED_SLICE.match(line)) and slices:
            slices[next(reversed(slices))].append(part[1])
    return [name for gpu, parts in slices.items() for name in parts or [gpu]]


def cores() -> int:
    """The CPU cores that this process may use, by its affinity and the limit of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no limit, or not known
        quota, period = map(int, CONTROL_GROUP.read_text().split())
        allowed = min(allowed, math.ceil(quota / period))
    return allowed
