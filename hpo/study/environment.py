"""What a training depends on beside its recipe and images: versions, processor, device, threads; what differs."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch

from hpo.study.settings import PACKAGES
from hpo.version import VERSION
from trainer.device import device_name

if TYPE_CHECKING:
    from collections.abc import Mapping

LIBRARIES = (*PACKAGES, "opencv-python-headless", "pillow")  # the last two decode images and vary them


def software() -> dict[str, Any]:
    """`versions` of Python, hpo and libraries, and the `processor`, by whose instructions torch computes on a CPU."""
    versions = {"python": platform.python_version(), "hpo": VERSION}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"versions": versions, "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """That of `software`, the `device` by its model, and the `threads` of torch; JSON can hold it."""
    return {**software(), "device": device_name(device), "threads": threads}


def environment_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two environments, a line each; nothing is said of what the first does not tell."""
    was = {**then.get("versions", {}), **then}
    here = {**now["versions"], **now}
    return [
        f"{name}: {was[name]} then, {here.get(name, 'none')} here"
        for name in (*now["versions"], "processor", "device", "threads")
        if was.get(name) not in (None, here.get(name))
    ]
