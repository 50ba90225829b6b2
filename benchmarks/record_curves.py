"""Records learning curves of hpo's own trainer, for `benchmarks/search_replay.py`.

    python benchmarks/record_curves.py TABLE.json.gz [FOLDER] [--recipes 150] [--minutes 9] [--images 800 …]

FOLDER has one folder a class; without it scikit-learn's digits are the images. The recipes are those of the default
space with small backbones that start from random weights: first the default recipe, then in turn one drawn at random
and one that changes one to four fields of the default one. Of each the validation and test macro-F1 and the seconds
(on a CPU: of the processor) of every epoch are recorded. What TABLE holds already is not trained again: the same
command goes on, and with `--minutes` it stops after that time.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from optuna.trial import FixedTrial

from hpo.demo import write_demo
from hpo.study.encoding import Encoding
from trainer.data import load_data
from trainer.device import choose_device
from trainer.errors import TrainerError
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.images.cache import PixelCache
from trainer.metrics import confusion_matrix, macro_f1
from trainer.model.backbones import interpolation_of
from trainer.space import Space, parameters_of, recipe_near_default, suggest
from trainer.step import MicroBatch
from trainer.validation import probabilities_of

if TYPE_CHECKING:
    from trainer.data import Data
    from trainer.recipe import Recipe

BACKBONES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]


def main() -> None:
    """Record what TABLE does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--recipes", type=int, default=150, help="default: 150")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further recipe begins")
    parser.add_argument("--images", type=int, help="at most so many of the images to train, drawn at random")
    parser.add_argument("--image-size", type=int, default=32, help="in pixels; default: 32")
    parser.add_argument("--epochs", type=int, default=12, help="default: 12")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    own = {"pretrained": False, "image_size": options.image_size, "epochs": options.epochs}
    space = Space({"backbone": BACKBONES, **own})
    table: dict[str, Any] = {"space": space.as_dict(), "rows": []}
    if options.table.exists():
        table = json.loads(gzip.decompress(options.table.read_bytes()))
    if table["space"] != json.loads(json.dumps(space.as_dict())):
        parser.error(f"{options.table} holds recipes of another space; name another file")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or write_demo(Path(scratch) / "demo").parent / "digits"
        data = load_data(folder, valid=0.25, test=0.25, cache=PixelCache(Path(scratch) / "pixels"))
        if options.images and options.images < len(data.split.train):
            drawn = np.random.default_rng(0).choice(data.split.train, options.images, replace=False)
            data = replace(data, split=replace(data.split, train=np.sort(drawn)))
        while len(table["rows"]) < options.recipes and time.monotonic() < end:
            recipe = recipe_of(len(table["rows"]), space)
            row = {"hp": parameters_of(recipe, space), **curves(recipe, data)}
            table["rows"].append(row)
            options.table.write_bytes(gzip.compress(json.dumps(table).encode()))
            print(f"{len(table['rows'])}: {max(row['valid_macro_f1'], default=0):.4f}", flush=True)


def recipe_of(number: int, space: Space) -> Recipe:
    """The recipe of a row: 0 is the default one, odd ones are random, even ones near the default."""
    if number == 0:
        return recipe_near_default({}, space)
    encoding, rng = Encoding.of(space), np.random.default_rng(number)
    default = encoding.coordinates(parameters_of(recipe_near_default({}, space), space))
    drawn = encoding.random(rng, 1)[0] if number % 2 else encoding.neighbours(rng, default[None])[0]
    return suggest(FixedTrial(encoding.params(drawn)), space)


def curves(recipe: Recipe, data: Data) -> dict[str, list[float]]:
    """Validation and test macro-F1 and seconds of each epoch; fewer epochs where the training fails."""
    device, split = choose_device(), data.split
    pixels = data.pixels(recipe.image_size, interpolation_of(recipe.backbone, Extensions()))
    labels = torch.from_numpy(data.index.labels[split.test])
    # Of a CPU the time of this process, which does not depend on what else the machine does.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {"valid_macro_f1": [], "test_macro_f1": [], "seconds": []}
    started = clock()
    try:
        with closing(fit(recipe, data, Subsets(split.train, split.valid))) as epochs:
            for epoch in epochs:
                assert epoch.validation
                given = probabilities_of(epoch.model, pixels, split.test, device, MicroBatch(64))
                confusion = confusion_matrix(labels, given.argmax(1), len(data.index.classes))
                found["seconds"].append(clock() - started)
                found["valid_macro_f1"].append(epoch.validation.macro_f1)
                found["test_macro_f1"].append(macro_f1(confusion))
                started = clock()
    except TrainerError as error:
        print(error)
    return found


if __name__ == "__main__":
    main()
