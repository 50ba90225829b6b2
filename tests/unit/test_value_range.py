"""Pictures of more than 8 bits: one range of values for a data set decides what is black and white."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from trainer.data import load_data
from trainer.images.cache import PixelCache
from trainer.images.pixels import Reading, read_image
from trainer.images.value_range import ValueRange, ValueRanges, extent_of, find_ranges, ranges_from_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.unit

SIDE = 32
BITS_12 = ValueRange(0, 4095, "measured")


def _pictures(count: int = 60) -> list[NDArray[np.uint8]]:
    """Smooth grey pictures of different brightness, uint8 [SIDE, SIDE]."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        rough = Image.fromarray(random.integers(0, 256 - 2 * number, (5, 5), np.uint8))
        found.append(np.asarray(rough.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return found


def _write(folder: Path, change: Callable[[NDArray[np.uint8], int], NDArray], ending: str = "tif") -> list[Path]:
    """The pictures, each changed by a function that is given its number, as files of one data set."""
    files = []
    for number, picture in enumerate(_pictures()):
        files.append(folder / f"{number}.{ending}")
        Image.fromarray(change(picture, number)).save(files[-1])
    return files


def _grey(file: Path, ranges: ValueRanges) -> NDArray[np.int64]:
    return read_image(file, Reading(SIDE, "nearest", ranges))[..., 0].astype(np.int64)


def _assert_as_8_bits(files: list[Path], ranges: ValueRanges, but: int = 0) -> None:
    """Compare files with the pictures, all pixels but so many of each."""
    for file, picture in zip(files, _pictures(), strict=True):
        differences = np.sort(abs(_grey(file, ranges) - picture), axis=None)
        assert differences[: len(differences) - but].max() <= 1


@pytest.mark.parametrize(
    ("change", "ending", "high"),
    [
        (lambda picture, _: picture.astype(np.uint16) * 16, "png", 4095),
        (lambda picture, _: picture.astype(np.uint16) * 16, "tif", 4095),
        (lambda picture, _: picture.astype(np.uint16) * 4, "png", 1023),
        (lambda picture, _: picture.astype(np.uint16) * 64, "png", 16383),
        (lambda picture, _: picture.astype(np.uint16), "png", 255),
        (lambda picture, _: picture.astype(np.uint16), "pgm", 255),
        (lambda picture, _: picture.astype(np.uint16) * 257, "png", 65535),
        (lambda picture, _: picture.astype(np.int32), "tif", 255),
        (lambda picture, _: picture.astype(np.int32) * 16, "tif", 4095),
        (lambda picture, _: picture.astype(np.float32), "tif", 255),
        (lambda picture, _: picture.astype(np.float32) * 16, "tif", 4095),
        (lambda picture, _: picture.astype(np.float32) / 255, "tif", 1),
    ],
)
def test_pixels_are_those_of_8_bits(tmp_path, change, ending, high):
    """The same pictures in 8 bits and in any other number of bits, integers or floats, give the same pixels."""
    files = _write(tmp_path, change, ending)
    ranges = find_ranges(files)
    [found] = [each for each in (ranges.integers, ranges.floats) if each]
    assert found == ValueRange(0, high, "measured")
    _assert_as_8_bits(files, ranges)


def test_unsigned_integers_of_32_bits(tmp_path):
    """Values beyond those of signed integers are bright, as they are large."""
    files = []
    for number, picture in enumerate(_pictures()):
        files.append(tmp_path / f"{number}.tif")
        Image.frombytes("I", (SIDE, SIDE), (picture.astype(np.uint32) * 2**24).tobytes()).save(files[-1])
        signed, unsigned = (struct.pack("<HHII", 339, 3, 1, sample_format) for sample_format in (2, 1))
        content = files[-1].read_bytes()
        assert signed in content
        files[-1].write_bytes(content.replace(signed, unsigned))
    ranges = find_ranges(files)
    assert ranges.integers == ValueRange(0, 2.0**32 - 1, "measured")
    _assert_as_8_bits(files, ranges)


def _with_outliers(picture, number):
    values = picture.astype(np.float32) / 255
    if number % 2:
        values[3, 4] = 1.2
    if number % 3 == 0:
        values[20, 9] = -9999
    if number % 5 == 0:
        values[7, 7], values[7, 8] = np.nan, np.inf
    return values


def test_single_pixels_do_not_change_the_range(tmp_path):
    """Floats in 0 … 1 with single pixels of 1.2, of -9999 and without a number give the pixels of 8 bits elsewhere."""
    files = _write(tmp_path, _with_outliers)
    ranges = find_ranges(files)
    assert ranges.floats == ValueRange(0, 1, "measured")
    _assert_as_8_bits(files, ranges, but=4)
    assert _grey(files[0], ranges)[20, 9] == 0
    assert _grey(files[0], ranges)[7, 7:9].tolist() == [0, 255]
    assert _grey(files[1], ranges)[3, 4] == 255


@pytest.mark.parametrize("no_data", [-9999, 65535, -3.4e38, 1e20])
def test_regions_without_data_do_not_change_the_range(tmp_path, no_data):
    """A value far from all others, in any number of pixels, does not count: it stands for no data."""

    def change(picture, number):
        values = picture.astype(np.float32) / 255
        values[: number % 12] = no_data
        return values

    files = _write(tmp_path, change)
    assert find_ranges(files).floats == ValueRange(0, 1, "measured")


def test_a_declared_value_of_no_data_is_black_and_does_not_count(tmp_path):
    """The value that GDAL declares for pixels without data is black wherever it lies in the range."""
    files = []
    for number, picture in enumerate(_pictures()):
        values = picture.astype(np.float32) / 255
        values[:9] = 40
        tags = ImageFileDirectory_v2()
        tags[42113] = "40"
        files.append(tmp_path / f"{number}.tif")
        Image.fromarray(values).save(files[-1], tiffinfo=tags)
    ranges = find_ranges(files)
    assert ranges.floats == ValueRange(0, 1, "measured")
    assert (_grey(files[0], ranges)[:9] == 0).all()


def test_single_pictures_do_not_change_the_range(tmp_path):
    """One picture of another range among the rest, and pictures of one colour, do not count."""
    files = _write(tmp_path, lambda picture, _: picture.astype(np.uint16) * 16, "png")
    Image.fromarray(_pictures()[0].astype(np.uint16) * 257).save(files[0])
    Image.fromarray(np.full((SIDE, SIDE), 60_000, np.uint16)).save(files[1])
    assert find_ranges(files).integers == BITS_12


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda picture, _: picture.astype(np.int32) * 10 - 1024, (-1024, 1500)),
        (lambda picture, _: picture.astype(np.uint16) * 4 + 32768, (32768, 33700)),
        (lambda picture, _: (picture // 16).astype(np.int32), (0, 15)),
        (lambda picture, _: picture.astype(np.float32) / 255 * 6 - 3, (-3, 3)),
        (lambda picture, _: picture.astype(np.float32) / 255 * 1e-3, (0, 1e-3)),
    ],
    ids=["signed", "offset", "sixteen", "standardised", "faint"],
)
def test_other_values_are_stretched_from_the_lowest_to_the_highest(tmp_path, change, expected):
    """Negative values, and those that fill a small part of a usual range, are stretched, alike in all pictures."""
    files = _write(tmp_path, change)
    ranges = find_ranges(files)
    [found] = [each for each in (ranges.integers, ranges.floats) if each]
    span = expected[1] - expected[0]
    assert found.low == pytest.approx(expected[0], abs=0.05 * span)
    assert found.high == pytest.approx(expected[1], abs=0.1 * span)
    means = [(_grey(file, ranges).mean(), picture.mean()) for file, picture in zip(files, _pictures(), strict=True)]
    assert np.corrcoef(np.array(means).T)[0, 1] > 0.99


def test_8_bit_pictures_among_others_keep_their_own_range(tmp_path):
    """In a mixed data set pictures of 8 bits count from 0 to 255, integers and floats each have one range."""
    files = _write(tmp_path, lambda picture, _: picture.astype(np.uint16) * 16, "png")
    eight = _write(tmp_path, lambda picture, _: picture, "bmp")
    floats = _write(tmp_path, lambda picture, _: picture.astype(np.float32) / 255)
    ranges = find_ranges([*files, *eight, *floats])
    assert ranges == ValueRanges(BITS_12, ValueRange(0, 1, "measured"))
    for each in (files, eight, floats):
        _assert_as_8_bits(each, ranges)


def _png(colours: int, values: NDArray[np.uint16], significant: bytes = b"", interlace: int = 0) -> bytes:
    """A 16-bit PNG of this type of colours, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colours, 0, 0, interlace)
    more = chunk(b"sBIT", significant) if significant else b""
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def _tiff(values: NDArray[np.uint16], order: str, photometric: int, **tags: int) -> bytes:
    """A TIFF of 16-bit samples, in one strip behind its tags; `order` is "<" or ">"."""
    height, width, samples = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    # ImageWidth, ImageLength, BitsPerSample, Compression, PhotometricInterpretation, StripOffsets, SamplesPerPixel, …
    entries = {256: width, 257: height, 258: None, 259: 1, 262: photometric, 273: None, 277: samples, 278: height}
    entries |= {279: len(pixels)} | {int(name[3:]): value for name, value in tags.items()}
    bits_at = 8 + 2 + 12 * len(entries) + 4
    pixels_at = bits_at + 2 * samples
    found = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258 and samples > 1:
            found += struct.pack(f"{order}HHII", tag, 3, samples, bits_at)
        elif tag == 258:
            found += struct.pack(f"{order}HHIHH", tag, 3, 1, 16, 0)
        else:
            found += struct.pack(f"{order}HHII", tag, 4, 1, pixels_at if tag == 273 else value)
    return found + bytes(4) + struct.pack(f"{order}{samples}H", *[16] * samples) + pixels


def _colours(channels: int) -> NDArray[np.uint8]:
    return np.stack(_pictures()[:channels], axis=-1)


@pytest.mark.parametrize("kind", ["rgb png", "rgb tiff <", "rgb tiff >"])
def test_16_bit_colours(tmp_path, kind):
    """Colours of 12 bits kept in 16 give the pixels of 8 bits, in PNG and in TIFF of either byte order."""
    file, colours = tmp_path / "a", _colours(3)
    values = colours.astype(np.uint16) * 16
    file.write_bytes(_png(2, values) if "png" in kind else _tiff(values, kind[-1], 2))
    ranges = find_ranges([file])
    assert ranges.integers == BITS_12
    pixels = read_image(file, Reading(SIDE, ranges=ranges)).astype(int)
    np.testing.assert_allclose(pixels, colours.astype(int), atol=1)


def test_compressed_16_bit_colours(tmp_path):
    """A compressed TIFF of 16-bit colours is read like one that is not."""
    cv2 = pytest.importorskip("cv2", reason="comes with albumentations")
    colours = _colours(3)
    assert cv2.imwrite(str(tmp_path / "a.tif"), colours[..., ::-1].astype(np.uint16) * 16)
    ranges = ValueRanges(BITS_12)
    pixels = read_image(tmp_path / "a.tif", Reading(SIDE, ranges=ranges)).astype(int)
    np.testing.assert_allclose(pixels, colours.astype(int), atol=1)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("opaque", [4095, 65535])
def test_16_bit_alpha(tmp_path, colours, opaque):
    """16-bit transparency is laid on white, whether it was kept by the range of the colours or by all 16 bits."""
    values = _colours(colours + 1).astype(np.uint16) * 16
    values[..., -1] = opaque
    values[:5, :, -1] = 0
    file = tmp_path / "a.png"
    file.write_bytes(_png(4 if colours == 1 else 6, values))
    pixels = read_image(file, Reading(SIDE, ranges=ValueRanges(BITS_12))).astype(int)
    assert (pixels[:5] == 255).all()
    np.testing.assert_allclose(pixels[5:], np.broadcast_to(_colours(colours)[5:], (27, SIDE, 3)), atol=1)


def test_alpha_counts_from_0(tmp_path):
    """Half transparency is half also where the range of the colours begins above 0."""
    values = np.full((SIDE, SIDE, 4), 1000, np.uint16)
    values[..., -1] = 2048
    (tmp_path / "a.png").write_bytes(_png(6, values))
    pixels = read_image(tmp_path / "a.png", Reading(SIDE, ranges=ValueRanges(ValueRange(1000, 4095, "set"))))
    np.testing.assert_allclose(pixels.astype(int), 127, atol=1)


def test_16_bit_colours_of_all_16_bits_are_as_ever(tmp_path):
    """Colours that fill 16 bits give the same pixels, to the bit, with their range as without."""
    file = tmp_path / "a.png"
    file.write_bytes(_png(2, np.random.default_rng(0).integers(0, 65536, (SIDE, SIDE, 3)).astype(np.uint16)))
    ranges = find_ranges([file])
    assert ranges.integers == ValueRange(0, 65535, "measured")
    np.testing.assert_array_equal(
        read_image(file, Reading(SIDE, ranges=ranges)), read_image(file, Reading(SIDE, ranges=None))
    )


def test_16_bit_cmyk(tmp_path):
    """A CMYK TIFF of 16 bits becomes the RGB of the same inks in 8 bits, by their range."""
    inks = _colours(4)
    file = tmp_path / "a.tif"
    file.write_bytes(_tiff(inks.astype(np.uint16) * 16, "<", 5))
    expected = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")).astype(int)
    pixels = read_image(file, Reading(SIDE, ranges=ValueRanges(BITS_12))).astype(int)
    np.testing.assert_allclose(pixels, expected, atol=3)


def test_white_zero(tmp_path):
    """Where a TIFF of 16 bits says that its lowest value is white, it is."""
    picture = _pictures()[0]
    file = tmp_path / "a.tif"
    file.write_bytes(_tiff(picture[..., None].astype(np.uint16) * 16, "<", 0))
    np.testing.assert_allclose(_grey(file, ValueRanges(BITS_12)), 255 - picture.astype(int), atol=1)


@pytest.mark.parametrize("bits", [10, 12])
def test_what_all_files_declare_is_the_range(tmp_path, bits):
    """The significant bits of PNGs, and the highest value of TIFFs, are the range where all files declare the same."""
    dark = [picture // 4 for picture in _pictures()[:5]]
    for number, picture in enumerate(dark):
        (tmp_path / f"{number}.png").write_bytes(_png(0, picture.astype(np.uint16), bytes([bits])))
        tiff = _tiff(picture[..., None].astype(np.uint16), "<", 1, tag281=2**bits - 1)
        (tmp_path / f"{number}.tif").write_bytes(tiff)
    for ending in ("png", "tif"):
        files = sorted(tmp_path.glob(f"*.{ending}"))
        assert find_ranges(files).integers == ValueRange(0, 2**bits - 1, "declared")
    Image.fromarray(dark[0].astype(np.uint16)).save(tmp_path / "silent.png")
    assert find_ranges([*files, tmp_path / "silent.png"]).integers.source == "measured"


def test_a_declaration_that_the_values_do_not_keep_does_not_count(tmp_path):
    """PNGs of 12 significant bits that are shifted to the left, as the format wants it, count from 0 to 65535."""
    for number, picture in enumerate(_pictures()[:5]):
        (tmp_path / f"{number}.png").write_bytes(_png(0, picture.astype(np.uint16) * 256, b"\x0c"))
    assert find_ranges(sorted(tmp_path.glob("*.png"))).integers == ValueRange(0, 65535, "measured")


def test_pixels_declared_transparent_are_white_and_the_strips_are_one(tmp_path, monkeypatch):
    """A 16-bit grey value or colour that a PNG declares transparent is white, whatever the size of the strips."""
    values = np.full((SIDE, SIDE, 3), 100, np.uint16)
    values[:3] = (7, 8, 9)
    values[3:6] = (7, 8, 10)
    data = _png(2, values)
    at = data.index(b"IDAT") - 4
    key = b"tRNS" + struct.pack(">HHH", 7, 8, 9)
    file = tmp_path / "a.png"
    file.write_bytes(data[:at] + struct.pack(">I", 6) + key + struct.pack(">I", zlib.crc32(key)) + data[at:])
    reading = Reading(SIDE, "nearest", ValueRanges(ValueRange(0, 255, "set")))
    pixels = read_image(file, reading)
    assert (pixels[:3] == 255).all()
    assert pixels[3:6].max() == 10
    monkeypatch.setattr("trainer.images.samples.STRIP_SAMPLES", 500)
    np.testing.assert_array_equal(read_image(file, reading), pixels)


def test_pictures_of_8_bits_are_hardly_looked_at(tmp_path, monkeypatch):
    """Of what cannot have more than 8 bits only the first bytes are read, and broken files are passed over."""
    picture = Image.fromarray(_pictures()[0])
    for ending in ("png", "jpg", "gif", "bmp", "webp", "avif"):
        picture.convert("RGB").save(tmp_path / f"a.{ending}")
    monkeypatch.setattr("trainer.images.value_range.opened", None)
    calls = []
    assert find_ranges(sorted(tmp_path.iterdir()), on_progress=lambda *call: calls.append(call)) == ValueRanges()
    assert calls == []
    monkeypatch.undo()
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    picture.save(tmp_path / "8 bits.tif")
    assert extent_of(tmp_path / "broken.tif") is None
    assert extent_of(tmp_path / "8 bits.tif") is None
    assert extent_of(tmp_path / "gone.png") is None


def test_ranges_as_json():
    """Ranges become plain values and come back the same; what are no ranges is refused."""
    ranges = ValueRanges(BITS_12, ValueRange(-1.5, 2.25, "declared"))
    assert ranges_from_json(ranges.as_json()) == ranges
    assert ranges_from_json({}) == ValueRanges()
    for wrong in (3, [1], {"integers": {}}, {"integers": {"low": 1, "high": 1, "source": "set"}}, {"floats": [0, 1]}):
        with pytest.raises(ValueError, match="range"):
            ranges_from_json(wrong)


def test_data_find_their_ranges_and_keep_pixels_of_others_apart(tmp_path):
    """Images are read by the range of all of them; pixels by another range are another file of the cache."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        _write(tmp_path / "images" / name, lambda picture, _: picture.astype(np.uint16) * 16, "png")
        for number in range(2, 60):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(
                _png(0, (_pictures()[number] if name == "a" else _pictures()[number].T).astype(np.uint16) * 16)
            )
    data = load_data(tmp_path / "images", cache=PixelCache(tmp_path / "cache"))
    assert data.ranges() == ValueRanges(BITS_12)
    other = data.with_ranges(ValueRanges(ValueRange(0, 8190, "set")))
    old = data.with_ranges(None)
    pixels = [each.pixels(Reading(SIDE)).astype(int) for each in (data, other, old)]
    np.testing.assert_allclose(pixels[0], 2 * pixels[1], atol=2)
    assert pixels[2].max() == 16
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
    np.testing.assert_array_equal(old.pixels(Reading(SIDE)), data.with_ranges(ValueRanges()).pixels(Reading(SIDE)))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 3
