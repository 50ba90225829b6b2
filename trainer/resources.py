"""What a training may use: a device, processes that augment, pretrained weights, and what is known of the memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from trainer.device import choose_device, device_name
from trainer.loaders import Loaders, largest_batch
from trainer.step import MicroBatch

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from pathlib import Path

    import torch

    from trainer.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Resources:
    """What a training may use; whatever is not given has a default.

    Attributes:
        device: where to train; by default the first GPU, or the CPU where there is none.
        loaders: processes that augment; by default the training's own process does it.
        weights: folder with pretrained weights in place of the hub; a file is taken as the weights themselves.
        micro_batches: how many images fit into memory at once, where that was fewer than a batch, by backbone, image
            size and device. A training reads it when it begins, and adds to it when memory runs out.
    """

    device: torch.device = field(default_factory=choose_device)
    loaders: Loaders = field(default_factory=partial(Loaders, 0))
    weights: Path | None = None
    micro_batches: MutableMapping[str, int] = field(default_factory=dict)

    def micro_batch(self, recipe: Recipe, images: int) -> MicroBatch:
        """As many images at once as a batch has, or as many as are known to fit into memory.

        Args:
            recipe: of the training.
            images: how many it learns from.
        """
        key = f"{recipe.backbone}, {recipe.image_size} px, {device_name(self.device)}"
        largest = largest_batch(recipe, images)
        size = min(largest, self.micro_batches.get(key, largest))
        return MicroBatch(size, partial(self.micro_batches.__setitem__, key))
