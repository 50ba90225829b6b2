"""The one place that decides where a training runs and in which number format."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray


def choose_device() -> torch.device:
    """The first CUDA device that this process sees, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """The model of a GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def loader_processes(device: torch.device, cores: int) -> int:
    """How many processes should augment: beside a GPU one a core, at most 8; on a CPU none, which needs its cores."""
    return min(8, cores) if device.type == "cuda" else 0


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """In the block torch has so many threads on the CPU, on which the last bits of what it computes depend.

    None leaves their number as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in bfloat16 on CUDA, which needs no loss scaling; plain float32 on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on CUDA, where convolutions in bfloat16 want it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def pin(memory: NDArray[Any]) -> bool:
    """Let a GPU copy from memory by itself, while the CPU goes on; False where the system refuses to lock it."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    try:
        torch.cuda.check_error(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
    except RuntimeError:
        # CUDA gives a refusal once more to whoever asks for the last error, which is each first kernel.
        with suppress(RuntimeError):
            torch.zeros(1, device="cuda")
        return False
    return True


def unpin(memory: NDArray[Any]) -> None:
    """Undo `pin`, when the GPU has copied all that it was told to."""
    with suppress(RuntimeError):  # of a process whose work on the GPU has ended by an error
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaHostUnregister(memory.ctypes.data)  # type: ignore[no-untyped-call]


def recorded_event() -> torch.cuda.Event:
    """An event that is over when the GPU has done all that the current stream was given so far."""
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event
