"""The searches that `search_replay.py` compares: hpo's own, those without a part of it, and stock Optuna's."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol
from unittest.mock import patch

import numpy as np
import optuna
from optuna.trial import TrialState

from hpo.study import forest
from hpo.study.earlier import MOST_RESULTS, TRIED_FIRST
from hpo.study.forest import Forest
from hpo.study.pruners import rung_epochs
from hpo.study.samplers import STARTUP_TRIALS
from hpo.study.transfer import Lesson, shares_below
from storage.rungs import RungCount, has_room, rungs_with_room
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from curve_table import Table
    from numpy.typing import NDArray

    from hpo.study.candidates import Way


@dataclass(eq=False)
class Training:
    """A training that is under way, or paused."""

    number: int
    row: int  # of the table
    epoch: int = 0  # the last one that was trained
    best: float = -math.inf
    rungs: dict[int, float] = field(default_factory=dict)  # epoch -> best score then
    paused_after: int | None = None
    trial: optuna.Trial | None = None
    way: Way | None = None


class Search(Protocol):
    """What the workers ask."""

    def next(self) -> Training:
        """The training that a worker is to begin, or to go on with."""

    def goes_on(self, training: Training) -> bool:
        """Whether a training goes on after the epoch that has just ended."""


class Stock:
    """Stock Optuna, which begins with the default recipe, too."""

    def __init__(self, table: Table, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner) -> None:
        self._table, self._study = table, optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self._begun = False

    def next(self) -> Training:
        """A new one."""
        distributions = self._table.encoding.distributions()
        row = 0
        if self._begun or self._table.default is None:
            proposed = self._study.ask(None if self._table.space else distributions)
            if self._table.space:
                suggest(proposed, self._table.space)
            self._study.tell(proposed, state=TrialState.FAIL)  # which samplers and pruners pass over
            row = self._table.nearest(self._table.encoding.coordinates(proposed.params))
        self._begun = True
        params = self._table.params(row)
        self._study.enqueue_trial(params)
        trial = self._study.ask({name: distributions[name] for name in params})
        return Training(trial.number, row, trial=trial)

    def goes_on(self, training: Training) -> bool:
        """Whether the pruner lets it."""
        assert training.trial
        training.trial.report(self._table.scores[training.row, training.epoch - 1], training.epoch)
        if training.epoch == self._table.epochs:
            self._study.tell(training.trial, training.best)
            return False
        if training.trial.should_prune():
            self._study.tell(training.trial, state=TrialState.PRUNED)
            return False
        return True


class OneEpochFirst:
    """One epoch of many random configurations, then the best of them to the end (Egele et al. 2023, arXiv 2307.15422).

    Half of the epochs go to first ones, so that the answer does not depend on when it is asked for.
    """

    def __init__(self, table: Table, seed: int) -> None:
        self._table, self._rng, self._begun = table, np.random.default_rng(seed), 0
        self._promoted = 0
        self._paused: list[Training] = []

    def next(self) -> Training:
        """The best that has had one epoch only, where as many epochs went to first ones as to the others."""
        first, last = self._table.first, self._table.epochs
        if self._paused and self._begun * first >= (self._promoted + 1) * (last - first):
            best = max(self._paused, key=lambda each: (each.best, -each.number))
            self._paused.remove(best)
            self._promoted += 1
            return best
        row = 0
        if self._begun or self._table.default is None:
            row = self._table.nearest(self._table.encoding.random(self._rng, 1)[0])
        self._begun += 1
        return Training(self._begun - 1, row)

    def goes_on(self, training: Training) -> bool:
        """Not after the first epoch; the default recipe is always trained to its end."""
        if training.epoch == self._table.first and (training.number or self._table.default is None):
            self._paused.append(training)
            return False
        return training.epoch < self._table.epochs


class Halving:
    """What hpo does with `pruner = "asha"`, and with `sampler = "forest"` or "random".

    Args:
        table: that is searched.
        seed: of the search.
        without: the part of it that is left out, of `PARTS`.
        earlier: an earlier search from which this one learns.
    """

    def __init__(self, table: Table, seed: int, without: str = "", earlier: Halving | None = None) -> None:
        self._table, self._seed, self._without = table, seed, without
        self._rungs = rung_epochs(table.epochs)
        self._first = [] if table.default is None else [0]  # rows that are tried first
        known = [] if earlier is None else earlier.best()
        for recipe in known if without == "portfolio" else [*known, *table.portfolio()]:
            self._first.append(table.nearest(recipe, self._first))
        lessons = [] if earlier is None else [earlier.lesson()]
        self._forest = Forest(table.encoding, len(self._rungs), lessons)
        for row in self._first if without != "neighbours" else []:
            self._forest.start_at(table.params(row))
        self._trainings: list[Training] = []

    def next(self) -> Training:
        """The best paused one that may go on, of the highest rung, else a new one."""
        for rung in rungs_with_room(map(self._count, self._rungs), closing=False):
            if self._without == "promotion":
                break
            paused = [each for each in self._trainings if each.paused_after == rung.epoch]
            best = max(paused, key=lambda each: (each.rungs[rung.epoch], -each.number))
            best.paused_after = None
            return best
        number, way = len(self._trainings), None
        if self._first:
            row = self._first.pop(0)
        else:
            drawn, way = self._drawn(int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0]))
            row = self._table.nearest(drawn, [each.row for each in self._trainings])  # no recipe is trained twice
        self._trainings.append(Training(number, row, way=way))
        return self._trainings[-1]

    def goes_on(self, training: Training) -> bool:
        """Whether it is among the best half of its rung; the default recipe is always trained to its end."""
        epoch, last = training.epoch, self._table.epochs
        if epoch != last and epoch not in self._rungs:
            return True
        rung = len(self._rungs) if epoch == last else self._rungs.index(epoch)
        params = self._table.params(training.row)
        self._forest.observe(training.number, params, rung, training.best, training.way)
        if epoch == last:
            return False
        if training.number == 0 and self._table.default is not None:
            return True
        training.rungs[epoch], training.paused_after = training.best, epoch
        paused = [each for each in self._trainings if each.paused_after == epoch]
        best = max(paused, key=lambda each: (each.rungs[epoch], -each.number))
        if best is training and has_room(self._count(epoch), closing=False):
            training.paused_after = None
        return training.paused_after is None

    def best(self) -> list[NDArray[np.float64]]:
        """Coordinates of the best configurations that were trained to their end, which another search tries first."""
        complete = [each for each in self._trainings if each.epoch == self._table.epochs]
        ranked = sorted(complete, key=lambda each: -each.best)
        return [self._table.coordinates(each.row) for each in ranked[:TRIED_FIRST]]

    def lesson(self) -> Lesson:
        """What another search learns from this one."""
        trained = [each for each in self._trainings if each.epoch]
        scores = np.array([each.best for each in trained])
        kept = np.argsort(-scores)[:MOST_RESULTS]
        coordinates = np.stack([self._table.coordinates(each.row) for each in trained])
        return Lesson(self._table.encoding.features(coordinates[kept]), shares_below(scores)[kept])

    def _drawn(self, seed: int) -> tuple[NDArray[np.float64], Way | None]:
        """Coordinates of the next recipe, and how it was drawn."""
        if self._without == "forest":
            return self._table.encoding.random(np.random.default_rng(seed), 1)[0], None
        constant = PARTS[self._without]
        with patch.object(forest, *constant) if constant else nullcontext():
            proposal = self._forest.propose(seed)
        return proposal.coordinates, proposal.way

    def _count(self, epoch: int) -> RungCount:
        reached = [each for each in self._trainings if epoch in each.rungs]
        best = max(reached, key=lambda each: (each.rungs[epoch], -each.number), default=None)
        paused = sum(each.paused_after == epoch for each in reached)
        return RungCount(epoch, len(reached), paused, best is not None and best.paused_after == epoch)


PARTS: dict[str, tuple[str, float] | None] = {
    "": None,
    "forest": None,  # recipes are drawn at random
    "model": ("UNGUIDED_SHARE", 1.0),  # recipes are drawn as ever, but none is chosen among them
    "neighbours": ("BEST", 0),  # recipes are drawn at random, for the model to choose among them
    "portfolio": None,  # of the recipes that are tried first only the default one is left
    "promotion": None,  # what was stopped at a rung does not go on
}
"""What can be left out of hpo's search, each with the constant of its forest that does so."""


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """TPE as `sampler = "tpe"` has it."""
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
    )


def median(epochs: int) -> optuna.pruners.BasePruner:
    """The median rule as `pruner = "median"` has it."""
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=math.ceil(epochs / 4))


def percentile(epochs: int) -> optuna.pruners.BasePruner:
    """As the median rule, but three in four are stopped."""
    return optuna.pruners.PercentilePruner(
        25.0, n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=math.ceil(epochs / 4)
    )


def halving(table: Table) -> optuna.pruners.BasePruner:
    """Successive halving from the first epoch on, of which one in three goes on at once."""
    return optuna.pruners.SuccessiveHalvingPruner(table.first, reduction_factor=3)


def hyperband(epochs: int) -> optuna.pruners.BasePruner:
    """Hyperband as `pruner = "hyperband"` has it."""
    return optuna.pruners.HyperbandPruner(min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3)


METHODS: dict[str, Callable[[Table, int], Search]] = {
    "random": lambda table, seed: Stock(table, optuna.samplers.RandomSampler(seed), optuna.pruners.NopPruner()),
    "random+halving": lambda table, seed: Stock(table, optuna.samplers.RandomSampler(seed), halving(table)),
    "tpe+median": lambda table, seed: Stock(table, tpe(seed), median(table.epochs)),
    "tpe+percentile": lambda table, seed: Stock(table, tpe(seed), percentile(table.epochs)),
    "tpe+hyperband": lambda table, seed: Stock(table, tpe(seed), hyperband(table.epochs)),
    "one-epoch": OneEpochFirst,
    "random+asha": lambda table, seed: Halving(table, seed, without="forest"),
    "forest+asha": Halving,
}
"""What a study may be searched by."""

ABLATIONS: dict[str, Callable[[Table, int], Search]] = {
    f"forest+asha -{part}": partial(Halving, without=part) for part in PARTS if part not in ("", "forest")
}
"""`forest+asha` without one of its parts."""
