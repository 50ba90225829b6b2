"""Copies, exact and near: between classes, between groups, and on two sides of the split, where they are leaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.images.duplicates import Sets, members
from trainer.quality.checks import Case, Finding
from trainer.quality.near_duplicates import MAX_IMAGES
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.images.index import Index
    from trainer.images.split import Split
    from trainer.quality.near_duplicates import Pair


def exact_copies(index: Index, unaware: Split | None) -> list[Finding]:
    """Files of the same bytes: how many, and those of two classes or groups, each where there are any.

    unaware: the split as it would be without regard to copies; None where there is none.
    """
    sets = members(index.copies)
    if not sets:
        return [Finding("exact copies", "ok", "no two images have the same bytes")]
    involved, sides = sum(map(len, sets)), None if unaware is None else _sides(index, unaware)
    torn = [] if sides is None else _crossing(sets, sides)
    torn_first = [*torn, *(one for one in sets if not any(one is other for other in torn))]
    copies = counted(involved - len(sets), "image is an exact copy of another one", "images are exact copies of others")
    where = (
        f"each set is kept on one side of the split, which would tear {len(torn):,} of them if it did not know them"
        if index.sides is None
        else "a set is kept on one side of the split, unless the data themselves give it two"
    )
    finding = Finding(
        "exact copies",
        "warning",
        f"{copies} ({involved:,} images in {counted(len(sets), 'set')}); {where}",
        "remove copies that are not meant to count as often as they are there",
        tuple(_case(index, one, sides, "without regard to copies: ") for one in torn_first),
    )
    return [finding, *_in_two_classes(index, sets, "exact copies"), *_in_two_groups(index, sets, "exact copies")]


def near_copies(index: Index, pairs: Sequence[Pair] | None) -> list[Finding]:
    """Pictures that are nearly the same: how many, and those of two classes or groups, each where there are any.

    pairs: as `find_pairs` gives them; None where there are too many images to compare each with each.
    """
    if pairs is None:
        return [Finding("near copies", "warning", f"not looked for among more than {MAX_IMAGES:,} images")]
    sets = [one for one in members(copy_sets(index, pairs)) if len(set(index.copies[one].tolist())) > 1]
    if not sets:
        return [Finding("near copies", "ok", "no two images are nearly the same")]
    finding = Finding(
        "near copies",
        "warning",
        f"{sum(map(len, sets)):,} images in {counted(len(sets), 'set')} are nearly the same: compressed again, resized,"
        " brightened, greyed or mirrored",
        "remove those that are not meant to count as often as they are there",
        tuple(_case(index, one) for one in sets),
    )
    return [finding, *_in_two_classes(index, sets, "near copies"), *_in_two_groups(index, sets, "near copies")]


def copy_sets(index: Index, pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """The number of the set of copies, exact or near, that each image is in, int64 [N]; one without copies is alone."""
    sets = Sets(len(index.paths))
    sets.join_equal(index.copies)
    for pair in pairs:
        sets.join(pair.first, pair.second)
    return sets.numbers()


def leaks(index: Index, pairs: Sequence[Pair] | None, split: Split) -> Finding:
    """Copies, exact or near, on two sides of the split: a model is judged by what it has learned by heart.

    Its score is then too good, and the better it learns by heart the better it looks: that is an error. Copies on one
    side are none.
    """
    sides = _sides(index, split)
    crossing = _crossing(members(copy_sets(index, pairs or ())), sides)
    if not crossing:
        exact = ", but only exact copies were looked for" if pairs is None else ""
        return Finding("leaks", "ok", f"no image has its like on another side of the split{exact}")
    judging = sum(int(np.isin(sides[one], (1, 2)).sum()) for one in crossing)
    judged = counted(judging, "image to validate or held out has its", "images to validate or held out have their")
    lie = counted(len(crossing), "set of nearly the same images lies", "sets of nearly the same images lie")
    return Finding(
        "leaks",
        "error",
        f"{lie} on two sides of the split: {judged} like on another side",
        "remove all but one of each set, or give them one group, which keeps them on one side"
        f"{'' if index.sides is None else ' where the data do not give the sides'}",
        tuple(_case(index, one, sides) for one in crossing),
    )


def torn_groups(index: Index, split: Split) -> list[Finding]:
    """Groups on two sides of the split, which only sides that the data themselves give can bring about."""
    sides = _sides(index, split)
    torn = _crossing(members(index.groups), sides)
    if not torn:
        return []
    line = f"{counted(len(torn), 'group lies', 'groups lie')} on two sides that the data give, and stays so"
    remedy = "look whether the groups are right; scores are too good where a group makes its images alike"
    return [Finding("torn groups", "error", line, remedy, tuple(_case(index, one, sides) for one in torn))]


def _in_two_classes(index: Index, sets: Sequence[NDArray[np.int64]], what: str) -> list[Finding]:
    torn = [one for one in sets if len(set(index.labels[one].tolist())) > 1]
    if not torn:
        return []
    cases = tuple(
        Case(_paths(index, one), " and ".join(repr(index.classes[label]) for label in np.unique(index.labels[one])))
        for one in torn
    )
    lie = counted(len(torn), f"set of {what} lies", f"sets of {what} lie")
    line = f"{lie} in two classes or more: all labels but one of each set must be wrong"
    return [Finding("labels of copies", "warning", line, "keep each image in the class where it belongs", cases)]


def _in_two_groups(index: Index, sets: Sequence[NDArray[np.int64]], what: str) -> list[Finding]:
    """Sets of which the user says that their images do not belong together; without groups nothing is said."""
    torn = [one for one in sets if len(set(index.groups[one].tolist())) > 1]
    if not torn or len(np.unique(index.groups)) == len(index.groups):
        return []
    joined = "; such groups are kept together as one, so that nothing leaks" if what == "exact copies" else ""
    lie = counted(len(torn), f"set of {what} lies", f"sets of {what} lie")
    line = f"{lie} in two groups or more{joined}"
    remedy = "correct the groups: one of them names two persons, or two of them name one"
    return [Finding("groups of copies", "warning", line, remedy, tuple(_case(index, one) for one in torn))]


def _sides(index: Index, split: Split) -> NDArray[np.int64]:
    """0, 1 or 2 for each image: to train, to validate, held out."""
    sides = np.zeros(len(index.paths), np.int64)
    sides[split.valid], sides[split.test] = 1, 2
    return sides


def _crossing(sets: Sequence[NDArray[np.int64]], sides: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [one for one in sets if len(set(sides[one].tolist())) > 1]


def _case(index: Index, images: NDArray[np.int64], sides: NDArray[np.int64] | None = None, before: str = "") -> Case:
    """A set as a case; its note tells the side of each image where they differ."""
    if sides is None or len(set(sides[images].tolist())) == 1:
        return Case(_paths(index, images))
    names = ("to train", "to validate", "held out")
    return Case(_paths(index, images), before + ", ".join(names[side] for side in sides[images]))


def _paths(index: Index, images: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(index.paths[image] for image in images)
