"""How well models come out that get their images in different ways: stretched, cropped or padded, and random crops.

    python benchmarks/resizing.py FOLDER [--weights FOLDER] [--image-size N] [--train N] [--valid N] [--seeds N …]

Trains one recipe by each way of resizing with the policies `light` and `random_resized_crop`, on N images each of a
folder with one folder a class, and prints the validation macro-F1 of the last epoch: the mean over the seeds, its
standard error, and the mean difference from `stretch` with `light` with the standard error of that. All ways get the
same images of a seed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainer.data import load_data
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.images.cache import PixelCache
from trainer.recipe import RESIZES, Recipe
from trainer.resources import Resources

CROP_SCALES = (0.08, 0.35)


def ways() -> dict[str, dict[str, str | float]]:
    """What is compared: fields of a recipe by how a table calls them."""
    found: dict[str, dict[str, str | float]] = {}
    for resize in RESIZES:
        found[f"{resize}, light"] = {"resize": resize, "augment": "light"}
        for scale in CROP_SCALES:
            fields = {"resize": resize, "augment": "random_resized_crop", "crop_scale": scale}
            found[f"{resize}, random_resized_crop from {scale}"] = fields
    return found


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--train", type=int, default=700)
    parser.add_argument("--valid", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        backbone=options.backbone,
        pretrained=options.weights is not None,
        image_size=options.image_size,
        epochs=options.epochs,
        learning_rate=1e-3,
    )
    scores: dict[str, list[float]] = {name: [] for name in ways()}
    with tempfile.TemporaryDirectory() as cache:
        for seed in options.seeds:
            data = load_data(options.folder, valid=0.4, test=0.0, seed=seed, cache=PixelCache(Path(cache)))
            random = np.random.default_rng(seed)
            train = np.sort(random.permutation(data.split.train)[: options.train])
            valid = np.sort(random.permutation(data.split.valid)[: options.valid])
            for name, fields in ways().items():
                began = time.monotonic()
                resources = Resources(weights=options.weights)
                tried = replace(recipe, seed=seed, **fields)
                *_, last = fit(tried, data, Subsets(train, valid), extensions=Extensions(), resources=resources)
                scores[name].append(last.validation.macro_f1)
                print(
                    f"seed {seed}, {name}: {last.validation.macro_f1:.4f}, {time.monotonic() - began:.0f} s", flush=True
                )
    reference = np.array(next(iter(scores.values())))
    for name, found in scores.items():
        mean, error = _mean(np.array(found))
        difference, of_difference = _mean(np.array(found) - reference)
        print(f"{name}: {mean:.4f} ± {error:.4f}, {difference:+.4f} ± {of_difference:.4f}")


def _mean(values: np.ndarray) -> tuple[float, float]:
    """The mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
