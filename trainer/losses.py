"""Loss functions by name: logits float32 [batch, classes] and labels int64 [batch] give a scalar."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, nll_loss, one_hot

from trainer.errors import RecipeError

if TYPE_CHECKING:
    from trainer.parts import LossFunction, Parts
    from trainer.recipe import Recipe


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy with each image scaled by (1 - p)^gamma, p being the probability of its true class.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5 with alpha as class weight [classes]; for
    gamma = 0 it is the (weighted) cross-entropy, and its mean is weighted as PyTorch's is.
    """
    log_probabilities = log_softmax(logits, dim=1)
    losses = nll_loss(log_probabilities, labels, weight, reduction="none")
    true_class = log_probabilities.gather(1, labels[:, None]).squeeze(1).exp()
    # Kept off 0, where a gamma below 1 has an infinite slope: a certain image would have a gradient of NaN.
    scaled = (1 - true_class).clamp_min(1e-12) ** gamma * losses
    return scaled.mean() if weight is None else scaled.sum() / weight[labels].sum()


def soft_f1_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - macro-F1 of the batch with probabilities in the place of decisions.

    F1 of a class is 2 TP / (2 TP + FP + FN) with TP = sum of p over its images, FP = sum of p over the others and
    FN = sum of 1 - p over its images; 2 TP + FP + FN is then the sum of p over all plus the number of its images.
    Classes with no image in the batch do not count: their F1 is 0 whatever the model says, with no gradient.
    """
    probabilities = logits.softmax(dim=1)
    truth = one_hot(labels, logits.shape[1]).to(probabilities.dtype)
    images = truth.sum(dim=0)
    f1 = 2 * (probabilities * truth).sum(dim=0) / (probabilities.sum(dim=0) + images).clamp_min(1e-12)
    return 1 - f1.sum() / (images > 0).sum()


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weight of each class, float32 [classes]: images / (classes x images of the class), 0 for a class without any."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, counts.sum() / (classes * counts.clamp_min(1)), 0.0)


def make_loss(recipe: Recipe, labels: Tensor, classes: int, parts: Parts) -> LossFunction:
    """Build the recipe's loss; `labels` int64 [images] are those of the training images, on the loss's device.

    Raises:
        RecipeError: nothing has the name that the recipe gives.
    """
    if recipe.loss in parts.losses:
        return parts.losses[recipe.loss]
    weight = balanced_weights(labels, classes) if recipe.class_weights == "balanced" else None
    losses: dict[str, LossFunction] = {
        "cross_entropy": partial(cross_entropy, weight=weight),
        "label_smoothing": partial(cross_entropy, weight=weight, label_smoothing=recipe.label_smoothing),
        "focal": partial(focal_loss, gamma=recipe.focal_gamma, weight=weight),
        "soft_f1": soft_f1_loss,
    }
    if recipe.loss not in losses:
        raise RecipeError([f'loss: nothing is called "{recipe.loss}"; give your own function in Parts(losses=…)'])
    return losses[recipe.loss]
