"""How far a score may be off by the choice of the images alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

DRAWS, DRAWS_AT_ONCE = 1000, 50  # of the weights of the groups
LEVEL = 0.95  # of an interval
NORMAL = 1.96  # standard errors on each side of a score that its interval reaches, for a normal distribution
WIDEST = 0.05  # half of an interval of the macro-F1; one that is wider tells little, as most recipes differ by less
ASSUMED_RECALL = 0.9  # of each class, where no model is known yet


def standard_error(per_class: Mapping[str, Mapping[str, float]]) -> float:
    """How far a macro-F1 may be off by the choice of the images alone: the standard error of the macro recall.

    Both average over the classes, so that a class of few images makes both uncertain; that of the recall is known:
    sqrt(sum over the classes of r (1 - r) / n) / classes. A class of few images that are all right is not certain: its
    r is smoothed by two images more, right as often as those of the other classes, or one of the two where there is no
    other class. Of all images taken for one class it is the standard error of the accuracy. Images that belong
    together, such as several of one person, tell less than as many independent ones: then it is too small.

    Args:
        per_class: class -> metrics with `recall` and `images`, as `trainer.metrics.summary` has them.

    Returns:
        0 where there is no image.
    """
    classes = [(row["recall"] * row["images"], row["images"]) for row in per_class.values() if row["images"]]
    all_right, all_images = sum(right for right, _ in classes), sum(images for _, images in classes)
    variance = 0.0
    for right, images in classes:
        elsewhere = (all_right - right + 1) / (all_images - images + 2)
        recall = (right + 2 * elsewhere) / (images + 2)
        variance += recall * (1 - recall) / images
    return math.sqrt(variance) / max(1, len(classes))


def expected_half_width(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> float:
    """Half the interval of 95 % of a macro-F1 on such images, were 9 of 10 of each class right.

    That of the macro recall, as in `standard_error`. A class counts as many independent images as its groups are
    worth, (sum m)^2 / sum m^2 for groups of m of its images (Kish, Survey Sampling, 1965), since whole groups may be
    wrong.

    Args:
        labels: classes, int64 [images].
        groups: images with the same number belong together, int64 [images].

    Returns:
        0 where there is no image.
    """
    classes, variance = np.unique(labels), 0.0
    for label in classes:
        sizes = np.unique(groups[labels == label], return_counts=True)[1]
        variance += ASSUMED_RECALL * (1 - ASSUMED_RECALL) * float((sizes**2).sum() / sizes.sum() ** 2)
    return NORMAL * math.sqrt(variance) / max(1, len(classes))


def tells_little(interval: Sequence[float] | None) -> bool:
    """Whether an interval of a macro-F1 is wider than two recipes differ by most often; so is one that is not known."""
    return interval is None or (interval[1] - interval[0]) / 2 > WIDEST


@dataclass(frozen=True)
class Intervals:
    """Where the scores of all images like these lie, with 95 % confidence: lower and upper ends, in [0, 1].

    Attributes:
        macro_f1: of the macro-F1.
        accuracy: of the accuracy.
        class_f1: of the F1 of each class; None for one that no image has.
        groups: how many groups of images the intervals are by.
    """

    macro_f1: tuple[float, float]
    accuracy: tuple[float, float]
    class_f1: tuple[tuple[float, float] | None, ...]
    groups: int


def score_intervals(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], groups: NDArray[np.int64], classes: int, seed: int = 0
) -> Intervals | None:
    """Intervals of 95 % by the Bayesian bootstrap over groups (Rubin, Annals of Statistics 9, 1981).

    In place of how often a group is drawn, each draw gives it a weight (exponential, of mean 1), so that no draw is
    without an image of some class: nothing has to be stratified, which groups of several classes could not be.

    The F1 of a class follows from a share, s = TP / (TP + FP + FN), as 2 s / (1 + s). To this share each draw adds half
    a right and half a wrong image, or group where images come in groups (the prior of Jeffreys), as a class that is all
    right is not certain. Where each image is its own group, that is the interval of Brown, Cai & DasGupta (Statistical
    Science 16, 2001). The classes of a macro-F1 divide one such prior, and the draws are moved by how far the mean of
    plain draws lies from the macro-F1, as F1 bends downwards.

    Args:
        labels: true classes, int64 [images].
        predicted: int64 [images].
        groups: images with the same number belong together, int64 [images].
        classes: how many there are.
        seed: of the draws.

    Returns:
        None where all images are of one group, which tells nothing of others.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count < 2:
        return None

    def table(*parts: tuple[NDArray[np.bool_], NDArray[np.int64]]) -> csr_array:
        """How many of these images count in which row and group: float64 [classes + 1, groups]."""
        rows = np.concatenate([row[of] for of, row in parts])
        columns = np.concatenate([numbers[of] for of, _ in parts])
        return csr_array((np.ones(len(rows)), (rows, columns)), (classes + 1, count))

    right, every, last = labels == predicted, np.full(len(labels), True), np.full(len(labels), classes)
    hits = table((right, labels), (right, last))  # TP of each class; the last row is that of the accuracy
    seen = table((every, labels), (~right, predicted), (every, last))  # TP + FP + FN
    random, all_groups = np.random.default_rng(seed), np.ones(count)
    drawn = np.concatenate([((hits @ one).T, (seen @ one).T) for one in _weights(random, count)], axis=1)
    sizes = (seen * seen) @ all_groups / np.maximum(seen @ all_groups, 1)  # of the group of one of these images, mean
    has_images = np.bincount(labels, minlength=classes + 1) > 0  # a class without any is never right
    has_images[classes] = True

    def shares(prior: float) -> NDArray[np.float64]:
        """Those of the draws with this part of a group right and wrong: float64 [draws, classes + 1]."""
        more, less = (random.gamma(prior, size=drawn[0].shape) * sizes for _ in range(2))
        return _share(drawn[0] + more * has_images, drawn[1] + more * has_images + less)

    occurs = (seen @ all_groups)[:classes] > 0
    exact = _share(hits @ all_groups, seen @ all_groups)
    value = float(_f1(exact[:classes])[occurs].mean())
    bias = _f1(_share(*drawn)[:, :classes])[:, occurs].mean() - value
    divided, alone = shares(0.5 / int(occurs.sum())), shares(0.5)
    return Intervals(
        macro_f1=_interval(_f1(divided[:, :classes])[:, occurs].mean(axis=1) - bias, value),
        accuracy=_interval(alone[:, classes], float(exact[classes])),
        class_f1=tuple(
            _interval(_f1(alone[:, label]), float(_f1(exact[label]))) if has_images[label] else None
            for label in range(classes)
        ),
        groups=count,
    )


def drawn_interval(
    value: Callable[[NDArray[np.int64]], float], groups: NDArray[np.int64], draws: int, seed: int = 0
) -> tuple[float, float]:
    """The interval of 95 % of a value, by draws of the groups with replacement.

    That is the percentile interval of Efron & Tibshirani (1993). A draw whose images do not define the value is left
    out.

    Args:
        value: where each image counts so many times, int64 [images]; NaN where that is not defined.
        groups: images with the same number are drawn together, int64 [images].
        draws: how many.
        seed: of the draws.
    """
    numbers = np.unique(groups, return_inverse=True)[1]
    count, random, drawn = int(numbers.max()) + 1, np.random.default_rng(seed), np.empty(draws)
    for draw in range(draws):
        drawn[draw] = value(np.bincount(random.integers(0, count, count), minlength=count)[numbers])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _weights(random: np.random.Generator, groups: int) -> Iterator[NDArray[np.float64]]:
    """Those of the groups in some draws, of mean 1: float64 [groups, draws]."""
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        yield random.exponential(size=(groups, DRAWS_AT_ONCE))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 where both are 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def _f1(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 by TP / (TP + FP + FN)."""
    return 2 * share / (1 + share)


def _interval(draws: NDArray[np.float64], value: float) -> tuple[float, float]:
    """The middle of the draws of a score, which has that score in it; of 0 and 1 it reaches to the end."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (
        max(min(float(low), value), 0.0) if value > 0 else 0.0,
        min(max(float(high), value), 1.0) if value < 1 else 1.0,
    )
