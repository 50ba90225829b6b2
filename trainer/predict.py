"""From images to class probabilities: test-time augmentation, and several models that vote."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.calibration import Decision
from trainer.device import autocast
from trainer.image_size import scaled, shape_of
from trainer.images.pixels import read_image
from trainer.step import MicroBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL.Image import Image

    from trainer.image_size import ImageSize
    from trainer.images.pixels import Reading
    from trainer.model.backbones import Classifier

TTA = ("none", "flip", "crops")


@dataclass(frozen=True)
class Member:
    """A model that predicts, in eval mode; files become images for it as they did in its training."""

    model: Classifier
    reading: Reading


def predict(
    members: Sequence[Member],
    pictures: Sequence[Path | Image],
    device: torch.device,
    *,
    tta: str = "none",
    batch_size: int = 64,
    decoders: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the probabilities of each batch of pictures, float32 [members, batch, classes], in their order.

    An image is decoded once for all members that want the same pixels of it.

    Args:
        members: at least one, all for the same classes, on the device.
        pictures: image files, or images that are loaded, of any size and colour mode.
        device: that of the members.
        tta: "none"; "flip": the mean over the image and its mirror image; "crops": the mean over ten, the four corners
            and the centre of the image at 8/7 of the size, each also mirrored (Krizhevsky et al. 2012, section 4.1).
        batch_size: images at a time, in memory and through a model.
        decoders: threads that decode images; None: a few more than there are cores.

    Raises:
        DataError: a file cannot be read as an image.
        OutOfDeviceMemoryError: the device has not even memory for one image.
    """
    micro_batch = MicroBatch(batch_size)
    with ThreadPoolExecutor(decoders) as pool:  # Pillow releases the interpreter's lock while it decodes
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            read: dict[Reading, torch.Tensor] = {}
            probabilities = []
            for member in members:
                key = replace(member.reading, size=reading_size(member.reading.size, tta))
                if key not in read:
                    images = np.stack(list(pool.map(read_image, batch, repeat(key))))
                    read[key] = torch.from_numpy(images).to(device)
                probabilities.append(_mean_probabilities(member, read[key], tta, device, micro_batch))
            yield torch.stack(probabilities).cpu().numpy()


def reading_size(size: ImageSize, tta: str) -> ImageSize:
    """The size at which an image is read for a model that takes `size`: crops leave an eighth of each side out."""
    return scaled(size, 8 / 7) if tta == "crops" else size


def views(images: torch.Tensor, size: ImageSize, tta: str) -> Iterator[torch.Tensor]:
    """What a model sees of images uint8 [batch, height, width, 3] that were read at `reading_size`.

    Yields images of its size: once for "none", two times for "flip", ten times for "crops".
    """
    height, width = shape_of(size)
    down, right = images.shape[1] - height, images.shape[2] - width
    corners = [(0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)] if tta == "crops" else [(0, 0)]
    for top, left in corners:
        crop = images[:, top : top + height, left : left + width]
        yield crop
        if tta != "none":
            yield crop.flip(2)


def soft_vote(
    probabilities: NDArray[np.float32], decisions: Sequence[Decision] = ()
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The mean of probabilities [members, images, classes], float32 [images, classes]; the best class, int64 [images].

    The members' temperatures come before the mean, the mean of their offsets after it. Of classes with the same mean
    the first is the best.
    """
    mean = _at_temperatures(probabilities, decisions).mean(axis=0)
    offsets = np.zeros(mean.shape[1])
    for decision in decisions:
        offsets += np.divide(decision.offsets or 0.0, len(decisions))
    return mean, Decision(offsets=tuple(offsets.tolist()) if offsets.any() else ()).classes(mean)


def hard_vote(
    probabilities: NDArray[np.float32], decisions: Sequence[Decision] = ()
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The share of members that vote for each class, float32 [images, classes]; the class with most, int64 [images].

    A member votes for the class that its decision takes by its probabilities [members, images, classes]. Of classes
    with equally many votes that with the highest mean probability wins.
    """
    members, _, classes = probabilities.shape
    shown = _at_temperatures(probabilities, decisions)
    own = decisions or [Decision()] * members
    chosen = np.stack([decision.classes(each) for decision, each in zip(own, shown, strict=True)])
    votes = (chosen[..., None] == np.arange(classes)).sum(axis=0)
    tie_break = np.where(votes == votes.max(axis=1, keepdims=True), shown.mean(axis=0), -1)
    return (votes / members).astype(np.float32), tie_break.argmax(axis=1)


def _at_temperatures(probabilities: NDArray[np.float32], decisions: Sequence[Decision]) -> NDArray[np.float32]:
    """Each member's probabilities as its decision shows them; without decisions as they are."""
    if not decisions:
        return probabilities
    return np.stack([decision.probabilities(each) for decision, each in zip(decisions, probabilities, strict=True)])


VOTINGS = {"soft": soft_vote, "hard": hard_vote}


def _mean_probabilities(
    member: Member, images: torch.Tensor, tta: str, device: torch.device, micro_batch: MicroBatch
) -> torch.Tensor:
    """Over the views of the images: float32 [batch, classes]."""

    def classify(size: int) -> torch.Tensor:
        with torch.inference_mode(), autocast(device):
            total, count = torch.zeros((), device=device), 0
            for view in views(images, member.reading.size, tta):
                logits = torch.cat([member.model(chunk) for chunk in torch.split(view, size)])
                total, count = total + logits.float().softmax(dim=1), count + 1
            return total / count

    return micro_batch.run(classify, len(images))
