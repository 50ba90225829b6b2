"""Loss functions by name: logits float32 [batch, classes] and labels int64 [batch] give a scalar."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from timm.loss import BinaryCrossEntropy
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, nll_loss, one_hot

from trainer.errors import RecipeError

if TYPE_CHECKING:
    from trainer.augmentation.mixing import Partners
    from trainer.extensions import Extensions, LossFunction
    from trainer.recipe import Recipe

MIXED_IN_FROM = 0.2  # share of a mixed image from which its class counts for `bce`: timm's for "ResNet strikes back"


class TrainingLoss(Protocol):
    """What `make_loss` gives: the loss of a batch, of mixed images where they have partners."""

    def __call__(self, logits: Tensor, labels: Tensor, partners: Partners | None = None) -> Tensor:
        """Logits float32 [batch, classes] and labels int64 [batch], on one device -> a scalar."""


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy with each image scaled by (1 - p)^gamma, p being the probability of its true class.

    Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5 with alpha as class weight [classes]; for
    gamma = 0 it is the (weighted) cross-entropy, and its mean is weighted as PyTorch's is.
    """
    log_probabilities = log_softmax(logits, dim=1)
    losses = nll_loss(log_probabilities, labels, weight, reduction="none")
    true_class = log_probabilities.gather(1, labels[:, None]).squeeze(1).exp()
    # Kept off 0, where a gamma below 1 has an infinite slope: an image with p = 1 would have a gradient of NaN.
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


def arcface_loss(
    logits: Tensor, labels: Tensor, *, margin: float, scale: float, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy after the true class's angle has grown by the margin, in radians, 0 … pi / 2.

    `logits` are scale x cos(angle between the features and each class); the true class's becomes
    scale x cos(angle + margin). Deng et al. 2019, "ArcFace", equation 3. Where the angle would pass pi, the cosine
    goes down by margin x sin(margin) instead, as in the authors' code: else a worse angle would cost less.
    """
    cosine = logits.gather(1, labels[:, None]) / scale
    # Kept off 0, where the root has an infinite slope; float32 has nothing between 0 and 1e-7 here.
    sine = ((1 - cosine) * (1 + cosine)).clamp_min(1e-12).sqrt()
    moved = cosine * math.cos(margin) - sine * math.sin(margin)
    moved = torch.where(cosine > -math.cos(margin), moved, cosine - margin * math.sin(margin))
    return cross_entropy(logits.scatter(1, labels[:, None], scale * moved), labels, weight)


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weight of each class, float32 [classes]: images / (classes x images of the class), 0 for a class without any."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, counts.sum() / (classes * counts.clamp_min(1)), 0.0)


def effective_number_weights(labels: Tensor, classes: int, beta: float) -> Tensor:
    """Weight of each class, float32 [classes]: ~ (1 - beta) / (1 - beta^n) for n images, 0 for a class without any.

    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples", equation 4; beta in [0, 1). They add
    up to the number of classes that occur. Beta 0 weighs these alike, beta near 1 by 1 / n.
    """
    counts = torch.bincount(labels, minlength=classes).double()
    weights = torch.where(counts > 0, (1 - beta) / (1 - beta ** counts.clamp_min(1)), 0.0)
    return (weights * (counts > 0).sum() / weights.sum()).float()


def log_prior(labels: Tensor, classes: int) -> Tensor:
    """Logarithm of each class's share of the labels, float32 [classes]; a class without any counts as one image."""
    counts = torch.bincount(labels, minlength=classes).clamp_min(1).double()
    return (counts / counts.sum()).log().float()


def logit_adjusted_loss(logits: Tensor, labels: Tensor, *, adjustment: Tensor) -> Tensor:
    """Cross-entropy of logits + adjustment, which is tau x log prior, float32 [classes].

    Menon et al. 2021, "Long-tail learning via logit adjustment", equation 10. A model that predicts without the
    adjustment then treats all classes as equally frequent.
    """
    return cross_entropy(logits + adjustment, labels)


def make_loss(recipe: Recipe, labels: Tensor, classes: int, extensions: Extensions) -> TrainingLoss:
    """Build the recipe's loss; `labels` int64 [images] are those of the training images, on the loss's device.

    The loss of a mixed image is that of its two labels, each by its share (Zhang et al. 2018, section 2); of `bce`
    it is that of both classes at once, but for one whose share is at most 0.2.

    Raises:
        RecipeError: nothing has the name that the recipe gives.
    """
    if recipe.loss == "bce" and "bce" not in extensions.losses:
        # Wightman et al. 2021, "ResNet strikes back": the mean over images and classes.
        return partial(_binary_loss, loss=BinaryCrossEntropy(smoothing=0.0, target_threshold=MIXED_IN_FROM))
    return partial(_shared_loss, loss=_own_or_named_loss(recipe, labels, classes, extensions))


def _own_or_named_loss(recipe: Recipe, labels: Tensor, classes: int, extensions: Extensions) -> LossFunction:
    if recipe.loss in extensions.losses:
        return extensions.losses[recipe.loss]
    weight = None
    if recipe.class_weights == "balanced":
        weight = balanced_weights(labels, classes)
    elif recipe.class_weights == "effective_number":
        weight = effective_number_weights(labels, classes, recipe.effective_beta)
    losses: dict[str, LossFunction] = {
        "cross_entropy": partial(cross_entropy, weight=weight),
        "label_smoothing": partial(cross_entropy, weight=weight, label_smoothing=recipe.label_smoothing),
        "focal": partial(focal_loss, gamma=recipe.focal_gamma, weight=weight),
        "soft_f1": soft_f1_loss,
        "logit_adjustment": partial(logit_adjusted_loss, adjustment=recipe.adjustment_tau * log_prior(labels, classes)),
        "arcface": partial(arcface_loss, margin=recipe.arcface_margin, scale=recipe.arcface_scale, weight=weight),
    }
    if recipe.loss not in losses:
        raise RecipeError([f'loss: nothing is called "{recipe.loss}"; give your own function in Extensions(losses=…)'])
    return losses[recipe.loss]


def _shared_loss(logits: Tensor, labels: Tensor, partners: Partners | None = None, *, loss: LossFunction) -> Tensor:
    if partners is None:
        return loss(logits, labels)
    return partners.share * loss(logits, labels) + (1 - partners.share) * loss(logits, partners.labels)


def _binary_loss(logits: Tensor, labels: Tensor, partners: Partners | None = None, *, loss: LossFunction) -> Tensor:
    targets = one_hot(labels, logits.shape[1]).to(logits.dtype)
    if partners is not None:
        mixed_in = one_hot(partners.labels, logits.shape[1]).to(logits.dtype)
        targets = partners.share * targets + (1 - partners.share) * mixed_in
    return loss(logits, targets)
