"""Which fields of the recipe vary, and how. A value fixes a field, a list chooses, a range table searches."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.recipe import DEFAULTS, RULES, Recipe, is_used, recipe_from, unmet_conditions, used_fields, value_problem
from trainer.rules import show, unknown_problem, whole_to_float

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import BaseTrial

# What is searched where the study file says nothing: fine-tuning as an expert would try it. The backbones are small to
# middle and of different kinds, of the families that fine-tune best in Goldblum et al. 2023 ("Battle of the
# Backbones") and in timm's own results. Ranges after Quick-Tune (Arango et al., ICLR 2024, table 1) unless the recipe's
# field names another source.
DEFAULT_SPACE: dict[str, Any] = {
    "backbone": [
        "resnet50.a1_in1k",
        "efficientnet_b0.ra_in1k",
        "tf_efficientnetv2_s.in21k_ft_in1k",
        "convnext_tiny.in12k_ft_in1k",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
    ],
    "dropout": [0.0, 0.1, 0.2, 0.4],
    "drop_path": [0.0, 0.1, 0.2],
    "freeze": [0.0, 0.25, 0.5, 0.75],
    "optimizer": ["adamw", "sgd"],
    "learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "layer_decay": [0.65, 0.75, 0.9, 1.0],
    "weight_decay": {"low": 1e-5, "high": 0.1, "log": True},
    "clip_norm": [0.0, 1.0],
    "schedule": ["cosine", "step", "plateau", "one_cycle"],
    "warmup": [0.0, 0.05, 0.1, 0.2],
    "loss": ["cross_entropy", "label_smoothing", "focal", "soft_f1", "bce", "logit_adjustment", "arcface"],
    "focal_gamma": {"low": 0.5, "high": 5.0},
    "label_smoothing": [0.05, 0.1, 0.2],
    "adjustment_tau": {"low": 0.5, "high": 1.5},
    "arcface_margin": {"low": 0.1, "high": 0.5},
    "arcface_scale": {"low": 8.0, "high": 64.0, "log": True},
    "class_weights": ["none", "balanced", "effective_number"],
    "effective_beta": [0.9, 0.99, 0.999, 0.9999],
    "sampler": ["shuffle", "balanced"],
    "augment": ["none", "flip", "light", "medium", "heavy", "cutout", "randaugment", "trivialaugment"],
    "randaugment_ops": [2, 3],
    "randaugment_magnitude": [9, 17],
    "mixing": ["none", "mixup", "cutmix", "both"],
    "mixup_alpha": {"low": 0.2, "high": 8.0, "log": True},
    "cutmix_alpha": {"low": 0.1, "high": 4.0, "log": True},
    "mix_probability": [0.5, 1.0],
    "ema": [False, True],
}


RANGE_KEYS = ("low", "high", "log")
LAYER_FIELDS = ("pooling", "dropout", "drop_path", "freeze", "layer_decay")  # fields that only timm's models can follow


@dataclass(frozen=True)
class Range:
    """All numbers from low to high, both included; whole numbers where the field is one."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of these values."""

    values: tuple[str | bool | int | float, ...]


class Space:
    """The search space: for each field of the recipe a value, a choice or a range.

    Args:
        fields: field -> value | list | {"low", "high"[, "log"]}; a field that is not given is searched as in
            `DEFAULT_SPACE`, or has the recipe's default. Beside a model of one's own, what speaks of a model's layers
            and head has its default, too.
        extensions: functions of one's own, whose names become usable.

    Attributes:
        given: the fields that are given.

    Raises:
        RecipeError: unknown fields, names or impossible ranges, all of them at once.
    """

    def __init__(self, fields: Mapping[str, Any], extensions: Extensions | None = None) -> None:
        self.extensions = extensions or Extensions()
        self.given = frozenset(fields)
        problems = [unknown_problem(name, DEFAULTS) for name in fields if name not in DEFAULTS]
        self.fields: dict[str, Any] = {}
        searched = DEFAULT_SPACE
        if self.extensions.backbones.keys() & set(_as_list(fields.get("backbone"))):
            searched = {name: entry for name, entry in DEFAULT_SPACE.items() if name not in LAYER_FIELDS}
            searched["loss"] = [loss for loss in DEFAULT_SPACE["loss"] if loss != "arcface"]
        for name, default in DEFAULTS.items():
            entry = _parse(name, fields.get(name, searched.get(name, default)))
            self.fields[name] = entry
            problems += _problems(name, entry, self.extensions.names(name))
        if problems:
            raise RecipeError(problems)

    def values(self, name: str) -> tuple[Any, ...]:
        """All values that a field can have; for a range its two ends."""
        entry = self.fields[name]
        match entry:
            case Choice(values):
                return values
            case Range(low, high):
                return (low, high)
            case _:
                return (entry,)

    def useless_fields(self) -> list[str]:
        """A line for each field that is given, and not as the default, though no recipe of the space can use it."""
        lines = []
        for name in DEFAULTS:
            condition = RULES[name].only_if
            if condition and name in self.given and self.values(name) != (DEFAULTS[name],) and not self.can_use(name):
                other, values = condition
                lines.append(f"{name}: no trial can use it, which takes {other} = {' or '.join(map(show, values))}")
        return lines

    def can_use(self, name: str) -> bool:
        """Whether some recipe of the space uses a field."""
        condition = RULES[name].only_if
        return condition is None or (
            not set(condition[1]).isdisjoint(self.values(condition[0])) and self.can_use(condition[0])
        )

    def as_dict(self) -> dict[str, Any]:
        """The space as a study file writes it, complete; JSON can hold it."""
        written: dict[str, Any] = {}
        for name, entry in self.fields.items():
            match entry:
                case Choice(values):
                    written[name] = list(values)
                case Range():
                    written[name] = asdict(entry)
                case _:
                    written[name] = entry
        return written

    def varying(self) -> set[str]:
        """The fields that are searched; the others have one value."""
        return {name for name, entry in self.fields.items() if isinstance(entry, Choice | Range)}

    def default_parameters(self) -> dict[str, Any]:
        """The searched fields at the recipe's defaults, or as near as the space allows: a search's first trial.

        Of a list without the default that is the nearest number, and the first of names.
        """
        nearest: dict[str, Any] = {}
        for name, entry in self.fields.items():
            match entry:
                case Choice(values) if DEFAULTS[name] in values:
                    nearest[name] = DEFAULTS[name]
                case Choice(values):
                    number = _nearest_number(name, values, DEFAULTS[name])
                    nearest[name] = values[0] if number is None else number
                case Range(low, high):
                    nearest[name] = min(max(DEFAULTS[name], low), high)
        return nearest


def recipe_near_default(fields: Mapping[str, Any], space: Space) -> Recipe:
    """The recipe with these values, which elsewhere is the default recipe, or the nearest that the space allows.

    Raises:
        RecipeError: fields that do not exist, that mean nothing in this recipe, or whose values cannot be used or are
            not in the space; all of them.
    """
    defaults = {**space.fields, **space.default_parameters()}
    recipe = recipe_from({**defaults, **fields})
    used, searched = used_fields(recipe), space.as_dict()
    problems = [
        f"{name}: means nothing in this recipe, as {' and '.join(unmet_conditions(name, asdict(recipe)))}"
        for name in fields
        if name not in used and getattr(recipe, name) not in (defaults[name], DEFAULTS[name])
    ]
    problems += [
        f"{name}: {show(used[name])} is not in the search space, which has {show(searched[name])}; give [recipe] {name}"
        " room for it, or take a value that is there"
        for name in misfits(recipe, space)
    ]
    if problems:
        raise RecipeError(problems)
    return replace(recipe, **{name: DEFAULTS[name] for name in space.varying() if name not in used})


def parameters_of(recipe: Recipe, space: Space) -> dict[str, Any]:
    """The fields of a recipe of the space that the space searches: a trial's parameters."""
    varying = space.varying()
    return {name: value for name, value in used_fields(recipe).items() if name in varying}


def nearest_parameters(recipe: Recipe, space: Space) -> tuple[dict[str, Any], list[str]]:
    """A trial's parameters in a space, as near to a recipe of another space as they can be.

    A field that the space fixes is left as it is there, a number is moved to the nearest that the space allows.

    Returns:
        the parameters; the fields whose value, a name or a switch, the space does not list: they have none.
    """
    chosen: dict[str, Any] = {}
    nearest, missing = dict[str, Any](), list[str]()
    for name, entry in space.fields.items():
        value = getattr(recipe, name)
        if not isinstance(entry, Choice | Range):
            chosen[name] = entry
            continue
        chosen[name] = value
        if not is_used(name, chosen):
            continue
        match entry:
            case Range(low, high):
                chosen[name] = min(max(value, low), high)
            case Choice(values) if value not in values:
                number = _nearest_number(name, values, value)
                if number is None:
                    missing.append(name)
                    continue
                chosen[name] = number
        nearest[name] = chosen[name]
    return nearest, missing


def _nearest_number(name: str, values: Sequence[Any], wanted: Any) -> Any:
    """The number of a list that is the nearest to the one that is wanted; None where none is there, or none wanted.

    Of a field that is searched on a logarithmic scale that is the one which is so by its ratio.
    """
    numbers = [one for one in values if not isinstance(one, str | bool)]
    if isinstance(wanted, str | bool) or not numbers:
        return None
    searched = DEFAULT_SPACE.get(name)
    by_ratio = isinstance(searched, dict) and bool(searched.get("log")) and wanted > 0

    def distance(one: float) -> float:
        if not by_ratio:
            return float(abs(one - wanted))
        return abs(math.log(one / wanted)) if one > 0 else math.inf

    return min(numbers, key=distance)


def suggest(trial: BaseTrial, space: Space) -> Recipe:
    """Ask the trial for the fields that vary, and only for those that this recipe uses.

    A conditional field (`focal_gamma` without the focal loss) keeps its fixed value or the recipe's default.
    """
    chosen: dict[str, Any] = {}
    for name, entry in space.fields.items():
        # A recipe's fields are in such an order that a condition's field comes before those that depend on it.
        used = is_used(name, chosen)
        match entry:
            case Choice(values):
                chosen[name] = trial.suggest_categorical(name, values) if used else DEFAULTS[name]
            case Range() if not used:
                chosen[name] = DEFAULTS[name]
            case Range(low, high, log) if isinstance(DEFAULTS[name], int):
                chosen[name] = trial.suggest_int(name, int(low), int(high), log=log)
            case Range(low, high, log):
                chosen[name] = trial.suggest_float(name, low, high, log=log)
            case _:
                chosen[name] = entry
    return recipe_from(chosen)


def misfits(recipe: Recipe, space: Space) -> list[str]:
    """The fields whose value in the recipe the space could not suggest; fields that the recipe does not use fit."""
    return [name for name, value in used_fields(recipe).items() if not _allows(space.fields[name], value)]


def _allows(entry: Any, value: Any) -> bool:
    match entry:
        case Choice(values):
            return value in values
        case Range(low, high):
            return bool(low <= value <= high)
        case _:
            return bool(entry == value)


def _as_list(written: Any) -> list[Any]:
    return list(written) if isinstance(written, list | tuple) else [written]


def _parse(name: str, written: Any) -> Any:
    if isinstance(written, list | tuple):
        return Choice(tuple(whole_to_float(DEFAULTS[name], value) for value in written))
    if isinstance(written, dict):
        return written if _range_problems(name, written) else Range(**written)
    return whole_to_float(DEFAULTS[name], written)


def _problems(name: str, entry: Any, names: tuple[str, ...]) -> list[str]:
    match entry:
        case Choice(()):
            return [f"{name}: an empty list leaves nothing to choose"]
        case Choice(values):
            found = [value_problem(name, value, names) for value in values]
            doubles = sorted({show(value) for value in values if values.count(value) > 1})
            found += [f"{name}: {', '.join(doubles)} is listed more than once"] if doubles else []
        case Range(low, high):
            number = int if isinstance(DEFAULTS[name], int) else float
            found = [value_problem(name, number(end), names) for end in (low, high)]
        case dict():
            found = list(_range_problems(name, entry))
        case _:
            found = [value_problem(name, entry, names)]
    return [problem for problem in found if problem]


def _range_problems(name: str, table: dict[str, Any]) -> list[str]:
    """What keeps this table from being a range of the field; empty where nothing does."""
    if isinstance(DEFAULTS[name], bool | str) or not RULES[name].ranged:
        return [f"{name}: takes a value or a list, no range"]
    problems = [f"{name}.{unknown_problem(key, RANGE_KEYS)}" for key in table if key not in RANGE_KEYS]
    problems += [f"{name}: a range needs {key}" for key in ("low", "high") if key not in table]
    if problems:
        return problems
    low, high, log = table["low"], table["high"], table.get("log", False)
    whole = isinstance(DEFAULTS[name], int)
    for key, end in (("low", low), ("high", high)):
        if type(end) is not int and (whole or type(end) is not float or not math.isfinite(end)):
            problems.append(f"{name}.{key}: {show(end)} is not {'a whole' if whole else 'a finite'} number")
    if not isinstance(log, bool):
        problems.append(f"{name}.log: {show(log)} is not true or false")
    if not problems and low > high:
        problems.append(f"{name}: low = {low} is above high = {high}")
    if not problems and log and low <= 0:
        problems.append(f"{name}: a logarithmic range starts above 0, not at low = {low}")
    return problems
