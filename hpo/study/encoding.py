"""Recipes as numbers, for a model that learns from them: searched fields to coordinates, features and back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from trainer.recipe import DEFAULTS, RULES
from trainer.space import Choice, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from optuna.distributions import BaseDistribution

    from trainer.space import Space

    Coordinates = NDArray[np.float64]

UNUSED = -0.5  # as a feature: of a field that the recipe does not use
MOST_CHANGES = 4  # fields in which a neighbour differs from its recipe
STEP = 0.15  # standard deviation of the steps of a neighbour in a range, as a share of the range


class Encoding:
    """The searched fields of a space.

    A recipe's coordinates are one number for each of them: the position in [0, 1] in a range, on a logarithmic scale
    where the range has one; the position in a list; NaN where the recipe does not use the field.

    Args:
        fields: name -> `Choice`, `Range` or a fixed value; a condition's field comes before those that depend on it.
        conditions: of the fields that only some recipes use: name -> another field and its values that ask for it.
        whole: names of the ranges that hold whole numbers.
    """

    def __init__(
        self,
        fields: Mapping[str, Any],
        conditions: Mapping[str, tuple[str, tuple[Any, ...]]] | None = None,
        whole: frozenset[str] = frozenset(),
    ) -> None:
        self._fields, self._conditions, self._whole = dict(fields), dict(conditions or {}), whole
        self.names = [name for name, entry in fields.items() if isinstance(entry, Choice | Range)]

    @classmethod
    def of(cls, space: Space) -> Encoding:
        """The encoding of a study's space."""
        conditions = {name: rule.only_if for name, rule in RULES.items() if rule.only_if}
        whole = frozenset(name for name, value in DEFAULTS.items() if type(value) is int)
        return cls(space.fields, conditions, whole)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each searched field, as `trainer.space.suggest` has them."""
        found: dict[str, BaseDistribution] = {}
        for name in self.names:
            match self._fields[name]:
                case Choice(values):
                    found[name] = CategoricalDistribution(values)
                case Range(low, high, log) if name in self._whole:
                    found[name] = IntDistribution(int(low), int(high), log=log)
                case Range(low, high, log):
                    found[name] = FloatDistribution(low, high, log=log)
        return found

    def random(self, rng: np.random.Generator, count: int) -> Coordinates:
        """Coordinates of recipes drawn at random, float64 [count, fields]."""
        return self._settled(self._drawn(rng, count))

    def neighbours(self, rng: np.random.Generator, parents: Coordinates) -> Coordinates:
        """Coordinates of recipes near others, float64 [count, fields], one for each of the parents [count, fields].

        Each changes one to `MOST_CHANGES` of the fields that its parent uses: a position in a range by a normally
        distributed step, a number in a list to one of its two neighbours, a name to any other. Fields that come into
        use by that are drawn at random.
        """
        count = len(parents)
        unused = np.isnan(parents)
        movable = ~unused & np.array([_has_room(self._fields[name]) for name in self.names])
        order = np.argsort(np.argsort(np.where(movable, rng.random(parents.shape), np.inf), axis=1), axis=1)
        changes = np.array(rng.integers(1, MOST_CHANGES + 1, size=count))
        changed = movable & (order < changes[:, None])
        near = np.where(unused, self._drawn(rng, count), parents)
        for position, name in enumerate(self.names):
            rows = np.flatnonzero(changed[:, position])
            near[rows, position] = self._moved(rng, name, near[rows, position])
        return self._settled(near)

    def _drawn(self, rng: np.random.Generator, count: int) -> Coordinates:
        """Random coordinates, float64 [count, fields], also of the fields that the recipes do not use."""
        entries = [self._fields[name] for name in self.names]
        drawn = [
            rng.integers(len(entry.values), size=count) if isinstance(entry, Choice) else rng.random(count)
            for entry in entries
        ]
        return np.stack(drawn, axis=1).astype(float) if drawn else np.empty((count, 0))

    def _moved(self, rng: np.random.Generator, name: str, positions: Coordinates) -> Coordinates:
        """Another position [count] of a field for each of these."""
        entry, count = self._fields[name], len(positions)
        if isinstance(entry, Range):
            return np.clip(positions + rng.normal(0.0, STEP, count), 0.0, 1.0)
        if _are_names(entry):
            return (positions + rng.integers(1, len(entry.values), size=count)) % len(entry.values)
        by_size = np.array(sorted(range(len(entry.values)), key=entry.values.__getitem__))
        ranks = np.argsort(by_size)[positions.astype(int)]
        steps = rng.choice([-1, 1], size=count)
        steps[ranks == 0], steps[ranks == len(by_size) - 1] = 1, -1
        moved: Coordinates = by_size[ranks + steps].astype(float)
        return moved

    def _settled(self, coordinates: Coordinates) -> Coordinates:
        """The same, with NaN for the fields that the recipes do not use."""
        used: dict[str, NDArray[np.bool_]] = {}
        settled = coordinates.copy()
        for name in self._fields:
            used[name] = np.ones(len(settled), dtype=bool)
            if name in self._conditions:
                on, wanted = self._conditions[name]
                other = self._fields[on]
                if isinstance(other, Choice):
                    asked = [index for index, value in enumerate(other.values) if value in wanted]
                    used[name] = used[on] & np.isin(settled[:, self.names.index(on)], asked)
                else:
                    used[name] = used[on] & (other in wanted)
            if name in self.names:
                settled[~used[name], self.names.index(name)] = np.nan
        return settled

    def features(self, coordinates: Coordinates) -> NDArray[np.float64]:
        """What a model sees of recipes, float64 [count, features], from their coordinates [count, fields].

        Ranges stay, lists of numbers become ranks in [0, 1], and each name in a list of names is a feature of its own.
        """
        columns = []
        for position, name in enumerate(self.names):
            entry, given = self._fields[name], coordinates[:, position]
            unused = np.isnan(given)
            if isinstance(entry, Range):
                found = given[:, None]
            elif _are_names(entry):
                found = (given[:, None] == np.arange(len(entry.values))).astype(float)
            else:
                ranks = np.argsort(np.argsort(entry.values)) / max(1, len(entry.values) - 1)
                found = ranks[np.where(unused, 0, given).astype(int)][:, None]
            columns.append(np.where(unused[:, None], UNUSED, found))
        return np.concatenate(columns, axis=1) if columns else np.empty((len(coordinates), 0))

    def coordinates(self, params: Mapping[str, Any]) -> Coordinates:
        """Coordinates of one recipe, float64 [fields], from its parameters.

        Raises:
            ValueError: the space has no such parameter, or no such value of it.
        """
        if unknown := params.keys() - set(self.names):
            raise ValueError(f"no searched fields: {', '.join(sorted(unknown))}")
        return np.array([self._position(name, params[name]) if name in params else np.nan for name in self.names])

    def params(self, coordinates: Coordinates) -> dict[str, Any]:
        """The parameters of one recipe from its coordinates [fields]."""
        return {
            name: self._value(name, float(position))
            for name, position in zip(self.names, coordinates, strict=True)
            if not math.isnan(position)
        }

    def _position(self, name: str, value: Any) -> float:
        match self._fields[name]:
            case Choice(values):
                return values.index(value)
            case Range(low, high, log):
                if not low <= value <= high:
                    raise ValueError(f"{name}: {value} is outside {low:g} to {high:g}")
                if low == high:
                    return 0.0
                return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        raise AssertionError(name)

    def _value(self, name: str, position: float) -> Any:
        match self._fields[name]:
            case Choice(values):
                return values[int(position)]
            case Range(low, high, log):
                value = low * (high / low) ** position if log else low + (high - low) * position
                if name in self._whole:
                    return min(max(round(value), low), high)
                # What somebody has written comes back as it was, and not with the error of a logarithm.
                short = min(max(float(f"{value:.12g}"), low), high)
                return short if self._position(name, short) == position else min(max(value, low), high)
        raise AssertionError(name)


def _has_room(entry: Choice | Range) -> bool:
    """Whether a field can have more than one value."""
    return entry.low < entry.high if isinstance(entry, Range) else len(entry.values) > 1


def _are_names(entry: Choice) -> bool:
    """Whether the values of a list have no order."""
    return any(isinstance(value, str | bool) for value in entry.values)
