"""What data say of their images: the classes, how many images each has, which are alike, and the sides they give."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from trainer.quality.checks import Case, Finding
from trainer.wording import counted

if TYPE_CHECKING:
    from trainer.images.index import Index
    from trainer.images.split import Split

SHOWN = 30  # classes in a line


def class_counts(index: Index) -> Finding:
    """All classes with their images; those after the first SHOWN are cases."""
    counts = np.bincount(index.labels, minlength=len(index.classes)).tolist()
    listed = [f"{name!r} {count:,}" for name, count in zip(index.classes, counts, strict=True)]
    more = ", …" if len(listed) > SHOWN else ""
    line = f"{len(listed):,} classes with their images: {', '.join(listed[:SHOWN])}{more}"
    return Finding("classes", "ok", line, cases=tuple(Case((), one) for one in listed[SHOWN:]))


def given_sides(index: Index, sides: Split) -> Finding:
    """Which sides of the split the data give, what is cut from the images to train, and what can only be predicted."""
    if index.sides is None:
        return Finding("split", "ok", "the data give no sides: they are divided by class")
    given = index.given_sides
    counts = {"train": len(sides.train), "valid": len(sides.valid), "test": len(sides.test)}
    line = f"the data give the sides {', '.join(given)}"
    if cut := [f"{side} {counts[side]:,}" for side in counts if side not in given and counts[side]]:
        line += f"; cut from train: {', '.join(cut)}"
    if not index.unlabelled:
        return Finding("split", "ok", line)
    lone = counted(len(index.unlabelled), "image of the side test has", "images of the side test have")
    line += f"; {lone} no class and can only be predicted"
    return Finding("split", "ok", line, "after hpo export-best: hpo predict BUNDLE BUNDLE/unlabelled.csv")


def similar_classes(index: Index) -> Finding:
    """Classes whose names differ only in case, white space or the form of Unicode: surely one class, learned as two."""
    counts = np.bincount(index.labels, minlength=len(index.classes)).tolist()
    alike: dict[str, list[str]] = {}
    for name, count in zip(index.classes, counts, strict=True):
        alike.setdefault(_bare(name), []).append(f"{name!r} {count:,}")
    cases = tuple(Case((), " and ".join(names)) for names in alike.values() if len(names) > 1)
    if not cases:
        return Finding("similar classes", "ok", "no two names of classes are alike")
    return Finding(
        "similar classes",
        "error",
        f"{counted(len(cases), 'class has', 'classes have')} several names, which differ only in case, white space or"
        " the form of Unicode"
        f" ({'; '.join(case.note for case in cases[:SHOWN])}), and are learned as several",
        "write each class in one way; where they are two classes, as letters are, leave them: a search takes them",
        cases,
    )


def _bare(name: str) -> str:
    """The name without case, white space, characters that nobody sees, and the forms of Unicode (NFKC)."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(
        letter
        for letter in unicodedata.normalize("NFKC", folded)
        if not letter.isspace() and unicodedata.category(letter) != "Cf"
    )
