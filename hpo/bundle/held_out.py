"""Uses of a bundle's test split by `hpo predict`: found by the files, wherever they lie, and counted in bundle.json."""

from __future__ import annotations

import csv
import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.bundle.bundle import INFO, PSEUDO_LABELS, TEST, TRAIN, VALID
from hpo.whole_file import whole_file
from trainer.images.duplicates import find_copies
from trainer.images.fetched import Fetched
from trainer.images.manifest import on_disk
from trainer.images.spreadsheets import text_of
from trainer.remote.urls import is_url
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hpo.bundle.bundle import Bundle


@dataclass(frozen=True)
class Use:
    """What scores on some images are to the test split of a bundle.

    Attributes:
        images: how many of them are held out in the bundle's study, as the same file or a copy.
        learned: how many of them its models have learned.
        uses: how often the held-out images were used, this time included, as far as this bundle knows; None where they
            were not used now, or that could not be noted.
        problem: why it could not be found out, or noted; None where it was.
    """

    images: int
    learned: int
    uses: int | None
    problem: str | None = None

    def lines(self) -> list[str]:
        """What people are told."""
        if self.uses is not None:
            here = counted(self.images, "image here is", "images here are")
            said = [f"use {self.uses} of the test split: {here} held out"]
        elif self.images:
            said = [f"a use of the test split ({counted(self.images, 'image')}) that is not counted: {self.problem}"]
        elif self.problem:
            said = [f"whether this is a use of the test split is not known: {self.problem}"]
        else:
            said = ["no use of the test split: none of these images is held out"]
        if self.learned:
            said.append(f"the models have learned {counted(self.learned, 'image')} here: that flatters the scores")
        return said


def count_use(bundle: Bundle, files: Sequence[Path], cache: Path | None = None) -> Use:
    """Find out which of the images that scores are of are held out, and count a use in bundle.json where any is.

    Args:
        bundle: whose predictions are judged.
        files: of the images whose true class is known.
        cache: where those at URLs were fetched; others that the bundle lists by URL are not asked for.
    """
    lists = [bundle.folder / TRAIN, bundle.folder / PSEUDO_LABELS]
    models = bundle.members or (bundle,)
    if any(model.info.get("retrained") for model in models) and "fold" not in bundle.info:
        lists.append(bundle.folder / VALID)
    fetched = Fetched(cache.absolute()).by_url() if cache else {}
    there = _listed(bundle.folder / TEST, fetched)
    held = [file for file in there if file is not None]
    learned = [file for each in lists for file in _listed(each, fetched) if file is not None]
    found = _same_files([*held, *learned], files)
    test, train = sum(found[: len(held)]), sum(found[len(held) :])
    if not test:
        return Use(0, train, None, _unknown(bundle, there))
    try:
        return Use(test, train, _count(bundle.folder / INFO))
    except OSError as error:
        return Use(test, train, None, f"{bundle.folder / INFO} cannot be written: {error.strerror}")


def _unknown(bundle: Bundle, held: Sequence[Path | None]) -> str | None:
    """Why nobody knows whether images are held out; None where that is known."""
    info, file = bundle.info, bundle.folder / TEST
    tested = (info.get("metrics") or {}).get("test")
    if info.get("test_uses") == 0 or ("metrics" in info and not tested):
        return None  # nothing is held out
    if not file.is_file():
        return f"{file}, which names the images that are held out, is gone"
    images, here = tested["images"] if tested else len(held), sum(place is not None for place in held)
    return f"{images - here} of {counted(images, 'image')} of {file} are not here to compare" if here < images else None


def _listed(file: Path, fetched: Mapping[str, Path]) -> list[Path | None]:
    """The images with a class of a list of a bundle; None for those that are neither there nor fetched."""
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
            names = [text_of(row["path"]) for row in csv.DictReader(opened) if row["label"]]
    except (OSError, csv.Error, KeyError):
        return []
    places = [fetched.get(name) if is_url(name) else on_disk(file.parent, name) for name in names]
    return [None if place is None else file.parent / place for place in places]


def _same_files(listed: Sequence[Path], files: Sequence[Path]) -> list[bool]:
    """Which of the listed images are among the files, by place or by bytes."""
    places = {os.path.realpath(file) for file in files}
    same = [os.path.realpath(file) in places for file in listed]
    rest = [number for number, here in enumerate(same) if not here]
    known = {os.path.realpath(file) for file in listed}
    others = [Path(place) for place in places - known]
    both = [*others, *(listed[number] for number in rest)]
    first = find_copies(both, [file.stat().st_size for file in both])
    copied = set(first[: len(others)].tolist())
    for place, number in enumerate(rest, start=len(others)):
        same[number] = int(first[place]) in copied
    return same


def _count(file: Path) -> int:
    """One use more in a bundle.json; returns how many there are by now."""
    with _alone(file.parent):
        info: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        info["test_uses"] = info.get("test_uses", 0) + 1
        with whole_file(file) as opened:
            opened.write(f"{json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False)}\n".encode())
    return int(info["test_uses"])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process counts in this folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
