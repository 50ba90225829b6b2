"""Decoded images: files of any kind -> uint8 RGB pixels of one size, in memory or in a file for all processes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

from trainer.errors import DataError
from trainer.image_size import ImageSize, shape_of
from trainer.images.cache import memory_mapped
from trainer.images.formats import TOLERANCE, UnreadableError, opened, taking_turns
from trainer.images.samples import FULL, eight_bits_by_itself, is_grey, kind_of, load_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.images.value_range import ValueRanges

    Box = tuple[float, float, float, float]  # left, top, right, bottom
    Progress = Callable[[int, int], None]  # (images done, images in all)

SHOWN_FAILURES = 5
MEAN_COLOUR = (124, 116, 104)  # of ImageNet, which timm pads with, too
CHUNK = 4096  # images that wait for a thread at a time: a million waiting ones would take gigabytes by themselves

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}  # all but the nearest with antialiasing

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation -> what undoes it
LYING = frozenset({5, 6, 7, 8})  # EXIF orientations whose picture is stored with width and height exchanged


@dataclass(frozen=True)
class Reading:
    """How files become pixels.

    Attributes:
        size: of the pixels, as a recipe has it.
        interpolation: a name in INTERPOLATIONS.
        ranges: which values of pictures of more than 8 bits are black and white. Where they are None, or do not have
            the kind of a picture's samples, each grey picture has its own: of integers 0 to 65535, of floats 0 to the
            first of 1, 255 and 65535 that holds them all, of other values from the lowest to the highest.
        resize: "stretch"; "crop" for the middle of a picture, as large as its proportions allow; "pad" for the whole
            picture with its proportions, in the middle of the mean colour of ImageNet.
    """

    size: ImageSize
    interpolation: str = "bicubic"
    ranges: ValueRanges | None = None
    resize: str = "stretch"

    @property
    def image_bytes(self) -> int:
        """How many bytes the pixels of one image take."""
        height, width = self.shape
        return height * width * 3

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the pixels."""
        return shape_of(self.size)


def read_image(picture: Path | Image.Image, reading: Reading) -> NDArray[np.uint8]:
    """Decode one file, or an image that is loaded, into uint8 [height, width, 3], RGB in 0 … 255.

    EXIF orientation is applied, transparency is laid on white, of several pages or frames the first is taken.

    While it is decoded a picture takes about 4 bytes of memory a pixel, 12 with transparency or in 16-bit colours; of
    those with more than 50 million pixels there is one at a time.

    Raises:
        DataError: the file is missing, empty, truncated, no image, or has more than 500 million pixels.
    """
    try:
        return _decode(picture, reading)
    except UnreadableError as failure:
        raise DataError(f"{str(picture)!r} cannot be read: {failure}; remove or replace it") from failure


def read_head(path: Path) -> tuple[tuple[int, int], int]:
    """Width and height in pixels of a picture as it is stored, and how many pages or frames its file has.

    Further pictures of a camera's JPEG (previews, depths) are no pages.

    Raises:
        DataError: the file is missing or empty, or its head is no image's.
    """
    try:
        with opened(path) as image:
            return image.size, 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except UnreadableError as failure:
        raise DataError(f"{str(path)!r} cannot be read: {failure}; remove or replace it") from failure


def build_pixels(
    paths: Sequence[Path],
    reading: Reading,
    file: Path | None,
    on_progress: Progress | None = None,
    limit_bytes: float | None = None,
) -> NDArray[np.uint8]:
    """Decode all images into a read-only uint8 [len(paths), height, width, 3], RGB, in the order of the paths.

    Without `file` the pixels are in memory. With it they are memory-mapped from that .npy file, which is written if it
    is not there yet, as `memory_mapped` describes; they may be more than the memory holds, now and when they are used.

    Args:
        paths: image files.
        reading: how they become pixels.
        file: where the pixels are kept.
        on_progress: called with the images done and the images in all, after each, and only where they are decoded.
        limit_bytes: the most that the files of pixels in the folder of `file` may have together.

    Raises:
        DataError: images that cannot be read (all are named, or the first five), or a file that cannot be written.
    """
    shape = (*reading.shape, 3)
    return _made(paths, shape, lambda path: _decode(path, reading), file, on_progress, limit_bytes)


def build_aspects(
    paths: Sequence[Path],
    file: Path | None,
    on_progress: Progress | None = None,
    limit_bytes: float | None = None,
) -> NDArray[np.float32]:
    """Width divided by height of all pictures as they are shown, read-only float32 [len(paths)].

    Arguments and errors are those of `build_pixels`.
    """
    kept = _made(paths, (1, 1, np.dtype(np.float32).itemsize), _aspect, file, on_progress, limit_bytes)
    return kept.reshape(len(paths), -1).view(np.float32)[:, 0]


def _made(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    make: Callable[[Path], NDArray[np.uint8]],
    file: Path | None,
    on_progress: Progress | None,
    limit_bytes: float | None,
) -> NDArray[np.uint8]:
    """What is made of each file, uint8 of this shape, together: read-only, memory-mapped where there is a file."""
    whole = (len(paths), *shape)
    if file is not None:
        return memory_mapped(file, whole, lambda put: _make_all(paths, make, put, on_progress), limit_bytes)
    pixels = np.empty(whole, np.uint8)
    _make_all(paths, make, pixels.__setitem__, on_progress)
    pixels.flags.writeable = False  # as if memory-mapped, so that a caller who writes fails in both cases
    return pixels


def _decode(picture: Path | Image.Image, reading: Reading) -> NDArray[np.uint8]:
    """Decode one picture, uint8 [height, width, 3]; UnreadableError names the cause."""
    height, width = reading.shape
    with opened(picture) as image:
        # A JPEG decodes straight into 1/2, 1/4 or 1/8. Twice the target leaves the rest to the better filter.
        draft = image.draft(None, (2 * max(height, width), 2 * max(height, width)))
        with taking_turns(image):
            whole = _interpolable(_loaded(image, picture, reading.ranges))
            orientation = _orientation(image)  # once loaded: a PNG may have its EXIF behind the pixels
            # Turned after the resize: the same pixels for less memory.
            target = (height, width) if orientation in LYING else (width, height)
            box, target = _framed(draft[1] if draft else (0, 0, *whole.size), target, reading.resize)
            small = whole.resize(target, INTERPOLATIONS[reading.interpolation], box)
        if small.mode == "RGBA":
            small = Image.alpha_composite(Image.new("RGBA", small.size, "white"), small)
        if orientation in UPRIGHT:
            small = small.transpose(UPRIGHT[orientation])
        if small.size == (width, height):
            return np.array(small.convert("RGB"))
        padded = np.full((height, width, 3), MEAN_COLOUR, np.uint8)
        top, left = (height - small.height) // 2, (width - small.width) // 2
        padded[top : top + small.height, left : left + small.width] = np.asarray(small.convert("RGB"))
        return padded


def _framed(box: Box, target: tuple[int, int], resize: str) -> tuple[Box, tuple[int, int]]:
    """Which part of a picture is resized to which width and height; for "pad" these are less than the target."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    across, down = target[0] / width, target[1] / height
    if resize == "crop":
        spare_across = max(0.0, width - target[0] / max(across, down))
        spare_down = max(0.0, height - target[1] / max(across, down))
        box = (left + spare_across / 2, top + spare_down / 2, right - spare_across / 2, bottom - spare_down / 2)
    elif resize == "pad":
        target = (max(1, round(width * min(across, down))), max(1, round(height * min(across, down))))
    return box, target


def _aspect(path: Path) -> NDArray[np.uint8]:
    """Width divided by height of a picture as it is shown, the bytes of a float32 as [1, 1, 4]."""
    with opened(path) as image:
        width, height = image.size
        lying = image.format != "TIFF" and _orientation(image) in LYING  # the size of a TIFF is that of the upright one
    return np.array([[[height / width if lying else width / height]]], np.float32).view(np.uint8)


def _loaded(image: Image.Image, picture: Path | Image.Image, ranges: ValueRanges | None) -> Image.Image:
    """The picture in 8 bits or fewer."""
    kind = kind_of(image)
    known = ranges.of(kind) if ranges and kind else None
    if known and (is_grey(image) or (known.low, known.high) != (0, FULL)):
        return load_samples(image, picture).eight_bits(known.low, known.high)
    image.load()  # of 16-bit colours the high bytes, as the range of all 16 bits has it
    return Image.fromarray(eight_bits_by_itself(image)) if is_grey(image) else image


def _interpolable(image: Image.Image) -> Image.Image:
    """The picture in a mode whose values can be averaged: L, RGB or RGBA, 8 bits."""
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in {"L", "RGB"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _orientation(image: Image.Image) -> int:
    """As EXIF has it; 1 is upright, as a TIFF is that is loaded."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 (broken EXIF is no reason to refuse the picture, and fails in all kinds of ways)
        return 1


def _make_all(
    paths: Sequence[Path],
    make: Callable[[Path], NDArray[np.uint8]],
    put: Callable[[int, NDArray[np.uint8]], None],
    on_progress: Progress | None,
) -> None:
    """Read all files on all cores (Pillow lets go of the interpreter's lock) and put what is made in its place."""

    def read(number: int) -> str | None:
        try:
            pixels = make(paths[number])
        except UnreadableError as failure:
            return f"{str(paths[number])!r}: {failure}"
        put(number, pixels)
        return None

    failures = []
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with TOLERANCE:
            chunks = (range(start, min(start + CHUNK, len(paths))) for start in range(0, len(paths), CHUNK))
            for done, failure in enumerate((failure for chunk in chunks for failure in pool.map(read, chunk)), 1):
                if failure is not None:
                    failures.append(failure)
                if on_progress is not None:
                    on_progress(done, len(paths))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the images that are still to come
    if failures:
        shown = ", ".join(failures[:SHOWN_FAILURES]) + (", …" if len(failures) > SHOWN_FAILURES else "")
        raise DataError(f"{len(failures)} of {len(paths)} images cannot be read: {shown}; remove or replace them")
