"""Which images train, which validate and which are held out: by class, groups and copies whole, the same everywhere."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import DataError
from trainer.images.duplicates import keep_copies_together
from trainer.images.files import nfc, path_bytes, some
from trainer.images.sides import SIDES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainer.images.index import Index

ATTEMPTS = 20  # orders of the groups; where a split exists at all, one of ten nearly always finds it


@dataclass(frozen=True, eq=False)
class Split:
    """The images of each side, as sorted int64 positions in the index; test is empty where its fraction is 0.

    digest: SHA-256 in hex over the paths of each side.
    """

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    digest: str


def split(index: Index, *, valid: float, test: float, seed: int, copies: NDArray[np.int64] | None = None) -> Split:
    """Divide the images by class, each group whole, so that each class has its fraction on each side.

    Sides that the data themselves give (`Index.sides`) stay as they are, groups and copies on two of them included;
    what they do not give is taken from the images to train, with its fraction of those.

    copies: int64 [N]; images with the same number are kept on one side, and groups that share them likewise: those of
        `Index.copies`, so that no image is judged by a model that has learned it.

    The groups come biggest first, equal ones in an order drawn by the seed. Each goes to the side where it most lowers
    sum((images - wanted)^2 / wanted) over the classes, or to a side that would otherwise never see one of its classes.
    Where that fails, because groups of many classes stand in each other's way, other orders are drawn.
    Without groups each class has round(n * valid) and round(n * test) images, but at least one, and leaves one to
    train. The same data and seed give the same split on every system: the order is by SHA-256, not by a random
    generator that may change with its library.

    Raises:
        DataError: fractions out of range, classes with too few images or groups for the sides.
    """
    check_fractions(valid, test)
    if index.sides is None:
        sides = [np.arange(len(index.paths)), *(np.empty(0, np.int64) for _ in SIDES[1:])]
    else:
        sides = [np.flatnonzero(index.sides == side) for side in range(len(SIDES))]
    wanted = {side: fraction for side, fraction in ((1, valid), (2, test)) if not len(sides[side]) and fraction > 0}
    if wanted:
        pool = sides[0]
        part = index if index.sides is None else _part(index, pool)
        cut = _cut(part, wanted, seed, copies if copies is None else copies[pool])
        for number, side in enumerate((0, *wanted)):
            sides[side] = pool[cut == number]

    names = [nfc(path) for path in index.paths]
    digest = hashlib.sha256()
    for title, images_of_side in zip(SIDES, sides, strict=True):
        digest.update(path_bytes("\0".join([title, *(names[image] for image in images_of_side)]) + "\n"))
    train, validation, holdout = sides
    return Split(train, validation, holdout, digest.hexdigest())


def _part(index: Index, images: NDArray[np.int64]) -> Index:
    """The index of these images alone."""
    paths = tuple(index.paths[image] for image in images)
    return replace(index, paths=paths, labels=index.labels[images], groups=index.groups[images], sides=None)


def _cut(index: Index, fractions: dict[int, float], seed: int, copies: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Where each image goes, int64 [N]: 0 leaves it, 1 and so on are the sides in the order of their fractions."""
    groups = _Groups(index, copies)
    _check_enough(index, groups.contents, fractions, joined=groups.joined)
    wanted = [_wanted(images, list(fractions.values())) for images in np.bincount(index.labels).tolist()]

    for attempt in range(ATTEMPTS):
        # The biggest first meets the fractions best.
        order = groups.drawn(f"{seed}:{attempt}", biggest_first=attempt == 0)
        side_of_group = _assign({group: groups.contents[group] for group in order}, wanted)
        if side_of_group is not None:
            break
    else:
        without = ", or set test = 0" if 2 in fractions else ""
        raise DataError(
            f"found no way to have each of the {len(index.classes)} classes in each part with whole groups; "
            f"add images of the rare classes, or make the groups smaller{without}"
        )

    return groups.sides_of_images(side_of_group)


class _Groups:
    """The groups of an index, with those joined that share copies.

    Attributes:
        members: the images of each group, in the order of the index.
        contents: how many images of each class a group has.
        joined: whether copies have joined any.
    """

    def __init__(self, index: Index, copies: NDArray[np.int64] | None) -> None:
        groups = index.groups if copies is None else keep_copies_together(index.groups, copies)
        self.members: dict[int, list[int]] = {}
        for image, group in enumerate(groups.tolist()):
            self.members.setdefault(group, []).append(image)
        labels = index.labels.tolist()
        self.contents = {group: Counter(labels[image] for image in images) for group, images in self.members.items()}
        self.joined = groups is not index.groups
        # A group is identified by its first path: unlike its number it does not depend on the order of reading.
        self._names = {group: nfc(index.paths[images[0]]) for group, images in self.members.items()}
        self._images = len(index.paths)

    def drawn(self, lot: str, *, biggest_first: bool) -> list[int]:
        """The groups in an order drawn by this lot; `biggest_first` leaves only those of equal size in that order."""
        drawn = {group: hashlib.sha256(path_bytes(f"{lot}:{name}")).digest() for group, name in self._names.items()}
        order = sorted(self.members, key=drawn.__getitem__)
        return sorted(order, key=lambda group: -len(self.members[group])) if biggest_first else order

    def sides_of_images(self, side_of_group: dict[int, int]) -> NDArray[np.int64]:
        """The side of each image, int64 [images], from that of its group."""
        side_of_image = np.empty(self._images, np.int64)
        for group, side in side_of_group.items():
            side_of_image[self.members[group]] = side
        return side_of_image


def _assign(contents: dict[int, Counter[int]], wanted: Sequence[Sequence[float]]) -> dict[int, int] | None:
    """The side of each group, taken in the order of `contents` (images by class).

    None if a side misses a class that has as many groups as there are sides. The groups of a rarer class go to a side
    each.

    wanted: images by class, then by side.
    """
    sides = range(len(wanted[0]))
    need = [list(row) for row in wanted]  # images still wanted; below 0 they are too many
    sides_without = [len(sides)] * len(wanted)
    groups_left = Counter(label for content in contents.values() for label in content)
    too_rare = [max(0, len(sides) - groups_left[label]) for label in range(len(wanted))]

    def rank(content: Counter[int], side: int) -> tuple[int, float]:
        rescued, misfit = 0, 0.0
        for label, images in content.items():
            first = need[label][side] == wanted[label][side]
            rescued += first and groups_left[label] <= sides_without[label]  # else a side is left without this class
            misfit += images * (images - 2 * need[label][side]) / wanted[label][side]
        return -rescued, misfit

    side_of_group = {}
    for group, content in contents.items():
        side = min(sides, key=lambda side: rank(content, side))
        side_of_group[group] = side
        for label, images in content.items():
            sides_without[label] -= need[label][side] == wanted[label][side]
            need[label][side] -= images
            groups_left[label] -= 1
    missed = any(without > rare for without, rare in zip(sides_without, too_rare, strict=True))
    return None if missed else side_of_group


def divide_into_folds(
    index: Index, images: NDArray[np.int64], count: int, *, seed: str, copies: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Divide images into folds of equal size for a cross-validation, by class, groups and copies whole.

    The way is that of `split`. A class with fewer groups than folds is missing in some of them; groups without which
    the other folds would have no image of one of their classes are in no fold: they always train.

    Args:
        index: of all images.
        images: those to divide, int64, positions in the index.
        count: of the folds, at least 2.
        seed: any text; another one gives other folds.
        copies: as `split` takes them, of all images of the index.

    Returns:
        the fold of each of these images, int64 [len(images)], 0 to count - 1; -1 for those that always train.
    """
    part = _part(index, images)
    groups = _Groups(part, None if copies is None else copies[images])
    wanted = [[max(1, total) / count] * count for total in np.bincount(part.labels).tolist()]
    for attempt in range(ATTEMPTS):
        order = groups.drawn(f"{seed}:{attempt}", biggest_first=attempt == 0)
        fold_of_group = _assign({group: groups.contents[group] for group in order}, wanted)
        if fold_of_group is not None:
            break
    else:  # groups of many classes stand in each other's way
        fold_of_group = {group: number % count for number, group in enumerate(order)}
    folds_of_class: dict[int, set[int]] = {}
    for group, fold in fold_of_group.items():
        for label in groups.contents[group]:
            folds_of_class.setdefault(label, set()).add(fold)
    for group in fold_of_group:
        if any(len(folds_of_class[label]) == 1 for label in groups.contents[group]):
            fold_of_group[group] = -1
    return groups.sides_of_images(fold_of_group)


def split_by_fold(index: Index, fold: tuple[int, int], *, valid: float, seed: int) -> Split:
    """Hold out one fold of all images; each image is held out by exactly one of the folds.

    The folds are those of `divide_into_folds`. What is left is divided into images to train and to validate as `split`
    does it.

    Args:
        index: of the images, whose sides the data do not give.
        fold: its number, from 1 on, and how many there are.
        valid: share of the other images that validate.
        seed: of the folds and of the split.

    Raises:
        DataError: the data give sides, or there are too few images or groups for so many folds.
    """
    number, count = fold
    if index.sides is not None:
        raise DataError(
            f"the data give the sides {', '.join(index.given_sides)}, and folds would divide all images anew; where"
            " that is meant, splits = false in [data] leaves the column of a CSV unread, and of folders"
            " `hpo check STUDY --groups FILE.csv` writes such a CSV"
        )
    found = divide_into_folds(index, np.arange(len(index.paths)), count, seed=f"test {seed}", copies=index.copies)
    if alone := [index.classes[label] for label in np.unique(index.labels[found < 0])]:
        raise DataError(
            f"classes {some(alone)}: all images of a class belong together, or it has one only, so that it cannot be"
            " learned and tested in turn; add images, or leave the class out"
        )
    if len(np.unique(found)) < count:
        raise DataError(f"{count} folds need so many images or groups; give fewer folds")
    sides = np.where(found == number - 1, SIDES.index("test"), SIDES.index("train"))
    try:
        return split(replace(index, sides=sides), valid=valid, test=0.0, seed=seed, copies=index.copies)
    except DataError as error:
        raise DataError(f"without fold {number} of {count}: {error}") from error


def check_fractions(valid: float, test: float) -> None:
    """Raise DataError unless these fractions leave images to train."""
    if not (0 < valid < 1 and 0 <= test < 1 and valid + test < 1):  # also refuses NaN
        raise DataError(
            f"valid = {valid} and test = {test} are no fractions that leave images to train; "
            "give 0 < valid, 0 <= test and valid + test < 1"
        )


def _check_enough(
    index: Index, contents: dict[int, Counter[int]], fractions: dict[int, float], *, joined: bool
) -> None:
    sides = 1 + len(fractions)
    images = np.bincount(index.labels).tolist()
    groups = Counter(label for content in contents.values() for label in content)
    alone = len(contents) == len(index.paths)
    short = [
        f"{name!r} has {images[label]}" if alone else f"{name!r} has {groups[label]} with {images[label]} images"
        for label, name in enumerate(index.classes)
        if groups[label] < sides
    ]
    if short:
        raise DataError(
            f"each class needs {sides} {'images' if alone else 'groups'}, one for each part"
            f"{', where files of the same bytes count as one group' if joined else ''}: {', '.join(short)}; "
            f"add some, leave the class out{' or set test = 0' if 2 in fractions else ''}"
        )


def _wanted(images: int, fractions: Sequence[float]) -> list[int]:
    """How many images of a class each side is to have: train, then one for each fraction; none has none."""
    held = [max(1, round(images * fraction)) for fraction in fractions]
    while sum(held) >= images:
        held[held.index(max(held))] -= 1
    return [images - sum(held), *held]
