"""The one place that decides where a training runs and in which number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


def choose_device() -> torch.device:
    """The first CUDA device that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The model of a GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def loader_processes(device: torch.device, cores: int) -> int:
    """How many processes should augment: beside a GPU one a core, at most 8; on a CPU none, which needs its cores."""
    return min(8, cores) if device.type == "cuda" else 0


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in bfloat16 on CUDA, which needs no loss scaling; plain float32 on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on CUDA, where convolutions in bfloat16 want it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format
