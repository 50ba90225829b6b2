"""How much scores differ when the same recipes are trained again: what `benchmarks/winner_simulation.py` draws from.

    python benchmarks/winner_noise.py OUT.jsonl [--recipes 6] [--data-sets 6] [--images 450] [--epochs 8]

Of scikit-learn's 1,797 digits, data sets of a few hundred images are drawn. On each one every recipe is trained on each
of four folds, with two seeds, as `hpo confirm` trains. A line of OUT.jsonl is one training: macro-F1 of each epoch
on its fold, and on 600 digits that no data set holds, which tells how good the recipe truly is for data of this size. A
file that is there already goes on where it was left. The recipes are the default one and random ones of the
demo's space.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import tomllib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import optuna
import torch

from hpo.demo import write_demo
from trainer.data import load_data
from trainer.fit import Subsets, fit
from trainer.images.split import divide_into_folds
from trainer.metrics import confusion_matrix, macro_f1
from trainer.resources import Resources
from trainer.space import Space, suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data import Data
    from trainer.recipe import Recipe

FOLDS, SEEDS, JUDGES = 4, 2, 600


def record(options: argparse.Namespace) -> None:
    """Train what is not in the file yet."""
    done = {
        tuple(json.loads(line)[key] for key in ("recipe", "data_set", "fold", "seed"))
        for line in (options.out.read_text().splitlines() if options.out.exists() else [])
    }
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        study_file = write_demo(Path(folder), epochs=options.epochs)
        data = load_data(study_file.parent / "digits", valid=0.2, test=0.15)
        fields = tomllib.loads(study_file.read_text())["recipe"]
        space, sampler = Space(fields), optuna.samplers.RandomSampler(seed=1)
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial(space.default_parameters())
        recipes = [suggest(study.ask(), space) for _ in range(options.recipes)]
        images = np.random.default_rng(0).permutation(len(data.index.paths))
        judges, rest = np.sort(images[:JUDGES]), images[JUDGES:]
        for data_set in range(options.data_sets):
            drawn = np.sort(np.random.default_rng(data_set + 1).choice(rest, options.images, replace=False))
            folds = divide_into_folds(data.index, drawn, FOLDS, seed=str(data_set))
            for number, recipe in enumerate(recipes):
                for fold in range(FOLDS):
                    for seed in range(SEEDS):
                        if (number, data_set, fold, seed) in done:
                            continue
                        seeded = replace(recipe, seed=1000 * data_set + 10 * fold + seed)
                        curves = train(seeded, data, drawn, folds == fold, judges)
                        line = {"recipe": number, "data_set": data_set, "fold": fold, "seed": seed, **curves}
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipes", type=int, default=6)
    parser.add_argument("--data-sets", type=int, default=6)
    parser.add_argument("--images", type=int, default=450)
    parser.add_argument("--epochs", type=int, default=8)
    record(parser.parse_args())
