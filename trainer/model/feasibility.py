"""What a backbone cannot do of what a recipe asks, found out before the first trial."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any

import timm
import torch

from trainer.errors import RecipeError
from trainer.image_size import shape_of, side_or_shape
from trainer.model.freezing import layer_problem, needs_layers
from trainer.model.heads import use_cosine_head
from trainer.model.image_sizes import FAILURES, dry_run, size_failure, unseen_problem
from trainer.model.pretrained import pretrained_backbone
from trainer.model.timm_models import create_backbone, first_line, has_tag
from trainer.recipe import recipe_from
from trainer.rules import show
from trainer.space import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from trainer.extensions import Extensions
    from trainer.image_size import ImageSize
    from trainer.recipe import Recipe

# Fields that not every model can follow.
CHECKED_FIELDS = ("pooling", "dropout", "drop_path", "freeze", "layer_decay", "loss")


def check_backbones(space: Space, classes: int, weights: Path | None = None) -> None:
    """Find out before the first trial whether every backbone exists, can do what the space asks, and has its weights.

    Weights from the hub are downloaded here, so that no trial waits for them.

    Raises:
        RecipeError: backbones that do not exist or do not fit, all of them.
        WeightsError: pretrained weights that cannot be had.
    """
    if problems := backbone_problems(space, classes):
        raise RecipeError(problems)
    if True in space.values("pretrained"):
        for name in space.values("backbone"):
            if name not in space.extensions.backbones:
                pretrained_backbone(_variants(space, name)[0], classes, weights)


def backbone_problems(space: Space, classes: int) -> list[str]:
    """A line for each backbone that does not exist or cannot do what the space asks. Loads no weights."""
    problems = []
    for name in space.values("backbone"):
        own, variants = space.extensions.backbones.get(name), _variants(space, name)
        model = own(classes, side_or_shape(variants[0].image_size)) if own else None
        problems += [own_backbone_problem(model, recipe) if model else training_problem(recipe) for recipe in variants]
    return list(dict.fromkeys(problem for problem in problems if problem))


def backbone_problems_beside(
    problems: Sequence[str], fields: Mapping[str, Any], extensions: Extensions | None
) -> list[str]:
    """What is wrong with the backbones of a recipe whose other fields have mistakes.

    Args:
        problems: the lines on these mistakes; what they speak of is left out.
        fields: of the recipe, as a study file has them.
        extensions: functions of one's own.
    """
    sound = {
        name: entry
        for name, entry in fields.items()
        if not any(problem.startswith((f"{name}:", f"{name}.")) for problem in problems)
    }
    if "backbone" not in sound or ("image_size" in fields and "image_size" not in sound):
        return []  # nobody knows which models are meant, or at what size they are to work
    return backbone_problems(Space(sound, extensions), 2)


def _variants(space: Space, backbone: str) -> list[Recipe]:
    """Recipes with this backbone that together have all values that a model may not be able to follow.

    One field at a time beside the first values of the others: a model is asked for each, not for all combinations.
    """
    default = {name: space.values(name)[0] for name in ("image_size", *CHECKED_FIELDS)}
    default["batch_size"] = min(space.values("batch_size"))
    asked = [default, *({**default, name: value} for name in default for value in space.values(name))]
    pretrained = True in space.values("pretrained")
    return [recipe_from({**values, "backbone": backbone, "pretrained": pretrained}) for values in asked]


def training_problem(recipe: Recipe) -> str | None:
    """Say why a recipe's timm backbone is not to be trained as the recipe asks, or None.

    Beside what `backbone_problem` finds: pixels that the backbone would not see, and batches from which it cannot
    learn. A model that has learned so works on.
    """
    problem = backbone_problem(recipe) or unseen_problem(recipe.backbone, recipe.image_size)
    if problem is None and recipe.batch_size == 1:
        problem = _single_image_problem(recipe.backbone, recipe.image_size)
    return problem


@cache
def _single_image_problem(name: str, size: ImageSize) -> str | None:
    """Say why a backbone that works with this size cannot learn from one image at a time, as by batch norm, or None."""
    model = dry_run(name, size).model
    assert model, "it works with this size"
    try:
        with torch.device("meta"), torch.no_grad():
            model.train()(torch.empty(1, 3, *shape_of(size)))
    except FAILURES as error:
        reason = first_line(error)
        where = f"where image_size = {show(size)}"
        return f'batch_size: "{name}" cannot learn from 1 image at a time {where}: {reason}; take 2'
    finally:
        model.eval()
    return None


def backbone_problem(recipe: Recipe) -> str | None:
    """Say why a recipe's timm backbone cannot do what the recipe asks, or None. Computes nothing: shapes only."""
    loss = "arcface" if recipe.loss == "arcface" else "cross_entropy"
    return _timm_problem(
        recipe.backbone, recipe.image_size, recipe.pooling, recipe.drop_path, loss, needs_layers(recipe)
    )


@cache
def _timm_problem(name: str, size: ImageSize, pooling: str, drop_path: float, loss: str, layered: bool) -> str | None:
    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        known = difflib.get_close_matches(architecture, timm.list_models(), n=1, cutoff=0.5)
        return f'backbone: timm has no "{name}"' + (f'; did you mean "{known[0]}"?' if known else "")
    if not has_tag(name):
        tags = [tagged for tagged in timm.list_pretrained() if tagged.startswith(f"{architecture}.")]
        return f'backbone: timm has no weights "{name}"; it has {", ".join(tags) or "none for this model"}'
    if problem := size_failure(name, size):
        return problem
    # Each attempt adds one field to those before: the first that fails names the field that the model cannot follow.
    attempts: list[tuple[str, dict[str, Any]]] = []
    if drop_path:
        attempts.append((f'drop_path: "{name}" has none, write drop_path = 0.0', {"drop_path": drop_path}))
    if pooling != "default":
        attempts.append((f'pooling: "{name}" cannot pool by "{pooling}", write "default"', {"pooling": pooling}))
    if loss == "arcface":
        attempts.append((f'loss: "{name}" cannot have the head of "arcface", take another loss', {"loss": loss}))
    fields: dict[str, Any] = {"backbone": name, "image_size": size}
    model = dry_run(name, size).model
    for complaint, field in attempts:
        fields |= field
        recipe = recipe_from(fields)
        try:
            with torch.device("meta"), torch.no_grad():
                model = create_backbone(recipe, 2)
                if recipe.loss == "arcface":
                    use_cosine_head(model, 2, recipe.arcface_scale)
                model.eval()(torch.empty(1, 3, *shape_of(size)))
        except FAILURES as error:
            return f"{complaint}: {first_line(error)}"
    return layer_problem(name, model) if layered else None


def own_backbone_problem(model: nn.Module, recipe: Recipe) -> str | None:
    """Say in one line why a model of one's own cannot do what the recipe asks, or None."""
    if recipe.pooling != "default" or recipe.drop_path or recipe.dropout or recipe.loss == "arcface":
        return (
            f'backbone: "{recipe.backbone}" is your own model, whose layers are its own affair: with it write '
            'pooling = "default", dropout = 0.0, drop_path = 0.0 and no loss "arcface"'
        )
    return layer_problem(recipe.backbone, model) if needs_layers(recipe) else None
