"""Folders in the class folders that may hold something else than pictures of the class."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trainer.images.files import nfc, some
from trainer.images.sides import side_of_word
from trainer.quality.checks import Case, Finding
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.images.index import Index

# What such folders hold was made of the pictures of a class, or says something about them.
NO_PICTURES = frozenset(
    {"annotation", "annotations", "bbox", "bboxes", "contours", "depth", "edges", "ground_truth", "groundtruth", "gt",
     "heatmap", "heatmaps", "label", "labels", "mask", "masks", "preview", "previews", "segmentation", "segmentations",
     "thumb", "thumbnail", "thumbnails", "thumbs", "@eadir", "__macosx"}
)  # fmt: skip
NO_CLASSES = NO_PICTURES - {"depth", "edges", "label", "mask"} | {"image", "images", "imgs", "pictures"}
MOST_PARTS = 4  # folders of one name in all classes; more are rather persons or days
SAME_NAMES = 0.5  # where so large a share of the names of files recurs, one folder was made of the other


def odd_folders(index: Index) -> list[Finding]:
    """Copies of the whole set in one class, and folders like images and masks in each, each where there are any."""
    inside = _inside(index)
    findings = [*_nested(inside), *_parts(inside), *_no_classes(index)]
    return findings or [Finding("odd folders", "ok", "no folder looks as if it did not belong to its class")]


def _inside(index: Index) -> dict[str, list[PurePosixPath]]:
    """The paths below the folder of their class, by class; a CSV need not have such folders."""
    inside: dict[str, list[PurePosixPath]] = defaultdict(list)
    for path, label in zip(index.paths, index.labels.tolist(), strict=True):
        name, parts = index.classes[label], PurePosixPath(nfc(path)).parts
        if name in parts[:-1]:
            inside[name].append(PurePosixPath(*parts[parts.index(name) + 1 :]))
    return inside


def _nested(inside: Mapping[str, Sequence[PurePosixPath]]) -> list[Finding]:
    cases = []
    for name, paths in inside.items():
        others = [folder for path in paths for folder in set(path.parts[:-1]) if folder in inside and folder != name]
        if others:
            note = f"{name!r} holds {some(sorted(set(others)))}, with {counted(len(others), 'image')}"
            cases.append(Case((), note))
    if not cases:
        return []
    line = (
        f"{counted(len(cases), 'class folder holds', 'class folders hold')} folders with the names of other classes,"
        " as a copy of the whole set does"
        f" ({'; '.join(case.note for case in cases[:3])}): all of these images count for the outer class"
    )
    return [
        Finding("odd folders", "error", line, "take the copy out, or move its images into their classes", tuple(cases))
    ]


def _parts(inside: Mapping[str, Sequence[PurePosixPath]]) -> list[Finding]:
    """Folders directly below the classes that were made of the pictures, or are sides of a split."""
    images: Counter[str] = Counter()
    classes: dict[str, set[str]] = defaultdict(set)
    for name, paths in inside.items():
        for path in paths:
            if len(path.parts) > 1:
                images[path.parts[0]] += 1
                classes[path.parts[0]].add(name)
    everywhere = {part for part, of in classes.items() if len(of) == len(inside) > 1}
    made = {part for part in classes if part.casefold() in NO_PICTURES}
    sides = {part for part in everywhere if side_of_word(part)}
    recurring = 1 < len(everywhere) <= MOST_PARTS and not sides and _recur(inside, everywhere)
    odd = everywhere | made if made or recurring else set()
    findings = []
    for parts, what, remedy in (
        (odd, "whose images are all learned: look whether some are no pictures of the class", "take those out"),
        (sides if len(sides) > 1 else set(), "that look like sides of a split, and are not used as such",
         "put them outermost (train/cat/1.jpg), and the split is used as it is"),
    ):  # fmt: skip
        if parts:
            listed = " and ".join(f"{part!r} ({counted(images[part], 'image')})" for part in sorted(parts))
            line = f"in the class folders there are folders {listed} {what}"
            findings.append(Finding("odd folders", "warning", line, remedy))
    return findings


def _recur(inside: Mapping[str, Sequence[PurePosixPath]], parts: set[str]) -> bool:
    """Whether the names of files recur in these folders of a class: 1.png among images and among edges."""
    names: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, paths in inside.items():
        for path in paths:
            if path.parts[0] in parts:
                names[name, path.stem][path.parts[0]] += 1
    return sum(len(of) > 1 for of in names.values()) >= SAME_NAMES * max(1, len(names))


def _no_classes(index: Index) -> list[Finding]:
    odd = [name for name in index.classes if name.casefold() in NO_CLASSES]
    if not odd:
        return []
    line = f"classes are called {some(odd)}, as folders are that hold pictures of all classes, or no pictures"
    return [Finding("odd folders", "warning", line, "if these are no classes, make one folder a class")]
