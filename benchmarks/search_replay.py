"""How much a search finds for its cost: the product's own decisions and stock Optuna's, replayed on learning curves.

    python benchmarks/search_replay.py CURVES [--workers 8] [--seeds 5] [--methods forest+asha tpe+median …]

CURVES is a folder of `*.json.gz`, one a task: a list of configurations, each with `hp` (name -> number) and
`valid_loss`, one value an epoch, null where it is not finite. Such tables of real trainings are those of TaskSet
(Metz et al. 2020) that the authors of DyHPO (Wistuba et al. 2022) publish. Those of `benchmarks/record_curves.py` will
do, too: they begin with the default recipe, as all searches then do, and say how long each epoch took.

Workers that run at the same time ask for recipes, get in place of each the nearest configuration of the table, its
curve an epoch at a time, and do what they are told. What hpo proposes becomes the nearest configuration that was not
tried, as it trains no recipe twice; stock Optuna may. The forest, its encoding, the rungs and the rule by which trials
go on are those that a worker of hpo runs; what its database does in one transaction happens here in one step. The
time is counted in full trainings, all workers together. The regret is that of the configuration with the best score so
far: its true lowest loss by then, less that of the best configuration, as a share of what lies between that and the
median configuration, 1 at most. Printed are the mean over tasks and
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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import optuna
from optuna.trial import TrialState

from hpo.study.encoding import Encoding
from hpo.study.forest import Forest
from hpo.study.pruners import rung_epochs
from hpo.study.samplers import STARTUP_TRIALS
from storage.rungs import RungCount, has_room, rungs_with_room
from trainer.space import Range, Space, suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from hpo.study.candidates import Way

TIMES = (2, 5, 10, 20, 40)  # full trainings after which the regret is taken


class Table:
    """The curves of one task.

    Args:
        path: of the table.
        noise: standard deviation of what is added to each score that a search sees, as a share of the spread.
        mislead: whether the first third of each curve is given to another configuration.

    Attributes:
        encoding: of its configurations.
        scores: what a search sees, float64 [configurations, epochs], the higher the better.
        seconds: of the epochs, float64 [configurations, epochs]; 1 where the table does not say.
        full: seconds of a full training: of the default recipe, where there is one.
        default: parameters of the default recipe, None where there is none.
    """

    def __init__(self, path: Path, noise: float = 0.0, *, mislead: bool = False) -> None:
        found = json.loads(gzip.decompress(path.read_bytes()))
        if isinstance(found, dict):
            rows, self.space = found["rows"], Space(found["space"])
            epochs = int(max(self.space.values("epochs")))
            self.encoding, self.default = Encoding.of(self.space), rows[0]["hp"]
            self._true = np.array([[*row["valid_macro_f1"], *[0.0] * epochs][:epochs] for row in rows])
            self.seconds = np.array([[*row["seconds"], *[1.0] * epochs][:epochs] for row in rows])
        else:
            rows, self.space, self.default = found, None, None
            losses = np.array([[math.inf if loss is None else loss for loss in row["valid_loss"]] for row in rows])
            self._true = -np.minimum(losses, np.median(losses[:, 0]))
            self.seconds = np.ones_like(self._true)
            points = {name: [row["hp"][name] for row in rows] for name in rows[0]["hp"]}
            log = {name: min(values) > 0 and max(values) > 100 * min(values) for name, values in points.items()}
            self.encoding = Encoding({name: Range(min(each), max(each), log[name]) for name, each in points.items()})
        self._known = np.stack([self.encoding.coordinates(row["hp"]) for row in rows])
        self._features = self.encoding.features(self._known)
        self.full = float(self.seconds[0].sum())
        self.ends = self._true.max(axis=1)
        self._best, self._median = float(self.ends.max()), float(np.median(self.ends))
        rng, self.scores = np.random.default_rng(0), self._true.copy()
        if mislead:
            third = -(-self.epochs // 3)
            self.scores[:, :third] = self.scores[rng.permutation(len(rows)), :third]
        self.scores += noise * (self._best - self._median) * rng.normal(size=self.scores.shape)

    @property
    def epochs(self) -> int:
        """Of a full training."""
        return int(self._true.shape[1])

    def nearest(self, coordinates: NDArray[np.float64], tried: Sequence[int] = ()) -> int:
        """Number of the configuration that is nearest to a recipe, of those that were not tried."""
        distances = ((self._features - self.encoding.features(coordinates[None])) ** 2).sum(axis=1)
        distances[list(tried)] = math.inf
        return int(np.argmin(distances))

    def params(self, row: int) -> dict[str, Any]:
        """The parameters of a configuration."""
        return self.encoding.params(self._known[row])

    def regret(self, row: int, epochs: int) -> float:
        """Of a configuration after so many epochs, by what is true: 0 of the best one, 1 of the median one."""
        return (self._best - float(self._true[row, :epochs].max())) / (self._best - self._median)


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


class Halving:
    """What hpo does with `pruner = "asha"`, and with `sampler = "forest"` or "random"."""

    def __init__(self, table: Table, seed: int, *, model: bool) -> None:
        self._table, self._seed, self._model = table, seed, model
        self._rungs = rung_epochs(table.epochs)
        self._forest = Forest(table.encoding, len(self._rungs))
        if table.default is not None:
            self._forest.start_at(table.default)
        self._trainings: list[Training] = []

    def next(self) -> Training:
        """The best paused one that may go on, of the highest rung, else a new one."""
        for rung in rungs_with_room(map(self._count, self._rungs), closing=False):
            paused = [each for each in self._trainings if each.paused_after == rung.epoch]
            best = max(paused, key=lambda each: (each.rungs[rung.epoch], -each.number))
            best.paused_after = None
            return best
        number, row, way = len(self._trainings), 0, None
        if number or self._table.default is None:
            seed = int(np.random.SeedSequence((self._seed, number)).generate_state(1)[0])
            if self._model:
                proposal = self._forest.propose(seed)
                drawn, way = proposal.coordinates, proposal.way
            else:
                drawn = self._table.encoding.random(np.random.default_rng(seed), 1)[0]
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
    """The regret, after each of the TIMES, of the configuration that has the best score so far."""
    wanted = [time * table.full / workers for time in TIMES]  # in seconds
    regrets, best, regret, order = list[float](), -math.inf, math.inf, itertools.count()
    ends: list[tuple[float, int, Training]] = []  # when each worker's epoch ends

    def begin(at: float, training: Training) -> None:
        seconds = float(table.seconds[training.row, training.epoch])
        heapq.heappush(ends, (at + seconds, next(order), training))

    for _ in range(workers):
        begin(0.0, search.next())
    while len(regrets) < len(wanted):
        now, _, training = heapq.heappop(ends)
        while len(regrets) < len(wanted) and now > wanted[len(regrets)] + 1e-9:
            regrets.append(min(regret, 1.0))
        training.best = max(training.best, float(table.scores[training.row, training.epoch]))
        training.epoch += 1
        if training.best > best:
            best, regret = training.best, table.regret(training.row, training.epoch)
        begin(now, training if search.goes_on(training) else search.next())
    return regrets


def main() -> None:
    """Replay the methods, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--workers", type=int, default=8, help="that run at the same time; default: 8")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--noise", type=float, default=0.0, help="added to each score, as a share of the spread")
    parser.add_argument("--mislead", action="store_true", help="give the first third of each curve to another recipe")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    tables = [Table(path, options.noise, mislead=options.mislead) for path in sorted(options.curves.glob("*.json.gz"))]
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
