"""The recipes of a search space, one after the other, and what tells two of them apart."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from trainer.recipe import DEFAULTS, RULES, is_used
from trainer.space import Choice, Range

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Mapping

    from trainer.space import Space


def digest_of(parameters: Mapping[str, Any], space: Space) -> str:
    """A text that two recipes of a space share where each would train as the other: 32 characters.

    Args:
        parameters: the values of the fields that vary; what this recipe does not use makes no difference.
        space: that suggested them.
    """
    varying = space.varying()
    fixed = {name: entry for name, entry in space.fields.items() if name not in varying}
    values = {**DEFAULTS, **fixed, **parameters}
    telling = {
        name: value if isinstance(value, str) else type(DEFAULTS[name])(value)  # 1 and 1.0 are one value
        for name, value in parameters.items()
        if name in varying and is_used(name, values)
    }
    text = json.dumps(telling, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_finite(space: Space) -> bool:
    """Whether a space holds a finite number of recipes."""
    return not endless_fields(space)


def endless_fields(space: Space) -> list[str]:
    """The fields that a recipe can use and of which any number of values are searched: ranges of fractions."""
    return [name for name, entry in space.fields.items() if _is_continuous(name, entry) and space.can_use(name)]


def count_recipes(space: Space) -> int:
    """How many recipes a finite space holds, without a look at each."""
    asked = {rule.only_if[0] for rule in RULES.values() if rule.only_if}
    counts = Counter[tuple[tuple[str, Any], ...]]({(): 1})  # by the values of the fields that conditions ask for
    for name, entry in space.fields.items():
        grown = Counter[tuple[tuple[str, Any], ...]]()
        for known, count in counts.items():
            used = is_used(name, dict(known))
            if name in asked:
                for value in space.values(name) if used else (DEFAULTS[name],):
                    grown[*known, (name, value)] += count
            else:
                grown[known] += count * (_value_count(entry) if used else 1)
        counts = grown
    return counts.total()


def recipes(space: Space, rng: random.Random, given: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The parameters of each recipe of a space, once each, in a partly random order; without end if it is not finite.

    Args:
        space: that could suggest them.
        rng: for the order, and for numbers from ranges of fractions.
        given: values of fields that do not vary here, though the space lets them.
    """
    return _complete(list(space.fields), {}, {}, space, rng, given or {})


def _complete(
    names: list[str],
    values: dict[str, Any],
    parameters: dict[str, Any],
    space: Space,
    rng: random.Random,
    given: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Complete a recipe whose first fields have values already; `names` are those that have none, in the space's order.

    A recipe's fields are in such an order that a condition's field comes before those that depend on it.
    """
    if not names:
        yield parameters
        return
    name, entry = names[0], space.fields[names[0]]
    if not isinstance(entry, Choice | Range):
        yield from _complete(names[1:], {**values, name: entry}, parameters, space, rng, given)
    elif not is_used(name, values):
        yield from _complete(names[1:], {**values, name: DEFAULTS[name]}, parameters, space, rng, given)
    else:
        for value in (given[name],) if name in given else _options(name, entry, rng):
            yield from _complete(names[1:], {**values, name: value}, {**parameters, name: value}, space, rng, given)


def _options(name: str, entry: Choice | Range, rng: random.Random) -> Iterable[Any]:
    """All values that an entry allows, in random order, or endless ones from a range of fractions."""
    if isinstance(entry, Choice):
        return rng.sample(entry.values, len(entry.values))
    if _is_continuous(name, entry):
        return _fractions(entry, rng)
    if not isinstance(DEFAULTS[name], int):
        return (float(entry.low),)
    low, count = int(entry.low), _value_count(entry)
    first = rng.randrange(count)  # a range may be too long to be shuffled
    return (low + (first + offset) % count for offset in range(count))


def _value_count(entry: Any) -> int:
    """How many values an entry allows that is no range of fractions."""
    match entry:
        case Choice(values):
            return len(values)
        case Range(low, high):
            return int(high - low) + 1
        case _:
            return 1


def _fractions(entry: Range, rng: random.Random) -> Iterator[float]:
    while True:
        share = rng.random()
        if entry.log:
            yield min(entry.low * (entry.high / entry.low) ** share, entry.high)
        else:
            yield min(entry.low + (entry.high - entry.low) * share, entry.high)


def _is_continuous(name: str, entry: Any) -> bool:
    return isinstance(entry, Range) and not isinstance(DEFAULTS[name], int) and entry.low < entry.high
