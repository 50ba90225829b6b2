"""The portfolio: recipes by which models of a family are known to learn well, which a new study tries first.

Each is a published way to fine-tune, brought to this trainer and to batches of 32 images: a learning rate of AdamW goes
with the square root of the batch (Malladi et al. 2022), but for ConvNeXt's, which is low already; one of SGD stays, as
a training of some thousand images takes about as many steps as those of the papers. AdamW stands for optimisers that
are not here. Those for models without weights and for short trainings of EfficientNets were measured.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.trial import FixedTrial

from hpo.study.model_limits import check_of
from hpo.study.queued import queue_new
from trainer.recipe import recipe_from
from trainer.space import nearest_parameters, parameters_of, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import optuna

    from hpo.study.study_file import StudyFile
    from trainer.recipe import Recipe
    from trainer.space import Space

MOST = 10  # recipes that a study tries
SHARE = 4  # one trial of the budget in so many tries one of them, at most
LONG = 20  # epochs from which on strong regularisation pays


@dataclass(frozen=True)
class Known:
    """A recipe that is known to suit the models of a family.

    Attributes:
        source: of the recipe.
        fields: that it gives; the others are those of the default recipe. An optimiser and a learning rate are given.
        least_epochs: of a training that it is meant for.
    """

    source: str
    fields: Mapping[str, Any]
    least_epochs: int = 1


FROM_SCRATCH = (
    Known(
        "measured on digits and photographs of faces in 8 epochs (benchmarks/recipes.py)",
        {"optimizer": "adamw", "learning_rate": 3e-3, "augment": "none"},
    ),
    Known(
        "a record of 71 recipes on digits, of which it was the best (benchmarks/record_curves.py)",
        {"optimizer": "adamw", "learning_rate": 3e-3},
    ),
)

# Families by the architectures that belong to them, as timm calls these, with the recipes for published weights, those
# first that suit shorter trainings. The first family is that whose model in the default space trains fastest on a GPU.
FAMILIES: dict[str, tuple[Known, ...]] = {
    r"(vit|deit3?|beit(v2)?|eva(02)?)(_|$)": (
        Known(
            "AugReg (Steiner et al. 2022; the middle of its learning rates)",
            {"optimizer": "sgd", "learning_rate": 5e-3, "weight_decay": 0.0, "clip_norm": 1.0, "augment": "flip"},
        ),
        Known(
            "the fine-tuning of MAE (He et al. 2022, table 9)",
            {
                "optimizer": "adamw",
                "learning_rate": 3.5e-4,
                "layer_decay": 0.75,
                "weight_decay": 0.05,
                "drop_path": 0.1,
                "loss": "label_smoothing",
                "augment": "randaugment",
                "mixing": "both",
            },
            least_epochs=LONG,
        ),
    ),
    r"(se|wide_)?res(net|next)": (
        Known(
            "BiT-HyperRule (Kolesnikov et al. 2020)",
            {"optimizer": "sgd", "learning_rate": 3e-3, "weight_decay": 0.0, "schedule": "step", "augment": "flip"},
        ),
        Known(
            "procedure A2 of ResNet strikes back (Wightman et al. 2021, table 2)",
            {
                "optimizer": "adamw",
                "learning_rate": 6e-4,
                "weight_decay": 0.02,
                "drop_path": 0.05,
                "loss": "bce",
                "augment": "randaugment",
                "mixing": "both",
                "mixup_alpha": 0.1,
            },
            least_epochs=LONG,
        ),
    ),
    r"efficientnet(_|$)": (
        Known(
            "measured on photographs of faces in 5 epochs (benchmarks/recipes.py)",
            {"optimizer": "adamw", "learning_rate": 3e-3, "augment": "none"},
        ),
        Known(
            "the transfer of ImageNet models (Kornblith et al. 2019)",
            {"optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 1e-4, "warmup": 0.0, "augment": "flip"},
            least_epochs=LONG,
        ),
    ),
    r"efficientnetv2(_|$)": (
        Known(
            "the transfer of EfficientNetV2 (Tan & Le 2021, section 4.3)",
            {"optimizer": "adamw", "learning_rate": 2.5e-4, "weight_decay": 0.0, "augment": "cutout"},
        ),
    ),
    r"convnext": (
        Known(
            "the fine-tuning of ConvNeXt (Liu et al. 2022, table 5)",
            {
                "optimizer": "adamw",
                "learning_rate": 5e-5,
                "layer_decay": 0.75,
                "weight_decay": 0.0,
                "loss": "label_smoothing",
                "augment": "randaugment",
            },
        ),
    ),
}


def queue_portfolio(study: optuna.Study, study_file: StudyFile, classes: int) -> list[str]:
    """Queue the recipes of the portfolio for a study that is being made, unless its file wants none.

    To be called by one process at a time. Returns a line that says how many, where there are any.
    """
    if not study_file.portfolio:
        return []
    space, models = study_file.space, check_of(study_file.model_limits, study_file.space, classes)
    recipes = {
        recipe: f"the portfolio: {source}"
        for recipe, source in portfolio(space, study_file.limits.trials).items()
        if models is None or models.excess(parameters_of(recipe, space)) is None
    }
    queued = queue_new(study, recipes, space)
    return [f"recipes of the portfolio that are tried first: {queued}"] if queued else []


def portfolio(space: Space, trials: int | None) -> dict[Recipe, str]:
    """The recipes of the portfolio that a study tries, each with its source, those of fast models first.

    Numbers are moved to the nearest that the space allows; what it fixes, or a name that it does not list, is as in its
    default recipe. A recipe whose optimiser the space does not have is left out, as its learning rate goes with that.

    Args:
        space: of the study.
        trials: of its budget, None where they are not counted. One in `SHARE` of them may try a recipe, `MOST` in all.
    """
    most = MOST if trials is None else min(MOST, trials // SHARE)
    found: dict[Recipe, str] = {}
    for backbone, known in _in_turn(space):
        recipe = _fitted(backbone, known, space)
        if recipe is not None and recipe not in found and len(found) < most:
            found[recipe] = known.source
    return dict(sorted(found.items(), key=lambda item: _family(item[0].backbone)))


def _in_turn(space: Space) -> Iterator[tuple[str, Known]]:
    """Backbones with recipes: the first recipe for the first backbone of each family, then for the second and so on."""
    recipes_of = tuple(FAMILIES.values()) if True in space.values("pretrained") else (FROM_SCRATCH,) * len(FAMILIES)
    entries, seen = [], Counter[int]()
    for backbone in space.values("backbone"):
        family = _family(backbone)
        if family < len(FAMILIES) and backbone not in space.extensions.backbones:
            entries += [(turn, seen[family], family, backbone, known) for turn, known in enumerate(recipes_of[family])]
            seen[family] += 1
    for _, _, _, backbone, known in sorted(entries, key=lambda entry: entry[:3]):
        yield backbone, known


def _fitted(backbone: str, known: Known, space: Space) -> Recipe | None:
    """The recipe for a backbone, as near as the space has it; None where that would be another one."""
    default, fields = {**space.fields, **space.default_parameters()}, dict(known.fields)
    if fields["optimizer"] not in space.values("optimizer") or default["epochs"] < known.least_epochs:
        return None
    fixed = {"backbone": backbone, "pretrained": True in space.values("pretrained")}
    for name, value in known.fields.items():
        if isinstance(value, str) and value not in space.values(name):
            del fields[name]
    params, missing = nearest_parameters(recipe_from({**default, **fields, **fixed}), space)
    assert not missing, "names are those of the space"
    return suggest(FixedTrial(params), space)


def _family(backbone: str) -> int:
    """The number of the family of a timm model; `len(FAMILIES)` where it is of none."""
    architecture = backbone.partition(".")[0]
    found = (number for number, kind in enumerate(FAMILIES) if re.search(rf"(^|_)({kind})", architecture))
    return next(found, len(FAMILIES))
