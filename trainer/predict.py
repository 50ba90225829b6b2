"""From images to class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.device import autocast
from trainer.pixels import read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.backbones import Classifier


def predict(
    model: Classifier, files: Sequence[Path], size: int, device: torch.device, batch_size: int = 64
) -> Iterator[NDArray[np.float32]]:
    """Yield the probabilities of each batch of files, float32 [batch, classes], in the order of the files.

    Args:
        model: in eval mode, on the device.
        files: image files of any size and colour mode.
        size: side in pixels that the model was trained with.
        device: that of the model.
        batch_size: images at a time, in memory and through the model.

    Raises:
        DataError: a file cannot be read as an image.
    """
    for start in range(0, len(files), batch_size):
        images = np.stack([read_image(file, size) for file in files[start : start + batch_size]])
        with torch.inference_mode(), autocast(device):
            logits = model(torch.from_numpy(images).to(device))
        yield logits.float().softmax(dim=1).cpu().numpy()
