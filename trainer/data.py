"""The images of a training: index, split and pixels in one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.images.cache import PixelCache, pixels_file
from trainer.images.index import Grouping, Index, read_index
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
        cache: where the files of pixels are kept; None keeps the pixels in memory.
    """

    index: Index
    split: Split
    cache: PixelCache | None
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
            file, limit_bytes = None, None
            if self.cache:
                file = pixels_file(self.cache.folder, self.index.fingerprint, size, interpolation)
                limit_bytes = self.cache.limit_bytes
            paths = [self.index.root / path for path in self.index.paths]
            self._pixels[key] = build_pixels(paths, size, interpolation, file, on_progress, limit_bytes)
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
    grouping: Grouping | None = None,
    cache: PixelCache | None = None,
) -> Data:
    """Read the index and split it, images of the same bytes on one side; no image is decoded yet.

    Args:
        path: a folder with one folder a class, or with folders like train and test that hold the classes, or a CSV with
            the columns path,label[,group][,split].
        valid: share of the images to validate on, in (0, 1); not used where the data give this side.
        test: share of the images that are held out, in [0, 1); likewise.
        seed: of the split.
        grouping: which images belong together, and so on one side of the split; and how the data name its sides.
        cache: where the files of pixels are kept; None keeps the pixels in memory.

    Raises:
        DataError: fractions out of range, or anything that `read_index` and `split` refuse.
    """
    check_fractions(valid, test)  # first, as listing many files takes long
    index = read_index(Path(path), grouping)
    sides = split(index, valid=valid, test=test, seed=seed, copies=index.copies)
    return Data(index, sides, cache)
