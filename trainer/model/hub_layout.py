"""Weights in the layout of timm's hub: the config.json by which timm itself loads them from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.models._hub import save_config_for_hf

from trainer.image_size import shape_of
from trainer.model.backbones import build_model, load_weights
from trainer.model.timm_models import first_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.extensions import Extensions
    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe

CONFIG = "config.json"  # the name that timm looks for
CROP_MODES = {"stretch": "squash", "crop": "center", "pad": "border"}  # what timm calls the ways of resizing
TOLERANCE = 1e-4  # of logits, absolute and relative: the same weights in the same model


def write_config(weights: Path, recipe: Recipe, classes: Sequence[str], extensions: Extensions) -> str | None:
    """Write the config.json beside the weights of a recipe, and try whether timm gives the same logits by it.

    `timm.create_model("local-dir:FOLDER", pretrained=True)` then builds the model, and `timm.data` its preprocessing.
    The random state of torch is left as it is.

    Args:
        weights: model.safetensors in that folder, as `save_weights` wrote it.
        recipe: of the weights.
        classes: their names, in the order of the model's outputs.
        extensions: models and losses of one's own.

    Returns:
        why timm cannot load the folder, and then there is no config.json; None where it can.
    """
    if problem := _own_part(recipe, extensions):
        return problem
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe, len(classes), extensions, pretrained=False)
        load_weights(model, weights)
        problem = _tried(weights.parent, model.eval(), recipe, classes)
    if problem:
        weights.with_name(CONFIG).unlink(missing_ok=True)
    return problem


def _own_part(recipe: Recipe, extensions: Extensions) -> str | None:
    """What a model has that timm does not."""
    if recipe.backbone in extensions.backbones:
        return f'the backbone "{recipe.backbone}" is one of your own'
    if recipe.loss == "arcface" and recipe.loss not in extensions.losses:
        return 'timm has no head of cosines, which loss = "arcface" trains'
    return 'timm has no pooling "gem"' if recipe.pooling == "gem" else None


def _tried(folder: Path, model: Classifier, recipe: Recipe, classes: Sequence[str]) -> str | None:
    """Write the config and compare the logits of timm's model with those of this one, in eval mode on the CPU."""
    height, width = shape_of(recipe.image_size)
    data_config: dict[str, Any] = {
        "input_size": (3, height, width),
        "interpolation": model.reading.interpolation,
        "mean": tuple(model.preprocessing()["mean"]),
        "std": tuple(model.preprocessing()["std"]),
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[recipe.resize],
    }
    images = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    try:
        save_config_for_hf(
            model.backbone, str(folder / CONFIG), {"label_names": list(classes)}, data_config=data_config
        )
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        with torch.inference_mode():
            ours, theirs = model(images), loaded(model.normalized(images))
    # timm and its models raise errors of many types; the user needs the one line.
    except Exception as error:  # noqa: BLE001
        return f"timm cannot load it: {first_line(error)}"
    return None if torch.allclose(ours, theirs, TOLERANCE, TOLERANCE) else "timm gives other logits by these weights"
