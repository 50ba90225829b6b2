"""Everything one training needs, frozen and validated; reads and writes itself as TOML."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import tomli_w

from trainer.errors import RecipeError
from trainer.rules import Rule, field_with_rule, nearest, problem_with, show, unknown_problem, whole_to_float

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "AUGMENTS",
    "CLASS_WEIGHTS",
    "DEFAULTS",
    "LOSSES",
    "MIXINGS",
    "OPTIMIZERS",
    "POOLINGS",
    "RESIZES",
    "RULES",
    "SAMPLERS",
    "SCHEDULES",
    "Recipe",
    "is_used",
    "nearest",
    "read_recipe",
    "recipe_from",
    "show",
    "toml_of",
    "unmet_conditions",
    "used_fields",
    "value_problem",
]

# Names are listed here and not beside their functions, so that a study file is checked without importing torch.
AUGMENTS = (
    "none", "flip", "light", "medium", "heavy", "cutout", "randaugment", "trivialaugment", "random_resized_crop",
)  # fmt: skip
CLASS_WEIGHTS = ("none", "balanced", "effective_number")
LOSSES = ("cross_entropy", "label_smoothing", "focal", "soft_f1", "bce", "logit_adjustment", "arcface")
MIXINGS = ("none", "mixup", "cutmix", "both")
OPTIMIZERS = ("adamw", "sgd")
POOLINGS = ("default", "avg", "max", "avgmax", "catavgmax", "gem")
RESIZES = ("stretch", "crop", "pad")
SAMPLERS = ("shuffle", "balanced")
SCHEDULES = ("constant", "step", "cosine", "plateau", "one_cycle")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training, complete: the same recipe on the same data, device kind and thread count gives the same weights.

    Raises:
        RecipeError: a value is of the wrong type or out of range; all mistakes are named at once.
    """

    backbone: str = field_with_rule("resnet50.a1_in1k", "name of a timm model, or of one of your own", source="timm")
    pretrained: bool = field_with_rule(default=True, meaning="start from the backbone's published weights")
    image_size: int | str = field_with_rule(
        224, 'side of a square in pixels, or "200x320": height x width', low=8, high=2048, ranged=False, rectangles=True
    )
    resize: str = field_with_rule(
        "stretch",
        "how a picture comes to the image size: stretch; crop: its middle, as large as its proportions allow; pad: "
        "whole, with grey on two sides",
        choices=RESIZES,
    )
    pooling: str = field_with_rule(
        "default",
        "from feature map to features: the backbone's own way, or average, maximum, their mean, both side by side, "
        "generalised mean",
        source="gem: Radenovic et al. 2018; the others: timm",
        choices=POOLINGS,
    )
    dropout: float = field_with_rule(
        0.0, "share of the features dropped before the head", source="Quick-Tune", low=0.0, high=0.9
    )
    drop_path: float = field_with_rule(
        0.0,
        "highest share of residual branches dropped, for an image at a time",
        source="Huang et al. 2016; Liu et al. 2022, table 5",
        low=0.0,
        high=0.9,
    )
    freeze: float = field_with_rule(
        0.0,
        "share of the backbone's layers, from the image on, that keep their weights; 1 trains the head alone",
        source="Quick-Tune",
        low=0.0,
        high=1.0,
        only_if=("pretrained", (True,)),
    )
    epochs: int = field_with_rule(20, "passes over the training images", low=1, high=10_000)
    batch_size: int = field_with_rule(32, "images a step, at most", low=1, high=65_536)
    optimizer: str = field_with_rule("adamw", "AdamW, or SGD with Nesterov momentum 0.9", choices=OPTIMIZERS)
    learning_rate: float = field_with_rule(
        1e-3, "highest learning rate of the schedule", source="Quick-Tune", low=1e-8, high=10.0
    )
    layer_decay: float = field_with_rule(
        1.0,
        "factor on the learning rate from each layer to the one before it; 1 has all learn alike",
        source="Clark et al. 2020; Quick-Tune",
        low=0.1,
        high=1.0,
        only_if=("pretrained", (True,)),
    )
    weight_decay: float = field_with_rule(
        0.01, "decay of the weights; biases and norms are spared", source="Quick-Tune", low=0.0, high=1.0
    )
    clip_norm: float = field_with_rule(
        0.0,
        "longest gradient, over all weights together; 0 clips none",
        source="Pascanu et al. 2013",
        low=0.0,
        high=1e6,
    )
    schedule: str = field_with_rule(
        "cosine",
        "how the learning rate moves",
        source="cosine: Loshchilov & Hutter 2017; step: He et al. 2016; one_cycle: Smith & Topin 2018",
        choices=SCHEDULES,
    )
    warmup: float = field_with_rule(
        0.05,
        "share of the training with a linearly rising learning rate",
        source="Quick-Tune",
        low=0.0,
        high=0.9,
        only_if=("schedule", ("constant", "step", "cosine", "plateau")),
    )
    loss: str = field_with_rule(
        "cross_entropy",
        "what is minimised",
        source="label_smoothing: Szegedy et al. 2016; focal: Lin et al. 2017; bce: Wightman et al. 2021; "
        "logit_adjustment: Menon et al. 2021; arcface: Deng et al. 2019",
        choices=LOSSES,
        open_choices=True,
    )
    focal_gamma: float = field_with_rule(
        2.0,
        "how much the focal loss turns to hard images",
        source="Lin et al. 2017, table 1b",
        low=0.0,
        high=10.0,
        only_if=("loss", ("focal",)),
    )
    label_smoothing: float = field_with_rule(
        0.1,
        "share of a label spread over all classes",
        source="Szegedy et al. 2016",
        low=0.0,
        high=0.9,
        only_if=("loss", ("label_smoothing",)),
    )
    adjustment_tau: float = field_with_rule(
        1.0,
        "tau of the logit adjustment: how far rare classes are helped",
        source="Menon et al. 2021, equation 10",
        low=0.0,
        high=10.0,
        only_if=("loss", ("logit_adjustment",)),
    )
    arcface_margin: float = field_with_rule(
        0.3,
        "angle in radians that the true class has to be nearer",
        source="Deng et al. 2019, who take 0.5 with far more classes",
        low=0.0,
        high=1.5,
        only_if=("loss", ("arcface",)),
    )
    arcface_scale: float = field_with_rule(
        16.0,
        "what a cosine of 1 is as a logit",
        source="Deng et al. 2019, who take 64 with far more classes",
        low=1.0,
        high=128.0,
        only_if=("loss", ("arcface",)),
    )
    class_weights: str = field_with_rule(
        "none",
        "weight of a class of n images in the loss: none, balanced ~ 1 / n, or effective_number ~ (1 - b) / (1 - b^n)",
        source="effective_number: Cui et al. 2019, equation 4",
        choices=CLASS_WEIGHTS,
        only_if=("loss", ("cross_entropy", "label_smoothing", "focal", "arcface")),
    )
    effective_beta: float = field_with_rule(
        0.999,
        "b of the effective number",
        source="Cui et al. 2019, table 2",
        low=0.0,
        high=0.999999,
        only_if=("class_weights", ("effective_number",)),
    )
    sampler: str = field_with_rule(
        "shuffle", "shuffle: each image once an epoch; balanced: each class equally often", choices=SAMPLERS
    )
    augment: str = field_with_rule(
        "light",
        "augmentation policy",
        source="cutout: DeVries & Taylor 2017; randaugment: Cubuk et al. 2020; trivialaugment: Müller & Hutter 2021; "
        "random_resized_crop: Szegedy et al. 2015",
        choices=AUGMENTS,
        open_choices=True,
    )
    crop_scale: float = field_with_rule(
        0.08,
        "smallest share of a picture's area that a random resized crop takes; the largest is 1",
        source="Szegedy et al. 2015, and ImageNet recipes since",
        low=0.01,
        high=1.0,
        only_if=("augment", ("random_resized_crop",)),
    )
    randaugment_ops: int = field_with_rule(
        2,
        "transforms of an image, one after another",
        source="Quick-Tune",
        low=1,
        high=14,
        only_if=("augment", ("randaugment",)),
    )
    randaugment_magnitude: int = field_with_rule(
        9, "strength of the transforms", source="Quick-Tune", low=0, high=30, only_if=("augment", ("randaugment",))
    )
    mixing: str = field_with_rule(
        "none",
        "how two images become one: MixUp blends them, CutMix pastes a rectangle; both: each in half of the batches",
        source="Zhang et al. 2018; Yun et al. 2019",
        choices=MIXINGS,
    )
    mixup_alpha: float = field_with_rule(
        0.8,
        "strength of MixUp: the share of an image is drawn from Beta(alpha, alpha)",
        source="Quick-Tune",
        low=0.01,
        high=10.0,
        only_if=("mixing", ("mixup", "both")),
    )
    cutmix_alpha: float = field_with_rule(
        1.0,
        "strength of CutMix: the area of an image is drawn from Beta(alpha, alpha)",
        source="Quick-Tune",
        low=0.01,
        high=10.0,
        only_if=("mixing", ("cutmix", "both")),
    )
    mix_probability: float = field_with_rule(
        1.0,
        "share of the batches that are mixed",
        source="Quick-Tune",
        low=0.0,
        high=1.0,
        only_if=("mixing", ("mixup", "cutmix", "both")),
    )
    ema: bool = field_with_rule(
        default=False,
        meaning="validate and keep the exponential moving average of the weights",
        source="Polyak & Juditsky 1992; timm's warm-up",
    )
    compile: bool = field_with_rule(
        default=False, meaning="compile the model: minutes at the start of each trial, which a long training earns back"
    )
    seed: int = field_with_rule(0, "seed of everything random in the training", low=0, high=2**31 - 1)

    def __post_init__(self) -> None:
        problems = []
        for name, value in asdict(self).items():
            rule = RULES[name]
            if problem := value_problem(name, value, () if rule.open_choices else rule.choices or ()):
                problems.append(problem)
        if problems:
            raise RecipeError(problems)

    def write(self, path: Path) -> None:
        """Write the recipe as a TOML file that `read_recipe` reads back as an equal recipe."""
        path.write_text(toml_of(self), encoding="utf-8")


RULES: dict[str, Rule] = {item.name: item.metadata["rule"] for item in fields(Recipe)}
DEFAULTS: dict[str, Any] = {item.name: item.default for item in fields(Recipe)}


def toml_of(recipe: Recipe) -> str:
    """The recipe as TOML, a line a field."""
    return tomli_w.dumps(asdict(recipe))


def used_fields(recipe: Recipe) -> dict[str, Any]:
    """The fields that mean something in this recipe: no `focal_gamma` without the focal loss."""
    values = asdict(recipe)
    return {name: value for name, value in values.items() if is_used(name, values)}


def is_used(name: str, values: Mapping[str, Any]) -> bool:
    """Whether a field means something beside these values of the fields that its condition, and theirs, speak of."""
    condition = RULES[name].only_if
    return condition is None or (values[condition[0]] in condition[1] and is_used(condition[0], values))


def unmet_conditions(name: str, values: Mapping[str, Any]) -> list[str]:
    """Why a field means nothing beside these values: each field that its condition, and theirs, find otherwise."""
    unmet = []
    while condition := RULES[name].only_if:
        name, needed = condition
        if values[name] not in needed:
            unmet.append(f"{name} is {show(values[name])} and not {' or '.join(map(show, needed))}")
    return unmet


def read_recipe(path: Path) -> Recipe:
    """Read a recipe that `Recipe.write` wrote.

    Raises:
        RecipeError: unknown fields or values that cannot be used, all of them.
    """
    return recipe_from(tomllib.loads(path.read_text(encoding="utf-8")))


def recipe_from(values: Mapping[str, Any]) -> Recipe:
    """Make the recipe with these values, defaults elsewhere.

    Raises:
        RecipeError: unknown fields or values that cannot be used, all of them.
    """
    unknown = [unknown_problem(name, DEFAULTS) for name in values if name not in DEFAULTS]
    known: dict[str, Any] = {
        name: whole_to_float(DEFAULTS[name], value) for name, value in values.items() if name in DEFAULTS
    }
    try:
        recipe = Recipe(**known)
    except RecipeError as error:
        raise RecipeError(unknown + error.problems) from None
    if unknown:
        raise RecipeError(unknown)
    return recipe


def value_problem(name: str, value: Any, choices: Iterable[str]) -> str | None:
    """Say in one line what is wrong with a value for this field of a recipe, or None.

    `choices` are the names that a text field may take; empty means any.
    """
    return problem_with(name, value, RULES[name], DEFAULTS[name], choices)
