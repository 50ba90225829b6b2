"""The image operations of RandAugment and TrivialAugment, as transforms of albumentations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Counts = NDArray[np.int64]  # [256]
    Image = NDArray[np.uint8]  # [height, width, 3]
    Matrix = tuple[float, float, float, float]  # a, b, c, d of x' = a x + b y, y' = c x + d y

STRONGEST = 30  # highest magnitude; at 0 most operations change nothing
VALUES = np.arange(256)  # of a colour


@dataclass(frozen=True)
class Ranges:
    """How far each operation goes at the highest magnitude.

    Attributes:
        shear: pixels to the side for each pixel away from the centre.
        shift: share of the side.
        degrees: of rotation.
        blend: brightness, colour, contrast and sharpness are multiplied by 1 - blend or 1 + blend.
        bits: taken off the 8 of each colour.
    """

    shear: float
    shift: float
    degrees: float
    blend: float
    bits: int


# Cubuk et al. 2020, with the ranges of AutoAugment (Cubuk et al. 2019).
RANDAUGMENT = Ranges(shear=0.3, shift=150 / 331, degrees=30, blend=0.9, bits=4)
# Müller & Hutter 2021, their wide space. They shift by 32 pixels: as a share of ImageNet's 224 it fits any side.
TRIVIALAUGMENT = Ranges(shear=0.99, shift=32 / 224, degrees=135, blend=0.99, bits=6)


def make_image_ops(magnitude: int, ranges: Ranges) -> list[Any]:
    """The 14 image operations of RandAugment at a magnitude of 0 … 30, each twice: with either sign where it has one.

    They do what torchvision's do with bilinear interpolation, but that shears keep the centre where it is.
    """
    import albumentations as A  # noqa: N812

    strength = magnitude / STRONGEST
    bits_off = round(strength * ranges.bits)
    posterized = VALUES >> bits_off << bits_off
    solarized = np.where(255 * (STRONGEST - magnitude) / STRONGEST <= VALUES, 255 - VALUES, VALUES)
    # Tables, where albumentations differs from Pillow, which the papers used: its `AutoContrast` overlooks
    # 255, its `Equalize` is a bin off, its `Posterize` cannot keep 8 bits, and its `Solarize` compares fractions.
    unsigned = [
        A.NoOp(p=1.0),
        transform(partial(_by_histogram, make_table=_stretched)),
        transform(partial(_by_histogram, make_table=_equalized)),
        transform(partial(cv2.LUT, lut=posterized.astype(np.uint8))),
        transform(partial(cv2.LUT, lut=solarized.astype(np.uint8))),
    ]

    def blend(**factor: tuple[float, float]) -> Any:
        kept = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
        return A.ColorJitter(**(kept | factor), p=1.0)

    signed: list[Any] = []
    for sign in (-1, 1):
        shear, shift = sign * strength * ranges.shear, sign * strength * ranges.shift
        factor = 1 + sign * strength * ranges.blend
        signed += [
            transform(partial(warp, linear=(1, shear, 0, 1))),
            transform(partial(warp, linear=(1, 0, shear, 1))),
            transform(partial(warp, linear=(1, 0, 0, 1), shift=(shift, 0))),
            transform(partial(warp, linear=(1, 0, 0, 1), shift=(0, shift))),
            transform(partial(warp, linear=rotation(sign * strength * ranges.degrees))),
            blend(brightness=(factor, factor)),
            blend(contrast=(factor, factor)),
            blend(saturation=(factor, factor)),
            transform(partial(_sharpen, factor=factor)),
        ]
    return [*unsigned, *unsigned, *signed]


def rotation(degrees: float) -> Matrix:
    """The matrix that turns an image to the left, whose y goes down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos, sin, -sin, cos


def warp(image: Image, linear: Matrix, shift: tuple[float, float] = (0, 0)) -> Image:
    """Map each pixel around the image's centre: x' = a x + b y, y' = c x + d y, plus the shift as a share of the side.

    A shift is of whole pixels, towards 0. What comes from outside is black.
    """
    (a, b, c, d), (height, width) = linear, image.shape[:2]
    x, y = (width - 1) / 2, (height - 1) / 2
    matrix = np.array(
        [
            (a, b, x * (1 - a - b * (y / x)) + int(shift[0] * width)),
            (c, d, y * (1 - c * (x / y) - d) + int(shift[1] * height)),
        ]
    )
    # With a fourth channel OpenCV takes half the time.
    moved = cv2.warpAffine(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), matrix, (width, height))
    changed: Image = cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB)
    return changed


def _sharpen(image: Image, factor: float) -> Image:
    """Pillow's sharpness: 0 smooths, 1 keeps the image, above 1 the difference from the smooth one is added."""
    smooth = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = factor * np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]]) + (1 - factor) * smooth
    changed: Image = cv2.filter2D(image, -1, kernel)
    return changed


def _by_histogram(image: Image, make_table: Callable[[Counts], Counts]) -> Image:
    """Replace the values of each colour by the table [256] that comes of its counts [256]."""
    tables = np.empty((1, 256, 3), np.uint8)
    for colour in range(3):
        counts = cv2.calcHist([image], [colour], None, [256], [0, 256])
        tables[0, :, colour] = make_table(counts.ravel().astype(np.int64))
    changed: Image = cv2.LUT(image, tables)
    return changed


def _stretched(counts: Counts) -> Counts:
    """The lowest value that occurs becomes 0 and the highest 255, as in Pillow's `autocontrast`."""
    low, high = np.flatnonzero(counts)[[0, -1]]
    return VALUES if low == high else (VALUES - low).clip(0, high - low) * 255 // (high - low)


def _equalized(counts: Counts) -> Counts:
    """A value becomes the share of lower ones times 255, as in Pillow's `equalize`."""
    step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
    return VALUES if step == 0 else np.minimum((counts.cumsum() - counts + step // 2) // step, 255)


def transform(function: Callable[[Image], Image], p: float = 1.0) -> Any:
    """The function as a transform of albumentations, which hands each some parameters of its own."""
    import albumentations as A  # noqa: N812

    def apply(image: Image, **_parameters: Any) -> Image:
        return function(image)

    return A.Lambda(image=apply, p=p)
