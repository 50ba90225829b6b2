"""Pictures that are nearly the same: a copy that was compressed again, resized, brightened, greyed or mirrored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.images.duplicates import Sets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

SIDE = 32  # pixels of a thumbnail
FREQUENCIES = 8  # of them squared, the lowest ones, are bits of a hash
# Measured on photographs of faces, about 100 pixels a side. Within these limits were, of 300 copies each: compressed
# again at JPEG quality 30 all, at 10 98 %; at half the size all but one; darkened to 60 % all; brightened by 30 %,
# which clips the light parts, 64 %; with 5 % cut off at each side none. Of 4,094 photographs 225 pairs, beside the
# exact ones, were within: of the 100 looked at each was one photograph. Of scikit-learn's 1,797 digits none were.
MAX_BITS = 8  # of 64 that may differ
MIN_CORRELATION = 0.98  # of the thumbnails, each channel about its own mean
MAX_RESIDUAL = 12.0  # root mean square, of 255, after the best brightness and contrast for all channels together
MIN_CONTRAST = 2.0  # standard deviation, of 255, below which a picture shows nothing that could be compared
GREY = 8  # of 255 between the channels of a pixel, at most, where a picture has no colour
MAX_IMAGES = 100_000  # all pairs are compared: half a minute on one core for so many, and four times for twice as many

CELLS = 2_000_000  # pairs of hashes at a time: 32 MB
PAIRS = 2048  # pairs of thumbnails at a time: 50 MB
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same, by their positions; mirrored: one is like the mirror image of the other."""

    first: int
    second: int
    mirrored: bool


def find_pairs(
    thumbnails: NDArray[np.uint8], labels: NDArray[np.int64], on_progress: Callable[[int, int], None] | None = None
) -> list[Pair]:
    """Find the images that are nearly the same, as the pairs that join them: N - 1 for a set of N.

    A pair has hashes that differ in few bits (a perceptual hash as pHash has it: which of the lowest frequencies of the
    grey picture are above their median; Zauner 2010, section 3.2.1), and thumbnails that agree pixel by pixel but for
    brightness and contrast. So several photographs of one person are no pair, nor is a picture with a part cut off.
    Mirror images are pairs within a class only: in two classes they may be what tells left from right.

    Args:
        thumbnails: uint8 [N, SIDE, SIDE, 3].
        labels: int64 [N].
        on_progress: called with the images that are compared and all of them.
    """
    hashes, mirrored = _hashes(thumbnails), _hashes(thumbnails[:, :, ::-1])
    flat = np.zeros(len(thumbnails), np.bool_)
    for start in range(0, len(thumbnails), PAIRS):  # a float for each value of all at once would be gigabytes
        flat[start : start + PAIRS] = thumbnails[start : start + PAIRS].std(axis=(1, 2, 3)) < MIN_CONTRAST
    sets = Sets(len(thumbnails))
    pairs = []
    for start, stop in _blocks(len(hashes)):
        for mirror, rows in ((False, hashes), (True, mirrored)):
            bits = np.bitwise_count(rows[start:stop, None] ^ hashes[None, start:])
            first, second = np.nonzero(bits <= MAX_BITS)
            first, second = first + start, second + start
            wanted = (first < second) & ~flat[first] & ~flat[second]
            if mirror:
                wanted &= labels[first] == labels[second]
            first, second = first[wanted], second[wanted]
            for piece in range(0, len(first), PAIRS):
                one, other = first[piece : piece + PAIRS], second[piece : piece + PAIRS]
                apart = sets.numbers(one) != sets.numbers(other)  # the rest is known to be the same
                one, other = one[apart], other[apart]
                seen = thumbnails[one]
                same = _agree(seen[:, :, ::-1] if mirror else seen, thumbnails[other])
                for a, b in zip(one[same].tolist(), other[same].tolist(), strict=True):
                    if sets.join(a, b):
                        pairs.append(Pair(a, b, mirror))
        if on_progress is not None:
            on_progress(stop, len(hashes))
    return pairs


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """Rows of the half matrix of pairs, so many at a time that memory stays bounded."""
    start = 0
    while start < count:
        stop = min(count, start + max(1, CELLS // (count - start)))
        yield start, stop
        start = stop


def _hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The perceptual hash of each thumbnail, uint64 [N]."""
    basis = np.cos(np.pi * np.outer(np.arange(FREQUENCIES), 2 * np.arange(SIDE) + 1) / (2 * SIDE)).astype(np.float32)
    basis[0] /= np.sqrt(2)  # DCT-II, orthogonal
    hashes = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), PAIRS):
        grey = thumbnails[start : start + PAIRS] @ LUMINANCE
        waves = (basis @ grey @ basis.T).reshape(len(grey), -1)
        above = waves > np.median(waves[:, 1:], axis=1, keepdims=True)  # the first one is the mean brightness
        hashes[start : start + PAIRS] = np.packbits(above, axis=1).view(np.uint64)[:, 0]
    return hashes


def _agree(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which thumbnails show the same, uint8 [n, SIDE, SIDE, 3] each -> bool [n]."""
    if not len(one):
        return np.zeros(0, np.bool_)
    a, b = (side.reshape(len(side), -1, 3).astype(np.float32) for side in (one, other))
    # A grey copy of a coloured picture has its brightness alone; two coloured pictures are compared by colour, too.
    greyed = _is_grey(a) != _is_grey(b)
    for side in (a, b):
        side[greyed] = (side[greyed] @ LUMINANCE)[..., None]
    structure, _ = _correlation(a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True))
    _, residual = _correlation(a - a.mean(axis=(1, 2), keepdims=True), b - b.mean(axis=(1, 2), keepdims=True))
    agreed: NDArray[np.bool_] = (structure >= MIN_CORRELATION) & (residual <= MAX_RESIDUAL)
    return agreed


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of centred values [n, pixels, 3]: their correlation, and what one leaves of the other when fitted to it, [n].

    The fit is to the side with less contrast, lest two pictures agree because one of them is nearly flat.
    """
    in_a, in_b = (a**2).mean(axis=(1, 2)), (b**2).mean(axis=(1, 2))
    correlation = (a * b).mean(axis=(1, 2)) / np.sqrt(in_a * in_b + 1e-12)
    residual = np.sqrt(np.minimum(in_a, in_b) * np.clip(1 - correlation * np.abs(correlation), 0, None))
    return correlation, residual


def _is_grey(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    grey: NDArray[np.bool_] = np.ptp(pixels, axis=2).max(axis=1) <= GREY
    return grey
