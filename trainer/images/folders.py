"""A folder with one folder a class, or with one a side of the split and the classes inside -> paths, classes, sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.files import SHOWN, image_files, nfc, some, walk
from trainer.images.listing import Listing
from trainer.images.sides import SIDES, UNLABELLED, refuse_unknown_classes, sides_of
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from trainer.images.sides import Splits

LAYOUT = "make one folder a class (cat/1.jpg, dog/2.jpg), or write a CSV with the columns path,label"
# What systems leave beside the folders that somebody has made.
LEFT_BY_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})


def read_folder(root: Path, splits: Splits) -> Listing:
    """List the images of a folder with one folder a class, or with folders like train and test that hold the classes.

    A folder that lies alone in another one, as archives have it, is taken for that one.

    splits: which folders are sides of the split.

    Raises:
        DataError: it cannot be read, has no class folders, or some without images, or links that lead nowhere; or
            folders that are sides stand beside others, are two of one side, or hold classes that are not to train.
    """
    found = _Found(root)
    try:
        folders = found.folders_in(_innermost(root, splits))
        if not folders:
            loose = len(image_files(root / name for name in found.ignored if not name.endswith("/")))
            has = f"{counted(loose, 'image')} and no class folders" if loose else "no images"
            raise DataError(f"{str(root)!r} has {has}; {LAYOUT}")
        sides = _sides(root, folders, splits)
        if sides:
            _read_sides(found, folders, sides)
        else:
            found.add_classes(folders)
    except OSError as error:
        raise DataError(f"{str(error.filename)!r} cannot be read: {error.strerror}; allow it or take it out") from error
    found.refuse()
    if sides:
        refuse_unknown_classes(str(root), found.labels, found.sides)
    return Listing(
        paths=found.paths,
        labels=found.labels,
        groups=found.paths,
        written=found.labels,
        sides=found.sides if sides else None,
        unlabelled=found.unlabelled,
        ignored=found.ignored,
    )


@dataclass
class _Found:
    """What was found so far below `root`; its lists are those of a `Listing`, and what is to be refused."""

    root: Path
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def folders_in(self, folder: Path) -> list[Path]:
        """The folders in this one; its files, and what systems leave, are ignored."""
        children = sorted(_visible(folder))
        folders = [child for child in children if child.is_dir()]
        self.ignored += [self._name(child) for child in children if not child.is_dir()]
        self.ignored += [f"{self._name(child)}/" for child in folders if child.name in LEFT_BY_SYSTEMS]
        return [child for child in folders if child.name not in LEFT_BY_SYSTEMS]

    def add_classes(self, folders: Sequence[Path], side: str = "") -> None:
        """Each of these folders is a class."""
        for folder in folders:
            images = self._images_below(folder)
            self.paths += images
            self.labels += [nfc(folder.name)] * len(images)
            self.sides += [side] * len(images)

    def add_unlabelled(self, folder: Path) -> None:
        """The images below this folder have no class."""
        self.unlabelled += self._images_below(folder)

    def _images_below(self, folder: Path) -> list[str]:
        status = self.root.stat()
        files = list(walk(folder, ((status.st_dev, status.st_ino),)))
        images = image_files(files)
        names = [self._name(file) for file in images]
        if len(images) < len(files):
            chosen = set(images)
            self.ignored += [self._name(file) for file in files if file not in chosen]
        self.broken += [name for name, file in zip(names, images, strict=True) if not file.is_file()]
        if not names:
            kinds = f" (only such as {self._name(files[0])!r})" if files else ""
            self.empty.append(f"{self._name(folder)!r}{kinds}")
        return names

    def refuse(self) -> None:
        """Raise DataError where folders have no images, or links lead nowhere."""
        problems = []
        if self.empty:
            listed = ", ".join(self.empty[:SHOWN]) + (", …" if len(self.empty) > SHOWN else "")
            problems.append(f"no images in the class folders {listed}: fill or remove them")
        if self.broken:
            lost = counted(len(self.broken), "link that leads nowhere", "links that lead nowhere")
            problems.append(f"{lost} ({some(sorted(self.broken))}): mend or remove them")
        if problems:
            raise DataError(f"{str(self.root)!r}: {'; '.join(problems)}")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _innermost(root: Path, splits: Splits) -> Path:
    """The folder that holds the classes or the sides: root itself, or what lies in it alone with folders in it."""

    def goes_on(inner: Path) -> bool:
        is_side = nfc(inner.name) in splits.named or (splits.known and sides_of([inner.name]))
        return bool(_folders(inner)) and not image_files(_visible(inner)) and not is_side

    return _descend(root, goes_on)


def _descend(folder: Path, goes_on: Callable[[Path], bool]) -> Path:
    """This folder, or the one that lies in it alone, and so on while that is wanted; links in circles end it."""
    above = set()
    while (inner := _only_folder(folder)) and goes_on(inner):
        status = folder.stat()
        above.add((status.st_dev, status.st_ino))
        status = inner.stat()
        if (status.st_dev, status.st_ino) in above:
            break
        folder = inner
    return folder


def _sides(root: Path, folders: Sequence[Path], splits: Splits) -> dict[str, str]:
    """The side of each of these folders that is one; none where they are classes."""
    names = [folder.name for folder in folders]
    if given := splits.named:
        if lost := given.keys() - set(map(nfc, names)):
            raise DataError(
                f"{str(root)!r} has no folder {some(sorted(lost))}, but {some(names)}; correct [data.splits]"
            )
        return {name: given[nfc(name)] for name in names if nfc(name) in given}
    sides = sides_of(names) if splits.known else {}
    how = (
        'or say in the study file which are which ([data.splits] train = "…", valid = "…", test = "…"), '
        "or, where all of them are classes, write splits = false in [data]"
    )
    if sides and len(sides) < len(names):
        others = [name for name in names if name not in sides]
        raise DataError(
            f"{str(root)!r} has folders that look like sides of a split ({some(sides)}) beside others ({some(others)}):"
            f" put the class folders into the sides (train/cat/1.jpg, test/cat/2.jpg), {how}"
        )
    for side in SIDES:
        same = [name for name in names if sides.get(name) == side]
        if len(same) > 1:
            raise DataError(
                f"{str(root)!r} has several folders that look like one side ({some(same)}): leave one, {how}"
            )
    if sides and "train" not in sides.values():
        raise DataError(f"{str(root)!r} has {some(names)}, but no folder of images to train: add train, {how}")
    return sides


def _read_sides(found: _Found, folders: Sequence[Path], sides: Mapping[str, str]) -> None:
    """List the classes in each side; a side to be held out may have images without classes instead."""
    order = (*SIDES, UNLABELLED)
    known: set[str] = set()
    for folder in sorted(folders, key=lambda folder: order.index(sides.get(folder.name, UNLABELLED))):
        side = sides.get(folder.name)
        if side is None:
            found.ignored.append(f"{folder.relative_to(found.root).as_posix()}/")
            continue
        if side == UNLABELLED:
            found.add_unlabelled(folder)
            continue
        inner = _descend(folder, lambda only: nfc(only.name) not in known and bool(known or _folders(only)))
        if _folders(inner):
            found.add_classes(found.folders_in(inner), side)
            known.update(found.labels)
        elif side == "test":
            found.add_unlabelled(inner)
        else:
            raise DataError(
                f"{str(found.root)!r}: {folder.name!r} is the side {side} and has no class folders; "
                f"put its images into folders of their classes ({folder.name}/cat/1.jpg)"
            )


def _only_folder(folder: Path) -> Path | None:
    """The folder that lies in this one without another one or an image beside it."""
    folders = _folders(folder)
    return folders[0] if len(folders) == 1 and not image_files(_visible(folder)) else None


def _folders(folder: Path) -> list[Path]:
    return [child for child in _visible(folder) if child.is_dir() and child.name not in LEFT_BY_SYSTEMS]


def _visible(folder: Path) -> Iterator[Path]:
    return (child for child in folder.iterdir() if not child.name.startswith("."))
