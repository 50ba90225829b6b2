"""timm's models by name, as a recipe wants them: head, pooling, dropout and image size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
from timm.models import get_pretrained_cfg

from trainer.image_size import side_or_shape
from trainer.model.heads import use_generalized_mean

if TYPE_CHECKING:
    from torch import nn

    from trainer.image_size import ImageSize
    from trainer.recipe import Recipe


def create_backbone(recipe: Recipe, classes: int, **pretrained: Any) -> nn.Module:
    """The timm model of a recipe; raises what timm and the model raise where it cannot be built."""
    arguments: dict[str, Any] = size_argument(recipe.backbone, recipe.image_size)
    if recipe.dropout:
        arguments["drop_rate"] = recipe.dropout
    if recipe.drop_path:
        arguments["drop_path_rate"] = recipe.drop_path
    if recipe.pooling != "default":
        arguments["global_pool"] = "avg" if recipe.pooling == "gem" else recipe.pooling
    model: nn.Module = timm.create_model(recipe.backbone, num_classes=classes, **arguments, **pretrained)
    if recipe.pooling == "gem":
        use_generalized_mean(model)
    return model


def size_argument(name: str, size: ImageSize) -> dict[str, int | tuple[int, int]]:
    """Models with a fixed input size are built for another one only when told so."""
    config = get_pretrained_cfg(name)
    return {"img_size": side_or_shape(size)} if config is not None and config.fixed_input_size else {}


def has_tag(name: str) -> bool:
    """Whether timm knows the weights that a model's name asks for; a name without a tag asks for the usual ones."""
    try:
        return get_pretrained_cfg(name) is not None
    except RuntimeError:  # a tag that this model does not have
        return False


def first_line(error: BaseException) -> str:
    """What an error says, as one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
