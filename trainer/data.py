"""The images of a training: index, split and pixels in one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.archives import archive_of, at_hand
from trainer.images.cache import PixelCache, aspects_file, pixels_file
from trainer.images.fetched import Fetched
from trainer.images.index import Grouping, Index, read_index
from trainer.images.pixels import build_aspects, build_pixels
from trainer.images.remote_source import fetch_source, is_file, is_list, prefix_of
from trainer.images.split import Split, check_fractions, split
from trainer.images.value_range import find_ranges
from trainer.remote.urls import is_url, public_url

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from trainer.images.pixels import Reading
    from trainer.images.value_range import ValueRanges


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
    _pixels: dict[Reading, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False)
    _aspects: list[NDArray[np.float32]] = field(default_factory=list, init=False, repr=False)  # empty until asked for
    _ranges: list[ValueRanges | None] = field(
        default_factory=list, init=False, repr=False
    )  # empty until they are known

    @property
    def files(self) -> list[Path]:
        """The image files, in the order of the index."""
        return self.index.files

    def ranges(self, on_progress: Callable[[int, int], None] | None = None) -> ValueRanges | None:
        """Which values of pictures of more than 8 bits are black and white; None has each picture choose by itself.

        Unless `with_ranges` has given them they are found at the first call, as `find_ranges` does, which looks at all
        of these pictures.
        """
        if not self._ranges:
            self._ranges.append(find_ranges(self.files, on_progress=on_progress))
        return self._ranges[0]

    def with_ranges(self, ranges: ValueRanges | None) -> Data:
        """The same images by other ranges."""
        other = replace(self)
        other._ranges.append(ranges)  # noqa: SLF001 - of the same class
        return other

    def pixels(self, reading: Reading, on_progress: Callable[[int, int], None] | None = None) -> NDArray[np.uint8]:
        """All images as a read-only uint8 [N, height, width, 3], RGB, in the order of the index.

        They are decoded once for each reading, whose ranges are those of the data, and `on_progress` is called only
        then.

        Raises:
            DataError: images that cannot be read, or a cache that cannot be written or has no room.
        """
        reading = replace(reading, ranges=self.ranges())
        if reading not in self._pixels:
            limit_bytes = self.cache.limit_bytes if self.cache else None
            self._pixels[reading] = build_pixels(
                self.files, reading, self.pixels_file(reading), on_progress, limit_bytes
            )
        return self._pixels[reading]

    def aspects(self, on_progress: Callable[[int, int], None] | None = None) -> NDArray[np.float32]:
        """Width divided by height of each picture as it is shown, read-only float32 [N], in the order of the index.

        They are read once, and `on_progress` is called only then.

        Raises:
            DataError: as `pixels` does.
        """
        if not self._aspects:
            cache = self.cache
            file = aspects_file(cache.folder, self.index.fingerprint) if cache else None
            limit_bytes = cache.limit_bytes if cache else None
            self._aspects.append(build_aspects(self.files, file, on_progress, limit_bytes))
        return self._aspects[0]

    def pixels_file(self, reading: Reading) -> Path | None:
        """Where in the cache the pixels are kept that are read so; None without one."""
        if self.cache is None:
            return None
        ranges, fingerprint = self.ranges(), self.index.fingerprint
        if ranges and ranges.key:
            fingerprint = hashlib.sha256(f"{fingerprint}:{ranges.key}".encode()).hexdigest()
        return pixels_file(self.cache.folder, fingerprint, reading.size, reading.interpolation, reading.resize)

    def with_split(self, split: Split) -> Data:
        """The same images on other sides; pixels that are decoded by now are not decoded again."""
        other = replace(self, split=split)
        other._pixels.update(self._pixels)  # noqa: SLF001 - of the same class
        other._aspects.extend(self._aspects)  # noqa: SLF001
        other._ranges.extend(self._ranges)  # noqa: SLF001
        return other

    def relabelled(self, labels: NDArray[np.int64]) -> Data:
        """The same images with other classes, int64 [N]; pixels that are decoded by now are not decoded again."""
        other = replace(self, index=replace(self.index, labels=labels))
        other._pixels.update(self._pixels)  # noqa: SLF001 - of the same class
        other._aspects.extend(self._aspects)  # noqa: SLF001
        other._ranges.extend(self._ranges)  # noqa: SLF001
        return other


def list_images(
    source: Path | str,
    grouping: Grouping | None = None,
    cache: PixelCache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Index:
    """List the images of a data set; what is at a URL is fetched, and an archive is unpacked, where it is not done yet.

    Args and errors are those of `load_data`.
    """
    if cache is None:
        if isinstance(source, str) and is_url(source):
            raise DataError(f"{public_url(source)!r} is fetched into a cache: give load_data a PixelCache")
        if archive_of(Path(source)):
            raise DataError(
                f"{str(source)!r} is unpacked into a cache: give load_data a PixelCache, or unpack it yourself"
            )
        return read_index(Path(source), grouping)
    base = None
    if isinstance(source, str) and is_url(source):
        base = source if is_list(source) else None if is_file(source) else prefix_of(source)
        source = fetch_source(source, cache.folder, on_progress)
    path = at_hand(Path(source), cache.folder, on_progress)
    return read_index(path, grouping, Fetched(cache.folder, base, on_progress))


def load_data(
    path: Path | str,
    *,
    valid: float = 0.2,
    test: float = 0.15,
    seed: int = 0,
    grouping: Grouping | None = None,
    cache: PixelCache | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Read the index and split it, images of the same bytes on one side; no image is decoded yet.

    Args:
        path: a folder with one folder a class, or with folders like train and test that hold the classes, or a CSV with
            the columns path,label[,group][,split], whose paths may be http(s) and s3 URLs; or a zip or tar file that
            holds one of these, which is unpacked into the cache. As a text also the URL of a CSV or an archive, or of a
            prefix of S3 that is such a folder, which is fetched into the cache.
        valid: share of the images to validate on, in (0, 1); not used where the data give this side.
        test: share of the images that are held out, in [0, 1); likewise.
        seed: of the split.
        grouping: which images belong together, and so on one side of the split; and how the data name its sides.
        cache: where the files of pixels are kept; None keeps the pixels in memory.
        on_progress: called with the files done and the files in all while images are fetched or unpacked.

    Raises:
        DataError: fractions out of range, or anything that `fetch_source`, `at_hand`, `read_index` and `split` refuse;
            URLs and archives where there is no cache.
    """
    check_fractions(valid, test)  # first, as listing many files takes long
    index = list_images(path, grouping, cache, on_progress)
    sides = split(index, valid=valid, test=test, seed=seed, copies=index.copies)
    return Data(index, sides, cache)
