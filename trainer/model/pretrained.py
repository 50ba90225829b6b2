"""Published weights of timm's models: from a file, a folder, an earlier download or the hub."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import get_pretrained_cfg

from trainer.errors import WeightsError
from trainer.model.timm_models import create_backbone, first_line

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from trainer.recipe import Recipe

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # names that a model's weights may have on the hub
HUB_SECONDS = 10.0  # the hub has to answer within this time
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def pretrained_backbone(recipe: Recipe, classes: int, weights: Path | None) -> nn.Module:
    """The timm model of a recipe with its published weights, all but the head, whose weights are random.

    Args:
        recipe: names the backbone.
        classes: number of outputs.
        weights: folder that holds `<backbone>.safetensors` (or .pth, .pt, .bin), or such a file; None: the hub.

    Raises:
        WeightsError: the weights cannot be had, or are not those of this model.
    """
    name = recipe.backbone
    file = _local_weights(name, weights)
    try:
        lost = _unfilled(name, file, file.stat().st_mtime_ns) if file else None
        downloaded = None if file else _downloaded(name)
        if not file and not downloaded:
            _reach_hub(name)
        here = file or downloaded  # a file is loaded as it is: the hub is not asked again in each trial
        overlay = {"pretrained_cfg_overlay": {"file": str(here)}} if here else {}
        model = create_backbone(recipe, classes, pretrained=True, **overlay)
    # The hub client, the file system and the unpickler raise errors of many types; the user needs one line.
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
    # Weights that begin as constants, as those of norms do, say nothing on whether the file had them.
    drawn = [key for key, weight in model.named_parameters() if id(weight) not in new and weight.max() > weight.min()]
    lost = [key for key in drawn if torch.equal(states[0][key], states[1][key])]
    if len(lost) == len(drawn):
        return f"has no weights of {name}; put those of this model there"
    if lost:
        return f"lacks {len(lost)} of the {len(drawn)} weights of {name}, as {lost[0]}; put the whole model there"
    return None


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
        with suppress(EntryNotFoundError):  # the hub answers; timm itself asks for the other names
            get_hf_file_metadata(hf_hub_url(repository, HUB_FILES[0]), timeout=HUB_SECONDS)


def _weights_line(name: str, folder: Path | None, error: Exception) -> str:
    cause = first_line(error)
    if file := _local_weights(name, folder):
        return f"weights: {file} cannot be loaded into {name}: {cause}"
    looked = f"{folder} has no {name}.safetensors, and " if folder else ""
    return (
        f"weights: {looked}the pretrained weights of {name} cannot be fetched from the hub ({cause}); connect to it, "
        f"or put {name}.safetensors into a folder and name it in [study] weights, or set pretrained = false"
    )
