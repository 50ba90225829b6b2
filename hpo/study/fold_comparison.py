"""Which of a few recipes is the best, by trainings of each on the same folds: paired, and corrected for shared images.

The folds of a cross-validation share most of the images that they train on, so that their scores differ less than
those of independent trainings would. The variance of their mean is therefore taken as (1/n + q) s², with q the share
of images to validate over that to train, as Nadeau & Bengio propose ("Inference for the Generalization Error", Machine
Learning 52, 2003), in place of s²/n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CONFIDENCE = 0.95  # of the intervals
FEWEST_FOLDS = 2  # of all recipes, before one can be hopeless
HOPELESS = 0.95  # confidence, one-sided, with which a recipe is worse than the best one: it needs no more folds
TIE = 1.0  # standard errors of the difference to the best one, within which the cheaper recipe is taken

Curve = tuple[float, ...]
"""Macro-F1 of a training after each epoch, the first first, in [0, 1]."""


@dataclass(frozen=True)
class Candidate:
    """A recipe and its trainings.

    Attributes:
        curves: of the folds, in their order, as far as they are complete without a gap.
        epochs: for which to train where a single fold is all that is known, 1 or more.
        cost: what decides between recipes that cannot be told apart; the lower is cheaper.
        over: whether it gets no further training, since one has failed for good or was not needed.
    """

    curves: Sequence[Curve]
    epochs: int
    cost: float
    over: bool = False


@dataclass(frozen=True)
class Estimate:
    """The score to be expected of a recipe, trained on as many images as the folds have.

    Attributes:
        mean: macro-F1, in [0, 1].
        margin: half the length of its interval of 95 %; None where there are too few folds.
    """

    mean: float
    margin: float | None


@dataclass(frozen=True)
class Comparison:
    """What the trainings of all candidates say, each list in their order.

    Attributes:
        estimates: of each; None where it has no fold.
        hopeless_after: after how many folds it was surely worse than the best one; None where it was not.
        winner: position of the winner; None while trainings are missing.
        tied: positions of those that could not be told apart from the best, with it.
    """

    estimates: Sequence[Estimate | None]
    hopeless_after: Sequence[int | None]
    winner: int | None
    tied: Sequence[int]


def mean_epoch(curves: Sequence[Curve]) -> int:
    """The epoch, 1 for the first, after which the mean of these trainings is the highest, of equals the first."""
    return int(np.mean(curves, axis=0).argmax()) + 1


def scores_of(candidate: Candidate, folds: int) -> list[float]:
    """The macro-F1 of each of its first folds, at the epoch that the *other* ones of these choose.

    The best epoch of a training by its own validation images would flatter it.
    """
    curves = candidate.curves[:folds]
    if folds == 1:
        return [curves[0][min(candidate.epochs, len(curves[0])) - 1]]
    return [curve[mean_epoch([*curves[:fold], *curves[fold + 1 :]]) - 1] for fold, curve in enumerate(curves)]


def estimate(scores: Sequence[float], test_share: float) -> Estimate:
    """The mean of the folds' scores with its interval, from Student's t and the corrected variance.

    Args:
        scores: of the folds, at least one.
        test_share: images to validate over images to train, in each fold.
    """
    if len(scores) < 2:
        return Estimate(float(np.mean(scores)), None)
    error = math.sqrt((1 / len(scores) + test_share) * float(np.var(scores, ddof=1)))
    return Estimate(float(np.mean(scores)), float(stdtrit(len(scores) - 1, (1 + CONFIDENCE) / 2)) * error)


def paired_error(scores: NDArray[np.float64], test_share: float) -> tuple[float, int]:
    """The standard error of the difference between the means of two recipes on the same folds, and its freedom.

    What all recipes find hard about a fold drops out: the variance is that of the rest, over all recipes together, so
    that a few folds suffice. Of two recipes it is the corrected paired t-test of Nadeau & Bengio.

    Args:
        scores: float64 [recipes, folds], two of each at least.
        test_share: as `estimate` takes it.
    """
    rest = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    recipes, folds = scores.shape
    freedom = (recipes - 1) * (folds - 1)
    return math.sqrt((1 / folds + test_share) * 2 * float((rest**2).sum()) / freedom), freedom


def compare(candidates: Sequence[Candidate], folds: int, test_share: float) -> Comparison:
    """Compare recipes fold by fold: the same trainings always give the same result, in whatever order they ended.

    After each fold that all remaining recipes have done, those that are surely worse than the best one are left out,
    and so is one that is over before the next fold; later trainings of theirs change nothing. Of those that remain to
    the last fold the winner is the cheapest that cannot be told apart from the best.

    Args:
        candidates: the recipes.
        folds: how many each is to do.
        test_share: as `estimate` takes it.
    """
    hopeless: list[int | None] = [None] * len(candidates)
    remaining, done = list(range(len(candidates))), 0
    while done < folds:
        has_more = [len(candidate.curves) > done for candidate in candidates]
        remaining = [number for number in remaining if has_more[number] or not candidates[number].over]
        if not remaining or not all(has_more[number] for number in remaining):
            break
        done += 1
        if done < FEWEST_FOLDS or len(remaining) < 2:
            continue
        means, error, freedom = _paired(candidates, remaining, done, test_share)
        limit = float(stdtrit(freedom, HOPELESS)) * error
        for number, mean in zip(list(remaining), means, strict=True):
            if max(means) - mean > limit:
                hopeless[number] = done
                remaining.remove(number)
    counted = [
        min(len(candidate.curves), folds if left is None else left)
        for candidate, left in zip(candidates, hopeless, strict=True)
    ]
    estimates = [
        estimate(scores_of(candidate, count), test_share) if count else None
        for candidate, count in zip(candidates, counted, strict=True)
    ]
    if not remaining or done < folds:
        return Comparison(estimates, hopeless, None, ())
    tied = remaining
    if len(remaining) > 1 and folds >= FEWEST_FOLDS:
        means, error, _ = _paired(candidates, remaining, folds, test_share)
        tied = [number for number, mean in zip(remaining, means, strict=True) if max(means) - mean <= TIE * error]
    score = {number: each.mean for number, each in enumerate(estimates) if each}
    winner = min(tied, key=lambda number: (candidates[number].cost, -score[number], number))
    return Comparison(estimates, hopeless, winner, tied)


def _paired(
    candidates: Sequence[Candidate], remaining: Sequence[int], folds: int, test_share: float
) -> tuple[list[float], float, int]:
    """The means of the remaining recipes after so many folds, and `paired_error` of two of them."""
    scores = np.array([scores_of(candidates[number], folds) for number in remaining])
    return (scores.mean(axis=1).tolist(), *paired_error(scores, test_share))
