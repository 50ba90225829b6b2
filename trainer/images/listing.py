"""What a folder or a CSV lists, before it is put in order."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Listing:
    """Images in any order, each of the first lists with one element an image.

    Attributes:
        paths: below the folder, or below that of the CSV; URLs without secrets where the images were fetched.
        labels: names of classes.
        groups: what belongs together has one name; the paths where nothing does.
        written: the labels as the source writes them; another text where it writes a class in several ways.
        sides: names in `trainer.images.sides.SIDES`; None where no sides are given.
        unlabelled: paths of images to be held out that have no class.
        checksums: SHA-256 in hex of each image that was fetched, by its path.
        ignored: files that are passed over, and folders, with a slash at the end.
    """

    paths: list[str]
    labels: list[str]
    groups: list[str]
    written: list[str]
    sides: list[str] | None = None
    unlabelled: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)
