"""Which models vote together: greedy selection with replacement (Caruana et al., ICML 2004), judged on other images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.calibration import gain_interval, log_loss, macro_f1_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

REPEATS = 10  # divisions of the images into halves that choose and judge


@dataclass(frozen=True)
class Gain:
    """What an ensemble gains in macro-F1 over the best single model, on images that neither was chosen by.

    Attributes:
        mean: over several divisions into halves.
        interval: of 95 %, by resampling the groups; the mean of its ends over these divisions.
    """

    mean: float
    interval: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """For bundle.json."""
        return {"gain": self.mean, "interval": list(self.interval), "judged_on": "validation images that chose nothing"}


def select(labels: NDArray[np.int64], candidates: NDArray[np.float32], votes: int) -> NDArray[np.int64]:
    """How many votes each model gets, int64 [models]: of one vote after the other, as many as serve best.

    Each vote goes to the model with which the mean of the probabilities has the highest macro-F1, of equals the lowest
    log loss; a model may have several. The fewest votes with the highest macro-F1, likewise, are taken.

    Args:
        labels: the true classes, int64 [images].
        candidates: probabilities, float32 [models, images, classes].
        votes: at most.
    """
    models, _, classes = candidates.shape
    total, counts = np.zeros(candidates.shape[1:]), np.zeros(models, np.int64)
    best: tuple[float, float] = (-1.0, 0.0)
    chosen = counts
    for vote in range(1, votes + 1):
        scored = []
        for model in range(models):
            mean = ((total + candidates[model]) / vote).astype(np.float32)
            scored.append((macro_f1_of(labels, mean.argmax(axis=1), classes), -log_loss(labels, mean)))
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
) -> Gain:
    """What an ensemble gains over a single model, both chosen on one half of the images, judged on the other.

    Args:
        labels: the true classes, int64 [images].
        candidates: probabilities, float32 [models, images, classes].
        votes: of the ensemble, at most.
        groups: images with the same number belong together, int64 [images].
        divisions: the half of each image, int64 [images], 0 or 1, several times; -1: only chooses.
    """
    classes = candidates.shape[2]
    gains, intervals = [], []
    for halves in divisions:
        predicted = np.zeros((2, len(labels)), np.int64)  # by the single model, by the ensemble
        for half in (0, 1):
            choosing, judged = halves != half, halves == half
            for arm, most in enumerate((1, votes)):
                counts = select(labels[choosing], candidates[:, choosing], most)
                predicted[arm, judged] = np.average(candidates[:, judged], axis=0, weights=counts).argmax(axis=1)
        judged = halves >= 0
        pair, true = (predicted[0, judged], predicted[1, judged]), labels[judged]
        gains.append(macro_f1_of(true, pair[1], classes) - macro_f1_of(true, pair[0], classes))
        intervals.append(gain_interval(true, pair, groups[judged]))
    low, high = np.mean(intervals, axis=0).tolist()
    return Gain(float(np.mean(gains)), (low, high))
