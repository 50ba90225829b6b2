"""What the sampler `forest` chooses among: recipes near those that are known to be good, and some at random.

As in PriorBand (Mallik et al. 2023) a recipe is drawn in one of three ways, each of which is taken the more often the
more it has brought in this study: at random, near a starting recipe, and near the best recipes so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.study.encoding import Coordinates, Encoding

Way = Literal["at random", "near a starting recipe", "near the best"]
"""How a recipe is drawn."""

WAYS: tuple[Way, ...] = get_args(Way)
GOOD_SHARE = 0.25  # of the results at the first rung that count as good
LEAST_SHARE = 0.1  # of the recipes that each way keeps, whatever it brings


@dataclass(frozen=True)
class Proposal:
    """A recipe to try: its coordinates [fields], and how it was drawn."""

    coordinates: Coordinates
    way: Way


def shares(results: Sequence[tuple[Way | None, float]], possible: Sequence[Way]) -> NDArray[np.float64]:
    """How often each of the possible ways is to be taken, float64 [ways], 1 together.

    How often a way brings a good result is told by Laplace's rule of succession; before there are any, one that draws
    near others brings one every second time, and one at random as often as any. Shares are in proportion to what each
    brings more often than chance: neighbours of what was lucky are no better than random recipes, and are to be few.

    Args:
        results: at the first rung: how its recipe was drawn, None where somebody has given it, and its score.
        possible: "at random" and others.
    """
    least = np.quantile([score for _, score in results], 1 - GOOD_SHARE) if results else 0.0
    good, all_of = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)
    for way, score in results:
        if way is not None:
            good[way] += bool(score >= least)
            all_of[way] += 1
    chance = (good["at random"] + 2 * GOOD_SHARE) / (all_of["at random"] + 2)
    gains = np.array(
        [chance if way == "at random" else max(0.0, (good[way] + 1) / (all_of[way] + 2) - chance) for way in possible]
    )
    raised = LEAST_SHARE + (1 - LEAST_SHARE * len(possible)) * gains / gains.sum()
    found: NDArray[np.float64] = raised / raised.sum()
    return found


def draw(encoding: Encoding, rng: np.random.Generator, count: int, near: Coordinates) -> Coordinates:
    """Coordinates of recipes, float64 [count, fields], each near one of others [n, fields]; at random without any."""
    if not len(near):
        return encoding.random(rng, count)
    return encoding.neighbours(rng, near[rng.integers(len(near), size=count)])
