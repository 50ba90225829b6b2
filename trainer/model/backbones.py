"""Models by name: timm's, or one's own, with a head for the classes and the normalisation that its weights expect."""

from __future__ import annotations

import difflib
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import load_file, save
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from trainer.checkpoint import copies
from trainer.errors import RecipeError, WeightsError
from trainer.images.pixels import INTERPOLATIONS
from trainer.model.heads import use_cosine_head, use_generalized_mean
from trainer.model.optimizers import freeze_layers
from trainer.recipe import recipe_from

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from trainer.extensions import Extensions
    from trainer.recipe import Recipe
    from trainer.space import Space

INTERPOLATION = "bicubic"  # timm's own default, too
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # that a model's weights are called there
HUB_SECONDS = 10.0  # in which the hub has to answer
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


class Classifier(nn.Module):
    """A backbone that takes images as they lie in memory: uint8 [batch, side, side, 3] -> logits [batch, classes]."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str = INTERPOLATION
    ) -> None:
        super().__init__()
        self.backbone, self.interpolation = backbone, interpolation
        self.frozen: list[nn.Module] = []  # parts of the backbone that stay in eval mode
        # Not saved with the weights: they belong to the preprocessing, and timm should load our files as its own.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise on the device of the model, then classify."""
        logits: Tensor = self.backbone((images.permute(0, 3, 1, 2) - self.mean) / self.std)
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """Switch between training and evaluation, all but the frozen parts."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def preprocessing(self) -> dict[str, Any]:
        """What has to happen to an image before the backbone sees it, for those who use the weights without us."""
        return {
            "interpolation": self.interpolation,
            "resize": f"stretch to a square, {self.interpolation} with antialiasing",
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
            extensions.backbones[recipe.backbone](classes, recipe.image_size),
            IMAGENET_DEFAULT_MEAN,
            IMAGENET_DEFAULT_STD,
        )
        if problem := _own_backbone_problem(model.backbone, recipe):
            raise RecipeError([problem])
    else:
        if problem := backbone_problem(recipe):
            raise RecipeError([problem])
        backbone = _pretrained(recipe, classes, weights) if pretrained else _create(recipe, classes)
        config = timm.data.resolve_model_data_config(backbone)
        if recipe.loss == "arcface" and recipe.loss not in extensions.losses:
            use_cosine_head(backbone, classes, recipe.arcface_scale)
        model = Classifier(backbone, config["mean"], config["std"], interpolation_of(recipe.backbone, extensions))
    if recipe.pretrained:
        freeze_layers(model, recipe.freeze)
    return model


def _create(recipe: Recipe, classes: int, **pretrained: Any) -> nn.Module:
    """The timm model of a recipe; raises what timm and the model raise where it cannot be built."""
    arguments: dict[str, Any] = _size_argument(recipe.backbone, recipe.image_size)
    if recipe.dropout:
        arguments["drop_rate"] = recipe.dropout
    if recipe.drop_path:
        arguments["drop_path_rate"] = recipe.drop_path
    if recipe.pooling != "default":
        arguments["global_pool"] = "avg" if recipe.pooling == "gem" else recipe.pooling
    model: nn.Module = timm.create_model(recipe.backbone, num_classes=classes, **arguments, **pretrained)
    if recipe.pooling == "gem":
        use_generalized_mean(model)
    return model


def _pretrained(recipe: Recipe, classes: int, weights: Path | None) -> nn.Module:
    """The timm model of a recipe with its published weights, the head apart."""
    name = recipe.backbone
    file = _local_weights(name, weights)
    try:
        lost = _unfilled(name, file, file.stat().st_mtime_ns) if file else None
        downloaded = None if file else _downloaded(name)
        if not file and not downloaded:
            _reach_hub(name)
        here = file or downloaded  # a file is loaded as it is: the hub is not asked again in each trial
        overlay = {"pretrained_cfg_overlay": {"file": str(here)}} if here else {}
        model = _create(recipe, classes, pretrained=True, **overlay)
    # Whatever the hub client, the file system or the unpickler raise: the user needs the one line.
    except Exception as error:
        raise WeightsError(_weights_line(name, weights, error)) from error
    if lost:
        raise WeightsError(f"weights: {file} {lost}")
    return model


@cache
def _unfilled(name: str, file: Path, _changed: int) -> str | None:
    """What is wrong with a file that lacks weights of the model; timm would leave these random without a word.

    _changed: when the file was, for the cache.
    """
    states = []
    random_state = torch.get_rng_state()
    for pretrained in ({}, {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=2, **pretrained)
        states.append(model.state_dict())
    torch.set_rng_state(random_state)
    heads = model.get_classifier()
    new = {id(weight) for head in (heads if isinstance(heads, tuple) else (heads,)) for weight in head.parameters()}
    # Constants, as the weights of norms begin with, cannot tell.
    drawn = [key for key, weight in model.named_parameters() if id(weight) not in new and weight.max() > weight.min()]
    lost = [key for key in drawn if torch.equal(states[0][key], states[1][key])]
    if len(lost) == len(drawn):
        return f"has no weights of {name}; put those of this model there"
    if lost:
        return f"lacks {len(lost)} of the {len(drawn)} weights of {name}, as {lost[0]}; put the whole model there"
    return None


def interpolation_of(backbone: str, extensions: Extensions) -> str:
    """How images are resized for a backbone, a name in INTERPOLATIONS: as those were that its weights come from.

    Bicubic for a model of one's own, and where timm does not know it.
    """
    if backbone in extensions.backbones or not timm.is_model(backbone) or not _has_tag(backbone):
        return INTERPOLATION
    config = get_pretrained_cfg(backbone)
    known = config is not None and config.interpolation in INTERPOLATIONS
    return str(config.interpolation) if known else INTERPOLATION


def check_backbones(space: Space, classes: int, weights: Path | None = None) -> None:
    """Find out before the first trial whether every backbone exists, can do what the space asks, and has its weights.

    Weights from the hub are downloaded here, so that no trial waits for them.

    Raises:
        RecipeError: backbones that do not exist or do not fit, all of them.
        WeightsError: pretrained weights that cannot be had.
    """
    pretrained = True in space.values("pretrained")
    default = {name: space.values(name)[0] for name in ("image_size", *_ASKED)}
    # One field at a time beside the first values of the others: a model is asked for each, not for all combinations.
    asked = [default, *({**default, name: value} for name in default for value in space.values(name))]
    problems, recipes = [], []
    for name in space.values("backbone"):
        own = space.extensions.backbones.get(name)
        of_name = [recipe_from({**values, "backbone": name, "pretrained": pretrained}) for values in asked]
        model = own(classes, of_name[0].image_size) if own else None
        problems += [_own_backbone_problem(model, recipe) if model else backbone_problem(recipe) for recipe in of_name]
        recipes += [] if own else [of_name[0]]
    if found := [problem for problem in problems if problem]:
        raise RecipeError(list(dict.fromkeys(found)))
    if pretrained:
        for recipe in recipes:
            _pretrained(recipe, classes, weights)


# The fields that not every model can follow.
_ASKED = ("pooling", "dropout", "drop_path", "freeze", "layer_decay", "loss")


def backbone_problem(recipe: Recipe) -> str | None:
    """Say why a recipe's timm backbone cannot do what the recipe asks, or None. Computes nothing: shapes only."""
    loss = "arcface" if recipe.loss == "arcface" else "cross_entropy"
    return _problem(
        recipe.backbone, recipe.image_size, recipe.pooling, recipe.drop_path, loss, _tells_layers_apart(recipe)
    )


@cache
def _problem(name: str, size: int, pooling: str, drop_path: float, loss: str, layered: bool) -> str | None:
    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        known = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.5)
        return f'backbone: timm has no "{name}"' + (f'; did you mean "{known[0]}"?' if known else "")
    if not _has_tag(name):
        tags = [tagged for tagged in timm.list_pretrained() if tagged.startswith(f"{architecture}.")]
        return f'backbone: timm has no weights "{name}"; it has {", ".join(tags) or "none for this model"}'
    # Each in addition to those before, so that the first that fails is the one that the model cannot do.
    attempts: list[tuple[str, dict[str, Any]]] = [(f'backbone: "{name}" cannot work with image_size = {size}', {})]
    if drop_path:
        attempts.append((f'drop_path: "{name}" has none, write drop_path = 0.0', {"drop_path": drop_path}))
    if pooling != "default":
        attempts.append((f'pooling: "{name}" cannot pool by "{pooling}", write "default"', {"pooling": pooling}))
    if loss == "arcface":
        attempts.append((f'loss: "{name}" cannot have the head of "arcface", take another loss', {"loss": loss}))
    fields: dict[str, Any] = {"backbone": name, "image_size": size}
    for complaint, field in attempts:
        fields |= field
        recipe = recipe_from(fields)
        try:
            with torch.device("meta"), torch.no_grad():
                model = _create(recipe, 2)
                if recipe.loss == "arcface":
                    use_cosine_head(model, 2, recipe.arcface_scale)
                model.eval()(torch.empty(1, 3, size, size))
        # The models complain in many ways, some by dividing by zero or with an assertion without a word.
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
            return f"{complaint}: {_first_line(e)}"
    return _layer_problem(name, model) if layered else None


def _own_backbone_problem(model: nn.Module, recipe: Recipe) -> str | None:
    """Say why a model of one's own cannot do what the recipe asks, or None."""
    if recipe.pooling != "default" or recipe.drop_path or recipe.dropout or recipe.loss == "arcface":
        return (
            f'backbone: "{recipe.backbone}" is your own model, whose layers are its own affair: with it write '
            'pooling = "default", dropout = 0.0, drop_path = 0.0 and no loss "arcface"'
        )
    return _layer_problem(recipe.backbone, model) if _tells_layers_apart(recipe) else None


def _tells_layers_apart(recipe: Recipe) -> bool:
    return recipe.pretrained and (recipe.freeze > 0 or recipe.layer_decay < 1)


def _layer_problem(name: str, model: Any) -> str | None:
    if hasattr(model, "group_matcher") and isinstance(model.get_classifier(), nn.Module):
        return None
    return f'freeze: "{name}" does not tell its layers (group_matcher), write freeze = 0.0 and layer_decay = 1.0'


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """A copy of the backbone's weights on the CPU, with the names that timm gives them."""
    return copies(model.backbone.state_dict())


def write_weights(weights: Mapping[str, Tensor], file: Path) -> None:
    """Write what `weights_of` gave, as safetensors."""
    file.write_bytes(save(dict(weights)))  # save_file would give the file a mode of its own


def save_weights(model: Classifier, file: Path) -> None:
    """Write the backbone's weights."""
    write_weights(weights_of(model), file)


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
    if folder is None or folder.is_file():
        return folder
    return next((file for suffix in WEIGHT_SUFFIXES if (file := folder / f"{name}{suffix}").is_file()), None)


def _downloaded(name: str) -> str | None:
    """The file of a model's weights that an earlier download has left on this machine."""
    config = get_pretrained_cfg(name)
    if not config.hf_hub_id:
        return None
    names = (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES
    found = (try_to_load_from_cache(config.hf_hub_id, file) for file in names)
    return next((file for file in found if isinstance(file, str)), None)


def _reach_hub(name: str) -> None:
    """Ask the hub once for weights that are not here yet; its client would try for most of a minute."""
    if repository := get_pretrained_cfg(name).hf_hub_id:
        with suppress(EntryNotFoundError):  # it answers, and timm knows other names to ask for
            get_hf_file_metadata(hf_hub_url(repository, HUB_FILES[0]), timeout=HUB_SECONDS)


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
