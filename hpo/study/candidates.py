"""What the sampler `forest` chooses among: recipes near those that are known to be good, and some at random.

As in PriorBand (Mallik et al. 2023) recipes are drawn in three ways, of which each has a share that grows with what it
has brought in this study: at random, near a starting recipe, and near the best recipes so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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

    They are in proportion to how many of the results of a way are good, before there are any to one half (Laplace's
    rule of succession).

    Args:
        results: at the first rung: how its recipe was drawn, None where somebody has given it, and its score.
        possible: at least one way.
    """
    least = np.quantile([score for _, score in results], 1 - GOOD_SHARE) if results else 0.0
    good, all_of = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)
    for way, score in results:
        if way is not None:
            good[way] += bool(score >= least)
            all_of[way] += 1
    rates = np.array([(good[way] + 1) / (all_of[way] + 2) for way in possible])
    raised = LEAST_SHARE + (1 - LEAST_SHARE * len(possible)) * rates / rates.sum()
    found: NDArray[np.float64] = raised / raised.sum()
    return found


def draw(
    encoding: Encoding, rng: np.random.Generator, parents: Mapping[Way, Coordinates], counts: Sequence[int]
) -> tuple[Coordinates, list[Way]]:
    """Recipes drawn in several ways: their coordinates, float64 [count, fields], and how each was drawn.

    Args:
        encoding: of the recipes.
        rng: where chance comes from.
        parents: for each way of which there are to be some, the recipes [n, fields] near which it draws; of those at
            random they do not matter.
        counts: how many of each of these ways.
    """
    drawn, ways = [], list[Way]()
    for (way, near), count in zip(parents.items(), counts, strict=True):
        if way == "at random":
            drawn.append(encoding.random(rng, count))
        else:
            drawn.append(encoding.neighbours(rng, near[rng.integers(len(near), size=count)]))
        ways += [way] * count
    return np.concatenate(drawn), ways
