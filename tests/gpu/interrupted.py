"""Trainings for the test of checkpoints, in a process of its own: two to the end, or one on from a checkpoint.

python -m tests.gpu.interrupted IMAGES FOLDER DEVICE [--resume] [--deterministic]
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import save_file

from trainer.checkpoint import decode, encode
from trainer.data import load_data
from trainer.fit import Subsets, fit
from trainer.loaders import loaders_for
from trainer.model.backbones import weights_of
from trainer.recipe import Recipe
from trainer.resources import Resources

BACKBONES = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")
STOPPED_AFTER = 14  # batches: 8 of the first epoch, 2 of its validation, 4 of the second epoch
NO_DETERMINISTIC_WAY = "does not have a deterministic implementation"


def main() -> None:
    """Train each of the backbones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("device", type=torch.device)
    parser.add_argument("--resume", action="store_true", help="go on, then train once from the beginning")
    parser.add_argument("--deterministic", action="store_true", help="with torch's deterministic algorithms")
    options = parser.parse_args()
    torch.set_num_threads(1)  # two of these programs run at once
    torch.use_deterministic_algorithms(options.deterministic)
    data, loaders = load_data(options.images, valid=0.2, test=0.0), loaders_for(options.device, cores=2)
    for backbone in BACKBONES:
        checkpoint, refused = (options.folder / f"{backbone}{end}" for end in (".checkpoint", "-refused.txt"))
        if refused.exists():
            continue

        def train(name, backbone=backbone, checkpoint=checkpoint):
            recipe = Recipe(
                backbone=backbone, pretrained=False, image_size=32, batch_size=16, epochs=3, mixing="both", ema=True
            )
            batches = 0

            def on_step(capture):
                nonlocal batches
                batches += 1
                if name == "first" and batches == STOPPED_AFTER:
                    checkpoint.write_bytes(encode(capture()))

            subsets, resources = Subsets(data.split.train, data.split.valid), Resources(options.device, loaders)
            resume = decode(checkpoint.read_bytes()) if name == "resumed" else None
            epochs = fit(recipe, data, subsets, resources=resources, resume=resume, on_step=on_step)
            with closing(epochs):
                *_, last = epochs
            scores = {
                "macro_f1": torch.tensor(last.validation.macro_f1),
                "probabilities": last.validation.probabilities,
            }
            save_file({**weights_of(last.model), **scores}, options.folder / f"{backbone}-{name}.safetensors")

        try:
            for name in ("resumed", "third") if options.resume else ("first", "second"):
                train(name)
        except RuntimeError as error:
            if NO_DETERMINISTIC_WAY not in str(error):
                raise
            refused.write_text(str(error).splitlines()[0])
    loaders.close()


if __name__ == "__main__":
    main()
