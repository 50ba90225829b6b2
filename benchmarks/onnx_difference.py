"""How far the probabilities of a bundle's ONNX file are from the bundle's own, for the default search's backbones.

    python benchmarks/onnx_difference.py [BACKBONE …] [--image-size N] [--threads N]

The weights are random. So that a difference shows, the statistics of normalisations are those of real pictures, and
the last layer is scaled until the probabilities are as sure as those of a trained model. Compared on parts of
scikit-learn's two photographs, each alone and in a batch with its mirror image, as `hpo convert` does before it writes
a file. The parts have the size of the model's images, so that none is resized: a random network, unlike a trained one,
turns a pixel that is 1 of 255 away, as Pillow's and ONNX's are after a resize, into another class.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from hpo.bundle.bundle import read_bundle
from hpo.bundle.conversion import convert
from trainer.extensions import Extensions
from trainer.images.pixels import read_image
from trainer.model.backbones import build_model, reading_of, save_weights
from trainer.recipe import Recipe
from trainer.space import DEFAULT_SPACE

CLASSES = tuple("abcdefgh")
PICTURES = 16
LOGIT_SPREAD = 4.0  # standard deviation between classes: the most probable of eight then has about 0.9


def write_pictures(folder: Path, side: int) -> list[Path]:
    """Parts of two photographs, so many pixels a side, as PNGs."""
    random, files = np.random.default_rng(0), []
    for number in range(PICTURES):
        photograph = load_sample_images().images[number % 2]
        top, left = random.integers(0, photograph.shape[0] - side), random.integers(0, photograph.shape[1] - side)
        files.append(folder / f"{number}.png")
        Image.fromarray(photograph[top : top + side, left : left + side]).save(files[-1])
    return files


@torch.no_grad()
def write_bundle(folder: Path, recipe: Recipe, files: list[Path]) -> None:
    """A bundle whose model is random and sure."""
    torch.manual_seed(0)
    model = build_model(recipe, len(CLASSES), Extensions(), pretrained=False)
    reading = reading_of(recipe, Extensions())
    pixels = torch.from_numpy(np.stack([read_image(file, reading) for file in files]))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics of one batch
    model.train()(pixels)
    head = model.backbone.get_classifier()
    head.weight *= LOGIT_SPREAD / model.eval()(pixels).std(dim=1).mean()
    folder.mkdir()
    recipe.write(folder / "recipe.toml")
    info = {"classes": CLASSES, "preprocessing": {"interpolation": reading.interpolation}}
    (folder / "bundle.json").write_text(json.dumps(info))
    save_weights(model, folder / "model.safetensors")


def main() -> None:
    """Convert and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*", metavar="BACKBONE")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        files = write_pictures(Path(name), options.image_size)
        for backbone in options.backbones or DEFAULT_SPACE["backbone"]:
            recipe = Recipe(backbone=backbone, pretrained=False, image_size=options.image_size)
            write_bundle(Path(name) / backbone, recipe, files)
            bundle = read_bundle(Path(name) / backbone)
            print(
                f"{backbone}: {convert(bundle, Extensions(), list(map(str, files)), options.threads).line()}",
                flush=True,
            )


if __name__ == "__main__":
    main()
