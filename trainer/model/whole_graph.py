"""A model with its preprocessing as one graph: uint8 RGB of any size in, probabilities and classes out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainer.images.pixels import MEAN_COLOUR
from trainer.metrics import SMALLEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.calibration import Decision
    from trainer.images.pixels import Reading
    from trainer.model.backbones import Classifier


def _box(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).double()


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp_min(0)


def _hamming(x: Tensor) -> Tensor:
    angle = math.pi * x
    return torch.where(x.abs() < 1, _sinc(angle) * (0.54 + 0.46 * torch.cos(angle)), 0.0)


def _cubic(x: Tensor) -> Tensor:
    a, x = -0.5, x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, _sinc(math.pi * x) * _sinc(math.pi * x / 3), 0.0)


def _sinc(angle: Tensor) -> Tensor:
    safe = torch.where(angle == 0, 1.0, angle)
    return torch.where(angle == 0, 1.0, torch.sin(safe) / safe)


# Pillow's filters (src/libImaging/Resample.c), each of the distance from the middle, in pixels of the smaller picture.
FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "box": _box,
    "bilinear": _triangle,
    "hamming": _hamming,
    "bicubic": _cubic,
    "lanczos": _lanczos,
}


class WholeGraph(nn.Module):
    """Images uint8 [batch, height, width, 3] of any height and width -> probabilities and the most probable class.

    The pixels are those of Pillow's `resize`, but for some that are 1 of 255 away, and more at harsh edges of pictures
    that are much higher than wide: these Pillow resizes first down and then across. All of it exports to ONNX, with
    sizes that are known only when it runs.
    """

    def __init__(self, model: Classifier, reading: Reading, decision: Decision) -> None:
        super().__init__()
        self.model, self.reading, self.decision = model, reading, decision

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Resize, normalise, classify: probabilities float32 [batch, classes], the class of each, int64 [batch]."""
        logits: Tensor = self.model(self.resized(images))
        probabilities = (logits / self.decision.temperature).softmax(dim=1)
        if not self.decision.offsets:
            return probabilities, probabilities.argmax(dim=1)
        offsets = torch.tensor(self.decision.offsets, dtype=torch.float32)
        return probabilities, (probabilities.clamp_min(float(SMALLEST)).log() + offsets).argmax(dim=1)

    def resized(self, images: Tensor) -> Tensor:
        """What the model gets of the images: float32 [batch, height, width, 3], whole numbers in 0 … 255."""
        rows, columns = (torch.arange(images.shape[axis], dtype=torch.float64) for axis in (1, 2))
        lines = [_Line(places, count) for places, count in zip((rows, columns), self.reading.shape, strict=True)]
        factors = [line.count / line.length for line in lines]
        if self.reading.resize == "crop":
            lines = [line.cropped(torch.maximum(*factors)) for line in lines]
        elif self.reading.resize == "pad":
            lines = [line.padded(torch.minimum(*factors)) for line in lines]
        down, across = (line.weights(self.reading.interpolation) for line in lines)
        planes = images.permute(0, 3, 1, 2).float()
        small = _eight_bits(down @ _eight_bits(planes @ across.T))  # Pillow rounds after each direction, too
        if self.reading.resize == "pad":
            colour = torch.tensor(MEAN_COLOUR, dtype=torch.float32)[:, None, None]
            small = torch.where(lines[0].covered()[:, None] & lines[1].covered(), small, colour)
        return small.permute(0, 2, 3, 1)


class _Line:
    """How the pixels of a row or column of a picture become `count` pixels; lengths are float64 scalars, in pixels.

    The part of the line from `start` on that has this `length` becomes the `inner` pixels in the middle.
    """

    def __init__(self, places: Tensor, count: int) -> None:
        self.places, self.count = places, count
        self.start, self.length = torch.zeros_like(places[-1]), places[-1] + 1
        self.inner = torch.full_like(self.length, count)

    def cropped(self, factor: Tensor) -> _Line:
        """Only the middle of the line, as long as it may be where all is made so many times as large."""
        spare = (self.length - self.count / factor).clamp_min(0)
        self.start, self.length = spare / 2, self.length - spare
        return self

    def padded(self, factor: Tensor) -> _Line:
        """All of the line, so many times as large."""
        self.inner = (self.length * factor).round().clamp_min(1)
        return self

    def weights(self, interpolation: str) -> Tensor:
        """What each pixel of the line counts in each that it becomes, float32 [count, pixels]."""
        scale = self.length / self.inner
        middles = (self.start + (self._within() + 0.5) * scale)[:, None]
        if interpolation == "nearest":
            return (self.places == middles.floor()).float()
        found = FILTERS[interpolation](
            (self.places - middles + 0.5) * (1 / scale.clamp_min(1))
        )  # rounded as Pillow does
        total = found.sum(dim=1, keepdim=True)
        return torch.where(self.covered()[:, None], found / total, 0.0).float()

    def covered(self) -> Tensor:
        """Which of the pixels that it becomes show the picture, bool [count]."""
        return (self._within() >= 0) & (self._within() < self.inner)

    def _within(self) -> Tensor:
        """Of each pixel that it becomes, its place among the inner ones, from 0 on."""
        return torch.arange(self.count, dtype=torch.float64) - ((self.count - self.inner) / 2).floor()


def _eight_bits(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)
