"""Pictures of more than 8 bits a sample: their values, and how a range of values becomes 8 bits."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, ImageFile

from trainer.images.formats import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Box = tuple[int, int, int, int]  # left, top, right, bottom

Kind = Literal["integers", "floats"]  # of a picture's samples
KINDS: tuple[Kind, ...] = get_args(Kind)

STRIP_SAMPLES = 4_000_000  # that become 8 bits at a time
FULL = 65535.0  # the highest value of 16 bits
GDAL_NODATA = 42113  # the tag of a TIFF by which GDAL names the value of pixels without data
# By the end of Pillow's name for 16-bit colours, of which it keeps the high bytes: the name that keeps the low ones.
LOW_BYTES = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def kind_of(image: Image.Image) -> Kind | None:
    """What the samples of a picture are that is opened and not loaded yet; None for 8 bits or fewer."""
    if image.mode == "F":
        return "floats"
    return "integers" if is_grey(image) or _colours(image) else None


def is_grey(image: Image.Image) -> bool:
    """Whether Pillow has all bits of a picture of more than 8 bits, which it has of grey ones alone."""
    return image.mode == "F" or image.mode.startswith("I")


@dataclass(frozen=True, eq=False)
class Samples:
    """The values of a picture of more than 8 bits, loaded.

    Attributes:
        image: grey as it is; of colours the high bytes; of grey with alpha all four bytes of a pixel.
        low_bytes: of colours.
        with_alpha: whether it is grey with alpha.
    """

    image: Image.Image
    low_bytes: Image.Image | None = None
    with_alpha: bool = False

    def strips(self) -> Iterator[tuple[Box, NDArray[np.float32]]]:
        """The values from top to bottom, float32 [height, width, channels], each with where it lies.

        One channel for grey, 2 for grey with alpha, else those of the picture's mode. Numbers on the way take no memory
        that grows with the picture.
        """
        for box in _strips(self.image):
            yield box, self._values(box)

    def _values(self, box: Box) -> NDArray[np.float32]:
        strip = np.asarray(self.image.crop(box))
        if self.low_bytes is not None:
            return _joined(strip, np.asarray(self.low_bytes.crop(box)))
        if self.with_alpha:
            return _joined(strip[..., ::2], strip[..., 1::2])
        if self.image.mode == "I" and _is_unsigned(self.image):
            strip = strip.view(np.uint32)
        return strip[..., None].astype(np.float32)

    @property
    def colours(self) -> int:
        """How many channels are not alpha."""
        return 1 if self.with_alpha else {"RGB": 3, "RGBA": 3, "CMYK": 4}.get(self.image.mode, 1)

    def no_data(self) -> float | None:
        """The value that the file declares for pixels without data."""
        text = _tags(self.image).get(GDAL_NODATA)
        try:
            return None if text is None else float(np.float32(str(text).strip("\0 ")))
        except ValueError:
            return None

    def eight_bits(self, low: float, high: float) -> Image.Image:
        """The picture in L, LA, RGB, RGBA or CMYK: `low` and what is below is 0, `high` and what is above 255.

        What is no number or no data is 0, a value that the file declares transparent is white. Alpha counts from 0.
        """
        grey = "LA" if self.with_alpha else "L"
        found = Image.new(grey if self.low_bytes is None else self.image.mode, self.image.size)
        key, no_data = self.image.info.get("transparency"), self.no_data()
        lows = np.full(len(found.getbands()), low, np.float32)
        if "A" in found.getbands():
            lows[-1] = 0
        factors = 255 / np.maximum(high - lows, np.float32(1e-30))
        for box, values in self.strips():
            clear = None if key is None else (values == key).all(axis=-1)
            lost = np.isnan(values) if no_data is None else np.isnan(values) | (values == no_data)
            eight = np.rint((np.clip(np.where(lost, lows, values), lows, high) - lows) * factors).astype(np.uint8)
            if _is_white_zero(self.image):
                eight = 255 - eight
            if clear is not None:
                eight[clear] = 255
            found.paste(Image.fromarray(eight[..., 0] if len(lows) == 1 else eight, found.mode), box)
        return found


def load_samples(image: Image.Image, picture: Path | Image.Image) -> Samples:
    """The values of a picture for which `kind_of` is not None, as `opened` gives it, a file's not loaded yet."""
    name = _colours(image)
    if name is None:
        image.load()
        return Samples(image)
    if name.startswith("LA"):
        _load_as(image, "RGBA")
        return Samples(image, with_alpha=True)
    image.load()
    with opened(picture) as again:
        _load_as(again, name[:-1] + LOW_BYTES[name[-1]])
    return Samples(image, again)


def declared_range(image: Image.Image, path: Path) -> tuple[float, float] | None:
    """The range that the file says its values have, where that is less than all values of its type.

    From the number of significant bits of a PNG (sBIT), or the lowest and highest value and the bits of a TIFF.
    """
    if image.format == "PNG":
        bits = _significant_bits(path)
        return (0.0, 2.0**bits - 1) if bits and bits < 16 else None
    tags = _tags(image)
    low, high = _number(tags.get(280, tags.get(340))), _number(tags.get(281, tags.get(341)))
    if high is None or high >= FULL:
        bits = int(_number(tags.get(ExifTags.Base.BitsPerSample)) or 16)
        return (0.0, 2.0**bits - 1) if bits < 16 else None
    return (low or 0.0, high) if high > (low or 0.0) else None


def eight_bits_by_itself(image: Image.Image) -> NDArray[np.uint8]:
    """Grey values in 8 bits, by a range that is chosen for this picture alone, as studies did that keep no range."""
    boxes = list(_strips(image))
    ranges = [(float(values.min()), float(values.max())) for values in (_finite_grey(image, box) for box in boxes)]
    low, high = min(lowest for lowest, _ in ranges), max(highest for _, highest in ranges)
    limits = (1.0, 255.0, FULL) if image.mode == "F" else (FULL,)
    fitting = next((limit for limit in limits if low >= 0 and high <= limit), None)
    if fitting is not None:
        low, high = 0.0, fitting
    found = np.empty((image.height, image.width), np.uint8)
    for box in boxes:
        scaled: NDArray[np.float32] = (_finite_grey(image, box) - low) * (255 / max(high - low, 1e-30))
        found[box[1] : box[3]] = np.rint(scaled)
    return found


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (high.astype(np.uint16) << 8 | low).astype(np.float32)


def _strips(image: Image.Image) -> Iterator[Box]:
    """Parts of a picture from top to bottom, of about STRIP_SAMPLES each."""
    rows = max(1, STRIP_SAMPLES // (image.width * len(image.getbands())))
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _finite_grey(image: Image.Image, box: Box) -> NDArray[np.float32]:
    """The values of a part of a picture as float32 [height, width], what is transparent white."""
    values = np.nan_to_num(np.asarray(image.crop(box), np.float32), posinf=0, neginf=0)
    key = image.info.get("transparency")
    return np.where(values == key, np.float32(FULL), values) if isinstance(key, int) else values


def _colours(image: Image.Image) -> str | None:
    """Pillow's name for the 16-bit colours of a file that is not loaded yet; None where it has none, or others."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    arguments = tiles[0].args if tiles else None
    name = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    known = isinstance(name, str) and name[:-1] in ("RGB;16", "RGBA;16", "RGBX;16", "CMYK;16", "LA;16")
    return str(name) if known else None


def _load_as(image: Image.Image, name: str) -> None:
    """Load a picture whose bytes are to be taken as Pillow's name says."""
    assert isinstance(image, ImageFile.ImageFile)
    image.tile = [
        tile._replace(args=name if isinstance(tile.args, str) else (name, *(tile.args or ())[1:]))
        for tile in image.tile
    ]
    image.load()


def _tags(image: Image.Image) -> dict[int, object]:
    return getattr(image, "tag_v2", {})


def _number(value: object) -> float | None:
    """A number of a tag; of several the highest."""
    values = value if isinstance(value, tuple) else (value,)
    numbers = [float(each) for each in values if isinstance(each, int | float)]
    return max(numbers, default=None)


def _is_unsigned(image: Image.Image) -> bool:
    tags = _tags(image)
    return _number(tags.get(ExifTags.Base.BitsPerSample)) == 32 and _number(tags.get(339, 1)) == 1


def _is_white_zero(image: Image.Image) -> bool:
    """Whether the lowest value is white, which Pillow heeds for 8 bits alone."""
    return _number(_tags(image).get(ExifTags.Base.PhotometricInterpretation)) == 0


def _significant_bits(path: Path) -> int | None:
    """What a PNG declares in its chunk sBIT, which comes before the pixels; alpha does not count."""
    with path.open("rb") as file:
        file.seek(25)
        colours = {0: 1, 2: 3, 4: 1, 6: 3}.get(ord(file.read(1)), 0)
        file.seek(33)
        while (head := file.read(8)) and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT":
                return max(file.read(length)[:colours], default=None)
            file.seek(length + 4, 1)
    return None
