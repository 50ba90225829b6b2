"""MixUp and CutMix: two images of a batch become one, on the device where the batch is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torchvision.transforms.v2 import CutMix, MixUp

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainer.recipe import Recipe

    # (images uint8 [batch, height, width, 3], labels int64 [batch]) -> (images uint8 or float32, partners if mixed)
    Mixing = Callable[[Tensor, Tensor], tuple[Tensor, "Partners | None"]]


@dataclass(frozen=True)
class Partners:
    """What the images of a batch were mixed with.

    Attributes:
        labels: int64 [batch], of the image that was mixed in.
        share: of the first image, by intensity (MixUp) or area (CutMix), in [0, 1]; one for the whole batch.
    """

    labels: Tensor
    share: float


def make_mixing(recipe: Recipe) -> Mixing | None:
    """Build the recipe's mixing; None where nothing is mixed.

    Each image is mixed with the one before it in the batch, the first with the last: batches come shuffled. MixUp gives
    float32 in 0 … 255, CutMix keeps uint8. Everything random is drawn from torch's generator on the CPU, so that
    nothing waits for the device. (timm's Mixup draws from NumPy's global generator and refuses odd batches.)
    """
    if recipe.mixing == "none":
        return None
    mixup, cutmix = MixUp(alpha=recipe.mixup_alpha), CutMix(alpha=recipe.cutmix_alpha)
    kinds = {"mixup": [mixup], "cutmix": [cutmix], "both": [mixup, cutmix]}[recipe.mixing]

    def mix(images: Tensor, labels: Tensor) -> tuple[Tensor, Partners | None]:
        if torch.rand(()).item() >= recipe.mix_probability:
            return images, None
        kind = kinds[int(torch.randint(len(kinds), ()))]
        channels_first = images.permute(0, 3, 1, 2)
        if kind is mixup:
            channels_first = channels_first.float()
        drawn = kind.make_params([channels_first])
        mixed = kind.transform(channels_first, {"labels": labels, "batch_size": len(labels), **drawn})
        share = drawn["lam"] if kind is mixup else drawn["lam_adjusted"]
        return mixed.permute(0, 2, 3, 1).contiguous(), Partners(labels.roll(1), share)

    return mix
