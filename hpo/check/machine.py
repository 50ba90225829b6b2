"""What this machine has for a search: GPUs, memory, disk; as findings."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.hardware import cores
from hpo.units import show_bytes
from trainer.quality.checks import Case, Finding
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

HELD = 0.2  # share of a GPU's memory that is in use; from there on another program may be at work on it
CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")  # the limit of a container


def check_gpus(listed: Sequence[str]) -> Finding:
    """The GPUs that torch can use, with their free memory.

    listed: those that the machine has, as far as this process may see them, whether torch can use them or not.
    """
    import torch

    if not torch.cuda.is_available():
        if listed:
            return Finding(
                "GPUs",
                "warning",
                f"torch {torch.__version__} cannot use the {counted(len(listed), 'GPU')} of this machine; it trains on"
                " the CPU",
                "install a build of torch that fits the driver",
            )
        line = f"no GPU; a search here trains on the CPU, with {counted(cores(), 'core')}"
        return Finding("GPUs", "warning", line, "small models and images, or a machine with a GPU")
    cases, held = [], []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        cases.append(Case((), f"GPU {number}: {name}, {show_bytes(free)} of {show_bytes(total)} free"))
        if total - free > HELD * total:
            held.append(number)
    if held:
        which = ", ".join(map(str, held))
        line = f"{counted(len(cases), 'GPU')}; on {which} others hold more than {HELD:.0%} of the memory"
        return Finding(
            "GPUs", "warning", line, "end what runs there, or choose with CUDA_VISIBLE_DEVICES", tuple(cases)
        )
    return Finding("GPUs", "ok", f"{counted(len(cases), 'GPU is', 'GPUs are')} free", cases=tuple(cases))


def check_memory(pixels: int) -> Finding:
    """Whether the decoded images, so many bytes, stay in memory once they were read."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # no limit, or not known
        total = min(total, int(CONTROL_GROUP.read_text()))
    line = f"{show_bytes(total)}, for {show_bytes(pixels)} of decoded images beside all else"
    if pixels > total / 2:
        return Finding(
            "memory",
            "warning",
            f"{line}: they may not stay in it, and each epoch then reads them from the disk again",
            "choose smaller or fewer image_size, or keep .hpo on a fast disk",
        )
    return Finding("memory", "ok", line)


def check_disk(folder: Path, missing: int) -> Finding:
    """Whether decoded images, so many bytes that are not there yet, find room in a folder that need not exist."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if missing and not os.access(place, os.W_OK):
        return Finding("disk", "error", f"{str(place)!r} cannot be written to", "allow it, or move the study file")
    if missing > free:
        return Finding(
            "disk",
            "error",
            f"decoded images need {show_bytes(missing)} in {str(place)!r}, where {show_bytes(free)} are free",
            "free some space, or choose smaller or fewer image_size",
        )
    return Finding("disk", "ok", f"{show_bytes(missing)} to be written, {show_bytes(free)} free")
