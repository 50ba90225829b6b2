"""The layers of a model: whether it tells them apart, and which of them keep their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from timm.models import group_parameters
from torch import nn

if TYPE_CHECKING:
    from trainer.recipe import Recipe


def needs_layers(recipe: Recipe) -> bool:
    """Whether the recipe freezes layers, or has them learn at rates of their own."""
    return recipe.pretrained and (recipe.freeze > 0 or recipe.layer_decay < 1)


def layer_problem(name: str, model: Any) -> str | None:
    """Say in one line why the layers of this model, called `name` by the recipe, cannot be told apart, or None."""
    if hasattr(model, "group_matcher") and isinstance(model.get_classifier(), nn.Module):
        return None
    return f'freeze: "{name}" does not tell its layers (group_matcher), write freeze = 0.0 and layer_decay = 1.0'


def freeze_layers(backbone: Any, share: float) -> list[nn.Module]:
    """Let this share of the backbone's layers, counted from the image on, learn no more; 1 lets the head alone learn.

    Args:
        backbone: a model with timm's `group_matcher` and `get_classifier`.
        share: in [0, 1].

    Returns:
        the outermost modules all of whose weights are frozen. They should stay in eval mode, so that their batch norms
        keep their statistics, too.
    """
    layer_numbers: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    head = {id(parameter) for parameter in backbone.get_classifier().parameters()}
    before_head = {name: value for name, value in backbone.named_parameters() if id(value) not in head}
    layers = sorted({layer_numbers[name] for name in before_head})
    frozen = set(layers[: round(share * len(layers))])
    for name, parameter in before_head.items():
        if layer_numbers[name] in frozen:
            parameter.requires_grad_(False)
    return _frozen_modules(backbone)


def _frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that have weights, and no weight that learns."""
    weights = list(module.parameters())
    if weights and not any(weight.requires_grad for weight in weights):
        return [module]
    return [found for child in module.children() for found in _frozen_modules(child)]
