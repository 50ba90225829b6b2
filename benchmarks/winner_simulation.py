"""How good the recipe truly is that a search ends with: the best validation score, or what `hpo confirm` names.

    python benchmarks/winner_simulation.py [--cases 2000] [--recipes 100]

The truth is drawn, so that the regret is known: the score of the truly best recipe, less that of the chosen one. A
score is the recipe's true score, and what a fold does to all recipes, and what its images do to this recipe, and what
the seed of the training does. The sizes of these are those of real trainings that were repeated: six recipes on four
folds of 450 digits with two seeds each, scored on their fold and on 600 digits beside, where only the seed and
the images to train make a difference. The folds are cut from the images that the search has chosen by: what these
images do to a recipe stays the same, so that the luck of the search is partly in the folds, as in reality.

Chosen is, by the decisions of `hpo.study.fold_comparison`, with all models of one size: by the best validation score,
by the sum of that and one more training of the best ten on the same split, and by `hpo confirm` with K and R. Printed
are the mean regret, the share of cases in which the choice is truly worse than the default recipe, the trainings beside
the search, and how often the interval of the winner holds its true score, and so that of the optimism the true one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpo.study.fold_comparison import Candidate, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOLDS = 4  # of one cross-validation; the search validates on a quarter of the images, too
SHARE = 1 / (FOLDS - 1)
SEED_SD, IMAGES_SD, FOLD_SD = 0.020, 0.018, 0.012  # of one training: by its seed, its images and its fold
DEFAULT_RANK = 0.3  # share of the recipes that are truly better than the default one
SPREADS = (0.01, 0.03, 0.10)  # mean distance of a recipe from the best possible one


@dataclass(frozen=True)
class Case:
    """One search: true scores and those that it has seen, float64 [recipes], and what images do to each recipe.

    cells: float64 [recipes, FOLDS, FOLDS], by the part of the images that the search has validated on and by the fold.
    """

    true: NDArray[np.float64]
    seen: NDArray[np.float64]
    default: int
    cells: NDArray[np.float64]


def draw(random: np.random.Generator, recipes: int, spread: float) -> Case:
    """Draw a search."""
    true = 0.9 - random.exponential(spread, recipes)
    default = int(np.argsort(-true)[int(DEFAULT_RANK * recipes)])
    cells = random.normal(0, IMAGES_SD * np.sqrt(FOLDS), (recipes, FOLDS, FOLDS))
    seen = true + cells[:, 0].mean(axis=1) + random.normal(0, SEED_SD, recipes)
    return Case(true, seen, default, cells)


def confirmed(case: Case, random: np.random.Generator, top: int, repeats: int) -> tuple[int, int, bool]:
    """What `hpo confirm` chooses, how many trainings that takes, and whether the winner's interval holds its score."""
    best = [int(number) for number in np.argsort(-case.seen)[:top]]
    chosen = best if case.default in best else [*best, case.default]
    folds = random.normal(0, FOLD_SD, repeats)
    scores = np.empty((len(chosen), repeats))
    for fold in range(repeats):
        of_images = case.cells[chosen][:, :, fold % FOLDS].mean(axis=1)
        scores[:, fold] = case.true[chosen] + of_images + folds[fold] + random.normal(0, SEED_SD, len(chosen))
    found = compare([Candidate([(score,) for score in row], 1, 1.0) for row in scores], repeats, SHARE)
    trainings = sum(repeats if after is None else after for after in found.hopeless_after)
    assert found.winner is not None, "all trainings are there"
    estimate, number = found.estimates[found.winner], chosen[found.winner]
    assert estimate, "the winner has done all folds"
    assert estimate.margin is not None, "which are two at least"
    return number, trainings, bool(abs(estimate.mean - case.true[number]) <= estimate.margin)


def simulate(options: argparse.Namespace) -> None:
    """Print a table for each spread of the recipes."""
    ways = ((2, 3), (3, 2), (3, 3), (3, 4), (3, 8), (5, 4))
    for spread in SPREADS:
        random = np.random.default_rng(0)
        cases = [draw(random, options.recipes, spread) for _ in range(options.cases)]
        print(f"\nmean distance from the best possible recipe {spread}")
        print("| chosen by | regret | worse than the default | more trainings | interval holds |")
        print("| --- | ---: | ---: | ---: | ---: |")
        show("best validation score", cases, [int(case.seen.argmax()) for case in cases])
        show("best of ten, once more", cases, [once_more(case, random) for case in cases], trainings=10)
        for top, repeats in ways:
            ends = [confirmed(case, random, top, repeats) for case in cases]
            numbers, trainings, holds = zip(*ends, strict=True)
            name = f"`hpo confirm`, K = {top}, R = {repeats}"
            show(name, cases, numbers, float(np.mean(trainings)), float(np.mean(holds)))


def once_more(case: Case, random: np.random.Generator) -> int:
    """The best of ten by the mean of the search's training and another one on the same split."""
    best = np.argsort(-case.seen)[:10]
    again = case.true[best] + case.cells[best, 0].mean(axis=1) + random.normal(0, SEED_SD, 10)
    return int(best[(case.seen[best] + again).argmax()])


def show(
    name: str, cases: Sequence[Case], numbers: Sequence[int], trainings: float = 0.0, holds: float | None = None
) -> None:
    """Print a row."""
    regret = np.array([case.true.max() - case.true[number] for case, number in zip(cases, numbers, strict=True)])
    worse = [case.true[number] < case.true[case.default] for case, number in zip(cases, numbers, strict=True)]
    error = regret.std(ddof=1) / np.sqrt(len(regret))
    shown = "" if holds is None else f"{100 * holds:.1f} %"
    columns = (name, f"{regret.mean():.4f} ± {error:.4f}", f"{100 * np.mean(worse):.1f} %", f"{trainings:.1f}", shown)
    print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--recipes", type=int, default=100)
    simulate(parser.parse_args())
