"""Models by name: timm's, or one's own, with a head for the classes and the normalisation that its weights expect."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import load_file, save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from trainer.augmentation.random_resized_crop import MARGIN, takes_random_crops
from trainer.checkpoint import copies
from trainer.errors import RecipeError
from trainer.image_size import scaled, side_or_shape
from trainer.images.pixels import INTERPOLATIONS, MEAN_COLOUR, Reading
from trainer.model.feasibility import backbone_problem, own_backbone_problem
from trainer.model.freezing import freeze_layers
from trainer.model.heads import shrink_head, use_cosine_head
from trainer.model.pretrained import pretrained_backbone
from trainer.model.timm_models import create_backbone, has_tag

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trainer.extensions import Extensions
    from trainer.recipe import Recipe

INTERPOLATION = "bicubic"  # timm's own default, too


class Classifier(nn.Module):
    """A backbone that takes images as they lie in memory: uint8 [batch, height, width, 3] -> logits [batch, classes].

    reading: how files become images for it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], reading: Reading) -> None:
        super().__init__()
        self.backbone, self.reading = backbone, reading
        self.frozen: list[nn.Module] = []  # modules of the backbone that stay in eval mode
        # Not saved with the weights: they belong to the preprocessing, and timm should load our files as its own.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise on the device of the model, then classify."""
        logits: Tensor = self.backbone(self.normalized(images))
        return logits

    def normalized(self, images: Tensor) -> Tensor:
        """What the backbone gets of images uint8 [batch, height, width, 3]: float32 [batch, 3, height, width]."""
        return (images.permute(0, 3, 1, 2) - self.mean) / self.std

    def train(self, mode: bool = True) -> Classifier:
        """Switch between training and evaluation, all but the frozen modules."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def preprocessing(self) -> dict[str, Any]:
        """What has to happen to an image before the backbone sees it, for those who use the weights without us."""
        return {
            "interpolation": self.reading.interpolation,
            "resize": f"{_way(self.reading)}, {self.reading.interpolation} with antialiasing",
            "mean": [round(value, 6) for value in (self.mean.flatten() / 255).tolist()],
            "std": [round(value, 6) for value in (self.std.flatten() / 255).tolist()],
        }


def build_model(
    recipe: Recipe, classes: int, extensions: Extensions, *, pretrained: bool, weights: Path | None = None
) -> Classifier:
    """Build the recipe's model on the CPU, randomly initialised from torch's global generator or pretrained.

    Args:
        recipe: names the backbone and the image size.
        classes: number of outputs.
        extensions: models of one's own.
        pretrained: load published weights; False where weights of a training are to be loaded.
        weights: folder that holds `<backbone>.safetensors` (or .pth, .pt, .bin) in place of the hub.

    Raises:
        RecipeError: the backbone does not exist, or cannot work with this image size.
        WeightsError: the pretrained weights cannot be had.
    """
    if recipe.backbone in extensions.backbones:
        model = Classifier(
            extensions.backbones[recipe.backbone](classes, side_or_shape(recipe.image_size)),
            IMAGENET_DEFAULT_MEAN,
            IMAGENET_DEFAULT_STD,
            reading_of(recipe, extensions),
        )
        if problem := own_backbone_problem(model.backbone, recipe):
            raise RecipeError([problem])
    else:
        if problem := backbone_problem(recipe):
            raise RecipeError([problem])
        backbone = pretrained_backbone(recipe, classes, weights) if pretrained else create_backbone(recipe, classes)
        shrink_head(backbone)
        config = timm.data.resolve_model_data_config(backbone)
        if recipe.loss == "arcface" and recipe.loss not in extensions.losses:
            use_cosine_head(backbone, classes, recipe.arcface_scale)
        model = Classifier(backbone, config["mean"], config["std"], reading_of(recipe, extensions))
    if recipe.pretrained and recipe.freeze > 0:
        model.frozen = freeze_layers(model.backbone, recipe.freeze)
        model.train(model.training)  # which leaves the frozen modules in eval mode
    return model


def reading_of(recipe: Recipe, extensions: Extensions) -> Reading:
    """How files become images for a recipe's model, but for the ranges of values."""
    return Reading(recipe.image_size, interpolation_of(recipe.backbone, extensions), resize=recipe.resize)


def training_reading(recipe: Recipe, extensions: Extensions) -> Reading:
    """How files become pixels that a recipe's augmentation takes, but for the ranges of values.

    Random resized crops are cut from the whole picture with `MARGIN`, whichever way images are resized for validation.
    """
    reading = reading_of(recipe, extensions)
    if not takes_random_crops(recipe, extensions):
        return reading
    return replace(reading, size=scaled(recipe.image_size, MARGIN), resize="stretch")


def interpolation_of(backbone: str, extensions: Extensions) -> str:
    """How images are resized for a backbone, a name in INTERPOLATIONS: as those were that its weights come from.

    Bicubic for a model of one's own, and where timm does not know it.
    """
    if backbone in extensions.backbones or not timm.is_model(backbone) or not has_tag(backbone):
        return INTERPOLATION
    config = get_pretrained_cfg(backbone)
    known = config is not None and config.interpolation in INTERPOLATIONS
    return str(config.interpolation) if known else INTERPOLATION


def _way(reading: Reading) -> str:
    """How a picture comes to its size, in words."""
    height, width = reading.shape
    shape = f"{height} x {width} (height x width)"
    match reading.resize:
        case "crop":
            return f"scale until it covers {shape}, of which the middle is taken"
        case "pad":
            return f"scale until it lies whole in {shape}, in the middle of the colour {MEAN_COLOUR}"
        case _:
            return "stretch to a square" if height == width else f"stretch to {shape}"


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """A copy of the backbone's weights on the CPU, with the names that timm gives them."""
    return copies(model.backbone.state_dict())


def write_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write what `weights_of` gave, as safetensors."""
    file.write_bytes(save(dict(weights)))  # and not save_file, which gives the file other permissions


def save_weights(model: Classifier, file: Path) -> None:
    """Write the backbone's weights."""
    write_weights(weights_of(model), file)


def load_weights(model: Classifier, file: Path) -> None:
    """Read weights that `save_weights` wrote into a model of the same recipe and classes."""
    model.backbone.load_state_dict(load_file(file))
