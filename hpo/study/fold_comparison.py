"""Which of a few recipes is the best, by trainings of each on the same folds: paired, and corrected for shared images.

The folds of a cross-validation share most of the images that they train on, so that their scores differ less than
those of independent trainings would. The variance of their mean is therefore taken as (1/n + q) s², with q the share
of images to validate over that to train, as Nadeau & Bengio propose ("Inference for the Generalization Error", Machine
Learning 52, 2003), in place of s²/n. With it a difference has Student's distribution, which tells how probable it is
that one recipe is better than another (the correlated Bayesian t-test of Corani & Benavoli, Machine Learning 100,
2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr, stdtrit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

CONFIDENCE = 0.95  # of the intervals
FEWEST_FOLDS = 2  # of all recipes, before one can be hopeless

Curve = tuple[float, ...]
"""Score of a training after each epoch, the first first; the higher the better."""


@dataclass(frozen=True)
class Rules:
    """From when on something is decided; the values are those that did best in docs/benchmarks.md, "The winner".

    Attributes:
        hopeless: probability with which a recipe is worse than the best one, above which it gets no more folds; this
            does not hold for the default recipe.
        evidence: probability with which a recipe is better than the default one, from which on it may win.
        tie: standard errors of the difference to the best one, within which a cheaper recipe wins.
    """

    hopeless: float = 0.8
    evidence: float = 0.7
    tie: float = 0.1


RULES = Rules()


@dataclass(frozen=True)
class Candidate:
    """A recipe and its trainings.

    Attributes:
        curves: of the folds, in their order, as far as they are complete without a gap.
        epochs: for which to train where a single fold is all that is known, 1 or more.
        cost: what decides between recipes of nearly the same score; the lower is cheaper.
        over: whether it gets no further training, since one has failed for good or was not needed.
        is_default: whether it is the default recipe, which wins unless another one is probably better.
    """

    curves: Sequence[Curve]
    epochs: int
    cost: float
    over: bool = False
    is_default: bool = False


@dataclass(frozen=True)
class Estimate:
    """The score to be expected of a recipe, trained on as many images as the folds have.

    Attributes:
        mean: of the scores.
        margin: half the length of its interval of 95 %; None where there are too few folds, or all have the same score,
            as where each image is right: then they do not say how far it may be off.
    """

    mean: float
    margin: float | None


@dataclass(frozen=True)
class Comparison:
    """What the trainings of all candidates say, each list in their order.

    Attributes:
        estimates: of each; None where it has no fold.
        hopeless_after: after how many folds it was probably worse than the best one; None where it was not.
        winner: position of the winner; None while trainings are missing.
        tied: positions of those between which the cost has decided, the winner among them.
        challenger: position of the winner, or of the best of the others where that is the default recipe; None where
            the default one has not done all folds, or is alone.
        evidence: the probability with which the challenger is better than the default recipe, in [0, 1].
    """

    estimates: Sequence[Estimate | None]
    hopeless_after: Sequence[int | None]
    winner: int | None = None
    tied: Sequence[int] = ()
    challenger: int | None = None
    evidence: float | None = None


def mean_epoch(curves: Sequence[Curve]) -> int:
    """The epoch, 1 for the first, after which the mean of these trainings is the highest, of equals the first."""
    return int(np.mean(curves, axis=0).argmax()) + 1


def scores_of(candidate: Candidate, folds: int) -> list[float]:
    """The score of each of its first folds, at the epoch that the *other* ones of these choose.

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
    if min(scores) == max(scores):
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


def compare(candidates: Sequence[Candidate], folds: int, test_share: float, rules: Rules = RULES) -> Comparison:
    """Compare recipes fold by fold: the same trainings always give the same result, in whatever order they ended.

    After each fold that all remaining recipes have done, those that are probably worse than the best one are left out,
    and so is one that is over before the next fold; later trainings of theirs change nothing. The default recipe is not
    left out, as the winner is compared with it. Of those that remain to the last fold it wins, unless another one is
    probably better: then the best of these does, or a cheaper one of nearly the same score.

    Args:
        candidates: the recipes, of which one at most is the default one.
        folds: how many each is to do, 2 or more.
        test_share: as `estimate` takes it.
        rules: from when on something is decided.
    """
    hopeless: list[int | None] = [None] * len(candidates)
    remaining, done = list(range(len(candidates))), 0
    while done < folds:
        has_more = [len(candidate.curves) > done for candidate in candidates]
        remaining = [number for number in remaining if has_more[number] or not candidates[number].over]
        if not remaining or not all(has_more[number] for number in remaining):
            break
        done += 1
        if FEWEST_FOLDS <= done < folds and len(remaining) > 1:
            paired = _pair(candidates, remaining, done, test_share)
            best = max(remaining, key=paired.means.__getitem__)
            for number in list(remaining):
                if not candidates[number].is_default and paired.probability(best, number) > rules.hopeless:
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
        return Comparison(estimates, hopeless)
    paired = _pair(candidates, remaining, folds, test_share)
    default = next((number for number in remaining if candidates[number].is_default), None)
    able = remaining
    if default is not None:
        probably_better = [number for number in remaining if paired.probability(number, default) >= rules.evidence]
        able = probably_better or [default]
    highest = max(paired.means[number] for number in able)
    tied = [number for number in able if highest - paired.means[number] <= rules.tie * paired.error]
    winner = min(tied, key=lambda number: (candidates[number].cost, -paired.means[number], number))
    if default is None or len(remaining) == 1:
        return Comparison(estimates, hopeless, winner, tied)
    others = [number for number in remaining if number != default]
    challenger = max(others, key=paired.means.__getitem__) if winner == default else winner
    return Comparison(estimates, hopeless, winner, tied, challenger, paired.probability(challenger, default))


@dataclass(frozen=True)
class _Paired:
    """Recipes on the same folds: the mean of each by its position, and the error of the difference of two of them."""

    means: Mapping[int, float]
    error: float
    freedom: int

    def probability(self, one: int, other: int) -> float:
        """With which one of the recipes is better than another one."""
        difference = self.means[one] - self.means[other]
        if self.error == 0.0:
            return 0.5 + 0.5 * float(np.sign(difference))
        return float(stdtr(self.freedom, difference / self.error))


def _pair(candidates: Sequence[Candidate], remaining: Sequence[int], folds: int, test_share: float) -> _Paired:
    """What the first folds say of the remaining recipes."""
    scores = np.array([scores_of(candidates[number], folds) for number in remaining])
    error, freedom = paired_error(scores, test_share) if len(remaining) > 1 else (0.0, 0)
    return _Paired(dict(zip(remaining, scores.mean(axis=1).tolist(), strict=True)), error, freedom)
