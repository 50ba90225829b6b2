"""How a training that was done again compares with what was kept of the first: bit for bit, or within a GPU's noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from trainer.objective_metric import Metric

# What counts as equal where one of the two trainings was on a GPU, whose sums have no order: two steps in bfloat16
# gave losses that were 2 % apart at most (docs/benchmarks.md).
LOSS_TOLERANCE = 0.05  # of a train loss, relative
SAME_CLASSES = 0.95  # share of images that both models give the same class
STANDARD_ERRORS = 2.0  # of the best validation score


@dataclass
class Comparison:
    """What was compared so far.

    Attributes:
        exact: whether all has to be equal bit for bit, as on a CPU.
        metric: that gives the scores.
        compared: what was, for people.
        different: where it differs by more than it may, a line each, the first first.
    """

    exact: bool
    metric: Metric = MACRO_F1
    compared: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)

    def epochs(self, name: str, then: Sequence[float], now: Sequence[float]) -> None:
        """Compare the train losses of all epochs, or their scores, which have to be equal bit for bit."""
        self.compared.append(f"the {name} of {counted(len(now), 'epoch')}")
        for epoch, (was, found) in enumerate(zip(then, now, strict=True), start=1):
            if was != found if self.exact else abs(found - was) > LOSS_TOLERANCE * abs(was):
                self.different.append(f"in epoch {epoch}: {name} {was:.9g} then, {found:.9g} now")
                return

    def score(self, then: float, now: float, standard_error: float) -> None:
        """Compare the best validation scores of two trainings of which one was on a GPU."""
        metric, was, is_now = self.metric, self.metric.text(then), self.metric.text(now)
        self.compared.append(f"the best validation {metric.title}, {was} then and {is_now} now")
        if abs(then - now) > STANDARD_ERRORS * standard_error:
            self.different.append(
                f"the best validation {metric.title}: {was} then, {is_now} now, more than {STANDARD_ERRORS:g} standard"
                f" errors of {standard_error:.4f}"
            )

    def weights(self, then: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
        """Compare all weights, which have to be equal where all has; of the others nothing is said."""
        if not self.exact:
            return
        self.compared.append(counted(len(then), "tensor of weights", "tensors of weights"))
        if differing := [name for name in then if not torch.equal(then[name], now[name])]:
            far = {name: (then[name].double() - now[name].double()).abs().max().item() for name in differing}
            farthest = max(far, key=far.__getitem__)
            self.different.append(
                f"in {len(differing)} of {counted(len(then), 'tensor of weights', 'tensors of weights')}, the most in"
                f" {farthest}, by {far[farthest]:.3g}"
            )

    def classes(self, then: NDArray[np.float32], now: NDArray[np.float32]) -> None:
        """Compare what two models predict: probabilities of the classes, float32 [images, classes]."""
        same = int((then.argmax(axis=1) == now.argmax(axis=1)).sum())
        line = f"the same class for {same} of {counted(len(now), 'image')}"
        self.compared.append(line)
        if same < (len(now) if self.exact else SAME_CLASSES * len(now)):
            self.different.append(line)

    def lines(self) -> list[str]:
        """What came out, for people."""
        if self.different:
            return [f"different, first {self.different[0]}", *(f"also {line}" for line in self.different[1:])]
        if self.exact:
            return [f"the same, bit for bit: {', '.join(self.compared)}"]
        errors = f"{STANDARD_ERRORS:g} standard errors of the best {self.metric.title}"
        return [
            f"the same within what a GPU may vary: {', '.join(self.compared)}",
            f"allowed: {LOSS_TOLERANCE:.0%} of a train loss, {errors}",
            f"allowed: another class for {1 - SAME_CLASSES:.0%} of the images",
        ]
