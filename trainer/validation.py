"""What a model says of images that it does not learn from, and how good that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.device import autocast
from trainer.metrics import accuracy, macro_f1
from trainer.objective_metric import MACRO_F1

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric
    from trainer.step import MicroBatch


@dataclass(frozen=True, eq=False)
class Validation:
    """How well a model classifies the validation images.

    Attributes:
        score: by the metric by which trainings are compared, the higher the better.
        confusion: int64 [true class, predicted class] on the CPU.
        probabilities: of the classes, float32 [validation images, classes] on the CPU.
        metric: that gives the score.
    """

    score: float
    confusion: torch.Tensor
    probabilities: torch.Tensor
    metric: Metric = MACRO_F1

    @property
    def macro_f1(self) -> float:
        """The mean F1 of the classes, in [0, 1]."""
        return macro_f1(self.confusion)

    @property
    def accuracy(self) -> float:
        """The share of images whose class is predicted rightly, in [0, 1]."""
        return accuracy(self.confusion)


def probabilities_of(
    model: Classifier,
    pixels: NDArray[np.uint8],
    images: NDArray[np.int64],
    device: torch.device,
    micro_batch: MicroBatch,
    on_batch: Callable[[], None] | None = None,
) -> torch.Tensor:
    """The probability of each class for these images, float32 [images, classes] on the CPU.

    Args:
        model: in eval mode, on the device.
        pixels: uint8 [N, height, width, 3].
        images: rows of the pixels, int64 [n].
        device: that of the model.
        micro_batch: how many images go through the model at once.
        on_batch: called after each of these batches.

    Raises:
        OutOfDeviceMemoryError: the device has not even memory for one image.
    """

    def classify(size: int) -> torch.Tensor:
        logits = []
        with torch.inference_mode(), autocast(device):
            for start in range(0, len(images), size):
                rows = images[start : start + size]
                # Pinned, so that the copy does not wait for the batch before it.
                batch = torch.empty((len(rows), *pixels.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
                np.take(pixels, rows, axis=0, out=batch.numpy(), mode="clip")  # which is unbuffered, other than "raise"
                logits.append(model(batch.to(device, non_blocking=True)))
                if on_batch:
                    on_batch()
        return torch.cat(logits).float().softmax(dim=1).cpu()

    return micro_batch.run(classify, len(images))
