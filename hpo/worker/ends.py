"""How a run can end: complete, pruned or failed for good, or requeued, to be run again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from storage.errors import StorageError
from trainer.errors import CheckpointError, TrainerError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.tracking.tracked_trial import State


@dataclass(frozen=True)
class Complete:
    """The training came to its end.

    Attributes:
        score: the best validation score of its epochs.
        pictures: PNGs by name.
    """

    state: ClassVar[State] = "complete"
    score: float
    pictures: Mapping[str, bytes]


@dataclass(frozen=True)
class Pruned:
    """The pruner or the time limit of a trial ended the training.

    Attributes:
        pictures: PNGs by name.
        reason: one line, where that was not the pruner.
    """

    state: ClassVar[State] = "pruned"
    pictures: Mapping[str, bytes]
    reason: str | None = None


@dataclass(frozen=True)
class Failed:
    """The trial failed for good.

    Attributes:
        reason: one line.
    """

    state: ClassVar[State] = "failed"
    reason: str


@dataclass(frozen=True)
class Requeued:
    """Another run, perhaps of another worker, is to go on with the trial.

    Attributes:
        reason: one line.
        failed: whether this run counts among the failed ones, which `retries` bounds.
        device_error: after which this process cannot use its device any more; None where it can.
    """

    state: ClassVar[State] = "interrupted"
    reason: str
    failed: bool
    device_error: Exception | None = None


RunEnd = Complete | Pruned | Failed | Requeued


def end_after(error: Exception, device: torch.device) -> Failed | Requeued:
    """How a run ends whose training on a device raised an error: requeued only where another run may come further."""
    reason = one_line(error)
    if (isinstance(error, RuntimeError) and "CUDA error" in str(error)) or _is_lost(device):
        return Requeued(reason, failed=True, device_error=error)
    if isinstance(error, OSError | MemoryError | StorageError | CheckpointError):
        return Requeued(reason, failed=True)
    return Failed(reason)


def _is_lost(device: torch.device) -> bool:
    """Whether this process can do nothing more on the device: what cuDNN and Triton raise then does not tell."""
    if device.type == "cuda":
        try:
            torch.cuda.synchronize(device)
        except RuntimeError:
            return True
    return False


def one_line(error: BaseException) -> str:
    """An error as one line: its message where it is one of ours, else its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    if isinstance(error, TrainerError | StorageError):
        return " ".join(lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
