"""The model behind the sampler `forest`: extremely randomised trees over recipes and rungs, which propose the next one.

As in BOHB (Falkner et al. 2018) trainings that were stopped early teach as well; here one model learns from all rungs,
with the rung as a feature, and is asked for the last one. The trees are those of Geurts et al. 2006, used for search as
in SMAC (Hutter et al. 2011): their spread says how unsure they are.
"""

from __future__ import annotations

import heapq
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.study.candidates import Proposal, draw, shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from hpo.study.candidates import Way
    from hpo.study.encoding import Coordinates, Encoding
    from hpo.study.transfer import Lesson, Numbers

FIRST_RECIPES = 10  # results before there is a model
UNGUIDED_SHARE = 0.1  # of the recipes after that, which the model does not choose
UNSURE_SHARE = 0.5  # of the first ones where earlier studies teach the model: what these say is yet to be tried
CANDIDATES = 1000  # recipes among which the model chooses one
BEST = 5  # recipes near which others are drawn
OPTIMISM = 0.5  # standard deviations of the trees that are added to their mean
FEWEST_OF_RUNG = 3  # results at a rung, below which the model does not learn from it
MOST_ROWS = 500  # that the model learns from: half of them the best ones, the others at random
TREES, LEAF, FEATURES = 40, 2, 1 / 3


class Forest:
    """Learns from the results of recipes at rungs, and proposes recipes. For one thread.

    The trees are fitted in a thread of their own, between two proposals: a proposal uses those that were begun at the
    one before, and waits only where they are not ready. So proposals depend on what was observed, and on no clock.

    Args:
        encoding: of the recipes.
        last: number of the last rung, which is the end of the training; the first is 0.
        lessons: of earlier studies, which stand in for results while there are few.
    """

    def __init__(self, encoding: Encoding, last: int, lessons: Sequence[Lesson] = ()) -> None:
        self.encoding, self._last, self._lessons = encoding, last, lessons
        self._known: dict[int, Coordinates] = {}  # by the key of a recipe
        self._ways: dict[int, Way] = {}  # by the key of a recipe: how it was drawn, where it was
        self._starts: list[Coordinates] = []
        self._results: list[dict[int, float]] = [{} for _ in range(last + 1)]  # by rung: key -> score
        self._fitted_rows = 0
        self._trees: list[Any] = []
        self._fitting: Future[list[Any]] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="forest")

    def start_at(self, params: Mapping[str, Any]) -> None:
        """Take in a recipe that somebody holds for good, near which others are drawn; it may be known already."""
        coordinates = self._coordinates(params)
        if coordinates is not None and not any(
            np.array_equal(coordinates, one, equal_nan=True) for one in self._starts
        ):
            self._starts.append(coordinates)

    def observe(self, key: int, params: Mapping[str, Any], rung: int, score: float, way: Way | None = None) -> None:
        """Take in a result; one that is there is written over.

        Args:
            key: of the recipe, any number.
            params: its parameters; one that the space does not hold teaches nothing.
            rung: at which the result was reached.
            score: the higher the better.
            way: how the recipe was drawn, where it was proposed.
        """
        if key not in self._known:
            coordinates = self._coordinates(params)
            if coordinates is None:
                return
            self._known[key] = coordinates
            if way:
                self._ways[key] = way
        self._results[rung][key] = score

    def propose(self, seed: int) -> Proposal:
        """The next recipe to try."""
        rng = np.random.default_rng(seed)
        if self._lessons and not self._trees and not self._fitting:
            self._begin_to_fit(rng)
        if self._fitting:
            self._trees, self._fitting = self._fitting.result(), None
        trees = self._trees
        self._begin_to_fit(rng)
        parents = self._parents()
        possible = list(parents)
        wanted = shares([(self._ways.get(key), score) for key, score in self._results[0].items()], possible)
        unguided = UNGUIDED_SHARE if len(self._results[0]) >= FIRST_RECIPES else UNSURE_SHARE
        guided = trees and rng.random() >= unguided
        way = possible[rng.multinomial(1, wanted).argmax()]
        candidates = draw(self.encoding, rng, CANDIDATES if guided else 1, parents[way])
        if not guided:
            return Proposal(candidates[0], way)
        rows = self._rows(candidates, np.full(CANDIDATES, self._last)).astype(np.float32)
        guesses = np.stack([tree.tree_.predict(rows)[:, 0] for tree in trees])
        best = int(np.argmax(guesses.mean(axis=0) + OPTIMISM * guesses.std(axis=0)))
        return Proposal(candidates[best], way)

    def _parents(self) -> dict[Way, Coordinates]:
        """The ways to draw a recipe, with the recipes [n, fields] near which each does: the best have come farthest."""
        best: list[int] = []
        for results in reversed(self._results):
            ranked = heapq.nlargest(BEST, results, key=lambda key: (results[key], -key))
            best += [key for key in ranked if key not in best][: BEST - len(best)]
        none = np.empty((0, len(self.encoding.names)))
        parents: dict[Way, Coordinates] = {"at random": none}
        if self._starts:
            parents["near a starting recipe"] = np.stack(self._starts)
        if best and self._trees:
            parents["near the best"] = np.stack([self._known[key] for key in best])
        return parents

    def _coordinates(self, params: Mapping[str, Any]) -> Coordinates | None:
        try:
            return self.encoding.coordinates(params)
        except (TypeError, ValueError):
            return None

    def _begin_to_fit(self, rng: np.random.Generator) -> None:
        """Have trees fitted for the next proposal, where there are enough new results since the last time."""
        if len(self._results[0]) < FIRST_RECIPES and not self._lessons:
            return
        learned = [
            (key, rung, score)
            for rung, results in enumerate(self._results)
            if len(results) >= FEWEST_OF_RUNG
            for key, score in results.items()
        ]
        if len(learned) < 1.1 * self._fitted_rows + 2 and (self._trees or not self._lessons):
            return
        self._fitted_rows = len(learned)
        if len(learned) > MOST_ROWS:
            learned.sort(key=lambda row: -row[2])
            others = rng.choice(np.arange(MOST_ROWS // 2, len(learned)), MOST_ROWS // 2, replace=False)
            learned = [*learned[: MOST_ROWS // 2], *(learned[at] for at in sorted(others))]
        rows = self._rows(self._recipes(key for key, _, _ in learned), np.array([rung for _, rung, _ in learned]))
        scores = np.array([score for _, _, score in learned])
        seed, first = int(rng.integers(2**31)), self._results[0]
        if self._lessons:
            recipes = self.encoding.features(self._recipes(first))
            self._fitting = self._executor.submit(
                _fit_taught, rows, scores, seed, self._lessons, (recipes, np.array(list(first.values())))
            )
        else:
            self._fitting = self._executor.submit(_fit, rows, scores, seed)

    def _recipes(self, keys: Iterable[int]) -> Coordinates:
        """Coordinates [recipes, fields] of known recipes."""
        return np.array([self._known[key] for key in keys]).reshape(-1, len(self.encoding.names))

    def _rows(self, coordinates: Coordinates, rungs: NDArray[Any]) -> NDArray[np.float64]:
        return np.column_stack([self.encoding.features(coordinates), rungs])


def _fit(rows: Numbers, scores: Numbers, seed: int, weights: Numbers | None = None) -> list[Any]:
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, max_features=FEATURES, random_state=seed)
    return list(model.fit(rows, scores, weights).estimators_)


def _fit_taught(
    rows: Numbers, scores: Numbers, seed: int, lessons: Sequence[Lesson], first: tuple[Numbers, Numbers]
) -> list[Any]:
    """Fit trees to rows and to lessons, which count as results at the first rung: there most recipes have one.

    None where there are few results, and these contradict all lessons.

    Args:
        rows: of the study's own results.
        scores: of these.
        seed: of the trees.
        lessons: of earlier studies.
        first: features and scores of the study's own recipes at the first rung, with which the lessons are compared.
    """
    features, own = first
    trusted = [(lesson, weight) for lesson in lessons if (weight := lesson.weight(features, own))]
    if not trusted and len(own) < FIRST_RECIPES:
        return []  # as if there had been no lesson
    taught = [np.column_stack([lesson.features, np.zeros(len(lesson.ranks))]) for lesson, _ in trusted]
    weights = [np.full(len(lesson.ranks), weight) for lesson, weight in trusted]
    return _fit(
        np.concatenate([rows, *taught]),
        np.concatenate([scores, *(lesson.scores(own) for lesson, _ in trusted)]),
        seed,
        np.concatenate([np.ones(len(scores)), *weights]),
    )
