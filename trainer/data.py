"""The images of a training: index, split and pixels in one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.images.cache import pixels_file
from trainer.images.index import Index, read_index
from trainer.images.pixels import build_pixels
from trainer.images.split import Split, check_fractions, split

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Data:
    """Images, their split, and their pixels.

    Attributes:
        index: of all images.
        split: of the index.
        cache: folder of the files of pixels; None keeps them in memory.
        cache_bytes: the most that the files in it may have together; None: whatever the disk holds.
    """

    index: Index
    split: Split
    cache: Path | None
    cache_bytes: float | None = None
    _pixels: dict[tuple[int, str], NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False)

    def pixels(
        self, size: int, interpolation: str = "bicubic", on_progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.uint8]:
        """All images as a read-only uint8 [N, size, size, 3], RGB, in the order of the index.

        They are decoded once for each size and interpolation (a name in `trainer.images.pixels.INTERPOLATIONS`), and
        `on_progress` is called only then.

        Raises:
            DataError: images that cannot be read, or a cache that cannot be written or has no room.
        """
        key = (size, interpolation)
        if key not in self._pixels:
            file = None if self.cache is None else pixels_file(self.cache, self.index.fingerprint, size, interpolation)
            paths = [self.index.root / path for path in self.index.paths]
            self._pixels[key] = build_pixels(paths, size, interpolation, file, on_progress, self.cache_bytes)
        return self._pixels[key]

    def relabelled(self, labels: NDArray[np.int64]) -> Data:
        """The same images with other classes, int64 [N]; pixels that are decoded by now are not decoded again."""
        other = replace(self, index=replace(self.index, labels=labels))
        other._pixels.update(self._pixels)  # noqa: SLF001 - of the same class
        return other


def load_data(
    path: Path | str,
    *,
    valid: float = 0.2,
    test: float = 0.15,
    seed: int = 0,
    group: str | None = None,
    group_pattern: str | None = None,
    cache: Path | None = None,
    pixels_gb: float | None = None,
) -> Data:
    """Read the index and split it, images of the same bytes on one side; no image is decoded yet.

    `cache` and `pixels_gb` (1 GB = 10^9 bytes) are those of `Data`.

    Raises:
        DataError: fractions out of range, or anything that `read_index` and `split` refuse.
    """
    check_fractions(valid, test)  # before the many files are listed
    index = read_index(Path(path), group=group, group_pattern=group_pattern)
    sides = split(index, valid=valid, test=test, seed=seed, copies=index.copies)
    return Data(index, sides, cache, pixels_gb and pixels_gb * 1e9)
