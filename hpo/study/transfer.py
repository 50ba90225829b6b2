"""What earlier studies teach a model of recipes: rows of scores, of less weight the more a study knows by itself."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

FADING = 20  # results of the study's own at which an earlier one counts half, also where it agrees
MOST_WEIGHT = 20  # results of the study's own that all of an earlier one together may count as
FAITH = 2  # results of the study's own that it takes to doubt an earlier one as much as they contradict it
FEWEST_RESULTS = 3  # of the study's own, below which nothing is known of its scores
FEWEST_LESSONS = 5  # recipes of an earlier study, below which it teaches nothing


class Lesson:
    """The results of one earlier study, as ranks: other images have other scores, but often the same order of recipes.

    Args:
        features: of its recipes, float64 [recipes, features].
        ranks: of their scores, float64 [recipes] in [0, 1], 1 for the best.
    """

    def __init__(self, features: Numbers, ranks: Numbers) -> None:
        self.features, self.ranks = features, ranks

    def weight(self, features: Numbers, scores: Numbers) -> float:
        """How much one of its results counts beside one of the study's own, in [0, 1].

        At first they count as `MOST_WEIGHT` together. That falls with the number n of own results as `FADING` /
        (`FADING` + n), and with their rank correlation r with what the earlier study has them expect, as (`FAITH` +
        n r) / (`FAITH` + n): to 0 where the two contradict.

        Args:
            features: of the study's own recipes, float64 [n, features].
            scores: of these, float64 [n].
        """
        count, most = len(scores), min(1.0, MOST_WEIGHT / len(self.ranks))
        if count < FEWEST_RESULTS:
            return most
        agreement = rank_correlation(self._model.predict(features), scores)
        return most * FADING / (FADING + count) * max(0.0, (FAITH + count * agreement) / (FAITH + count))

    def scores(self, own: Numbers) -> Numbers:
        """Its ranks as scores, float64 [recipes]: the quantiles of the study's own ones [n], where these are enough."""
        return np.quantile(own, self.ranks) if len(own) >= FEWEST_RESULTS else self.ranks

    @cached_property
    def _model(self) -> Any:
        from sklearn.ensemble import ExtraTreesRegressor

        return ExtraTreesRegressor(40, min_samples_leaf=2, max_features=1 / 3, random_state=0).fit(
            self.features, self.ranks
        )


def rank_correlation(one: Numbers, other: Numbers) -> float:
    """Spearman's rank correlation of two arrays [n]; 0 where one of them is the same everywhere."""
    deviations = [ranks - ranks.mean() for ranks in (shares_below(one), shares_below(other))]
    lengths = [float(np.linalg.norm(each)) for each in deviations]
    return float(np.dot(*deviations)) / (lengths[0] * lengths[1]) if min(lengths) > 0 else 0.0


def shares_below(values: Numbers) -> Numbers:
    """The rank of each value [n] in [0, 1], 1 for the highest; of equals the mean."""
    ordered = np.sort(values)
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1
    return twice / 2 / max(1, len(values) - 1)
