"""What is wrong with a data set, as findings: pure functions of what was read and seen, which decide nothing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainer.image_size import shape_of
from trainer.images.files import is_image
from trainer.uncertainty import WIDEST, expected_half_width
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.image_size import ImageSize
    from trainer.images.index import Index
    from trainer.images.split import Split
    from trainer.quality.survey import Survey

Level = Literal["ok", "warning", "error"]

FEW_TO_TRAIN = 20  # images of a class to train on; fewer are reported
FEW_TO_JUDGE = 10  # images of a class on a side that judges: each moves the F1 of its class by about 0.1
UPSCALED = 2  # an image that is enlarged so many times or more has little detail at the size of the recipe
LONG = 3  # an image so many times as long as wide is deformed where it is stretched to a square
OUTLYING = 5  # an image whose side is so many times the median, or so many times less, is an outlier
ONE_SIZE_SHARE = 0.95  # where so large a share of the images has one size, each other size is named
PASSED_OVER = "no image by its ending, or in no class folder"
NESTED = "`hpo nested STUDY` tests on all images in turn"
TEST_MORE = f"{NESTED}; or hold out more ([data] test)"  # where the images held out are too few
TOO_FEW = (
    f"these images are too few to tell good recipes apart (a macro-F1 is known to more than ± {WIDEST}): {TEST_MORE}"
)


@dataclass(frozen=True)
class Case:
    """One thing that was found: the images concerned, as the index names them, and what is to be said of them."""

    paths: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class DoubtedLabel:
    """A label that may be wrong.

    Attributes:
        image: position in the index.
        label: its class.
        expected: the class that models expect, which have not learned it.
        label_probability: that they give its class, in [0, 1].
        expected_probability: that they give the expected one, in [0, 1].
    """

    image: int
    label: int
    expected: int
    label_probability: float
    expected_probability: float


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: its name.
        level: "error" for what makes a search fail or its scores too good, "warning" for what makes it worse.
        message: one line for the user.
        remedy: what to do; empty where there is nothing to do.
        cases: each that was found, the worst first where there is an order.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""
    cases: tuple[Case, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self)


def broken_files(index: Index, survey: Survey) -> Finding:
    """Images that cannot be decoded, each with its cause."""
    if not survey.broken:
        return Finding("broken files", "ok", f"all {len(index.paths):,} images can be read")
    return Finding(
        "broken files",
        "error",
        f"{len(survey.broken):,} of {len(index.paths):,} images cannot be read",
        "remove or replace them",
        tuple(Case((index.paths[image],), cause) for image, cause in sorted(survey.broken.items())),
    )


def passed_over(index: Index) -> Finding:
    """Files that are no images by their ending, and folders; those without an ending that are images are told."""
    if not index.ignored:
        return Finding("other files", "ok", "no file is passed over")
    return Finding(
        "other files",
        "warning",
        f"{counted(len(index.ignored), 'file or folder is', 'files or folders are')} passed over ({PASSED_OVER})",
        "move them if they should be images of a class, and give an image an ending such as .png",
        tuple(Case((name,), _note(index.root / name)) for name in index.ignored),
    )


def _note(file: Path) -> str:
    return "is an image without an ending" if not file.suffix and file.is_file() and is_image(file) else ""


def tiny_classes(index: Index, sides: Split) -> Finding:
    """Classes with few images to learn from or to be judged by, after the copies are counted as one."""
    cases = []
    different = (_different_images(index, side).tolist() for side in (sides.train, sides.valid, sides.test))
    for name, train, valid, test in zip(index.classes, *different, strict=True):
        judged = [count for side, count in ((sides.valid, valid), (sides.test, test)) if len(side)]
        if train < FEW_TO_TRAIN or min(judged) < FEW_TO_JUDGE:
            cases.append(Case((), f"{name!r}: {train} to train, {valid} to validate, {test} held out"))
    if not cases:
        return Finding("tiny classes", "ok", "every class has images enough to learn from and to be judged by")
    return Finding(
        "tiny classes",
        "warning",
        f"{len(cases):,} of {len(index.classes):,} classes {'has' if len(cases) == 1 else 'have'} fewer than"
        f" {FEW_TO_TRAIN} different images to train or {FEW_TO_JUDGE} to validate or hold out:"
        " chance decides on their F1, and macro-F1 counts each class alike",
        "add images, join classes, or leave them out",
        tuple(cases),
    )


def small_test(index: Index, sides: Split) -> Finding:
    """Whether the images held out are so few that a score on them tells little, whatever model it is of."""
    held_out = sides.test
    if not len(held_out):
        return Finding("test split", "ok", "no image is held out", NESTED)
    groups = index.groups_with_copies[held_out]
    half = expected_half_width(index.labels[held_out], groups)
    count = len(np.unique(groups))
    of = f" of {counted(count, 'group')}" if count < len(held_out) else ""
    line = f"on {counted(len(held_out), 'held-out image')}{of} a macro-F1 of 0.9 is known to ± {half:.3f} (95 %)"
    if half <= WIDEST:
        return Finding("test split", "ok", line)
    needed = f"about {math.ceil(len(held_out) * (half / WIDEST) ** 2):,} are needed for ± {WIDEST}"
    return Finding(
        "test split", "warning", f"{line}, too little to tell good recipes apart; {needed}", TEST_MORE
    )  # fmt: skip


def odd_sizes(
    index: Index, survey: Survey, image_size: ImageSize, resizes: Collection[str] = ("stretch",)
) -> list[Finding]:
    """Images that are enlarged, deformed or cut, or unlike the others in size.

    image_size: the smallest that is to be searched.
    resizes: the ways to come to it.
    """
    read = np.flatnonzero(survey.sizes.min(axis=1) > 0)
    if not len(read):
        return []
    width, height = survey.sizes[read].T
    rows, columns = shape_of(image_size)
    side = np.sqrt(width * height)
    (modal, count), median = _most_common(survey.sizes[read]), float(np.median(side))
    if ONE_SIZE_SHARE * len(read) <= count < len(read):
        other = (survey.sizes[read] != modal).any(axis=1)
        unlike = f"not of {modal[0]} x {modal[1]} pixels like the rest"
    else:
        other = (side > OUTLYING * median) | (side * OUTLYING < median)
        unlike = f"over {OUTLYING} times larger or smaller than the median of {median:.0f} pixels a side"
    than, frame = ("as wide", "a square") if rows == columns else (f"or as wide as {image_size} in proportion", "it")
    fate = f"{'stretched' if 'stretch' in resizes else 'cut'} to {frame}"
    unlike_frame = (width * rows >= LONG * height * columns) | (height * columns >= LONG * width * rows)
    found = []
    for chosen, message, remedy in (
        ((width * UPSCALED <= columns) | (height * UPSCALED <= rows),
         f"enlarged {UPSCALED} times or more to {image_size} pixels",
         "take larger images, or a smaller image_size, which trains faster"),
        (unlike_frame & (set(resizes) != {"pad"}), f"{LONG} times as long {than} or more, and {fate}",
         'crop them, or keep all of them with [recipe] resize = "pad"'),
        (other, unlike, "look whether they belong to the data"),
    ):  # fmt: skip
        if chosen.any():
            cases = tuple(
                Case((index.paths[read[row]],), f"{width[row]} x {height[row]}") for row in np.flatnonzero(chosen)
            )
            line = f"{len(cases):,} of {len(read):,} images {'is' if len(cases) == 1 else 'are'} {message}"
            found.append(Finding("odd sizes", "warning", line, remedy, cases))
    return found or [
        Finding("odd sizes", "ok", "no image is far from the others, or from the recipe's, in size or shape")
    ]


def suspects(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Which labels a model doubts that has not learned them: (position, class it expects), the surest first.

    Confident learning (Northcutt et al., JAIR 2021, equations 1 and 2): a class is expected of an image where its
    probability reaches the class's threshold, which is its mean probability over the images that are labelled so; of
    several such classes the most probable one. Ordered by how much more probable it is than the label.

    Args:
        probabilities: float [n, classes], of models that were not trained on these images.
        labels: int64 [n].
    """
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    thresholds = np.array(
        [
            probabilities[labels == label, label].mean() if (labels == label).any() else np.inf
            for label in range(classes)
        ]
    )
    confident = np.where(probabilities >= thresholds, probabilities, -1)
    expected = confident.argmax(axis=1)
    doubted = np.flatnonzero((confident[rows, expected] >= 0) & (expected != labels))
    margin = probabilities[rows, expected] - probabilities[rows, labels]
    # Where even the label is more probable than the expected class, whose threshold is low, the model agrees with it.
    doubted = doubted[margin[doubted] > 0]
    return [(int(row), int(expected[row])) for row in doubted[np.argsort(-margin[doubted], kind="stable")]]


def doubted_labels(
    index: Index, images: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> tuple[DoubtedLabel, ...]:
    """The labels of these images (int64 [n]) that models doubt which have not learned them, the surest first."""
    return tuple(
        DoubtedLabel(
            image,
            label,
            expected,
            float(probabilities[row, label]),
            float(probabilities[row, expected]),
        )
        for row, expected in suspects(probabilities, index.labels[images])
        for image in [int(images[row])]
        for label in [int(index.labels[image])]
    )


def wrong_labels(index: Index, doubted: Sequence[DoubtedLabel], looked: str, rest: str) -> Finding:
    """Labels that models doubt which have not learned them.

    Args:
        index: of the images.
        doubted: labels of it.
        looked: which images were looked at, and by which models.
        rest: what is to be said of the others.
    """
    if not doubted:
        return Finding("wrong labels", "ok", f"no label {looked} is doubted; {rest}")
    cases = tuple(
        Case(
            (index.paths[one.image],),
            f"labelled {index.classes[one.label]!r} ({one.label_probability:.2f}), "
            f"looks like {index.classes[one.expected]!r} ({one.expected_probability:.2f})",
        )
        for one in doubted
    )
    line = f"{counted(len(cases), 'label')} {looked}, may be wrong; {rest}"
    return Finding("wrong labels", "warning", line, "look at them, the first ones first", cases)


def _different_images(index: Index, side: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many images of each class these are, int64 [classes], copies of the same bytes counted as one."""
    different = np.unique(index.labels[side] * len(index.paths) + index.copies[side])
    return np.bincount(different // len(index.paths), minlength=len(index.classes))


def _most_common(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    values, counts = np.unique(sizes, axis=0, return_counts=True)
    return values[counts.argmax()], int(counts.max())
