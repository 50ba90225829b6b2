"""A folder with one folder a class -> paths and classes."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.files import IMAGE_SUFFIXES, nfc, some, walk
from trainer.images.listing import Listing
from trainer.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval", "holdout"})
LAYOUT = "make one folder a class (cat/1.jpg, dog/2.jpg), or write a CSV with the columns path,label"


def read_folder(root: Path) -> Listing:
    """List the images of a folder with one folder a class.

    Raises:
        DataError: it cannot be read, has no class folders, or some without images, or links that lead nowhere.
    """
    names, labels, ignored, empty, broken = [], [], [], [], []
    try:
        status = root.stat()
        children = sorted(child for child in root.iterdir() if not child.name.startswith("."))
        folders = [child for child in children if child.is_dir()]
        ignored += [child.name for child in children if not child.is_dir()]
        if not folders:
            loose = sum(PurePath(name).suffix.lower() in IMAGE_SUFFIXES for name in ignored)
            found = f"{counted(loose, 'image')} and no class folders" if loose else "no images"
            raise DataError(f"{str(root)!r} has {found}; {LAYOUT}")
        if len(folders) > 1 and {folder.name.lower() for folder in folders} <= SPLIT_NAMES:
            parts = some([folder.name for folder in folders])
            raise DataError(f"{str(root)!r} holds the parts of a split ({parts}), not classes; {LAYOUT}")
        for folder in folders:
            files = {
                file.relative_to(root).as_posix(): file for file in walk(folder, ((status.st_dev, status.st_ino),))
            }
            images = [name for name, file in files.items() if file.suffix.lower() in IMAGE_SUFFIXES]
            names += images
            labels += [nfc(folder.name)] * len(images)
            ignored += files.keys() - set(images)
            broken += [name for name in images if not files[name].is_file()]
            if not images:
                empty.append(folder.name)
    except OSError as error:
        raise DataError(f"{str(error.filename)!r} cannot be read: {error.strerror}; allow it or take it out") from error
    problems = []
    if empty:
        problems.append(f"no images in the class folders {some(empty)}: fill or remove them")
    if broken:
        lost = counted(len(broken), "link that leads nowhere", "links that lead nowhere")
        problems.append(f"{lost} ({some(sorted(broken))}): mend or remove them")
    if problems:
        raise DataError(f"{str(root)!r}: {'; '.join(problems)}")
    return Listing(paths=names, labels=labels, groups=names, written=labels, ignored=ignored)
