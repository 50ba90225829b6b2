"""Metrics of a classification, all from one confusion matrix int64 [true class, predicted class]."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return _mean_of_occurring(matrix, matrix.sum(dim=0))


def macro_recall(matrix: Tensor) -> float:
    """The mean over the occurring classes of TP / (TP + FN); 0 for a class that is only predicted."""
    return _mean_of_occurring(matrix, matrix.sum(dim=1))


def summary(matrix: Tensor, classes: tuple[str, ...]) -> dict[str, object]:
    """All metrics as plain numbers, with F1 and images of each class; JSON can hold it."""
    f1 = class_f1(matrix).nan_to_num().tolist()
    counts = matrix.sum(dim=1).tolist()
    return {
        "macro_f1": macro_f1(matrix),
        "accuracy": accuracy(matrix),
        "macro_precision": macro_precision(matrix),
        "macro_recall": macro_recall(matrix),
        "images": int(matrix.sum()),
        "per_class": {
            name: {"f1": score, "images": images} for name, score, images in zip(classes, f1, counts, strict=True)
        },
    }


def _mean_of_occurring(matrix: Tensor, denominator: Tensor) -> float:
    occurs = (matrix.sum(dim=0) + matrix.sum(dim=1)) > 0
    shares = matrix.diagonal().double() / denominator.clamp_min(1)
    return shares[occurs].mean().item()
