"""The table [limits]: how large and how slow a model may be, and which models of a search space are within that."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from trainer.recipe import DEFAULTS, recipe_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from hpo.study.table import Table
    from trainer.recipe import Recipe
    from trainer.space import Space

MODEL_FIELDS = ("backbone", "image_size", "pooling")  # of a recipe, on which the size and the speed of its model depend
MEGABYTE = 1e6


@dataclass(frozen=True)
class ModelLimits:
    """The table [limits]; None is no limit.

    Attributes:
        parameters: of the model.
        milliseconds: that it may take for one image by itself, on the device of the worker that would train it.
        megabytes: of its weights in a bundle, in units of 10^6 bytes.
    """

    parameters: int | None = None
    milliseconds: float | None = None
    megabytes: float | None = None


def read_model_limits(table: Table) -> ModelLimits:
    """Read the table [limits]; what is wrong with it is noted there."""
    limits = ModelLimits(
        parameters=table.count("parameters", high=1e12),
        milliseconds=table.number("milliseconds", low=1e-6, high=1e9),
        megabytes=table.number("megabytes", low=1e-6, high=1e9),
    )
    table.no_more()
    return limits


class ModelCheck:
    """Tells which models of a search space are within limits.

    Args:
        limits: of the study file.
        space: of the study.
        classes: number of outputs.
        milliseconds: measures a recipe's model; None where its speed cannot be known here, and does not count.
    """

    def __init__(
        self, limits: ModelLimits, space: Space, classes: int, milliseconds: Callable[[Recipe], float] | None = None
    ) -> None:
        self._limits, self._space, self._classes, self._milliseconds = limits, space, classes, milliseconds
        self._figures: dict[tuple[Any, ...], dict[str, float]] = {}  # of each model that was looked at

    def excess(self, values: Mapping[str, Any]) -> str | None:
        """Why the model of a recipe with these values of searched fields is beyond the limits; None where it is not."""
        model = self._model(values)
        for name, limit in asdict(self._limits).items():
            figure = self._figures_of(model).get(name)
            if limit is not None and figure is not None and figure > limit:
                return f"{_shown(model)} has {_figure(name, figure)}, and [limits] {name} is {limit:,}"
        return None

    def within(self, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The searched values of each model within the limits that agrees with given values, in the space's order."""
        for model in models_of(self._space):
            if all(given.get(name, value) == value for name, value in model.items()) and self.excess(model) is None:
                yield model

    def refuse_where_none_is_left(self) -> None:
        """Raise HpoError where no model of the space is within the limits; the line names the smallest."""
        if next(self.within({}), None) is not None:
            return
        parts = []
        for name, limit in asdict(self._limits).items():
            known = [(figures[name], model) for model, figures in self._figures.items() if name in figures]
            if limit is not None and known:
                least, model = min(known, key=itemgetter(0))
                shown = _shown(dict(zip(MODEL_FIELDS, model, strict=True)))
                parts.append(f"{name} is {limit:,}, and the smallest, {shown}, has {_figure(name, least)}")
        raise HpoError(
            f"limits: no model of the search space is within [limits]: {'; '.join(parts)}; raise the limit, or give"
            " [recipe] a smaller backbone or image_size"
        )

    def _model(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The fields on which the model depends: searched ones as given, fixed ones as the space has them."""
        return {
            name: values.get(name, DEFAULTS[name] if name in self._space.varying() else self._space.values(name)[0])
            for name in MODEL_FIELDS
        }

    def _figures_of(self, model: Mapping[str, Any]) -> dict[str, float]:
        """What the limits are about, by their names, of a model."""
        key = tuple(model[name] for name in MODEL_FIELDS)
        if key not in self._figures:
            from trainer.model.size import model_size  # torch takes seconds: only where there are limits

            recipe = recipe_from(dict(model))
            size = model_size(recipe, self._classes, self._space.extensions)
            figures: dict[str, float] = {"parameters": size.parameters, "megabytes": size.weights_bytes / MEGABYTE}
            if self._milliseconds and self._limits.milliseconds is not None:
                figures["milliseconds"] = self._milliseconds(recipe)
            self._figures[key] = figures
        return self._figures[key]


def models_of(space: Space) -> list[dict[str, Any]]:
    """The values of the searched fields on which a model depends, for each model of a space, in the space's order."""
    searched = [name for name in MODEL_FIELDS if name in space.varying()]
    return [dict(zip(searched, values, strict=True)) for values in product(*(space.values(name) for name in searched))]


def check_of(
    limits: ModelLimits, space: Space, classes: int, milliseconds: Callable[[Recipe], float] | None = None
) -> ModelCheck | None:
    """What tells which models are within limits, see `ModelCheck`; None where all are.

    Raises:
        HpoError: no model of the space is.
    """
    if limits == ModelLimits():
        return None
    check = ModelCheck(limits, space, classes, milliseconds)
    check.refuse_where_none_is_left()
    return check


def _shown(model: Mapping[str, Any]) -> str:
    pooling = "" if model["pooling"] == DEFAULTS["pooling"] else f" with pooling {model['pooling']}"
    return f"{model['backbone']} at {model['image_size']} px{pooling}"


def _figure(name: str, value: float) -> str:
    match name:
        case "parameters":
            return f"{value:,.0f} parameters"
        case "megabytes":
            return f"weights of {value:.1f} MB"
        case _:
            return f"{value:.2g} milliseconds an image"
