"""A trained model as a folder: model.safetensors, config.json, recipe.toml, bundle.json, the lists of its images."""

from __future__ import annotations

import json
import shutil
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from hpo.bundle.decision import decision_of
from hpo.errors import HpoError
from trainer.errors import TrainerError
from trainer.images.pixels import INTERPOLATIONS, Reading
from trainer.images.value_range import ranges_from_json
from trainer.recipe import read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from trainer.calibration import Decision
    from trainer.extensions import Extensions
    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe

ORIGIN = "origin"  # the key in bundle.json of what it keeps of its training
WEIGHTS, RECIPE, INFO = "model.safetensors", "recipe.toml", "bundle.json"  # timm looks for that name of the weights
TRAIN, VALID, TEST = "train.csv", "valid.csv", "test.csv"  # the images of each side of the search's split
UNLABELLED = "unlabelled.csv"  # those of the data that have no class, if any
PSEUDO_LABELS = "pseudo_labels.csv"  # the images of --unlabelled, with the classes of those that were learned


@dataclass(frozen=True)
class Bundle:
    """A bundle's contents, but for the weights.

    Attributes:
        folder: where it is.
        recipe: what the model was trained by.
        classes: their names, in the order of the model's outputs.
        reading: how files become images for the model.
        info: its bundle.json.
        decision: how probabilities of the model become those that are shown, and a class.
        members: the models of a bundle of several, whose mean is decided upon; it has no weights of its own then, and
            its recipe is that of the first.
        votes: how often each of them counts.
    """

    folder: Path
    recipe: Recipe
    classes: tuple[str, ...]
    reading: Reading
    info: dict[str, Any]
    decision: Decision
    members: tuple[Bundle, ...] = ()
    votes: tuple[int, ...] = ()

    def load_model(self, extensions: Extensions, device: torch.device) -> Classifier:
        """The model with its weights, on the device, ready to predict.

        Raises:
            HpoError: the weights cannot be loaded.
        """
        from safetensors import SafetensorError

        from trainer.model.backbones import build_model, load_weights

        model = build_model(self.recipe, len(self.classes), extensions, pretrained=False)
        try:
            load_weights(model, self.folder / WEIGHTS)
        except (OSError, RuntimeError, SafetensorError) as error:
            cause = str(error).splitlines()[0]
            raise HpoError(f"bundle: {self.folder / WEIGHTS} cannot be loaded: {cause}") from error
        return model.to(device).eval()


def read_bundle(folder: Path) -> Bundle:
    """Read what a bundle says of itself.

    Raises:
        HpoError: the folder is no bundle.
    """
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        if "members" in info:
            return _of_several(folder, info)
        preprocessing = info.get("preprocessing", {})
        interpolation, kept = preprocessing.get("interpolation", "bicubic"), preprocessing.get("value_ranges")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f'there is no interpolation "{interpolation}"')
        ranges = None if kept is None else ranges_from_json(kept)
        recipe, classes = read_recipe(folder / RECIPE), tuple(info["classes"])
        reading = Reading(recipe.image_size, interpolation, ranges, recipe.resize)
        return Bundle(folder, recipe, classes, reading, info, decision_of(info, classes))
    except RecursionError:
        raise HpoError(
            f"bundle: {folder} is no bundle (its {INFO} or {RECIPE} is nested too deeply); `hpo export-best` makes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TrainerError) as error:
        raise HpoError(
            f"bundle: {folder} is no bundle ({type(error).__name__}: {error}); `hpo export-best` makes one"
        ) from error


def _of_several(folder: Path, info: dict[str, Any]) -> Bundle:
    """A bundle whose models are bundles in folders of its own."""
    names, votes = [str(one["folder"]) for one in info["members"]], [int(one["votes"]) for one in info["members"]]
    if (
        not all(names)
        or not names
        or any(name != PurePath(name).name or name == ".." for name in names)
        or min(votes) < 1
    ):
        raise ValueError("its members are no folders in it with votes")
    members = tuple(read_bundle(folder / name) for name in names)
    classes = tuple(info["classes"])
    if any(member.members or member.classes != classes for member in members):
        raise ValueError("its members have other classes, or members of their own")
    decision = decision_of(info, classes)
    return replace(members[0], folder=folder, info=info, decision=decision, members=members, votes=tuple(votes))


def refuse_existing(folder: Path) -> None:
    """Raise HpoError where something has the name of a folder that is to be made."""
    if folder.exists():
        raise HpoError(f"{folder}: exists already; remove it or choose another name")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name only when the block has ended well: whole or not at all.

    Until then it has a name that cannot be foreseen. The umask says who may read it.

    Raises:
        HpoError: something has that name already, or nothing can be written there.
    """
    refuse_existing(folder)
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.absolute().parent / f".hpo-{uuid.uuid4().hex}.tmp"
        temporary.mkdir()
    except OSError as error:
        raise HpoError(f"{folder}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.rename(folder)
    except OSError as error:
        raise HpoError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
