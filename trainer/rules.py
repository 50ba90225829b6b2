"""What a field of a recipe may be, and the lines that say what is wrong with a value or a key."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from trainer.image_size import HOW_TO_WRITE, rectangle_problem

if TYPE_CHECKING:
    from collections.abc import Iterable

KIND_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}

LIKELY = 0.75  # the likeness of two names, from 0 to 1, from which on the one is probably meant by the other
SHORTEST_PART = 3  # letters of a name that tell which longer one is meant


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
    rectangles: bool = False  # whether a text like "200x320" may stand for the number, which is a side of a square
    only_if: tuple[str, tuple[Any, ...]] | None = None  # (other field, its values for which this one is used)

    @property
    def limits(self) -> str:
        """The range of numbers as a text."""
        return " to ".join(f"{end:g}" if isinstance(end, float) else str(end) for end in (self.low, self.high))


def field_with_rule(default: Any, meaning: str, **rule: Any) -> Any:
    """A field of a dataclass with this default, whose metadata hold its `Rule`."""
    return field(default=default, metadata={"rule": Rule(meaning, **rule)})


def problem_with(name: str, value: Any, rule: Rule, default: Any, choices: Iterable[str]) -> str | None:
    """Say in one line what is wrong with a value for a field, or None.

    Args:
        name: of the field.
        value: that it should have; a whole number is right for a field that takes fractions.
        rule: of the field.
        default: of the field, whose type the value must have.
        choices: names that a text field may take; empty means any.
    """
    kind = type(default)
    value = whole_to_float(default, value)
    if rule.rectangles and isinstance(value, str) and rule.low is not None and rule.high is not None:
        problem = rectangle_problem(value, rule.low, rule.high)
        return problem and f"{name}: {show(value)} {problem}"
    if type(value) is not kind:
        how = f"; {HOW_TO_WRITE}" if rule.rectangles else ""
        return f"{name}: {show(value)} is not {KIND_NAMES[kind]}{how}"
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


def whole_to_float(default: Any, value: Any) -> Any:
    """1 as 1.0 for a field whose default is a fraction; anything else as it is."""
    return float(value) if isinstance(default, float) and type(value) is int else value


def unknown_problem(key: str, known: Iterable[str]) -> str:
    """One line for a key that does not exist, with the nearest one that does."""
    return f"{key}: there is no such key{nearest(key, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean "…"?` with the known name that is probably meant; nothing where none is.

    It differs by a typing mistake, or one of the two begins or ends with the other, as `gpu` and `gpu_hours` do.
    """
    wanted = _plain(name)
    likeness, best = max(((_likeness(wanted, _plain(one)), one) for one in known), default=(0.0, ""), key=itemgetter(0))
    return f'; did you mean "{best}"?' if likeness >= LIKELY else ""


def _plain(name: str) -> str:
    return name.casefold().replace("-", "_").replace(" ", "_")


def _likeness(wanted: str, one: str) -> float:
    """How alike names are, from 0 to 1: at least `LIKELY` where one begins or ends with the other, or swaps letters."""
    ratio = difflib.SequenceMatcher(None, one, wanted).ratio()
    short, long = sorted((wanted, one), key=len)
    is_part = len(short) >= SHORTEST_PART and (long.startswith(short) or long.endswith(short))
    return max(ratio, LIKELY) if is_part or sorted(short) == sorted(long) else ratio


def show(value: Any) -> str:
    """Show a value, a list or a range the way a study file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {show(entry)}' for key, entry in value.items())} }}"
    return f'"{value}"' if isinstance(value, str) else str(value)
