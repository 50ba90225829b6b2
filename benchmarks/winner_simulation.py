"""How good the recipe truly is that a search ends with: the best validation score, or what `hpo confirm` names.

    python benchmarks/winner_simulation.py [--cases 500] [--recipes 100] [--noise digits faces]

The truth is drawn, so that the regret is known: the score of the truly best recipe, less that of the chosen one. A
score is the recipe's true score, and what a fold does to all recipes, and what its images do to this recipe, and what
the seed of the training does. The sizes of these are those of real trainings that `benchmarks/winner_noise.py` repeats:
six recipes on four folds of 450 images with two seeds each. The folds are cut from the images that the search has
chosen by: what these images do to a recipe stays the same, so that the luck of the search is partly in the folds, as in
reality.

Chosen is by the best validation score; by the sum of that and one more training of the best ten on the same split; and
as `hpo confirm` does, by the decisions of `hpo.study.fold_comparison`, with K recipes on R folds, with other rules, and
with folds of images that the search has not seen. The size of a model has nothing to do with its score. Beside these
stand the highest mean of four folds, and the highest sum of that and the search's score with the weights that make its
error smallest, which the simulation knows: of the best K recipes and, to see what could be had at all, of all recipes.

Printed are the mean regret, the share of cases in which the choice is truly worse than the default recipe, the
trainings beside the search, how often the interval of the winner holds its true score (and that of the optimism the
true one, which is the same, as the search's score is known), and by how much the score is too high on average: that of
the search, or the confirmed one where there is one.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpo.study.fold_comparison import RULES, Candidate, Rules, compare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOLDS = 4  # of one cross-validation; the search validates on a quarter of the images, too
SHARE = 1 / (FOLDS - 1)
DEFAULT_RANKS = (0.3, 0.05)  # share of the recipes that are truly better than the default one
SPREADS = (0.01, 0.03, 0.10)  # mean distance of a recipe from the best possible one


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the macro-F1 of one training: by its seed, by its images, by its fold for all recipes."""

    seed: float
    images: float
    fold: float


NOISES = {"digits": Noise(0.020, 0.018, 0.012), "faces": Noise(0.021, 0.018, 0.030)}


@dataclass(frozen=True)
class Case:
    """One search: true scores and those that it has seen, float64 [recipes], and what images do to each recipe.

    cells: float64 [recipes, FOLDS, FOLDS], by the part of the images that the search has validated on and by the fold.
    sizes: of the models, float64 [recipes].
    """

    true: NDArray[np.float64]
    seen: NDArray[np.float64]
    default: int
    cells: NDArray[np.float64]
    sizes: NDArray[np.float64]
    noise: Noise


@dataclass(frozen=True)
class Way:
    """How `hpo confirm` is called, by which rules it decides, and whether its folds hold images new to the search."""

    top: int = 3
    repeats: int = 4
    rules: Rules = RULES
    fresh: bool = False
    remark: str = ""

    @property
    def name(self) -> str:
        """In the table."""
        return f"`hpo confirm`, K = {self.top}, R = {self.repeats}{self.remark}"


@dataclass(frozen=True)
class End:
    """The recipe that is chosen, the trainings for that, and its confirmed score with half its interval."""

    number: int
    trainings: float = 0.0
    mean: float | None = None
    margin: float = 0.0


WAYS = (
    Way(2, 3),
    Way(3, 3),
    Way(),
    Way(4, 4),
    Way(5, 4),
    Way(3, 8),
    Way(fresh=True, remark=", folds of new images"),
    Way(rules=Rules(evidence=0.5), remark=", the default recipe as any other"),
    Way(rules=Rules(evidence=0.9), remark=", default unless 90 % against it"),
    Way(rules=Rules(evidence=0.95), remark=", default unless 95 % against it"),
    Way(rules=Rules(hopeless=0.95), remark=", hopeless from 95 % on"),
    Way(rules=Rules(evidence=0.0, tie=1.0), remark=", smallest model within a standard error"),
)


def draw(random: np.random.Generator, noise: Noise, recipes: int, spread: float, rank: float) -> Case:
    """Draw a search."""
    true = 0.9 - random.exponential(spread, recipes)
    default = int(np.argsort(-true)[int(rank * recipes)])
    cells = random.normal(0, noise.images * np.sqrt(FOLDS), (recipes, FOLDS, FOLDS))
    seen = true + cells[:, 0].mean(axis=1) + random.normal(0, noise.seed, recipes)
    return Case(true, seen, default, cells, random.random(recipes), noise)


def confirmed(case: Case, random: np.random.Generator, way: Way) -> End:
    """What `hpo confirm` chooses."""
    best = [int(number) for number in np.argsort(-case.seen)[: way.top]]
    chosen = best if case.default in best else [*best, case.default]
    cells = case.cells[chosen]
    if way.fresh:
        cells[:, 0] = random.normal(0, case.noise.images * np.sqrt(FOLDS), cells[:, 0].shape)
    folds = random.normal(0, case.noise.fold, way.repeats)
    scores = np.empty((len(chosen), way.repeats))
    for fold in range(way.repeats):
        of_images = cells[:, :, fold % FOLDS].mean(axis=1)
        scores[:, fold] = case.true[chosen] + of_images + folds[fold] + random.normal(0, case.noise.seed, len(chosen))
    candidates = [
        Candidate([(score,) for score in row], 1, case.sizes[number], is_default=number == case.default)
        for row, number in zip(scores, chosen, strict=True)
    ]
    found = compare(candidates, way.repeats, SHARE, way.rules)
    trainings = sum(way.repeats if after is None else after for after in found.hopeless_after)
    assert found.winner is not None, "all trainings are there"
    estimate = found.estimates[found.winner]
    assert estimate, "the winner has done all folds"
    assert estimate.margin is not None, "which are two at least"
    return End(chosen[found.winner], trainings, estimate.mean, estimate.margin)


def once_more(case: Case, random: np.random.Generator) -> End:
    """The best of ten by the mean of the search's training and another one on the same split."""
    best = np.argsort(-case.seen)[:10]
    again = case.true[best] + case.cells[best, 0].mean(axis=1) + random.normal(0, case.noise.seed, 10)
    return End(int(best[(case.seen[best] + again).argmax()]), 10)


def by_score(case: Case, random: np.random.Generator, top: int, *, search_counts: bool) -> End:
    """The best of a few recipes by the mean of four folds, or by that and the score in the search, weighted."""
    best = np.argsort(-case.seen)[:top]
    seed, images = case.noise.seed**2, case.noise.images**2
    shared = images / FOLDS
    errors = np.array([[seed + images, shared], [shared, (seed + images) / FOLDS]])
    of_search, of_folds = np.linalg.solve(errors, np.ones(2)) if search_counts else (0.0, 1.0)
    folds = (
        case.true[best] + case.cells[best].mean(axis=(1, 2)) + random.normal(0, case.noise.seed / np.sqrt(FOLDS), top)
    )
    return End(int(best[(of_search * case.seen[best] + of_folds * folds).argmax()]), FOLDS * top)


def simulate(options: argparse.Namespace) -> None:
    """Print a table for each noise, rank of the default recipe and spread of the recipes."""
    for name, rank, spread in itertools.product(options.noise, DEFAULT_RANKS, SPREADS):
        random = np.random.default_rng(0)
        cases = [draw(random, NOISES[name], options.recipes, spread, rank) for _ in range(options.cases)]
        print(
            f"\n{name}, mean distance from the best possible recipe {spread}, default recipe behind {100 * rank:.0f} %"
        )
        print("| chosen by | regret | worse than the default | more trainings | interval holds | score too high by |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        show("best validation score", cases, [End(int(case.seen.argmax())) for case in cases])
        show("best of ten, once more", cases, [once_more(case, random) for case in cases])
        for way in WAYS:
            show(way.name, cases, [confirmed(case, random, way) for case in cases])
        top = Way.top
        ends = [by_score(case, random, top, search_counts=False) for case in cases]
        show(f"best {top} on 4 folds: the highest mean", cases, ends)
        ends = [by_score(case, random, top, search_counts=True) for case in cases]
        show(f"best {top} on 4 folds: the highest sum with the search's score", cases, ends)
        ends = [by_score(case, random, options.recipes, search_counts=True) for case in cases]
        show("all recipes on 4 folds: the highest sum with the search's score", cases, ends)
        show("the default recipe, always", cases, [End(case.default) for case in cases])


def show(name: str, cases: Sequence[Case], ends: Sequence[End]) -> None:
    """Print a row."""
    true = np.array([case.true[end.number] for case, end in zip(cases, ends, strict=True)])
    regret = np.array([case.true.max() for case in cases]) - true
    worse = np.mean(true < np.array([case.true[case.default] for case in cases]))
    error = regret.std(ddof=1) / np.sqrt(len(regret))
    columns = [name, f"{regret.mean():.4f} ± {error:.4f}", f"{100 * worse:.1f} %"]
    columns.append(f"{np.mean([end.trainings for end in ends]):.1f}")
    if ends[0].mean is None:
        seen = np.array([case.seen[end.number] for case, end in zip(cases, ends, strict=True)])
        columns += ["", f"{np.mean(seen - true):.4f}"]
    else:
        off = np.array([end.mean for end in ends]) - true
        columns += [f"{100 * np.mean(np.abs(off) <= [end.margin for end in ends]):.1f} %", f"{off.mean():.4f}"]
    print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--recipes", type=int, default=100)
    parser.add_argument("--noise", nargs="+", choices=NOISES, default=list(NOISES))
    simulate(parser.parse_args())
