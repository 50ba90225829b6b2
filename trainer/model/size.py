"""How large a model is, and how long it takes for one image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from trainer.device import autocast, memory_format
from trainer.image_size import shape_of
from trainer.model.backbones import build_model

if TYPE_CHECKING:
    from trainer.extensions import Extensions
    from trainer.recipe import Recipe

WARM_UP_PASSES = 3  # not timed: memory is taken, and a GPU chooses its kernels
PASSES = 30  # of which the fastest counts, as whatever disturbs a pass only makes it longer
PASSES_SECONDS = 1.0  # after which a slow model has had enough of them


@dataclass(frozen=True)
class ModelSize:
    """How large a model is.

    Attributes:
        parameters: numbers that can be learned, the frozen ones included.
        weights_bytes: of the tensors in a file of its weights.
    """

    parameters: int
    weights_bytes: int


def model_size(recipe: Recipe, classes: int, extensions: Extensions) -> ModelSize:
    """The size of a recipe's model for so many classes; raises RecipeError as `build_model` does.

    A model of timm's is not filled with numbers, which takes no memory; one of the user's own is built as it is.
    """
    own = recipe.backbone in extensions.backbones
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if own else "meta"):
        backbone = build_model(recipe, classes, extensions, pretrained=False).backbone
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        weights_bytes=sum(tensor.numel() * tensor.element_size() for tensor in backbone.state_dict().values()),
    )


def image_milliseconds(recipe: Recipe, classes: int, extensions: Extensions, device: torch.device) -> float:
    """Milliseconds that a recipe's model takes on a device for one image by itself, in the number format of `predict`.

    The image lies on the device already; its decoding is no part of this.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, classes, extensions, pretrained=False)
    model.to(device, memory_format=memory_format(device)).eval()  # type: ignore[call-overload]
    image = torch.zeros(1, *shape_of(recipe.image_size), 3, dtype=torch.uint8, device=device)
    fastest, begun = float("inf"), time.perf_counter()
    with torch.inference_mode(), autocast(device):
        for number in range(WARM_UP_PASSES + PASSES):
            started = time.perf_counter()
            model(image).cpu()  # which waits for the result
            ended = time.perf_counter()
            if number >= WARM_UP_PASSES:
                fastest = min(fastest, ended - started)
                if ended - begun > PASSES_SECONDS:
                    break
    return 1000 * fastest
