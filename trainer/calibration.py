"""Class probabilities that mean what they say, and offsets of the classes for a metric; each judged on other images.

Nothing here judges on the images that it was fitted on: the images are divided into parts, and each part is judged by
what was fitted on the others. Images of one group are never in two parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from trainer.metrics import SMALLEST, log_loss
from trainer.uncertainty import drawn_interval

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    ClassScore = Callable[[NDArray[np.int64], NDArray[np.int64], int, NDArray[np.int64] | None], float]
    """Of true and predicted classes, of which there are so many, and of how often each image counts; None is once."""

BINS = 15  # of the confidence, as in Guo et al. 2017
HALVINGS = 40  # of the range in which the best temperature is looked for, 1/20 to 20
GRID = np.linspace(-3, 3, 61)  # offsets that are tried, in logits
ROUNDS = 5  # over all classes, at most
RESAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Unseen:
    """Images with the probabilities that models gave which had not learned them.

    Attributes:
        labels: the true classes, int64 [images].
        probabilities: float32 [images, classes].
        groups: images with the same number belong together, int64 [images].
        parts: which part each image is in, int64 [images], from 0 on; -1: in none, used only to fit.
    """

    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    groups: NDArray[np.int64]
    parts: NDArray[np.int64]

    def halves(self) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each part: which images to fit on, and which to judge, bool [images]."""
        for part in range(int(self.parts.max()) + 1):
            judged = self.parts == part
            yield ~judged, judged


@dataclass(frozen=True)
class Temperature:
    """A temperature, and what it does on images that it was not fitted on.

    Attributes:
        value: by which logits are divided, above 0; fitted on all images.
        log_loss: mean negative log-probability of the true class, without and with temperature.
        calibration_error: expected calibration error, without and with it, in [0, 1].
        crossed: the probabilities of each part at the temperature of the others, float32 [images, classes].
    """

    value: float
    log_loss: tuple[float, float]
    calibration_error: tuple[float, float]
    crossed: NDArray[np.float32] = field(repr=False, compare=False)

    @property
    def helps(self) -> bool:
        """Whether the log loss of images that it was not fitted on is lower with it."""
        return self.log_loss[1] < self.log_loss[0]


@dataclass(frozen=True, eq=False)
class Offsets:
    """Offsets of the classes, and what they do for a metric on images that they were not fitted on.

    Attributes:
        values: added to the logits before the best class is taken, float64 [classes]; fitted on all images.
        scores: of the metric, without and with offsets; the higher the better.
        interval: of the gain, by resampling the groups.
        crossed: the class of each image by the offsets of the other parts, int64 [images].
    """

    values: NDArray[np.float64]
    scores: tuple[float, float]
    interval: tuple[float, float]
    crossed: NDArray[np.int64]

    @property
    def gain(self) -> float:
        """Of the score."""
        return self.scores[1] - self.scores[0]

    @property
    def helps(self) -> bool:
        """Whether the gain is beyond its interval."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Decision:
    """How probabilities become those that are shown, and a class.

    Attributes:
        temperature: above 0; 1 leaves the probabilities as they are.
        offsets: of the classes, added to their log-probabilities for the choice of the class; empty for none.
    """

    temperature: float = 1.0
    offsets: tuple[float, ...] = ()

    def probabilities(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Those that are shown, float32 [images, classes]."""
        return probabilities if self.temperature == 1 else at_temperature(probabilities, self.temperature)

    def classes(self, shown: NDArray[np.float32]) -> NDArray[np.int64]:
        """The class of each image by the probabilities that are shown, int64 [images]; of equals the first."""
        best: NDArray[np.int64] = (_logits(shown) + self.offsets if self.offsets else shown).argmax(axis=1)
        return best


def mean_of(
    decisions: Sequence[Decision], votes: Sequence[int], probabilities: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The mean of what models show, float32 [images, classes], each counted as often as it has votes.

    Args:
        decisions: of each model; its temperature comes before the mean.
        votes: of each model, 1 or more.
        probabilities: float32 [models, images, classes].
    """
    shown = [decision.probabilities(each) for decision, each in zip(decisions, probabilities, strict=True)]
    return np.average(shown, axis=0, weights=votes).astype(np.float32)


def at_temperature(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """The probabilities that logits give which are divided by the temperature, float32 [images, classes]."""
    logits = _logits(probabilities) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float32] = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def expected_calibration_error(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """How far the confidence is from the share of right answers, in [0, 1]: 0 where 80 % sure means right in 80 %.

    The mean over the images of the distance between mean confidence and accuracy of their bin, of 15 of equal width
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017). Of few images it is too high by chance.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    surplus = np.bincount(bins, confidence.astype(np.float64) - right, minlength=BINS)
    return float(np.abs(surplus).sum() / len(labels))


def fit_temperature(unseen: Unseen) -> Temperature:
    """Find the temperature with the lowest log loss (Guo et al. 2017), and judge each part by that of the others."""
    fitted = _crossed(unseen)
    judged = unseen.parts >= 0
    labels, before, after = unseen.labels[judged], unseen.probabilities[judged], fitted[judged]
    return Temperature(
        _best_temperature(unseen.labels, unseen.probabilities),
        (log_loss(labels, before), log_loss(labels, after)),
        (expected_calibration_error(labels, before), expected_calibration_error(labels, after)),
        fitted,
    )


def macro_f1_of(
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: int,
    times: NDArray[np.int64] | None = None,
) -> float:
    """Macro-F1 as `trainer.metrics.macro_f1` defines it, of images that count so many times."""
    right = np.bincount(labels, (labels == predicted) if times is None else times * (labels == predicted), classes)
    both = np.bincount(labels, times, classes) + np.bincount(predicted, times, classes)
    return float((2 * right[both > 0] / both[both > 0]).mean())


def fit_offsets(unseen: Unseen, seed: int = 0, score: ClassScore = macro_f1_of) -> Offsets:
    """Find the offsets with the highest score, class by class, and judge each part by those of the others.

    Args:
        unseen: the images.
        seed: of the resampling of the groups for the interval.
        score: of predicted classes.
    """
    classes = unseen.probabilities.shape[1]
    logits, before = _logits(unseen.probabilities), unseen.probabilities.argmax(axis=1)
    after = before.copy()
    for fit, judge in unseen.halves():
        after[judge] = (logits[judge] + _best_offsets(unseen.labels[fit], logits[fit], score)).argmax(axis=1)
    judged = unseen.parts >= 0
    labels, predicted = unseen.labels[judged], (before[judged], after[judged])

    def scores(times: NDArray[np.int64]) -> tuple[float, float]:
        return score(labels, predicted[0], classes, times), score(labels, predicted[1], classes, times)

    return Offsets(
        _best_offsets(unseen.labels, logits, score),
        (score(labels, predicted[0], classes, None), score(labels, predicted[1], classes, None)),
        gain_interval(scores, unseen.groups[judged], seed),
        after,
    )


def gain_interval(
    scores: Callable[[NDArray[np.int64]], tuple[float, float]],
    groups: NDArray[np.int64],
    seed: int = 0,
    draws: int = RESAMPLES,
) -> tuple[float, float]:
    """The interval of 95 % of the gain in score of the second predictions over the first, on the same images.

    Groups are drawn with replacement, as `drawn_interval` does.

    Args:
        scores: of the first and of the second, where each image counts so many times, int64 [images].
        groups: which images are drawn together, int64 [images].
        seed: of the draws.
        draws: how many.
    """

    def gain(times: NDArray[np.int64]) -> float:
        first, second = scores(times)
        return second - first

    return drawn_interval(gain, groups, draws, seed)


def _logits(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.log(np.maximum(probabilities, SMALLEST).astype(np.float64))


def _best_temperature(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """The temperature with the lowest log loss, which is convex in 1 / temperature: its slope is brought to 0."""
    logits = _logits(probabilities)
    true, low, high = logits[np.arange(len(labels)), labels].mean(), 1 / 20, 20.0
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        expected = (at_temperature(probabilities, 1 / middle) * logits).sum(axis=1).mean()
        low, high = (middle, high) if expected < true else (low, middle)
    return float(1 / np.sqrt(low * high))


def _crossed(unseen: Unseen) -> NDArray[np.float32]:
    """The probabilities of each part at the temperature of the others."""
    found = unseen.probabilities.copy()
    for fit, judge in unseen.halves():
        value = _best_temperature(unseen.labels[fit], unseen.probabilities[fit])
        found[judge] = at_temperature(unseen.probabilities[judge], value)
    return found


def _best_offsets(labels: NDArray[np.int64], logits: NDArray[np.float64], score: ClassScore) -> NDArray[np.float64]:
    """The offsets with the highest score on these images, found one class after the other."""
    classes = logits.shape[1]
    offsets = np.zeros(classes)
    best = score(labels, logits.argmax(axis=1), classes, None)
    nearest_first = GRID[np.argsort(np.abs(GRID), kind="stable")]  # of equally good ones the smallest is taken
    for _ in range(ROUNDS):
        before = best
        for label in range(classes):
            shifted = logits + offsets
            shifted[:, label] = -np.inf
            other, rival = shifted.max(axis=1), shifted.argmax(axis=1)
            for offset in nearest_first:
                predicted = np.where(logits[:, label] + offset > other, label, rival)
                if (reached := score(labels, predicted, classes, None)) > best + 1e-12:
                    best, offsets[label] = reached, offset
        if best == before:
            break
    return offsets
