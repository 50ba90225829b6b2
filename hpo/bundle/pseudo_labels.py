"""Pseudo-labels: unlabelled images that a model is sure of join those that the next one learns from (Lee 2013)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.errors import HpoError
from trainer.data import Data
from trainer.images.value_range import find_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.images.index import Index

CONFIDENCE = 0.95  # by default
SHOWN_CLASSES = 10


@dataclass(frozen=True, eq=False)
class Joined:
    """Labelled images and, behind them, unlabelled ones, each picture once.

    Attributes:
        data: of both. Labelled images keep their positions, and so their split and augmentation. The unlabelled ones
            are in no part of the split, and class 0 stands for the one that they do not have yet.
        unlabelled: their positions, int64 [n], n >= 1.
        copies_of_test: how many were left out because a held-out image has the same bytes.
        other_copies: how many were left out because another image, labelled or not, has the same bytes.
    """

    data: Data
    unlabelled: NDArray[np.int64]
    copies_of_test: int
    other_copies: int

    def left_out(self) -> str | None:
        """A line on the images that were left out, if any."""
        if not self.copies_of_test + self.other_copies:
            return None
        return (
            f"left out of the unlabelled images as exact copies: {self.copies_of_test} of held-out test images, "
            f"{self.other_copies} of other images"
        )


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Unlabelled images with the classes that a model is sure of.

    Attributes:
        data: that of `Joined`, now with these classes.
        images: positions of the images that have one, sorted, int64 [k].
        of: how many unlabelled images the model has classified.
        confidence: the lowest probability that was enough, in [0, 1].
        highest: the highest that the model gave any class, in [0, 1]; None of those that were learned earlier.
    """

    data: Data
    images: NDArray[np.int64]
    of: int
    confidence: float
    highest: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Counts, in all and of each class, and the confidence."""
        index = self.data.index
        counts = np.bincount(index.labels[self.images], minlength=len(index.classes)).tolist()
        return {
            "images": len(self.images),
            "of": self.of,
            "confidence": self.confidence,
            "per_class": dict(zip(index.classes, counts, strict=True)),
        }

    def line(self) -> str:
        """The same for people: the classes with the most images first, ten at most."""
        if not len(self.images):
            return (
                f"pseudo-labels left out: none of {self.of} unlabelled images has a class with a probability of"
                f" {self.confidence:g} or more, the highest is {self.highest:.4f}; a lower --confidence may learn some"
            )
        counts = Counter(self.as_json()["per_class"]).most_common()
        shown = ", ".join(f"{name} {count}" for name, count in counts[:SHOWN_CLASSES])
        more = ", …" if len(counts) > SHOWN_CLASSES else ""
        return (
            f"{len(self.images)} of {self.of} unlabelled images have a class with a probability of {self.confidence:g} "
            f"or more: {shown}{more}"
        )


def join(data: Data, files: Sequence[Path]) -> Joined:
    """Put unlabelled images behind the labelled ones, but for copies: of files of the same bytes the first one stays.

    A copy of a held-out image would be learned by heart before the test; any other copy would count twice.

    Args:
        data: the labelled images.
        files: the unlabelled ones, not decoded here.

    Raises:
        HpoError: all of them are copies.
        DataError: a file is gone.
    """
    labelled = len(data.index.paths)
    first = _extended(data.index, files).copies
    new = first[labelled:]
    copied = new != np.arange(labelled, labelled + len(files))
    test_copies = copied & np.isin(new, first[data.split.test])
    if copied.all():
        raise HpoError(
            f"export: each of the {len(files)} unlabelled images is an exact copy of a labelled one "
            f"({test_copies.sum()} of held-out test images); give others, or leave out --unlabelled"
        )
    index = _extended(data.index, [file for file, is_copy in zip(files, copied.tolist(), strict=True) if not is_copy])
    both, ranges = Data(index, data.split, data.cache), data.ranges()
    return Joined(
        data=both.with_ranges(ranges and find_ranges(both.files, ranges)),
        unlabelled=np.arange(labelled, len(index.paths)),
        copies_of_test=int(test_copies.sum()),
        other_copies=int(copied.sum() - test_copies.sum()),
    )


def choose(joined: Joined, probabilities: NDArray[np.float32], confidence: float) -> PseudoLabels:
    """Give the unlabelled images their most probable class where its probability is at least the confidence.

    These are the pseudo-labels of Lee (2013), with a threshold as in FixMatch (Sohn et al. 2020): without one, wrong
    classes would be learned along with the right ones.

    Args:
        joined: the images.
        probabilities: of the classes, float32 [unlabelled, classes].
        confidence: in [0, 1].
    """
    sure = probabilities.max(axis=1) >= confidence
    images = joined.unlabelled[sure]
    labels = joined.data.index.labels.copy()
    labels[images] = probabilities[sure].argmax(axis=1)
    return PseudoLabels(joined.data.relabelled(labels), images, len(sure), confidence, float(np.nanmax(probabilities)))


def learned_pseudo_labels(info: Mapping[str, Any]) -> bool:
    """Whether the model of a bundle.json has learned pseudo-labels; an earlier version wrote none that it had not."""
    found = info.get("pseudo_labels")
    return bool(found and found.get("used", True))


def restore(data: Data, labelled: Sequence[tuple[Path, str | None]], confidence: float) -> PseudoLabels:
    """The pseudo-labels that an earlier training has learned.

    Args:
        data: the labelled images.
        labelled: the unlabelled images as `join` left them, in its order, with their classes; None: not learned.
        confidence: that was enough then.
    """
    index = _extended(data.index, [file for file, _ in labelled])
    first, labels = len(data.index.paths), index.labels.copy()
    learned = {first + at: name for at, (_, name) in enumerate(labelled) if name is not None}
    images = np.array(sorted(learned), np.int64)
    labels[images] = [index.classes.index(learned[image]) for image in images.tolist()]
    both = Data(replace(index, labels=labels), data.split, data.cache).with_ranges(data.ranges())
    return PseudoLabels(both, images, len(labelled), confidence)


def _extended(index: Index, files: Sequence[Path]) -> Index:
    """The index with these files behind its own images, each in a group by itself."""
    groups = np.arange(len(files)) + index.groups.max() + 1
    return replace(
        index,
        paths=(*index.paths, *(file.absolute().as_posix() for file in files)),
        labels=np.concatenate([index.labels, np.zeros(len(files), np.int64)]),
        groups=np.concatenate([index.groups, groups]),
        sides=None,  # they have been read into the split
    )
