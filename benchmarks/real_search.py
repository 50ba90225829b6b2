"""What real searches find in the same time: hpo, stock Optuna's default, random recipes with and without a portfolio.

    python benchmarks/real_search.py RESULTS FOLDER [FOLDER …] [--seeds 3] [--confirm 5] [--methods hpo random …]

Each FOLDER has one folder a class, whose images are trained on by small backbones from random weights. Every search is
`hpo search` with two workers for as long as ten full trainings of the default recipe take, as two of them beside each
other take at the beginning. All begin with that recipe, and a seed means the same split for all of them. Then
`hpo export-best` trains the chosen recipe on the images to train and to validate, and tests it. As many of the seeds as
`--confirm` says are confirmed by `hpo confirm` where hpo has searched, and the winner of that and the default recipe
are tested, too.

RESULTS gets a line for each search. What it holds is not searched again: the same command goes on where it was broken
off, and with `--minutes` no search begins after that time. Printed are tables in Markdown of what RESULTS holds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

import hpo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

STOCK = "TPE, median"
METHODS: dict[str, dict[str, Any]] = {
    "hpo": {},
    STOCK: {"sampler": "tpe", "pruner": "median", "portfolio": False},
    "random": {"sampler": "random", "pruner": "none", "portfolio": False},
    "portfolio, random": {"sampler": "random", "pruner": "none"},
}
"""What `[study]` says."""
FULL_TRAINING, FULL_TRAININGS = "full training", 10
WORKERS = 2
VALID, TEST = 0.2, 0.4  # of the images, so that few are left to train and many to tell the winners apart
RECIPE = {
    "backbone": ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"],
    "pretrained": False,
    "image_size": 32,
    "epochs": 8,
}


def main() -> None:
    """Search what RESULTS does not hold, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--confirm", type=int, default=0, help="of how many seeds the winner is confirmed; default: 0")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), help="default: all")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no further search begins")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    for wanted in wanted_of(options):
        known = any(all(each.get(key) == value for key, value in wanted.items()) for each in rows)
        if known or time.monotonic() > end:
            continue
        full = [each["seconds"] for each in rows if each["images"] == wanted["images"] and "seconds" in each]
        images = next(each for each in options.folders if each.name == wanted["images"])
        with tempfile.TemporaryDirectory() as scratch:
            found = search(Path(scratch), images.resolve(), wanted, full)
        rows.append({**wanted, **found})
        with options.results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print_searches(rows)
    print_winners(rows)


def wanted_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The searches: first how long a full training takes, then those that are compared."""
    names = [each.name for each in options.folders]
    first = [{"images": name, "method": FULL_TRAINING, "seed": 0, "confirm": False} for name in names]
    compared = [
        {"images": name, "method": method, "seed": seed, "confirm": method == "hpo" and seed < options.confirm}
        for seed in range(max(options.seeds, options.confirm))
        for name in names
        for method in options.methods
        if method == "hpo" or seed < options.seeds
    ]
    return first + compared


def search(folder: Path, images: Path, wanted: dict[str, Any], full: Sequence[float]) -> dict[str, Any]:
    """What one search finds.

    Args:
        folder: to work in.
        images: one folder a class.
        wanted: the `method`, the `seed` of search and split, and whether to `confirm` the winner.
        full: seconds of a full training, once they are known.
    """
    method, seed = wanted["method"], wanted["seed"]
    budget = {"gpu_hours": FULL_TRAININGS * full[0] / 3600} if full else {"trials": WORKERS}
    study_file = folder / "study.toml"
    content = {
        "study": {"seed": seed, **METHODS["random" if method == FULL_TRAINING else method]},
        "data": {"path": str(images), "valid": VALID, "test": TEST, "seed": seed},
        "budget": budget,
        "recipe": RECIPE,
    }
    study_file.write_text(tomli_w.dumps(content))
    run(folder, "search", "--workers", str(WORKERS))
    with hpo.open_study(study_file) as study:
        trials = [each for each in study.optuna.trials if each.duration]
    if method == FULL_TRAINING:
        assert trials[0].duration
        return {"seconds": trials[0].duration.total_seconds()}
    found = {**tested(folder), "trials": len(trials), "gains": gains_of(trials)}
    if wanted["confirm"]:
        run(folder, "confirm", "--workers", str(WORKERS))
        found["confirmed"], found["default"] = tested(folder), tested(folder, "--trial", "0")
    return found


def run(folder: Path, command: str, *arguments: str) -> None:
    """One command of hpo, each process of which has one thread."""
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    called = [sys.executable, "-m", "hpo", command, "study.toml", *arguments]
    done = subprocess.run(called, cwd=folder, env=one_thread, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(called)}\n{done.stdout}\n{done.stderr}")


def tested(folder: Path, *which: str) -> dict[str, Any]:
    """The trial that `hpo export-best` chooses, its validation score, its test score with interval, and so on."""
    bundle = Path(tempfile.mkdtemp(dir=folder)) / "bundle"
    run(folder, "export-best", "-o", str(bundle), *which)
    written = json.loads((bundle / "bundle.json").read_text())
    metrics = written["metrics"]
    return {
        "trial": written["trial"],
        "valid": metrics["valid_macro_f1"],
        "test": metrics["test"]["macro_f1"],
        "interval": metrics["test"]["interval"],
        "confirmation": written["confirmation"],
    }


def gains_of(trials: Sequence[FrozenTrial]) -> list[tuple[float, float]]:
    """When the best score rose, in seconds since the first trial began, and to what.

    The epochs of one run are taken to last the same. A trial that goes on after a pause repeats the epochs before it.
    """
    began = min(each.datetime_start.timestamp() for each in trials if each.datetime_start)
    known, ends = set[tuple[str, int]](), list[tuple[float, float]]()
    for trial in sorted(trials, key=lambda each: each.number):
        assert trial.datetime_start
        assert trial.duration
        recipe = json.dumps(trial.params, sort_keys=True)
        new = [epoch for epoch in sorted(trial.intermediate_values) if (recipe, epoch) not in known]
        seconds = trial.duration.total_seconds()
        for number, epoch in enumerate(new, 1):
            known.add((recipe, epoch))
            at = trial.datetime_start.timestamp() - began + seconds * number / len(new)
            ends.append((at, trial.intermediate_values[epoch]))
    gains: list[tuple[float, float]] = []
    for at, score in sorted(ends):
        if not gains or score > gains[-1][1]:
            gains.append((round(at, 1), score))
    return gains


def reached(gains: Sequence[tuple[float, float]], score: float) -> float:
    """The seconds after which a search had a score; infinite where it never had."""
    return next((at for at, best in gains if best >= score), math.inf)


def print_searches(rows: Sequence[dict[str, Any]]) -> None:
    """What each method found, and how soon it had what stock Optuna's default ended with."""
    print("| images | searched by | validation | test | test less hpo's | trials | to stock's best, of its time |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for images in dict.fromkeys(each["images"] for each in rows):
        by = {(each["method"], each["seed"]): each for each in rows if each["images"] == images}
        for method in METHODS:
            found = {seed: row for (name, seed), row in by.items() if name == method and (STOCK, seed) in by}
            pairs = [(row, by["hpo", seed]) for seed, row in found.items() if ("hpo", seed) in by]
            if not pairs:
                continue
            best = {seed: by[STOCK, seed]["gains"][-1] for seed in found}  # when stock Optuna had it, and which
            shares = [reached(row["gains"], best[seed][1]) / best[seed][0] for seed, row in found.items()]
            print(
                f"| {images} | {method} | {mean([row['valid'] for row in found.values()])} |"
                f" {mean([row['test'] for row in found.values()])} |"
                f" {mean([row['test'] - other['test'] for row, other in pairs])} |"
                f" {statistics.mean(row['trials'] for row in found.values()):.0f} |"
                f" {', '.join('never' if math.isinf(share) else f'{share:.2f}' for share in shares)} |"
            )


def print_winners(rows: Sequence[dict[str, Any]]) -> None:
    """What was said of each winner of hpo before its test, and what the test says of it and of the default recipe."""
    print("\n| images | seed | search | its test | confirmed | its test | test of the default recipe |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        if row.get("confirm"):
            winner, default = row["confirmed"], row["default"]
            shown = winner["confirmation"]
            margin = "" if shown["margin"] is None else f" ± {shown['margin']:.4f}"
            print(
                f"| {row['images']} | {row['seed']} | {row['valid']:.4f} | {row['test']:.4f} |"
                f" {shown['macro_f1']:.4f}{margin} | {with_interval(winner)} |"
                f" {'the same' if winner['trial'] == default['trial'] else with_interval(default)} |"
            )


def mean(values: Sequence[float]) -> str:
    """The mean ± its standard error."""
    if len(values) < 2:
        return "".join(f"{value:.4f}" for value in values)
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) / math.sqrt(len(values)):.4f}"


def with_interval(row: dict[str, Any]) -> str:
    """A test score with its interval of 95 %."""
    low, high = row["interval"]["macro_f1"]
    return f"{row['test']:.4f} ({low:.4f} to {high:.4f})"


if __name__ == "__main__":
    main()
