"""Everything one training needs, frozen and validated; reads and writes itself as TOML."""

from __future__ import annotations

import difflib
import math
import tomllib
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import tomli_w

from trainer.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# Names are listed here and not beside their functions, so that a study file is checked without importing torch.
AUGMENTS = ("none", "flip", "light", "medium", "heavy", "cutout", "randaugment", "trivialaugment")
CLASS_WEIGHTS = ("none", "balanced", "effective_number")
LOSSES = ("cross_entropy", "label_smoothing", "focal", "soft_f1", "bce", "logit_adjustment", "arcface")
MIXINGS = ("none", "mixup", "cutmix", "both")
OPTIMIZERS = ("adamw", "sgd")
POOLINGS = ("default", "avg", "max", "avgmax", "catavgmax", "gem")
SAMPLERS = ("shuffle", "balanced")
SCHEDULES = ("constant", "step", "cosine", "plateau", "one_cycle")


@dataclass(frozen=True)
class Rule:
    """What a field of the recipe may be, and when it matters."""

    meaning: str
    source: str = ""  # where the default or the searched range comes from
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    ranged: bool = True  # whether a range of numbers can be searched
    open_choices: bool = False  # a function of one's own may add a name
    only_if: tuple[str, tuple[Any, ...]] | None = None  # (other field, its values for which this one is used)

    @property
    def limits(self) -> str:
        """The range of numbers as a text."""
        return " to ".join(f"{end:g}" if isinstance(end, float) else str(end) for end in (self.low, self.high))


def _field(default: Any, meaning: str, **rule: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(meaning, **rule)})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training, complete: the same recipe on the same data, device kind and thread count gives the same weights.

    Raises:
        RecipeError: a value is of the wrong type or out of range; all mistakes are named at once.
    """

    backbone: str = _field("resnet50.a1_in1k", "name of a timm model, or of one of your own", source="timm")
    pretrained: bool = _field(default=True, meaning="start from the backbone's published weights")
    image_size: int = _field(224, "side of the square image in pixels", low=8, high=2048, ranged=False)
    pooling: str = _field(
        "default",
        "from feature map to features: the backbone's own way, or average, maximum, their mean, both side by side, "
        "generalised mean",
        source="gem: Radenovic et al. 2018; the others: timm",
        choices=POOLINGS,
    )
    dropout: float = _field(
        0.0, "share of the features dropped before the head", source="Quick-Tune", low=0.0, high=0.9
    )
    drop_path: float = _field(
        0.0,
        "highest share of residual branches dropped, for an image at a time",
        source="Huang et al. 2016; Liu et al. 2022, table 5",
        low=0.0,
        high=0.9,
    )
    freeze: float = _field(
        0.0,
        "share of the backbone's layers, from the image on, that keep their weights; 1 trains the head alone",
        source="Quick-Tune",
        low=0.0,
        high=1.0,
        only_if=("pretrained", (True,)),
    )
    epochs: int = _field(20, "passes over the training images", low=1, high=10_000)
    batch_size: int = _field(32, "images a step, at most", low=1, high=65_536)
    optimizer: str = _field("adamw", "AdamW, or SGD with Nesterov momentum 0.9", choices=OPTIMIZERS)
    learning_rate: float = _field(
        1e-3, "highest learning rate of the schedule", source="Quick-Tune", low=1e-8, high=10.0
    )
    layer_decay: float = _field(
        1.0,
        "factor on the learning rate from each layer to the one before it; 1 has all learn alike",
        source="Clark et al. 2020; Quick-Tune",
        low=0.1,
        high=1.0,
        only_if=("pretrained", (True,)),
    )
    weight_decay: float = _field(
        0.01, "decay of the weights; biases and norms are spared", source="Quick-Tune", low=0.0, high=1.0
    )
    clip_norm: float = _field(
        0.0,
        "longest gradient, over all weights together; 0 clips none",
        source="Pascanu et al. 2013",
        low=0.0,
        high=1e6,
    )
    schedule: str = _field(
        "cosine",
        "how the learning rate moves",
        source="cosine: Loshchilov & Hutter 2017; step: He et al. 2016; one_cycle: Smith & Topin 2018",
        choices=SCHEDULES,
    )
    warmup: float = _field(
        0.05,
        "share of the training with a linearly rising learning rate",
        source="Quick-Tune",
        low=0.0,
        high=0.9,
        only_if=("schedule", ("constant", "step", "cosine", "plateau")),
    )
    loss: str = _field(
        "cross_entropy",
        "what is minimised",
        source="label_smoothing: Szegedy et al. 2016; focal: Lin et al. 2017; bce: Wightman et al. 2021; "
        "logit_adjustment: Menon et al. 2021; arcface: Deng et al. 2019",
        choices=LOSSES,
        open_choices=True,
    )
    focal_gamma: float = _field(
        2.0,
        "how much the focal loss turns to hard images",
        source="Lin et al. 2017, table 1b",
        low=0.0,
        high=10.0,
        only_if=("loss", ("focal",)),
    )
    label_smoothing: float = _field(
        0.1,
        "share of a label spread over all classes",
        source="Szegedy et al. 2016",
        low=0.0,
        high=0.9,
        only_if=("loss", ("label_smoothing",)),
    )
    adjustment_tau: float = _field(
        1.0,
        "tau of the logit adjustment: how far rare classes are helped",
        source="Menon et al. 2021, equation 10",
        low=0.0,
        high=10.0,
        only_if=("loss", ("logit_adjustment",)),
    )
    arcface_margin: float = _field(
        0.3,
        "angle in radians that the true class has to be nearer",
        source="Deng et al. 2019, who take 0.5 with far more classes",
        low=0.0,
        high=1.5,
        only_if=("loss", ("arcface",)),
    )
    arcface_scale: float = _field(
        16.0,
        "what a cosine of 1 is as a logit",
        source="Deng et al. 2019, who take 64 with far more classes",
        low=1.0,
        high=128.0,
        only_if=("loss", ("arcface",)),
    )
    class_weights: str = _field(
        "none",
        "weight of a class of n images in the loss: none, balanced ~ 1 / n, or effective_number ~ (1 - b) / (1 - b^n)",
        source="effective_number: Cui et al. 2019, equation 4",
        choices=CLASS_WEIGHTS,
        only_if=("loss", ("cross_entropy", "label_smoothing", "focal", "arcface")),
    )
    effective_beta: float = _field(
        0.999,
        "b of the effective number",
        source="Cui et al. 2019, table 2",
        low=0.0,
        high=0.999999,
        only_if=("class_weights", ("effective_number",)),
    )
    sampler: str = _field(
        "shuffle", "shuffle: each image once an epoch; balanced: each class equally often", choices=SAMPLERS
    )
    augment: str = _field(
        "light",
        "augmentation policy",
        source="cutout: DeVries & Taylor 2017; randaugment: Cubuk et al. 2020; trivialaugment: Müller & Hutter 2021",
        choices=AUGMENTS,
        open_choices=True,
    )
    randaugment_ops: int = _field(
        2,
        "transforms of an image, one after another",
        source="Quick-Tune",
        low=1,
        high=14,
        only_if=("augment", ("randaugment",)),
    )
    randaugment_magnitude: int = _field(
        9, "strength of the transforms", source="Quick-Tune", low=0, high=30, only_if=("augment", ("randaugment",))
    )
    mixing: str = _field(
        "none",
        "how two images become one: MixUp blends them, CutMix pastes a rectangle; both: each in half of the batches",
        source="Zhang et al. 2018; Yun et al. 2019",
        choices=MIXINGS,
    )
    mixup_alpha: float = _field(
        0.8,
        "strength of MixUp: the share of an image is drawn from Beta(alpha, alpha)",
        source="Quick-Tune",
        low=0.01,
        high=10.0,
        only_if=("mixing", ("mixup", "both")),
    )
    cutmix_alpha: float = _field(
        1.0,
        "strength of CutMix: the area of an image is drawn from Beta(alpha, alpha)",
        source="Quick-Tune",
        low=0.01,
        high=10.0,
        only_if=("mixing", ("cutmix", "both")),
    )
    mix_probability: float = _field(
        1.0,
        "share of the batches that are mixed",
        source="Quick-Tune",
        low=0.0,
        high=1.0,
        only_if=("mixing", ("mixup", "cutmix", "both")),
    )
    ema: bool = _field(
        default=False,
        meaning="validate and keep the exponential moving average of the weights",
        source="Polyak & Juditsky 1992; timm's warm-up",
    )
    compile: bool = _field(
        default=False, meaning="compile the model: minutes at the start of each trial, which a long training earns back"
    )
    seed: int = _field(0, "seed of everything random in the training", low=0, high=2**31 - 1)

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
    known: dict[str, Any] = {name: whole_to_float(name, value) for name, value in values.items() if name in DEFAULTS}
    try:
        recipe = Recipe(**known)
    except RecipeError as error:
        raise RecipeError(unknown + error.problems) from None
    if unknown:
        raise RecipeError(unknown)
    return recipe


def whole_to_float(name: str, value: Any) -> Any:
    """1 as 1.0 for a field that takes fractions; anything else as it is."""
    return float(value) if isinstance(DEFAULTS[name], float) and type(value) is int else value


def unknown_problem(key: str, known: Iterable[str]) -> str:
    """One line for a key that does not exist, with the nearest one that does."""
    return f"{key}: there is no such key{nearest(key, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?`, or nothing where no known name is near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f'; did you mean "{match[0]}"?' if match else ""


def value_problem(name: str, value: Any, choices: Iterable[str]) -> str | None:
    """Say what is wrong with a value for a field, or None.

    `choices` are the names that a text field may take; empty means any.
    """
    rule, kind = RULES[name], type(DEFAULTS[name])
    value = whole_to_float(name, value)
    if type(value) is not kind:
        return f"{name}: {show(value)} is not {_KIND_NAMES[kind]}"
    choices = tuple(choices)
    if kind is str and not value:
        return f"{name}: is empty"
    if choices and value not in choices:
        listed = ", ".join(choices)
        return f"{name}: {show(value)} is not known{nearest(value, choices) or f'; known: {listed}'}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name}: {show(value)} is not a finite number"
    if rule.low is not None and rule.high is not None and not rule.low <= value <= rule.high:
        return f"{name}: {show(value)} is outside {rule.limits}"
    return None


def show(value: Any) -> str:
    """Show a value the way a study file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


_KIND_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
