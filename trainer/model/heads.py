"""What follows a backbone's feature map: poolings and heads beside timm's own, and the size of a new head's weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

TOO_LARGE = 2.0  # times the spread with which torch draws a linear layer
GEM_POWER = 3.0  # to start from; 1 is the average, infinity the maximum


class GeneralizedMean(nn.Module):
    """Mean of x^p over the image, to the power of 1/p, with one learned p (Radenovic et al. 2018, equation 3).

    float [batch, channels, height, width] -> float32 [batch, channels, 1, 1], with height and width at `dimensions`;
    without the ones where `flatten`.
    """

    def __init__(self, dimensions: tuple[int, ...], *, flatten: bool) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor([GEM_POWER]))
        self._dimensions, self._flatten = dimensions, flatten

    def forward(self, features: Tensor) -> Tensor:
        """Pool; negative features count as none, as after a ReLU."""
        powers = features.float().clamp_min(1e-6).pow(self.power)
        return powers.mean(self._dimensions, keepdim=not self._flatten).pow(1 / self.power)


class CosineHead(nn.Module):
    """Logits = scale * cosine between the features and each class's weights: the head of ArcFace (Deng et al. 2019)."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Features float [batch, features] -> logits [batch, classes]."""
        return self.scale * linear(normalize(features), normalize(self.weight))


def use_generalized_mean(model: nn.Module) -> None:
    """Let the model, one of timm's with average pooling, pool by the generalised mean.

    Raises:
        ValueError: the model does not pool a feature map.
    """
    pools = [module for module in model.modules() if isinstance(module, SelectAdaptivePool2d)]
    if not pools:
        raise ValueError("it has no feature map to pool")
    for pool in pools:
        # timm's own poolings say where height and width are, torch's expect them last.
        height_and_width = tuple(getattr(pool.pool, "dim", (2, 3)))
        pool.pool = GeneralizedMean(height_and_width, flatten=getattr(pool.pool, "flatten", False))


def use_cosine_head(model: nn.Module, classes: int, scale: float) -> None:
    """Give the model, one with timm's `get_classifier()`, a head of cosines in the place of its linear one.

    Raises:
        ValueError: its head is not a linear one.
    """
    head: Any = getattr(model, "get_classifier", lambda: None)()
    name = next((name for name, module in model.named_modules() if module is head), None)
    if name is None or not isinstance(head, nn.Linear):
        raise ValueError("it has no linear head, which arcface replaces")
    model.set_submodule(name, CosineHead(head.in_features, classes, scale))


def shrink_head(model: nn.Module) -> None:
    """Scale the weights of a new linear head that timm draws far larger than torch draws a linear layer.

    timm draws the heads of EfficientNets and MobileNets from U(-1, 1) / sqrt(classes), as was done for the 1,000
    classes of ImageNet. With 2 classes and 1,280 features that is 25 times torch's U(-1, 1) / sqrt(features), and a
    short training is spent on unlearning it. Any other head, and torch's random state, stay as they are.
    """
    head: Any = getattr(model, "get_classifier", lambda: None)()
    if isinstance(head, nn.Linear) and not head.weight.is_meta:  # whose size alone is asked for
        usual = 1 / math.sqrt(3 * head.in_features)  # standard deviation
        drawn = head.weight.std().item()
        if drawn > TOO_LARGE * usual:
            with torch.no_grad():
                head.weight.mul_(usual / drawn)
