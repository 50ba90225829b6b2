"""The images of a training: index, split and pixels in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.index import Index, read_index
from trainer.pixels import build_pixels
from trainer.split import Split, check_fractions, split

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Data:
    """Images, their split, and their pixels; cache is the folder of the files of pixels, None keeps them in memory."""

    index: Index
    split: Split
    cache: Path | None
    _pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False)

    def pixels(self, size: int, on_progress: Callable[[int, int], None] | None = None) -> NDArray[np.uint8]:
        """All images as a read-only uint8 [N, size, size, 3], RGB, in the order of the index; decoded once a size.

        Raises:
            DataError: images that cannot be read, or a cache that cannot be written.
        """
        if size not in self._pixels:
            file = None if self.cache is None else self.cache / f"{self.index.fingerprint[:16]}-{size}.npy"
            paths = [self.index.root / path for path in self.index.paths]
            self._pixels[size] = build_pixels(paths, size, file, on_progress)
        return self._pixels[size]


def load_data(
    path: Path | str,
    *,
    valid: float = 0.2,
    test: float = 0.15,
    seed: int = 0,
    group: str | None = None,
    group_pattern: str | None = None,
    cache: Path | None = None,
) -> Data:
    """Read the index and split it; no image is opened yet.

    Raises:
        DataError: fractions out of range, or anything that `read_index` and `split` refuse.
    """
    check_fractions(valid, test)  # before the many files are listed
    index = read_index(Path(path), group=group, group_pattern=group_pattern)
    return Data(index, split(index, valid=valid, test=test, seed=seed), cache)
