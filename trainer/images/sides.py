"""The sides of a split that data come with: which folders and which words of a CSV name one."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.files import nfc, some

if TYPE_CHECKING:
    from collections.abc import Sequence

SIDES = ("train", "valid", "test")
UNLABELLED = "unlabelled"  # what is only there to be predicted
WORDS = {
    "train": "train", "training": "train", "trn": "train", "trainset": "train",
    "val": "valid", "valid": "valid", "validation": "valid", "validate": "valid", "dev": "valid",
    "development": "valid", "eval": "valid", "evaluation": "valid", "valset": "valid", "devset": "valid",
    "test": "test", "testing": "test", "tst": "test", "holdout": "test", "heldout": "test", "testset": "test",
    "pred": UNLABELLED, "predict": UNLABELLED, "prediction": UNLABELLED, "unlabelled": UNLABELLED,
    "unlabeled": UNLABELLED,
}  # fmt: skip
# What may stand beside such a word and changes nothing: training_set, "Test Data", images-val.
FILLERS = frozenset(
    {"set", "data", "dataset", "split", "part", "image", "images", "img", "imgs", "picture", "pictures", "photo",
     "photos", "folder", "dir", "sample", "samples"}
)  # fmt: skip


@dataclass(frozen=True)
class Splits:
    """Which side of the split the data say that an image is on.

    Attributes:
        column: of a CSV; None takes a column "split" if there is one.
        train: folders, or words of the column, that hold the images to train; where any of the three is given, no other
            name than these is known.
        valid: those to validate.
        test: those that are held out.
        known: whether names that are usual are known by themselves: train, val, test and the like.
    """

    column: str | None = None
    train: tuple[str, ...] = ()
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    known: bool = True

    @property
    def named(self) -> dict[str, str]:
        """The side of each name that was given."""
        return {nfc(name): side for side in SIDES for name in getattr(self, side)}


NONE = Splits(known=False)  # folders called train or test are classes, and a column "split" is not read


def side_of_word(name: str) -> str | None:
    """The side that a name like "Train", "test_set" or "val2017" tells, or UNLABELLED; None for any other name."""
    words = [word for word in _words(name) if word not in FILLERS]
    return WORDS.get(words[0]) if len(words) == 1 else None


def sides_of(names: Sequence[str]) -> dict[str, str]:
    """The side of each of these names that tells one; others are left out.

    Names of several words tell one where others differ from them in that word alone: of "seg_train" and "seg_test" both
    do, and "train_station" does not.
    """
    found = {name: side for name in names if (side := side_of_word(name))}
    frames = {name: frame for name in names if name not in found and (frame := _frame(name))}
    times = Counter(rest for rest, _ in set(frames.values()))
    return found | {name: side for name, (rest, side) in frames.items() if times[rest] > 1}


def refuse_unknown_classes(source: str, labels: Sequence[str], sides: Sequence[str]) -> None:
    """Raise DataError where no image is to train, or a class occurs that no image to train has.

    source: begins the line.
    """
    known = {label for label, side in zip(labels, sides, strict=True) if side == "train"}
    if not known:
        raise DataError(f"{source!r} has no image to train; at least the side train must have some")
    for side in SIDES[1:]:
        unknown = {label for label, of in zip(labels, sides, strict=True) if of == side} - known
        if unknown:
            raise DataError(
                f"{source!r}: the side {side} has classes that the side train lacks ({some(sorted(unknown))}; "
                f"train has {some(sorted(known))}), so that no model can learn them; correct their names, or add images"
            )


def _frame(name: str) -> tuple[tuple[str, ...], str] | None:
    """The words of a name without the one that tells a side, and that side; None where not exactly one does."""
    words = _words(name)
    told = [WORDS[word] for word in words if word in WORDS]
    return (tuple(word for word in words if word not in WORDS), told[0]) if len(told) == 1 else None


def _words(name: str) -> list[str]:
    """The words of a name in small letters, without digits: "TestSet_01" is test, set."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", nfc(name))
    return re.findall(r"[^\W\d_]+", apart.casefold())
