"""How much scores differ when the same recipes are trained again: what `benchmarks/winner_simulation.py` draws from.

    python benchmarks/winner_noise.py OUT.jsonl [FOLDER] [--recipes 6] [--images 450] [--epochs 8]

Of FOLDER, which has one folder a class, or without it of scikit-learn's 1,797 digits, a few hundred images are drawn.
On these every recipe is trained on each of four folds, with two seeds, as `hpo confirm` trains. A line of OUT.jsonl is
one training: macro-F1 of each epoch on its fold, and on 600 images beside, which tells how good the recipe truly is for
data of this size. A file that is there already goes on where it was left. The recipes are the default one and random
ones of the demo's space.

Printed are, for each recipe, the mean and the standard deviation of one training, on its fold and on the 600 images, at
the epoch that is best on the folds, and for recipes whose mean is within `NEAR` of the best one, as bad ones differ
more, the standard deviation by its cause: the seed of the training, the images of a fold for one recipe, and the fold
for all recipes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import torch

from hpo.demo import write_demo
from trainer.data import load_data
from trainer.fit import Subsets, fit
from trainer.images.cache import PixelCache
from trainer.images.split import divide_into_folds
from trainer.metrics import confusion_matrix, macro_f1
from trainer.resources import Resources
from trainer.space import Space, suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data import Data
    from trainer.recipe import Recipe

FOLDS, SEEDS, JUDGES = 4, 2, 600
NEAR = 0.05  # of macro-F1


def record(options: argparse.Namespace) -> None:
    """Train what is not in the file yet."""
    done = {
        tuple(json.loads(line)[key] for key in ("recipe", "fold", "seed"))
        for line in (options.out.read_text().splitlines() if options.out.exists() else [])
    }
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        study_file = write_demo(Path(folder), epochs=options.epochs)
        cache = PixelCache(Path(folder) / "pixels")
        data = load_data(options.folder or study_file.parent / "digits", valid=0.2, test=0.15, cache=cache)
        fields = tomllib.loads(study_file.read_text())["recipe"]
        space, sampler = Space(fields), optuna.samplers.RandomSampler(seed=1)
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial(space.default_parameters())
        recipes = [suggest(study.ask(), space) for _ in range(options.recipes)]
        images = np.random.default_rng(0).permutation(len(data.index.paths))
        judges, rest = np.sort(images[:JUDGES]), images[JUDGES:]
        drawn = np.sort(np.random.default_rng(1).choice(rest, options.images, replace=False))
        folds = divide_into_folds(data.index, drawn, FOLDS, seed="0")
        for number, fold, seed in itertools.product(range(len(recipes)), range(FOLDS), range(SEEDS)):
            if (number, fold, seed) not in done:
                seeded = replace(recipes[number], seed=10 * fold + seed)
                line = {"recipe": number, "fold": fold, "seed": seed}
                line |= train(seeded, data, drawn, folds == fold, judges)
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def train(
    recipe: Recipe, data: Data, drawn: NDArray[np.int64], held: NDArray[np.bool_], judges: NDArray[np.int64]
) -> dict[str, list[float]]:
    """Macro-F1 by epoch of one training, on its fold and on the judges."""
    valid = drawn[held]
    epochs = fit(recipe, data, Subsets(drawn[~held], np.concatenate([valid, judges])), resources=Resources())
    fold: list[float] = []
    truth: list[float] = []
    with closing(epochs):
        for epoch in epochs:
            assert epoch.validation, "there are validation images"
            predicted = epoch.validation.probabilities.argmax(dim=1)
            for images, of, scores in ((valid, slice(len(valid)), fold), (judges, slice(len(valid), None), truth)):
                labels = torch.from_numpy(data.index.labels[images])
                scores.append(round(macro_f1(confusion_matrix(labels, predicted[of], len(data.index.classes))), 4))
    return {"fold_macro_f1": fold, "true_macro_f1": truth}


def show(out: Path) -> None:
    """Print what the trainings say."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    of_recipe: dict[int, list[dict[str, Any]]] = {}
    for line in sorted(lines, key=lambda line: (line["fold"], line["seed"])):
        of_recipe.setdefault(line["recipe"], []).append(line)
    folds = {}
    print("| recipe | on the folds | their standard deviation | on other images | their standard deviation |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for recipe, trainings in sorted(of_recipe.items()):
        curves = np.array([training["fold_macro_f1"] for training in trainings])
        epoch = int(curves.mean(axis=0).argmax())
        true = np.array([training["true_macro_f1"][epoch] for training in trainings])
        folds[recipe] = curves[:, epoch]
        numbers = (folds[recipe].mean(), folds[recipe].std(ddof=1), true.mean(), true.std(ddof=1))
        print(f"| {recipe} | {' | '.join(f'{number:.4f}' for number in numbers)} |")
    best = max(scores.mean() for scores in folds.values())
    near = np.array([scores for scores in folds.values() if scores.mean() >= best - NEAR]).reshape(-1, FOLDS, SEEDS)
    parts = {"the seed": by_seed(near), **by_cell(near)}
    print(f"\nstandard deviation of one training of the {len(near)} recipes within {NEAR} of the best, by its cause:")
    print(", ".join(f"{cause} {np.sqrt(max(variance, 0.0)):.4f}" for cause, variance in parts.items()))


def by_seed(scores: NDArray[np.float64]) -> float:
    """The variance by the seed, of scores [recipes, folds, seeds]."""
    return float(scores.var(axis=2, ddof=1).mean())


def by_cell(scores: NDArray[np.float64]) -> dict[str, float]:
    """The variance by the images of a fold for each recipe, and by the fold for all of them; one sum for one recipe."""
    means = scores.mean(axis=2)
    recipes, folds = means.shape
    if recipes == 1:
        return {"its images and the fold": float(means.var(ddof=1)) - by_seed(scores) / SEEDS}
    rest = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    between = float((rest**2).sum()) / ((recipes - 1) * (folds - 1))
    fold = float(means.mean(axis=0).var(ddof=1)) - between / recipes
    return {"its images": between - by_seed(scores) / SEEDS, "the fold": fold}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--recipes", type=int, default=6)
    parser.add_argument("--images", type=int, default=450)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    record(arguments)
    show(arguments.out)
