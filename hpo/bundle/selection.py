"""Which models vote together: greedy selection with replacement (Caruana et al., ICML 2004), judged on other images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.calibration import RESAMPLES, gain_interval
from trainer.metrics import log_loss
from trainer.scoring import most_probable, score_of_drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.objective_metric import Metric

REPEATS = 10  # divisions of the images into halves that choose and judge
UNKNOWN_GAIN = "not known, as no class has two validation images, one to choose by and one to judge by"
FEWER_RESAMPLES = 200  # for an interval of a metric of probabilities, which takes long


@dataclass(frozen=True)
class Gain:
    """What an ensemble gains in score over the best single model, on images that neither was chosen by.

    Attributes:
        mean: over several divisions into halves.
        interval: of 95 %, by resampling the groups; the mean of its ends over these divisions.
    """

    mean: float
    interval: tuple[float, float]

    def text(self) -> str:
        """For people."""
        low, high = self.interval
        return (
            f"{self.mean:+.4f} ({low:+.4f} to {high:+.4f} in 95 %), on validation images that neither was chosen by"
            f"{'' if low > 0 else ': this may be chance'}"
        )

    def as_json(self) -> dict[str, Any]:
        """For bundle.json."""
        return {"gain": self.mean, "interval": list(self.interval), "judged_on": "validation images that chose nothing"}


@dataclass(frozen=True)
class Criterion:
    """By what models are chosen.

    Attributes:
        metric: of the study.
        classes: their names.
    """

    metric: Metric
    classes: Sequence[str]

    def score(self, labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> tuple[float, float]:
        """The higher the better: the score of the metric, of equals the lower log loss."""
        told = most_probable(labels, probabilities, self.classes)
        score = score_of_drawn(self.metric, told, np.ones(len(labels), np.int64))
        return (-math.inf if math.isnan(score) else score), -log_loss(labels, probabilities)


def select(
    labels: NDArray[np.int64], candidates: NDArray[np.float32], votes: int, criterion: Criterion
) -> NDArray[np.int64]:
    """How many votes each model gets, int64 [models]: of one vote after the other, as many as serve best.

    Each vote goes to the model with which the mean of the probabilities has the highest score, of equals the lowest log
    loss; a model may have several. The fewest votes with the highest score, likewise, are taken.

    Args:
        labels: the true classes, int64 [images].
        candidates: probabilities, float32 [models, images, classes].
        votes: at most.
        criterion: by what they are chosen.
    """
    models = len(candidates)
    total, counts = np.zeros(candidates.shape[1:]), np.zeros(models, np.int64)
    best: tuple[float, float] = (-math.inf, -math.inf)
    chosen = counts
    for vote in range(1, votes + 1):
        scored = []
        for model in range(models):
            mean = ((total + candidates[model]) / vote).astype(np.float32)
            scored.append(criterion.score(labels, mean))
        model = max(range(models), key=scored.__getitem__)
        total = total + candidates[model]
        counts = counts + (np.arange(models) == model)
        if scored[model] > best:
            best, chosen = scored[model], counts
    return chosen


def judge(
    labels: NDArray[np.int64],
    candidates: NDArray[np.float32],
    votes: int,
    groups: NDArray[np.int64],
    divisions: Sequence[NDArray[np.int64]],
    criterion: Criterion,
) -> Gain | None:
    """What an ensemble gains over a single model, both chosen on one half of the images, judged on the other.

    None where no image is in a half, as each class has but one group.

    Args:
        labels: the true classes, int64 [images].
        candidates: probabilities, float32 [models, images, classes].
        votes: of the ensemble, at most.
        groups: images with the same number belong together, int64 [images].
        divisions: the half of each image, int64 [images], 0 or 1, several times; -1: only chooses.
        criterion: by what they are chosen, and judged.
    """
    gains, intervals = [], []
    for halves in divisions:
        if not (halves >= 0).any():
            return None
        shown = np.zeros((2, *candidates.shape[1:]))  # by the single model, by the ensemble
        for half in (0, 1):
            choosing, judged = halves != half, halves == half
            for arm, most in enumerate((1, votes)):
                counts = select(labels[choosing], candidates[:, choosing], most, criterion)
                shown[arm, judged] = np.average(candidates[:, judged], axis=0, weights=counts)
        judged = halves >= 0
        (first, second), interval = paired_scores(labels[judged], shown[:, judged], groups[judged], criterion)
        gains.append(second - first)
        intervals.append(interval)
    low, high = np.nanmean(intervals, axis=0).tolist()
    return Gain(float(np.nanmean(gains)), (low, high))


def paired_scores(
    labels: NDArray[np.int64],
    shown: NDArray[np.floating[Any]],
    groups: NDArray[np.int64],
    criterion: Criterion,
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The scores of two predictions of the same images, and the interval of 95 % of what the second one gains.

    Args:
        labels: the true classes, int64 [images].
        shown: probabilities, floats [2, images, classes].
        groups: images with the same number belong together, int64 [images].
        criterion: by what they are judged.
    """
    metric = criterion.metric
    first, second = (most_probable(labels, each, criterion.classes) for each in shown)

    def scores(times: NDArray[np.int64]) -> tuple[float, float]:
        return score_of_drawn(metric, first, times), score_of_drawn(metric, second, times)

    draws = RESAMPLES if metric.is_by_class else FEWER_RESAMPLES
    return scores(np.ones(len(labels), np.int64)), gain_interval(scores, groups, draws=draws)
