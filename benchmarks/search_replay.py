"""How much a search finds for its cost: the product's own decisions and stock Optuna's, replayed on learning curves.

    python benchmarks/search_replay.py CURVES [--workers 8] [--seeds 5] [--methods forest+asha tpe+median …]

CURVES is a folder of `*.json.gz`, one a task; `curve_table.py` says what stands in them. Workers that run at the same
time ask for recipes, get in place of each the nearest configuration of the table, its curve an epoch at a time, and do
what they are told. What hpo proposes becomes the nearest configuration that was not tried, as it trains no recipe
twice; stock Optuna may. Syne Tune's searches, which need that package (`syne_tune_searches.py`), are treated as hpo's.
Of a table of hpo's own trainer all try the default recipe first, and hpo's own searches then the portfolio. The forest,
its encoding, the rungs and the rule by which trials go on are those that a worker of hpo runs; what its database does
in one transaction happens here in one step. The time is counted in full trainings, all workers together. The regret is
that of the configuration with the best score so far: its true lowest loss by then, less that of the best configuration,
as a share of what lies between that and the median configuration, 1 at most. With `--mislead` the scores of the first
third of a curve are another configuration's: all decisions are led by them, but none counts as the best score.

Printed are rows of a table in Markdown: after each of the times the mean over tasks and seeds, its standard error over
the seeds, and in brackets the median over tasks and seeds and the mean of the worst task. With `--keep FILE` each
replay is kept in a file, a line each, and is not done again: the same command goes on where it was broken off.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
from curve_table import Table
from searches import ABLATIONS, METHODS, Halving
from syne_tune_searches import SYNE_TUNE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from searches import Search, Training

TIMES = (2, 5, 10, 20, 40)  # full trainings after which the regret is taken


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
        score, own = float(table.scores[training.row, training.epoch]), training.epoch >= table.own
        training.best = max(training.best, score)
        training.epoch += 1
        if own and score > best:
            best, regret = score, table.regret(training.row, training.epoch)
        begin(now, training if search.goes_on(training) else search.next())
    return regrets


def after_another(tables: Sequence[Table], at: int, seed: int, workers: int, kind: str) -> Halving:
    """`forest+asha` on a table, which learns from what it has found on the next one; misled where that is negated."""
    table = tables[(at + 1) % len(tables)]
    if kind == "misleading":
        table = table.negated()
    earlier = Halving(table, seed + 1000)
    replay(table, earlier, workers)
    return Halving(tables[at], seed, earlier=earlier)


def cells(regrets: np.ndarray[tuple[int, int, int], np.dtype[np.float64]]) -> list[str]:
    """The cells of a method's row, from its regrets [seeds, tasks, times]."""
    found = []
    for at in range(len(TIMES)):
        by_seed = regrets[:, :, at].mean(axis=1).tolist()
        error = statistics.stdev(by_seed) / math.sqrt(len(by_seed)) if len(by_seed) > 1 else math.nan
        median, worst = np.median(regrets[:, :, at]), regrets[:, :, at].mean(axis=0).max()
        found.append(f"{statistics.mean(by_seed):.3f} ± {error:.3f} ({median:.2f}, {worst:.2f})".replace("0.", "."))
    return found


def main() -> None:
    """Replay the methods, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", type=Path)
    parser.add_argument("--workers", type=int, default=8, help="that run at the same time; default: 8")
    parser.add_argument("--seeds", type=int, default=5, help="default: 5")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *ABLATIONS, *SYNE_TUNE], default=list(METHODS))
    parser.add_argument("--noise", type=float, default=0.0, help="added to each score, as a share of the spread")
    parser.add_argument("--mislead", action="store_true", help="give the first third of each curve to another recipe")
    parser.add_argument(
        "--learn-from",
        choices=("sister", "misleading"),
        help="forest+asha after a search of the next task, or of its negated scores; for tables with the same fields",
    )
    parser.add_argument("--keep", type=Path, help="file of what was replayed before, to go on with")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    paths, kind, workers = sorted(options.curves.glob("*.json.gz")), options.learn_from, options.workers
    tables = [Table(path, options.noise, mislead=options.mislead) for path in paths]
    kept: dict[str, list[float]] = {}
    if options.keep and options.keep.exists():
        kept = dict(json.loads(line) for line in options.keep.read_text().splitlines())

    def regrets_of(method: str, at: int, seed: int) -> list[float]:
        key = f"{paths[at].name} {method} {workers} {options.noise} {options.mislead} {seed}"
        if key not in kept:
            if kind:
                search: Search = after_another(tables, at, seed, workers, kind)
            else:
                search = {**METHODS, **ABLATIONS, **SYNE_TUNE}[method](tables[at], seed)
            kept[key] = replay(tables[at], search, workers)
            if options.keep:
                with options.keep.open("a") as file:
                    file.write(json.dumps([key, kept[key]]) + "\n")
        return kept[key]

    print(f"{len(tables)} tasks, {options.seeds} seeds, {workers} workers; after so many full trainings:\n")
    print("| | " + " | ".join(map(str, TIMES)) + " |\n|" + " --- |" * (1 + len(TIMES)))
    for method in [f"forest+asha after a {kind} search"] if kind else options.methods:
        regrets = [[regrets_of(method, at, seed) for at in range(len(tables))] for seed in range(options.seeds)]
        print(f"| {method} | " + " | ".join(cells(np.array(regrets))) + " |", flush=True)


if __name__ == "__main__":
    main()
