"""Losses, augmentations and models of one's own: plain functions by name, used like the built-in ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.recipe import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import torch
    from numpy.typing import NDArray

    LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    AugmentFunction = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]
    BackboneFunction = Callable[[int, Any], torch.nn.Module]


@dataclass(frozen=True)
class Extensions:
    """Functions of one's own by the name that a recipe calls them.

    losses: (logits float32 [batch, classes], labels int64 [batch]) -> the loss, a scalar.
    augments: (image uint8 [height, width, 3] RGB, random generator of this image and epoch) -> another of that shape.
    backbones: (number of classes, image side in pixels, or (height, width) where images are no squares) -> model,
        float32 [batch, 3, height, width] normalised by ImageNet's mean and standard deviation -> logits
        [batch, classes].
    """

    losses: Mapping[str, LossFunction] = field(default_factory=dict)
    augments: Mapping[str, AugmentFunction] = field(default_factory=dict)
    backbones: Mapping[str, BackboneFunction] = field(default_factory=dict)

    def names(self, field_name: str) -> tuple[str, ...]:
        """All names that this field of a recipe may have; empty where any value is a name (backbones of timm)."""
        own = {"loss": self.losses, "augment": self.augments}.get(field_name, {})
        return (*(RULES[field_name].choices or ()), *own)
