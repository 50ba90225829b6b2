"""[data] splits and test_fold of a study file: which sides the data come with, and which fold is held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.recipe import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hpo.study.table import Table
    from trainer.images.sides import Splits

KEYS = ("column", "train", "valid", "test")


def read_splits(value: Any, problems: list[str]) -> Splits:
    """The splits that `false` or a table stands for; what is wrong with it goes to `problems`."""
    from trainer.images.sides import NONE, Splits

    if value is None:
        return Splits()
    if value is False:
        return NONE
    if not isinstance(value, dict):
        problems.append(f'data.splits: {show(value)} is neither false nor a table like {{ train = "a", test = "b" }}')
        return Splits()
    problems += [f"data.splits.{key}: there is no such key{nearest(key, KEYS)}" for key in value if key not in KEYS]
    column = value.get("column")
    if column is not None and not _is_name(column):
        problems.append(f"data.splits.column: {show(column)} is not a text")
        column = None
    train, valid, test = (_names(value, side, problems) for side in KEYS[1:])
    listed = [*train, *valid, *test]
    if twice := [name for name in listed if listed.count(name) > 1]:
        problems.append(f"data.splits: {show(twice[0])} is named twice; it can be one side")
    if listed and not train:
        problems.append("data.splits.train: is missing; where a side is named, the one to train must be, too")
    return Splits(column, train, valid, test)


def read_test_fold(table: Table, written: Mapping[str, Any], problems: list[str]) -> tuple[int, int] | None:
    """Which fold of how many is held out; what is wrong with it goes to `problems`.

    Args:
        table: [data].
        written: what it holds.
        problems: a line for each mistake.
    """
    value = table.value("test_fold")
    if value is None:
        return None
    numbers = isinstance(value, list) and [type(each) for each in value] == [int, int]
    if not numbers or not 1 <= value[0] <= value[1] != 1:
        problems.append(f"data.test_fold: {show(value)} is not like [1, 5], the first of five folds")
        return None
    if "test" in written:
        problems.append("data.test_fold: cannot stand beside test; one of them says which images are held out")
    return value[0], value[1]


def _names(table: dict[str, Any], side: str, problems: list[str]) -> tuple[str, ...]:
    given = table.get(side, [])
    names = given if isinstance(given, list) else [given]
    if all(map(_is_name, names)):
        return tuple(names)
    problems.append(f"data.splits.{side}: {show(given)} is neither a text nor a list of texts")
    return ()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
