"""How much a search finds for its cost: the product's own decisions and stock Optuna's, replayed on learning curves.

    python benchmarks/search_replay.py CURVES [--workers 8] [--seeds 5] [--methods forest+asha tpe+median …]

CURVES is a folder of `*.json.gz`, one a task: a list of configurations, each with `hp` (name -> number) and
`valid_loss`, one value an epoch, null where it is not finite. Such tables of real trainings are those of TaskSet
(Metz et al. 2020) that the authors of DyHPO (Wistuba et al. 2022) publish.

Workers that run at the same time ask for recipes, get in place of each the nearest configuration of the table, its
curve an epoch at a time, and do what they are told. The forest, its encoding, the rungs and the rule by which trials
go on are those that a worker of hpo runs; what its database does in one transaction happens here in one step. The
time is counted in full trainings, all workers together. The regret is the lowest loss so far, less that of the best
configuration, as a share of what lies between that and the median configuration. Printed are the mean over tasks and
seeds, its standard error over the seeds, and the worst task. Losses above the median of the first epochs count as
that.
"""

from __future__ import annotations

import argparse
import gzip
import heapq
import itertools
import json
import math
import statistics
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import optuna
from optuna.trial import TrialState

from hpo.study.encoding import Encoding
from hpo.study.forest import Forest
from hpo.study.pruners import rung_epochs
from hpo.study.samplers import STARTUP_TRIALS
from storage.rungs import RungCount, has_room, rungs_with_room
from trainer.space import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

TIMES = (2, 5, 10, 20, 40)  # full trainings after which the regret is taken


class Table:
    """The curves of one task.

    Attributes:
        encoding: of its configurations.
        scores: float64 [configurations, epochs], the higher the better.
    """

    def __init__(self, path: Path) -> None:
        rows = json.loads(gzip.decompress(path.read_bytes()))
        losses = np.array([[math.inf if loss is None else loss for loss in row["valid_loss"]] for row in rows])
        self.scores = -np.minimum(losses, np.median(losses[:, 0]))
        points = {name: [row["hp"][name] for row in rows] for name in rows[0]["hp"]}
        log = {name: min(values) > 0 and max(values) > 100 * min(values) for name, values in points.items()}
        ranges = {name: Range(min(values), max(values), log[name]) for name, values in points.items()}
        self.encoding = Encoding(ranges)
        self._known = np.stack([self.encoding.coordinates(row["hp"]) for row in rows])
        ends = self.scores.max(axis=1)
        self._best, self._median = float(ends.max()), float(np.median(ends))

    @property
    def epochs(self) -> int:
        """Of a full training."""
        return int(self.scores.shape[1])

    def nearest(self, coordinates: NDArray[np.float64]) -> tuple[dict[str, float], NDArray[np.float64]]:
        """The parameters of the configuration that is nearest to a recipe, and its curve, float64 [epochs]."""
        at = int(np.argmin(((self._known - coordinates) ** 2).sum(axis=1)))
        return self.encoding.params(self._known[at]), self.scores[at]

    def regret(self, score: float) -> float:
        """Of a score: 0 of the best configuration, 1 of the median one."""
        return (self._best - score) / (self._best - self._median)


@dataclass(eq=False)
class Training:
    """A training that is under way, or paused."""

    number: int
    params: Mapping[str, float]
    curve: NDArray[np.float64]
    epoch: int = 0  # the last one that was trained
    best: float = -math.inf
    rungs: dict[int, float] = field(default_factory=dict)  # epoch -> best score then
    paused_after: int | None = None
    trial: optuna.Trial | None = None


class Search(Protocol):
    """What the workers ask."""

    def next(self) -> Training:
        """The training that a worker is to begin, or to go on with."""

    def goes_on(self, training: Training) -> bool:
        """Whether a training goes on after the epoch that has just ended."""


class Stock:
    """Stock Optuna."""

    def __init__(self, table: Table, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner) -> None:
        self._table, self._study = table, optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)

    def next(self) -> Training:
        """A new one."""
        distributions = self._table.encoding.distributions()
        proposed = self._study.ask(distributions)
        self._study.tell(proposed, state=TrialState.FAIL)  # which samplers and pruners pass over
        params, curve = self._table.nearest(self._table.encoding.coordinates(proposed.params))
        self._study.enqueue_trial(params)
        trial = self._study.ask(distributions)
        return Training(trial.number, params, curve, trial=trial)

    def goes_on(self, training: Training) -> bool:
        """Whether the pruner lets it."""
        assert training.trial
        training.trial.report(training.curve[training.epoch - 1], training.epoch)
        if training.epoch == self._table.epochs:
            self._study.tell(training.trial, training.best)
            return False
        if training.trial.should_prune():
            self._study.tell(training.trial, state=TrialState.PRUNED)
            return False
        return True


class Halving:
    """What hpo does with `pruner = "asha"`, and with `sampler = "forest"` or "random"."""

    def __init__(self, table: Table, seed: int, *, model: bool) -> None:
        self._table, self._seed, self._model = table, seed, model
        self._rungs = rung_epochs(table.epochs)
        self._forest = Forest(table.encoding, len(self._rungs))
        self._trainings: list[Training] = []

    def next(self) -> Training:
        """The best paused one that may go on, of the highest rung, else a new one."""
        for rung in rungs_with_room(map(self._count, self._rungs), closing=False):
            paused = [each for each in self._trainings if each.paused_after == rung.epoch]
            best = max(paused, key=lambda each: (each.rungs[rung.epoch], -each.number))
            best.paused_after = None
            return best
        number = len(self._trainings)
        seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
        if self._model:
            drawn = self._forest.propose(seed)
        else:
            drawn = self._table.encoding.random(np.random.default_rng(seed), 1)[0]
        self._trainings.append(Training(number, *self._table.nearest(drawn)))
        return self._trainings[-1]

    def goes_on(self, training: Training) -> bool:
        """Whether it is among the best half of its rung."""
        epoch, last = training.epoch, self._table.epochs
        if epoch != last and epoch not in self._rungs:
            return True
        rung = len(self._rungs) if epoch == last else self._rungs.index(epoch)
        self._forest.observe(training.number, training.params, rung, training.best)
        if epoch == last:
            return False
        training.rungs[epoch], training.paused_after = training.best, epoch
        paused = [each for each in self._trainings if each.paused_after == epoch]
        best = max(paused, key=lambda each: (each.rungs[epoch], -each.number))
        if best is training and has_room(self._count(epoch), closing=False):
            training.paused_after = None
        return training.paused_after is None

    def _count(self, epoch: int) -> RungCount:
        reached = [each for each in self._trainings if epoch in each.rungs]
        return RungCount(epoch, len(reached), sum(each.paused_after == epoch for each in reached))


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """TPE as `sampler = "tpe"` has it."""
    return optuna.samplers.TPESampler(
        n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
    )


def median(epochs: int) -> optuna.pruners.BasePruner:
    """The median rule as `pruner = "median"` has it."""
    return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=math.ceil(epochs / 4))


def hyperband(epochs: int) -> optuna.pruners.BasePruner:
    """Hyperband as `pruner = "hyperband"` has it."""
    return optuna.pruners.HyperbandPruner(min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3)


METHODS: dict[str, Callable[[Table, int], Search]] = {
    "random": lambda table, seed: Stock(table, optuna.samplers.RandomSampler(seed), optuna.pruners.NopPruner()),
    "random+halving": lambda table, seed: Stock(
        table, optuna.samplers.RandomSampler(seed), optuna.pruners.SuccessiveHalvingPruner(1, reduction_factor=3)
    ),
    "tpe+median": lambda table, seed: Stock(table, tpe(seed), median(table.epochs)),
    "tpe+hyperband": lambda table, seed: Stock(table, tpe(seed), hyperband(table.epochs)),
    "random+asha": lambda table, seed: Halving(table, seed, model=False),
    "forest+asha": lambda table, seed: Halving(table, seed, model=True),
}


def replay(table: Table, search: Search, workers: int) -> list[float]:
    """The regret of a search after each of the TIMES."""
    wanted = [math.ceil(time * table.epochs / workers) for time in TIMES]  # in epochs of one worker
    regrets, best, order = list[float](), -math.inf, itertools.count()
    ends: list[tuple[int, int, Training]] = []  # when each worker's epoch ends
    for _ in range(workers):
        heapq.heappush(ends, (1, next(order), search.next()))
    while len(regrets) < len(wanted):
        now, _, training = heapq.heappop(ends)
        while len(regrets) < len(wanted) and now > wanted[len(regrets)]:
            regrets.append(table.regret(best))
        training.best = max(training.best, float(training.curve[training.epoch]))
        training.epoch += 1
        best = max(best, training.best)
        heapq.heappush(ends, (now + 1, next(order), training if search.goes_on(training) else search.next()))
    return regrets


def main() -> None:
    """Replay the methods, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--workers", type=int, default=8, help="that run at the same time; default: 8")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    tables = [Table(path) for path in sorted(options.curves.glob("*.json.gz"))]
    print(f"{len(tables)} tasks, {options.seeds} seeds, {options.workers} workers; mean regret (worst task) after")
    print(f"{'full trainings:':<18}{''.join(f'{time:>22}' for time in TIMES)}")
    for name in options.methods:
        regrets = np.array(
            [
                [replay(table, METHODS[name](table, seed), options.workers) for table in tables]
                for seed in range(options.seeds)
            ]
        )  # [seeds, tasks, times]
        cells = []
        for at in range(len(TIMES)):
            by_seed = regrets[:, :, at].mean(axis=1).tolist()
            error = statistics.stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else math.nan
            worst = regrets[:, :, at].mean(axis=0).max()
            cells.append(f"{statistics.mean(by_seed):.3f} ± {error:.3f} ({worst:.2f})")
        print(f"{name:<18}{''.join(f'{cell:>22}' for cell in cells)}", flush=True)


if __name__ == "__main__":
    main()
