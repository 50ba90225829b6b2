"""Who is told how a trial goes on: three methods, and one that does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trainer.objective_metric import MACRO_F1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainer.checkpoint import Capture
    from trainer.fit import Epoch
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Result:
    """What the training of a trial came to, also of a pruned one.

    Attributes:
        recipe: by which it trained.
        history: validation score of each epoch, the first first, those before an interruption among them.
        train_losses: mean train loss of each epoch, likewise; NaN where a checkpoint of an older program had none.
        best_epoch: number of the epoch with the best score, 1 for the first.
        confusion: of the validation images after it, int64 [true class, predicted class] on the CPU.
        probabilities: of the classes, float32 [validation images, classes], likewise.
        metric: that gives the scores.
    """

    recipe: Recipe
    history: Sequence[float]
    train_losses: Sequence[float]
    best_epoch: int
    confusion: Tensor
    probabilities: Tensor
    metric: Metric = MACRO_F1


class Observer(Protocol):
    """Is told how a trial goes on; what its methods raise ends the trial."""

    def on_step(self, capture: Capture) -> None:
        """After each batch, of training and of validation.

        `capture` gives the checkpoint of a trial that stops there; nothing is copied before it is called.
        """

    def on_epoch(self, epoch: Epoch) -> None:
        """After each epoch, before it is reported to the study; the epoch's `validation` is never None."""

    def on_end(self, result: Result) -> None:
        """Last of all, also where the trial is pruned."""


class SilentObserver:
    """Does nothing."""

    def on_step(self, capture: Capture) -> None:
        """Do nothing."""

    def on_epoch(self, epoch: Epoch) -> None:
        """Do nothing."""

    def on_end(self, result: Result) -> None:
        """Do nothing."""
