"""A table of a study file, read key by key; what is wrong with it is noted, a line a mistake."""

from __future__ import annotations

import re
from typing import Any

from trainer.rules import nearest, show

COUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kMG]?)\s*")
COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
LARGEST = 1e38  # float of 32 bits, about


class Table:
    """A table of a study file. Each method gives what a key holds, or None where that is missing or wrong.

    Args:
        name: of the table.
        values: what it holds.
        problems: takes a line for each mistake.
    """

    def __init__(self, name: str, values: dict[str, Any], problems: list[str]) -> None:
        self._name, self._values, self._problems = name, values, problems
        self._known: list[str] = []

    def _get(self, key: str) -> Any:
        self._known.append(key)
        return self._values.get(key)

    def value(self, key: str) -> Any:
        """The value as it is; whoever asks says what is wrong with it."""
        return self._get(key)

    def _problem(self, key: str, what: str) -> None:
        self._problems.append(f"{self._name}.{key}: {what}")

    def text(self, key: str, *, required: bool = False) -> str | None:
        """A text that is not empty."""
        value = self._get(key)
        if value is None:
            if required:
                self._problem(key, "is missing")
            return None
        if not isinstance(value, str) or not value.strip():
            self._problem(key, f"{show(value)} is not a text")
            return None
        return value

    def choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        """One of these texts."""
        value = self.text(key)
        if value is not None and value not in choices:
            listed = ", ".join(choices)
            self._problem(key, f"{show(value)} is not known{nearest(value, choices) or f'; known: {listed}'}")
            return None
        return value

    def texts(self, key: str, every: str, but: str) -> tuple[str, ...] | str:
        """A list of different texts, all but one, or the word for all there are; empty where nothing is written."""
        value = self._get(key)
        if value is None or value == every:
            return value or ()
        if not isinstance(value, list) or not all(isinstance(each, str) and each.strip() for each in value):
            self._problem(key, f'{show(value)} is no list of names, such as ["first", "second"], nor "{every}"')
            return ()
        self._problems += [
            f"{self._name}.{key}: {show(each)} is listed more than once" for each in set(value) if value.count(each) > 1
        ]
        if but in value:
            self._problem(key, f"{show(but)} is this study itself; name others")
        return tuple(value)

    def pattern(self, key: str) -> str | None:
        """A regular expression with one group."""
        value = self.text(key)
        if value is None:
            return None
        try:
            groups = re.compile(value).groups
        except re.error as error:
            self._problem(key, f"{show(value)} is no regular expression: {error}")
            return None
        if groups != 1:
            self._problem(key, f"{show(value)} has {groups} groups in ( ); it needs one")
        return value

    def switch(self, key: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._get(key)
        if value is not None and not isinstance(value, bool):
            self._problem(key, f"{show(value)} is not true or false")
        return value if isinstance(value, bool) else default

    def number(self, key: str, *, low: float, high: float, whole: bool = False) -> float | None:
        """A number from low to high."""
        value = self._get(key)
        if value is None:
            return None
        if type(value) is not int and (whole or type(value) is not float):
            self._problem(key, f"{show(value)} is not a {'whole ' if whole else ''}number")
            return None
        if not low <= value <= high:
            self._problem(key, f"{value} is outside {low:g} to {high:g}")
            return None
        return value

    def count(self, key: str, *, high: float) -> int | None:
        """A whole number from 1, also as a text with k, M or G for thousands, millions or 10^9: "30M"."""
        value = self._get(key)
        written = COUNT.fullmatch(value) if isinstance(value, str) else None
        if written:
            value = float(written[1]) * COUNT_UNITS[written[2] or ""]
        if value is None:
            return None
        if type(value) not in (int, float) or value != value // 1:
            self._problem(key, f'{show(value)} is no whole number; write 30_000_000 or "30M"')
            return None
        if not 1 <= value <= high:
            self._problem(key, f"{show(self._values[key])} is outside 1 to {high:g}")
            return None
        return int(value)

    def interval(self, key: str) -> tuple[float, float] | None:
        """Two numbers, of which the first is smaller."""
        value = self._get(key)
        if value is None:
            return None
        numbers = isinstance(value, list) and all(type(each) in (int, float) for each in value)
        if not numbers or len(value) != 2 or not -LARGEST < value[0] < value[1] < LARGEST:
            self._problem(key, f"{show(value)} is not two numbers, of which the first is smaller: [low, high]")
            return None
        return float(value[0]), float(value[1])

    def share(self, key: str, default: float) -> float:
        """A number from 0 to 0.99."""
        value = self.number(key, low=0, high=0.99)
        return default if value is None else float(value)

    def no_more(self) -> None:
        """Note each key that nobody has asked for."""
        for key in self._values:
            if key not in self._known:
                self._problem(key, f"there is no such key{nearest(key, self._known)}")
