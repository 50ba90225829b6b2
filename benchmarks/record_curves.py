"""Records learning curves of hpo's own trainer, for `benchmarks/search_replay.py`.

    python benchmarks/record_curves.py TABLE.json.gz [FOLDER] [--recipes 150] [--minutes 9] [--images 800 …]

FOLDER has one folder a class; without it scikit-learn's digits are the images. The recipes are those of the default
space with small backbones that start from random weights: first the default recipe, then in turn one drawn at random
and one that changes one to four fields of the default one, and those of the portfolio at the end. Of each the
validation and test macro-F1 and the seconds (on a CPU: of the processor) of the training and validation of every epoch
are recorded. What TABLE holds already is not trained again: the same command goes on, and with `--minutes` it stops
after that time.
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
from hpo.study.portfolio import portfolio
from trainer.data import load_data
from trainer.device import choose_device
from trainer.errors import TrainerError
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.images.cache import PixelCache
from trainer.metrics import confusion_matrix, macro_f1
from trainer.model.backbones import reading_of
from trainer.space import Space, parameters_of, recipe_near_default, suggest
from trainer.step import MicroBatch
from trainer.validation import probabilities_of

if TYPE_CHECKING:
    from trainer.data import Data
    from trainer.images.split import Split
    from trainer.recipe import Recipe

BACKBONES = ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]


def main() -> None:
    """Record what TABLE does not hold yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--recipes", type=int, default=150, help="beside the portfolio; default: 150")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further recipe begins")
    parser.add_argument("--images", type=int, help="at most so many to train, and half as many to validate and test")
    parser.add_argument(
        "--image-size", type=int, nargs="+", default=[32], help="in pixels, to be searched; default: 32"
    )
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, help=f"default: {' '.join(BACKBONES)}")
    parser.add_argument("--epochs", type=int, default=12, help="default: 12")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    sizes = options.image_size if len(options.image_size) > 1 else options.image_size[0]
    own: dict[str, Any] = {"pretrained": False, "image_size": sizes, "epochs": options.epochs}
    space = Space({"backbone": options.backbones, **own})
    table: dict[str, Any] = {"space": space.as_dict(), "rows": []}
    if options.table.exists():
        table = json.loads(gzip.decompress(options.table.read_bytes()))
    if table["space"] != json.loads(json.dumps(space.as_dict())):
        parser.error(f"{options.table} holds recipes of another space; name another file")
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or write_demo(Path(scratch) / "demo").parent / "digits"
        data = load_data(folder, valid=0.25, test=0.25, cache=PixelCache(Path(scratch) / "pixels"))
        if options.images:
            data = replace(data, split=smaller(data.split, options.images))
        recipes = [*(recipe_of(number, space) for number in range(options.recipes)), *portfolio(space, None)]
        for recipe in recipes:
            if time.monotonic() > end:
                break
            params = parameters_of(recipe, space)
            if any(row["hp"] == params for row in table["rows"]):
                continue
            row: dict[str, Any] = {"hp": params, **curves(recipe, data)}
            table["rows"].append(row)
            options.table.write_bytes(gzip.compress(json.dumps(table).encode()))
            print(f"{len(table['rows'])}: {max(row['valid_macro_f1'], default=0):.4f}", flush=True)


def smaller(split: Split, images: int) -> Split:
    """At most so many images to train, and half as many to validate and to test, drawn at random."""
    rng = np.random.default_rng(0)
    train, valid, test = (
        np.sort(rng.permutation(side)[:count])
        for side, count in ((split.train, images), (split.valid, images // 2), (split.test, images // 2))
    )
    return replace(split, train=train, valid=valid, test=test)


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
    pixels = data.pixels(reading_of(recipe, Extensions()))
    labels = torch.from_numpy(data.index.labels[split.test])
    # Of a CPU the time of this process, which does not depend on what else the machine does.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {"valid_macro_f1": [], "test_macro_f1": [], "seconds": []}
    started = clock()
    try:
        with closing(fit(recipe, data, Subsets(split.train, split.valid))) as epochs:
            for epoch in epochs:
                assert epoch.validation
                found["seconds"].append(clock() - started)
                given = probabilities_of(epoch.model, pixels, split.test, device, MicroBatch(64))
                confusion = confusion_matrix(labels, given.argmax(1), len(data.index.classes))
                found["valid_macro_f1"].append(epoch.validation.macro_f1)
                found["test_macro_f1"].append(macro_f1(confusion))
                started = clock()
    except TrainerError as error:
        print(error)
    return found


if __name__ == "__main__":
    main()
