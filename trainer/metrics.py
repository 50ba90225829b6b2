"""Metrics of a classification: from one confusion matrix int64 [true class, predicted class], or from probabilities.

What an empty class counts: F1, precision and recall leave out a class that occurs neither among the labels nor among
the predictions; ROC-AUC leaves out one that has no image, or all images; balanced accuracy and average precision one
that has no image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CLASSES_AT_ONCE = 64  # whose ranks are in memory, 8 bytes an image
SMALLEST = np.finfo(np.float32).tiny  # probability that a logarithm is taken of


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Count the pairs of true and predicted class, int64 [classes, classes], on the device of the labels.

    `labels` and `predicted` are int64 [images] in 0 … classes - 1. Matrices of batches add up to that of all images;
    their macro-F1 values do not average to that of all images, which is why F1 is taken from the sum.
    """
    return torch.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def class_f1(matrix: Tensor) -> Tensor:
    """F1 of each class, float64 [classes]: 2 TP / (2 TP + FP + FN); NaN for a class neither seen nor predicted."""
    matrix = matrix.double()
    return 2 * matrix.diagonal() / (matrix.sum(dim=0) + matrix.sum(dim=1))


def class_precision(matrix: Tensor) -> Tensor:
    """TP / (TP + FP) of each class, float64 [classes]; 0 for one never predicted, NaN for one not even seen."""
    return _share_of(matrix, matrix.sum(dim=0))


def class_recall(matrix: Tensor) -> Tensor:
    """TP / (TP + FN) of each class, float64 [classes]; 0 for one only predicted, NaN for one not even predicted."""
    return _share_of(matrix, matrix.sum(dim=1))


def macro_f1(matrix: Tensor) -> float:
    """The mean F1 over the classes that occur among the labels or the predictions, in [0, 1].

    A class that occurs in neither has no F1 and does not count; a class that is only predicted, or never predicted,
    counts 0. This is scikit-learn's `f1_score(…, average="macro")`.
    """
    return class_f1(matrix).nanmean().item()


def accuracy(matrix: Tensor) -> float:
    """The share of images whose class is predicted rightly, in [0, 1]."""
    return (matrix.diagonal().sum().double() / matrix.sum()).item()


def macro_precision(matrix: Tensor) -> float:
    """The mean over the occurring classes of TP / (TP + FP); 0 for a class that is never predicted."""
    return class_precision(matrix).nanmean().item()


def macro_recall(matrix: Tensor) -> float:
    """The mean over the occurring classes of TP / (TP + FN); 0 for a class that is only predicted."""
    return class_recall(matrix).nanmean().item()


def balanced_accuracy(matrix: Tensor) -> float:
    """The mean recall over the classes that have images, in [0, 1]: scikit-learn's `balanced_accuracy_score`."""
    return class_recall(matrix)[matrix.sum(dim=1) > 0].mean().item()


def weighted_f1(matrix: Tensor) -> float:
    """The mean F1 of the classes, each weighted by its images, in [0, 1]: `f1_score(…, average="weighted")`."""
    images = matrix.sum(dim=1)
    return ((class_f1(matrix).nan_to_num() * images).sum() / images.sum()).item()


def quadratic_kappa(matrix: Tensor, order: Sequence[int]) -> float:
    """Cohen's kappa with quadratic weights, in [-1, 1] (Cohen 1968); NaN where all images are of one class.

    That is scikit-learn's `cohen_kappa_score(…, weights="quadratic")`: 1 minus the mean squared distance between true
    and predicted rank over the one that chance would give.

    Args:
        matrix: as `confusion_matrix` gives it.
        order: positions of the classes from the lowest to the highest.
    """
    ranks = torch.argsort(torch.tensor(order)).double()
    apart = (ranks[:, None] - ranks[None, :]) ** 2
    counts = matrix.cpu().double()
    by_chance = torch.outer(counts.sum(dim=1), counts.sum(dim=0)) / counts.sum()
    return (1 - (apart * counts).sum() / (apart * by_chance).sum()).item()


def average_precision(labels: Tensor, probabilities: Tensor) -> Tensor:
    """The mean precision over the images of a class, each at its own probability as threshold, float64 [classes].

    It is the area under the steps of the precision-recall curve: scikit-learn's `average_precision_score` of each class
    against all others.

    Args:
        labels: int64 [images].
        probabilities: float32 [images, classes], finite.

    Returns:
        NaN for a class that no image has.
    """
    found = torch.full((probabilities.shape[1],), math.nan, dtype=torch.float64)
    for label, scores in enumerate(probabilities.T.contiguous()):
        own = scores[labels == label].sort().values
        if len(own):
            at_least = [len(ranked) - torch.searchsorted(ranked, own) for ranked in (own, scores.sort().values)]
            found[label] = (at_least[0].double() / at_least[1]).mean()
    return found


def log_loss(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """The mean negative log-probability of the true class; labels int64 [images], probabilities [images, classes]."""
    of_true = np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST)
    return float(-np.log(of_true.astype(np.float64)).mean())


def roc_auc(labels: Tensor, probabilities: Tensor) -> Tensor:
    """Area under the ROC curve of each class against all others, float64 [classes]; their macro is the nanmean.

    It is the chance that an image of the class has a higher probability of the class than one of the others, where
    ties count half (Hanley & McNeil 1982); as scikit-learn computes it.

    Args:
        labels: int64 [images].
        probabilities: float32 [images, classes], finite. Any score that grows with them gives the same.

    Returns:
        NaN for a class that no image has, or all have.
    """
    scores, true = probabilities.T.contiguous(), labels.to(probabilities.device)  # [classes, images]
    rank_sums = torch.zeros(len(scores), dtype=torch.float64, device=scores.device)
    for first in range(0, len(scores), CLASSES_AT_ONCE):
        some = scores[first : first + CLASSES_AT_ONCE]
        ordered = some.sort(dim=1).values
        # The rank among all images, from 1 on; ties share the mean of theirs.
        below, up_to = (torch.searchsorted(ordered, some, right=right) for right in (False, True))
        ranks = (below + up_to + 1).double() / 2
        is_class = true == torch.arange(first, first + len(some), device=true.device)[:, None]
        rank_sums[first : first + len(some)] = (ranks * is_class).sum(dim=1)
    images = torch.bincount(true, minlength=len(scores)).double()
    pairs = images * (len(true) - images)  # of an image of the class and another one
    return ((rank_sums - images * (images + 1) / 2) / pairs).cpu()


def summary(
    matrix: Tensor, classes: tuple[str, ...], labels: Tensor | None = None, probabilities: Tensor | None = None
) -> dict[str, object]:
    """All metrics as plain numbers, with those and the images of each class; JSON can hold it.

    F1, precision and recall of a class that does not occur are 0 here, though the macro metrics leave it out. Where
    labels and probabilities are given (as `roc_auc` takes them), there are `roc_auc` and `average_precision` of each
    class and their means over the classes, None where undefined, and `log_loss`.
    """
    columns: dict[str, list[float] | list[float | None]] = {
        name: metric(matrix).nan_to_num().tolist()
        for name, metric in (("f1", class_f1), ("precision", class_precision), ("recall", class_recall))
    }
    macro: dict[str, float | None] = {
        "macro_f1": macro_f1(matrix),
        "accuracy": accuracy(matrix),
        "macro_precision": macro_precision(matrix),
        "macro_recall": macro_recall(matrix),
        "balanced_accuracy": balanced_accuracy(matrix),
        "weighted_f1": weighted_f1(matrix),
    }
    if labels is not None and probabilities is not None:
        for name, metric in (("roc_auc", roc_auc), ("average_precision", average_precision)):
            of_classes = metric(labels, probabilities)
            columns[name] = [_none_if_nan(value) for value in of_classes.tolist()]
            macro[f"macro_{name}"] = _none_if_nan(of_classes.nanmean().item())
        macro["log_loss"] = log_loss(labels.numpy(), probabilities.numpy())
    columns["images"] = matrix.sum(dim=1).tolist()
    rows = zip(*columns.values(), strict=True)
    return {
        **macro,
        "images": int(matrix.sum()),
        "per_class": {name: dict(zip(columns, row, strict=True)) for name, row in zip(classes, rows, strict=True)},
    }


def _share_of(matrix: Tensor, denominator: Tensor) -> Tensor:
    """True positives as a share of these counts: 0 where there are none, NaN where the class does not occur at all."""
    occurs = (matrix.sum(dim=0) + matrix.sum(dim=1)) > 0
    return torch.where(occurs, matrix.diagonal().double() / denominator.clamp_min(1), math.nan)


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
