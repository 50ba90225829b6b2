"""Which weights learn, and how fast: frozen layers, layer-wise learning rates, the optimiser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import Tensor

from trainer.checkpoint import with_prefix, without_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer

    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe

MOMENTUM = 0.9  # of SGD


def freeze_layers(model: Classifier, share: float) -> None:
    """Keep this share of the backbone's layers, counted from the image on, as they are; 1 lets the head alone learn.

    Frozen modules are in eval mode whatever the model is: their batch norms keep their statistics, too.

    Args:
        model: with a backbone that has timm's `group_matcher` and `get_classifier`.
        share: in [0, 1].
    """
    if share == 0:
        return
    backbone: Any = model.backbone
    layer_of: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    head = {id(parameter) for parameter in backbone.get_classifier().parameters()}
    before_head = {name: value for name, value in backbone.named_parameters() if id(value) not in head}
    layers = sorted({layer_of[name] for name in before_head})
    frozen = set(layers[: round(share * len(layers))])
    for name, parameter in before_head.items():
        if layer_of[name] in frozen:
            parameter.requires_grad_(False)
    model.frozen = _frozen_modules(backbone)
    model.train(model.training)


def _frozen_modules(module: nn.Module) -> list[nn.Module]:
    """The outermost modules that have weights, all of them frozen."""
    weights = list(module.parameters())
    if weights and not any(weight.requires_grad for weight in weights):
        return [module]
    return [found for child in module.children() for found in _frozen_modules(child)]


def make_optimizer(recipe: Recipe, model: Classifier) -> Optimizer:
    """The recipe's optimiser of the weights that learn, each group with the learning rate of its layer.

    Its updates are fused: one kernel a group, in place, so that after the first step no memory is asked for.
    """
    optimizer: Optimizer = create_optimizer_v2(
        model.backbone,
        opt=recipe.optimizer,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        momentum=MOMENTUM,
        layer_decay=recipe.layer_decay if recipe.pretrained and recipe.layer_decay < 1 else None,
        fused=True,
    )
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("lr_scale", 1.0)  # timm leaves this to its own schedulers; ours are torch's
    return optimizer


def optimizer_state(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an optimiser remembers between two steps: values that JSON can hold, and tensors by name.

    The tensors of a weight are named `optimizer.N.…`, N being the weight's number in the optimiser.
    """
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for number, remembered in state["state"].items():
        moments = {name: value for name, value in remembered.items() if isinstance(value, Tensor)}
        tensors |= with_prefix(f"optimizer.{number}", moments)
        scalars[str(number)] = {name: value for name, value in remembered.items() if name not in moments}
    return {"optimizer": scalars, "groups": state["param_groups"]}, tensors


def restore_optimizer(optimizer: Optimizer, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser what another one of the same recipe remembered, as `optimizer_state` gave it."""
    state = {
        int(number): {**scalars, **without_prefix(f"optimizer.{number}", tensors)}
        for number, scalars in values["optimizer"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": values["groups"]})
    # What is loaded may be the very tensors that were given, and is laid out as on the CPU. Fused updates want the
    # moments of a weight laid out as the weight is.
    for weight, remembered in optimizer.state.items():
        for name, value in remembered.items():
            if isinstance(value, Tensor):
                like = weight if value.shape == weight.shape else value
                remembered[name] = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
