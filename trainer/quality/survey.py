"""One look at every image of an index: whether it decodes, how large it is, what it looks like when small."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import DataError
from trainer.images.pixels import read_head, read_image
from trainer.quality.near_duplicates import MAX_IMAGES, SIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trainer.images.index import Index

CHUNK = 4096  # images that wait for a thread at a time


@dataclass(frozen=True, eq=False)
class Survey:
    """What was seen, in the order of the index.

    Attributes:
        sizes: int64 [N, 2], width and height in pixels as stored; 0 where the image is broken.
        pages: int64 [N], pages or frames of its file; 0 where the image is broken.
        thumbnails: uint8 [N, SIDE, SIDE, 3], black where the image is broken; None of more images than are compared.
        broken: position of each image that cannot be decoded -> why.
    """

    sizes: NDArray[np.int64]
    pages: NDArray[np.int64]
    thumbnails: NDArray[np.uint8] | None
    broken: dict[int, str]


def look_at(index: Index, on_progress: Callable[[int, int], None] | None = None) -> Survey:
    """Decode each image once, on all cores; broken ones stop nothing.

    Takes 3 KB of memory an image for the thumbnails, and what is being decoded.
    """
    count = len(index.paths)
    sizes, pages = np.zeros((count, 2), np.int64), np.zeros(count, np.int64)
    thumbnails = np.zeros((count, SIDE, SIDE, 3), np.uint8) if count <= MAX_IMAGES else None

    def look(number: int) -> str | None:
        file = index.root / index.paths[number]
        try:
            pixels = read_image(file, SIDE)
            sizes[number], pages[number] = read_head(file)
        except DataError as error:
            return str(error.__cause__ or error)  # the cause alone, where the path is told beside it
        if thumbnails is not None:
            thumbnails[number] = pixels
        return None

    broken = {}
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for start in range(0, count, CHUNK):
            chunk = range(start, min(start + CHUNK, count))
            for number, cause in zip(chunk, pool.map(look, chunk), strict=True):
                if cause is not None:
                    broken[number] = cause
                if on_progress is not None:
                    on_progress(number + 1, count)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the images that are still to come
    return Survey(sizes, pages, thumbnails, broken)
