"""How well models come out of different recipes, on test images that nothing was chosen by.

    python benchmarks/recipes.py (resizing | rates) FOLDER OUT.jsonl [--weights FOLDER] [--backbone NAME]
        [--image-size N] [--epochs N] [--train N] [--test N] [--seeds N …] [--crop-scale SHARE] [--rates RATE …]
        [--timm-head] [--threads N]

`resizing` compares each way of resizing with the policies `light` and `random_resized_crop`; `rates` the default recipe
with five learning rates, with and without augmentation, and the portfolio's recipes for the backbone. Trains each
on N images of a folder with one folder a class, and prints the macro-F1 of the last epoch: the mean over the seeds with
its standard deviation, and the mean difference from the first recipe with the standard error of that. All recipes get
the same images of a seed. `--timm-head` lets a new head begin as timm draws it. A line of OUT.jsonl is one training; a
file that is there already goes on where it was left, so ask for the same in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpo.study.portfolio import portfolio
from trainer.data import load_data
from trainer.fit import Subsets, fit
from trainer.images.cache import PixelCache
from trainer.metrics import confusion_matrix, macro_f1
from trainer.model import backbones
from trainer.recipe import RESIZES, Recipe, recipe_from
from trainer.resources import Resources
from trainer.space import Space
from trainer.step import MicroBatch
from trainer.validation import probabilities_of

if TYPE_CHECKING:
    from trainer.data import Data

RATES = (1e-3, 1e-4, 3e-4, 3e-3, 1e-2)  # learning rates; the first is that of the default recipe


def resizing(options: argparse.Namespace) -> dict[str, Recipe]:
    """Each way of resizing with two policies, by how a table calls them."""
    crops = {"augment": "random_resized_crop", "crop_scale": options.crop_scale}
    policies: dict[str, dict[str, Any]] = {"light": {"augment": "light"}, "random_resized_crop": crops}
    return {
        f"{resize}, {name}": recipe_from({**common(options), "resize": resize, **fields})
        for name, fields in policies.items()
        for resize in RESIZES
    }


def rates(options: argparse.Namespace) -> dict[str, Recipe]:
    """The default recipe with each learning rate and two policies, and the portfolio's, by how a table calls them."""
    found = {
        f"{rate:g}, {augment}": recipe_from({**common(options), "learning_rate": rate, "augment": augment})
        for rate in options.rates
        for augment in ("light", "none")
    }
    known = portfolio(Space(common(options)), None)
    return found | {source: recipe_from(asdict(recipe)) for recipe, source in known.items()}


COMPARED = {"resizing": resizing, "rates": rates}


def common(options: argparse.Namespace) -> dict[str, Any]:
    """What all recipes have."""
    return {
        "backbone": options.backbone,
        "pretrained": options.weights is not None,
        "image_size": options.image_size,
        "epochs": options.epochs,
    }


def main() -> None:
    """Train what is not in the file yet, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("compared", choices=COMPARED)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--crop-scale", type=float, default=0.35)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--timm-head", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.timm_head:
        backbones.shrink_head = lambda _: None
    compared = COMPARED[options.compared](options)
    lines = [json.loads(line) for line in (options.out.read_text().splitlines() if options.out.exists() else [])]
    scores = {(line["seed"], line["way"]): line["macro_f1"] for line in lines}
    with tempfile.TemporaryDirectory() as cache:
        for seed in options.seeds:
            data = load_data(options.folder, test=0.4, seed=seed, cache=PixelCache(Path(cache)))
            for way, recipe in compared.items():
                if (seed, way) in scores:
                    continue
                began = time.monotonic()
                scores[seed, way] = test_macro_f1(options, data, recipe_from({**asdict(recipe), "seed": seed}))
                line = {"seed": seed, "way": way, "macro_f1": scores[seed, way]}
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"seed {seed}, {way}: {scores[seed, way]:.4f}, {time.monotonic() - began:.0f} s", flush=True)
    table = np.array([[scores[seed, way] for way in compared] for seed in options.seeds])  # [seeds, recipes]
    differences = table - table[:, :1]
    deviation, error = (spread.std(axis=0, ddof=1) for spread in (table, differences / np.sqrt(len(table))))
    for number, way in enumerate(compared):
        print(
            f"{way}: {table[:, number].mean():.4f}, standard deviation {deviation[number]:.4f}; "
            f"{differences[:, number].mean():+.4f} ± {error[number]:.4f}"
        )


def test_macro_f1(options: argparse.Namespace, data: Data, recipe: Recipe) -> float:
    """Macro-F1 on images of the test split after a training on images of the rest."""
    random = np.random.default_rng(recipe.seed)
    train = np.sort(random.permutation(data.split.train)[: options.train])
    test = np.sort(random.permutation(data.split.test)[: options.test])
    *_, last = fit(recipe, data, Subsets(train), resources=Resources(weights=options.weights))
    pixels, labels = data.pixels(last.model.reading), torch.from_numpy(data.index.labels[test])
    probabilities = probabilities_of(last.model, pixels, test, torch.device("cpu"), MicroBatch(64))
    return macro_f1(confusion_matrix(labels, probabilities.argmax(dim=1), len(data.index.classes)))


if __name__ == "__main__":
    main()
