"""The optimiser: which weights learn and how fast, and what it remembers between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.optim import create_optimizer_v2
from torch import Tensor

from trainer.checkpoint import with_prefix, without_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe

MOMENTUM = 0.9  # of SGD


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
