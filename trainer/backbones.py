"""Models by name: timm's, or one's own, with a head for the classes and the normalisation that its weights expect."""

from __future__ import annotations

import difflib
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from trainer.errors import RecipeError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from trainer.parts import Parts
    from trainer.recipe import Recipe
    from trainer.space import Space

HUB_SECONDS = 10.0  # in which the hub has to answer
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Classifier(nn.Module):
    """A backbone that takes images as they lie in memory: uint8 [batch, side, side, 3] -> logits [batch, classes]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        # Not saved with the weights: they belong to the preprocessing, and timm should load our files as its own.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise on the device of the model, then classify."""
        logits: Tensor = self.backbone((images.permute(0, 3, 1, 2) - self.mean) / self.std)
        return logits

    def preprocessing(self) -> dict[str, Any]:
        """What has to happen to an image before the backbone sees it, for those who use the weights without us."""
        return {
            "resize": "stretch to a square, bicubic with antialiasing",
            "mean": [round(value, 6) for value in (self.mean.flatten() / 255).tolist()],
            "std": [round(value, 6) for value in (self.std.flatten() / 255).tolist()],
        }


def build_model(
    recipe: Recipe, classes: int, parts: Parts, *, pretrained: bool, weights: Path | None = None
) -> Classifier:
    """Build the recipe's model on the CPU, randomly initialised from torch's global generator or pretrained.

    Args:
        recipe: names the backbone and the image size.
        classes: number of outputs.
        parts: models of one's own.
        pretrained: load published weights; False where weights of a training are to be loaded.
        weights: folder that holds `<backbone>.safetensors` (or .pth, .pt, .bin) in place of the hub.

    Raises:
        RecipeError: the backbone does not exist, or cannot work with this image size.
        WeightsError: the pretrained weights cannot be had.
    """
    if recipe.backbone in parts.backbones:
        model = parts.backbones[recipe.backbone](classes, recipe.image_size)
        return Classifier(model, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if problem := backbone_problem(recipe.backbone, recipe.image_size):
        raise RecipeError([problem])
    arguments: dict[str, Any] = {"num_classes": classes, **_size_argument(recipe.backbone, recipe.image_size)}
    if pretrained:
        file = _local_weights(recipe.backbone, weights)
        overlay = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
        random_state = torch.get_rng_state()
        try:
            if not file:
                _reach_hub(recipe.backbone)
            model = timm.create_model(recipe.backbone, pretrained=True, **overlay, **arguments)
        # Whatever the hub client, the file system or the unpickler raise: the user needs the one line.
        except Exception as error:
            raise WeightsError(_weights_line(recipe.backbone, weights, error)) from error
        if file:
            # Beside a new head timm takes what it knows from a file and leaves the rest, be it all of another model.
            torch.set_rng_state(random_state)
            untrained = timm.create_model(recipe.backbone, **arguments).state_dict()
            if all(torch.equal(value, untrained[key]) for key, value in model.state_dict().items()):
                raise WeightsError(
                    f"weights: {file} has no weights of {recipe.backbone}; put those of this model there"
                )
    else:
        model = timm.create_model(recipe.backbone, **arguments)
    config = timm.data.resolve_model_data_config(model)
    return Classifier(model, config["mean"], config["std"])


def check_backbones(space: Space, classes: int, weights: Path | None = None) -> None:
    """Find out before the first trial whether every backbone exists, fits every image size and has its weights.

    Weights from the hub are downloaded here, so that no trial waits for them.

    Raises:
        RecipeError: backbones that do not exist or do not fit, all of them.
        WeightsError: pretrained weights that cannot be had.
    """
    names = [name for name in space.values("backbone") if name not in space.parts.backbones]
    sizes = space.values("image_size")
    if problems := [problem for name in names for size in sizes if (problem := backbone_problem(name, size))]:
        raise RecipeError(list(dict.fromkeys(problems)))
    if True in space.values("pretrained"):
        from trainer.recipe import Recipe

        for name in names:
            build_model(
                Recipe(backbone=name, image_size=sizes[0]), classes, space.parts, pretrained=True, weights=weights
            )


def backbone_problem(name: str, size: int) -> str | None:
    """Say why a timm backbone cannot be used at this image size, or None. Computes nothing: shapes only."""
    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        known = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.5)
        return f'backbone: timm has no "{name}"' + (f'; did you mean "{known[0]}"?' if known else "")
    if not _has_tag(name):
        tags = [tagged for tagged in timm.list_pretrained() if tagged.startswith(f"{architecture}.")]
        return f'backbone: timm has no weights "{name}"; it has {", ".join(tags) or "none for this model"}'
    try:
        with torch.device("meta"), torch.no_grad():
            timm.create_model(name, num_classes=2, **_size_argument(name, size)).eval()(torch.empty(1, 3, size, size))
    # The models complain of a size in many ways, some by dividing by zero or with an assertion without a word.
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        return f'backbone: "{name}" cannot work with image_size = {size}: {_first_line(error)}'
    return None


def save_weights(model: Classifier, file: Path) -> None:
    """Write the backbone's weights with the names that timm gives them, as safetensors."""
    # Cloned: some models (coat) have one tensor under several names, which the format refuses.
    state = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.backbone.state_dict().items()
    }
    file.write_bytes(save(state))  # save_file would give the file a mode of its own


def load_weights(model: Classifier, file: Path) -> None:
    """Read weights that `save_weights` wrote into a model of the same recipe and classes."""
    model.backbone.load_state_dict(load_file(file))


def _size_argument(name: str, size: int) -> dict[str, int]:
    """Models with a fixed input size are built for another one only when told so."""
    config = get_pretrained_cfg(name)
    return {"img_size": size} if config is not None and config.fixed_input_size else {}


def _has_tag(name: str) -> bool:
    """Whether timm knows the weights that a model's name asks for; a name without a tag asks for the usual ones."""
    try:
        return get_pretrained_cfg(name) is not None
    except RuntimeError:  # a tag that this model does not have
        return False


def _local_weights(name: str, folder: Path | None) -> Path | None:
    if folder is None:
        return None
    return next((file for suffix in WEIGHT_SUFFIXES if (file := folder / f"{name}{suffix}").is_file()), None)


def _reach_hub(name: str) -> None:
    """Ask the hub once for weights that are not here yet; its client would try for most of a minute."""
    repository = get_pretrained_cfg(name).hf_hub_id
    names = ("model.safetensors", "pytorch_model.bin")
    if repository and not any(try_to_load_from_cache(repository, file) for file in names):
        with suppress(EntryNotFoundError):  # it answers, and timm knows other names to ask for
            get_hf_file_metadata(hf_hub_url(repository, names[0]), timeout=HUB_SECONDS)


def _weights_line(name: str, folder: Path | None, error: Exception) -> str:
    cause = _first_line(error)
    if file := _local_weights(name, folder):
        return f"weights: {file} cannot be loaded into {name}: {cause}"
    looked = f"{folder} has no {name}.safetensors, and " if folder else ""
    return (
        f"weights: {looked}the pretrained weights of {name} cannot be fetched from the hub ({cause}); connect to it, "
        f"or put {name}.safetensors into a folder and name it in [study] weights, or set pretrained = false"
    )


def _first_line(error: Exception) -> str:
    """What an error says, as one line; its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
