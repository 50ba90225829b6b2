"""How good predictions are by a metric: the numbers behind the names of `trainer.objective_metric`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer import metrics
from trainer.calibration import macro_f1_of
from trainer.objective_metric import MACRO_F1
from trainer.uncertainty import drawn_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from trainer.calibration import ClassScore
    from trainer.objective_metric import Metric

DRAWS = 100  # of the images, for a standard error (Efron & Tibshirani 1993: 50 to 200)
INTERVAL_DRAWS = 400  # of the groups, for the ends of an interval


@dataclass(frozen=True, eq=False)
class Classified:
    """What was predicted of images whose classes are known.

    Attributes:
        labels: the true classes, int64 [images] on the CPU, at least one.
        predicted: int64 [images], likewise.
        probabilities: float32 [images, classes], likewise.
        classes: their names.
    """

    labels: Tensor
    predicted: Tensor
    probabilities: Tensor
    classes: Sequence[str]

    @cached_property
    def confusion(self) -> Tensor:
        """int64 [true class, predicted class]."""
        return metrics.confusion_matrix(self.labels, self.predicted, len(self.classes))

    def rows(self, rows: NDArray[np.int64]) -> Classified:
        """Those of some images, int64 [n], of each as often as it is named."""
        named = torch.from_numpy(rows)
        return replace(
            self,
            labels=self.labels[named],
            predicted=self.predicted[named],
            probabilities=self.probabilities[named],
        )


def most_probable(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating[Any]], classes: Sequence[str]
) -> Classified:
    """Images with these true classes, int64 [images], and probabilities, of which the most probable is predicted."""
    predicted = torch.from_numpy(probabilities.argmax(axis=1))
    return Classified(torch.from_numpy(labels), predicted, torch.from_numpy(probabilities), classes)


def value_of(metric: Metric, classified: Classified) -> float:
    """The value of a metric; NaN where these images do not define it."""
    return _VALUES[metric.kind](metric, classified)


def score_of(metric: Metric, classified: Classified) -> float:
    """The score of a metric, which is the higher the better; NaN where these images do not define it."""
    return metric.score(value_of(metric, classified))


def score_of_drawn(metric: Metric, classified: Classified, times: NDArray[np.int64]) -> float:
    """The score of images that count so many times, int64 [images]; NaN where these do not define it."""
    if metric == MACRO_F1:  # without copies of the images, as it is asked for a thousand times
        return macro_f1_of(classified.labels.numpy(), classified.predicted.numpy(), len(classified.classes), times)
    return score_of(metric, classified.rows(np.repeat(np.arange(len(times)), times)))


def class_score(metric: Metric, classes: Sequence[str]) -> ClassScore:
    """The score of a metric that the predicted class alone makes, as a function of classes."""
    if metric == MACRO_F1:
        return macro_f1_of

    def score(
        labels: NDArray[np.int64], predicted: NDArray[np.int64], count: int, times: NDArray[np.int64] | None
    ) -> float:
        unknown = torch.empty(len(labels), count)  # probabilities, which nobody looks at
        classified = Classified(torch.from_numpy(labels), torch.from_numpy(predicted), unknown, classes)
        return score_of(metric, classified) if times is None else score_of_drawn(metric, classified, times)

    return score


def metrics_of(metric: Metric, classified: Classified) -> dict[str, Any]:
    """All metrics of `trainer.metrics.summary`, and by its own name that by which trainings are compared.

    That is None where these images do not define it. JSON can hold all of it.
    """
    found = metrics.summary(
        classified.confusion, tuple(classified.classes), classified.labels, classified.probabilities
    )
    return {**found, metric.name: _defined_value(metric, classified)}


def _defined_value(metric: Metric, classified: Classified) -> float | None:
    """The value of a metric; None where these images do not define it, or have none of the class that it judges."""
    position = metric.position(classified.classes)
    if position is not None and not classified.confusion[position].any():
        return None
    value = value_of(metric, classified)
    return None if math.isnan(value) else value


def metrics_with_error_of(metric: Metric, classified: Classified) -> dict[str, Any]:
    """`metrics_of`; where no formula gives the standard error of the metric, `standard_error` has it by its name."""
    found = metrics_of(metric, classified)
    if metric.draws_images:
        found["standard_error"] = {metric.name: _drawn_standard_error(metric, classified)}
    return found


def _drawn_standard_error(metric: Metric, classified: Classified) -> float | None:
    """The spread of the metric over draws of the images with replacement; None where these do not define it."""
    random, images = np.random.default_rng(0), len(classified.labels)
    drawn = [value_of(metric, classified.rows(random.integers(0, images, images))) for _ in range(DRAWS)]
    defined = np.array(drawn)[np.isfinite(drawn)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else None


def value_interval(metric: Metric, classified: Classified, groups: NDArray[np.int64]) -> tuple[float, float] | None:
    """The interval of 95 % of a metric's value, by draws of the groups.

    Args:
        metric: of the study.
        classified: the images.
        groups: images with the same number belong together, int64 [images].

    Returns:
        None where the images do not define the metric, or have the same value in all draws, as of a ROC-AUC of 1: that
        tells nothing of other images.
    """
    value = _defined_value(metric, classified)
    if value is None:
        return None

    def drawn(times: NDArray[np.int64]) -> float:
        return metric.value(score_of_drawn(metric, classified, times))

    low, high = drawn_interval(drawn, groups, INTERVAL_DRAWS)
    if low == high:
        return None
    return min(low, value), max(high, value)


def _of_class(values: Tensor, metric: Metric, classified: Classified) -> float:
    """The value of the class that a metric judges, or the mean over those that have one."""
    position = metric.position(classified.classes)
    return (values.nanmean() if position is None else values[position]).item()


def _f1_of_class(metric: Metric, classified: Classified) -> float:
    return _of_class(metrics.class_f1(classified.confusion).nan_to_num(), metric, classified)


_VALUES: dict[str, Callable[[Metric, Classified], float]] = {
    "macro_f1": lambda _, found: metrics.macro_f1(found.confusion),
    "accuracy": lambda _, found: metrics.accuracy(found.confusion),
    "balanced_accuracy": lambda _, found: metrics.balanced_accuracy(found.confusion),
    "weighted_f1": lambda _, found: metrics.weighted_f1(found.confusion),
    "f1": _f1_of_class,
    "roc_auc": lambda metric, found: _of_class(metrics.roc_auc(found.labels, found.probabilities), metric, found),
    "average_precision": lambda metric, found: _of_class(
        metrics.average_precision(found.labels, found.probabilities), metric, found
    ),
    "quadratic_kappa": lambda metric, found: metrics.quadratic_kappa(found.confusion, metric.ranks(found.classes)),
    "log_loss": lambda _, found: metrics.log_loss(found.labels.numpy(), found.probabilities.numpy()),
}
