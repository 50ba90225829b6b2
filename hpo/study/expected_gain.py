"""What further trials may be expected to bring, from the scores of those that a study has done, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.keys import METRICS_KEY
from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from storage.budget import Limits, Used
    from storage.study_rows import PlaceRow
    from trainer.objective_metric import Metric

FEWEST_TRIALS = 12  # below which nothing is said
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class ExpectedGain:
    """What further trials may be expected to bring.

    Attributes:
        trials: how many: those that the budget has left, or as many again as have ended, where it has none.
        rise: by how much the best score may be expected to rise.
        gpu_hours: that they would take, each as long as those before on average.
        noise: the standard error of the best score by the choice of the validation images; None where it is not known.
        metric: that gives the scores.
    """

    trials: int
    rise: float
    gpu_hours: float
    noise: float | None
    metric: Metric = MACRO_F1

    def line(self) -> str:
        """The expectation as people read it."""
        small = self.noise is not None and self.rise < self.noise
        noise = f", less than the noise of {self.noise:.4f}" if small else ""
        return (
            f"{counted(self.trials, 'more trial')}, about {self.gpu_hours:.2g} GPU hours, may"
            f" {'raise' if self.metric.maximised else 'lower'} the best by about {self.rise:.4f}{noise}"
        )

    def as_json(self) -> dict[str, Any]:
        """As `hpo status --json` prints it: the gain, above 0 also where it is a fall, by the metric's name."""
        gain = {"trials": self.trials, self.metric.name: self.rise}
        return {**gain, "gpu_hours": self.gpu_hours, "noise": self.noise}


def expected_gain(
    places: Sequence[PlaceRow], used: Used, limits: Limits, best: FrozenTrial | None, metric: Metric = MACRO_F1
) -> ExpectedGain | None:
    """What further trials of a study may be expected to bring.

    Args:
        places: of the budget; a trial that was pruned or paused counts with its best score.
        used: of the budget.
        limits: of the budget.
        best: the best trial.
        metric: that gives the scores.

    Returns:
        None where too few trials have ended, or the best one is none of these, as where it was taken over.
    """
    ended = [place for place in places if place.state in ("complete", "pruned", "paused") and place.best is not None]
    if len(ended) < FEWEST_TRIALS or best is None or all(place.trial != best.number for place in ended):
        return None
    scores = [place.best for place in ended if place.best is not None]
    hours = sum(place.seconds for place in ended) / len(ended) / SECONDS_AN_HOUR
    more = _trials_left(used, limits, hours) or len(ended)
    metrics = best.user_attrs.get(METRICS_KEY)
    noise = metric.standard_error(metrics) if metrics else None
    return ExpectedGain(more, min(rise(scores, more), metric.highest - max(scores)), more * hours, noise, metric)


def rise(scores: Sequence[float], more: int) -> float:
    """By how much the best of some scores may be expected to rise with so many more of the same kind.

    The expected best of m scores, v(m), is estimated without bias from all scores for m = n/4, n/2 and n (Tang et al.,
    "Showing Your Work Doesn't Always Work", ACL 2020, equation 4). Through these three goes v(m) = a - c m^-alpha, the
    power law of learning curves (Domhan et al., IJCAI 2015, pow3) that the best of independent draws from a bounded
    distribution follows; where it would have no end, a + c log(m), which the best of normal ones nearly does.

    The scores count as independent draws: a search that learns from its trials may bring more than it says.
    """
    quarter, n = len(scores) // 4, len(scores)
    lowest, middle, highest = (expected_best(scores, m) for m in (quarter, 2 * quarter, 4 * quarter))
    before, last = middle - lowest, highest - middle
    if last <= 0 or before <= 0:
        return 0.0
    if last >= before:
        return last * math.log2((n + more) / n)
    alpha = math.log2(before / last)
    scale = last / ((2 * quarter) ** -alpha - (4 * quarter) ** -alpha)
    return float(scale * (n**-alpha - (n + more) ** -alpha))


def expected_best(scores: Sequence[float], m: int) -> float:
    """The mean, over all choices of m of the scores, of the best one."""
    n = len(scores)
    descending, rank = np.sort(scores)[::-1], np.arange(n, 1, -1)
    # The share of the choices whose best is the score of a rank: m/n for the highest; further down each one is that of
    # the one above times (rank - m) / (rank - 1).
    shares = m / n * np.concatenate([[1.0], np.cumprod(np.maximum(rank - m, 0) / (rank - 1))])
    return float(descending @ shares)


def _trials_left(used: Used, limits: Limits, hours: float) -> int:
    """How many trials the budget has left where each takes so many GPU hours; 0 where it has none."""
    left = [math.inf if limits.trials is None else limits.trials - used.trials]
    if limits.gpu_hours is not None and hours > 0:
        left.append((limits.gpu_hours - used.gpu_hours) // hours)
    return max(0, int(min(left))) if math.isfinite(min(left)) else 0
