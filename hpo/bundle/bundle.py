"""A trained model as a folder: model.safetensors, config.json, recipe.toml, bundle.json, the lists of its images."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from hpo.bundle.decision import decision_of
from hpo.errors import HpoError
from hpo.output import refuse_bad_folder
from hpo.version import VERSION
from hpo.whole_file import whole_folder
from trainer.errors import TrainerError
from trainer.images.pixels import INTERPOLATIONS, Reading
from trainer.images.value_range import ranges_from_json
from trainer.objective_metric import MACRO_F1, metric_of
from trainer.recipe import read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from trainer.calibration import Decision
    from trainer.extensions import Extensions
    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe

ORIGIN = "origin"  # the key in bundle.json of what it keeps of its training
WEIGHTS, RECIPE, INFO = "model.safetensors", "recipe.toml", "bundle.json"  # timm looks for that name of the weights
TRAIN, VALID, TEST = "train.csv", "valid.csv", "test.csv"  # the images of each side of the search's split
UNLABELLED = "unlabelled.csv"  # those of the data that have no class, if any
CAUSE_LENGTH = 300  # characters of what torch or safetensors say
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
            cause = " ".join(str(error).split())[:CAUSE_LENGTH]
            raise HpoError(
                f"bundle: {self.folder / WEIGHTS} cannot be loaded: {cause}; copy the bundle again, or export it again"
            ) from error
        return model.to(device).eval()


def read_bundle(folder: Path) -> Bundle:
    """Read what a bundle says of itself.

    Raises:
        HpoError: the folder is no bundle.
    """
    info: Any = None
    try:
        info = json.loads((folder / INFO).read_text(encoding="utf-8"))
        _refuse_odd(info)
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
    except (FileNotFoundError, NotADirectoryError) as error:
        missing = Path(error.filename).name if folder.is_dir() else "such folder"
        raise HpoError(
            f"bundle: {folder} is no bundle, as there is no {missing}; name a folder that `hpo export-best` has written"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TrainerError) as error:
        if newer := _newer_version(info):
            raise HpoError(
                f"bundle: {folder} was written by hpo {newer}, and hpo {VERSION} cannot read it ({error}); use hpo"
                f" {newer}, or a newer one"
            ) from error
        raise HpoError(
            f"bundle: {folder} is no bundle ({type(error).__name__}: {error}); `hpo export-best` makes one"
        ) from error


def _refuse_odd(info: Any) -> None:
    """Raise ValueError or TypeError where a bundle.json has something in it that hpo does not write there."""
    classes = info["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("its classes are no list of names")
    if not classes or len(set(classes)) < len(classes):
        raise ValueError("it has no classes, or one of them twice")
    for key, kind in ((ORIGIN, dict), ("metrics", dict), ("versions", dict), ("test_uses", int)):
        if not isinstance(info.get(key, kind()), kind):
            raise TypeError(f"its {key} is no {'number' if kind is int else 'table'}")
    metric_of(info.get("metric", MACRO_F1.name))


def _newer_version(info: Any) -> str | None:
    """The version of hpo that wrote a bundle.json, where that is newer than this one."""
    try:
        written = str(info["versions"]["hpo"])
        newer = [*map(int, written.split("."))] > [*map(int, VERSION.split("."))]
    except (TypeError, KeyError, ValueError):  # not told, or not by numbers alone
        return None
    return written if newer else None


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


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name only when the block has ended well: whole or not at all.

    Raises:
        HpoError: something has that name already, or nothing can be written there.
    """
    refuse_bad_folder("export", folder)
    try:
        with whole_folder(folder) as temporary:
            yield temporary
    except OSError as error:
        raise HpoError(f"export: {folder} cannot be written: {error.strerror}") from error
