"""Decoding of images of all kinds, and the file of pixels that processes share."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import zlib
from collections import namedtuple
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL.PngImagePlugin import PngInfo

from trainer.errors import DataError
from trainer.images import formats
from trainer.images import pixels as pixels_module
from trainer.images.pixels import INTERPOLATIONS, Reading, build_aspects, build_pixels, read_image

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.unit

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def _save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def _noise(size: tuple[int, int] = (40, 30), seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))


def _noisy_files(folder: Path, count: int) -> list[Path]:
    return [_save(folder / f"{number}.png", _noise(seed=number)) for number in range(count)]


def _palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    image.putdata([0, 1, 2, 1])
    image.putpalette([*BLACK, *RED, 0, 255, 0])
    return image


def _assert_quarters(pixels, expected) -> None:
    """Compare a 2x2 picture shown at 2x2 with four colours, row by row."""
    np.testing.assert_allclose(pixels.reshape(4, 3).astype(int), np.array(expected), atol=2)


def test_rgb_is_returned_as_it_is(tmp_path):
    """A picture that has the wanted size already keeps every pixel, as uint8 RGB."""
    image = _noise((16, 16))
    pixels = read_image(_save(tmp_path / "a.png", image), Reading(16))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image))


@pytest.mark.parametrize("way", ["nearest", "bicubic"])
@pytest.mark.parametrize(
    ("size", "box"), [(20, (10, 0, 30, 20)), ("10x15", (5, 0, 35, 20)), ("10x30", (0, 20 / 6, 40, 100 / 6))]
)
def test_crop_takes_the_middle_of_a_picture(tmp_path, size, box, way):
    """Cropped, a picture keeps its proportions: the largest part of its middle that has those of the image."""
    image = _noise((40, 20))
    pixels = read_image(_save(tmp_path / "a.png", image), Reading(size, way, resize="crop"))
    height, width = Reading(size).shape
    np.testing.assert_array_equal(pixels, np.asarray(image.resize((width, height), INTERPOLATIONS[way], box)))


@pytest.mark.parametrize(
    ("size", "inside"), [(20, (5, 0, 15, 20)), ("10x30", (0, 5, 10, 25)), ("40x20", (15, 0, 25, 20))]
)
def test_pad_shows_all_of_a_picture_amid_one_colour(tmp_path, size, inside):
    """Padded, a picture keeps its proportions and is seen whole, with the mean colour of ImageNet on two sides."""
    image = _noise((40, 20))
    pixels = read_image(_save(tmp_path / "a.png", image), Reading(size, "bilinear", resize="pad"))
    top, left, bottom, right = inside
    expected = np.full((*Reading(size).shape, 3), (124, 116, 104), np.uint8)
    small = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    expected[top:bottom, left:right] = np.asarray(small)
    np.testing.assert_array_equal(pixels, expected)


def test_a_rectangle_is_stretched_to(tmp_path):
    """Stretched to a rectangle a picture fills it, height before width."""
    image = _noise((40, 20))
    pixels = read_image(_save(tmp_path / "a.png", image), Reading("30x10"))
    np.testing.assert_array_equal(pixels, np.asarray(image.resize((10, 30), Image.Resampling.BICUBIC)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_a_turned_picture_is_cropped_and_padded_as_it_is_shown(tmp_path, orientation, ending):
    """A picture whose EXIF turns it is resized in every way as the upright one is, and has its proportions."""
    upright = Image.new("RGB", (40, 24), RED)
    upright.paste(WHITE, (0, 0, 20, 24))
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = upright.transpose(pixels_module.UPRIGHT[orientation]) if orientation > 1 else upright
    if orientation in (6, 8):  # whose turns undo each other, where all others undo themselves
        stored = upright.transpose(pixels_module.UPRIGHT[14 - orientation])
    turned = _save(
        tmp_path / f"turned.{ending}",
        stored,
        exif=exif,
        **({"quality": 100, "subsampling": 0} if ending == "jpg" else {}),
    )
    plain = _save(tmp_path / "plain.png", upright)
    for resize in ("stretch", "crop", "pad"):
        for size in (16, "12x32", "32x12"):
            reading = Reading(size, "box", resize=resize)
            np.testing.assert_allclose(read_image(turned, reading).astype(int), read_image(plain, reading), atol=6)
    np.testing.assert_allclose(build_aspects([turned, plain], None), 40 / 24, rtol=1e-6)


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_a_large_jpeg_is_cropped_and_padded_where_it_should_be(tmp_path, resize):
    """A JPEG that is decoded straight into a part of its size shows the same as one that is decoded whole."""
    image = _noise((30, 20)).resize((1200, 800), Image.Resampling.BICUBIC)
    reading = Reading(40, resize=resize)
    jpeg = read_image(_save(tmp_path / "a.jpg", image, quality=95), reading).astype(int)
    assert abs(jpeg - read_image(_save(tmp_path / "a.png", image), reading)).mean() < 2


def test_aspects_are_kept_in_a_file(tmp_path):
    """Width by height of each picture is read once and then taken from the file."""
    paths = [_save(tmp_path / f"{width}.png", _noise((width, 20))) for width in (10, 20, 50)]
    file = tmp_path / "cache" / "aspects.npy"
    assert build_aspects(paths, file).tolist() == [0.5, 1.0, 2.5]
    for path in paths:
        path.unlink()
    assert build_aspects(paths, file).tolist() == [0.5, 1.0, 2.5]


def test_a_picture_is_stretched_to_the_square(tmp_path):
    """All of a wide picture is in the square: its left half stays left and its right half right."""
    image = Image.new("RGB", (100, 20), RED)
    image.paste(WHITE, (50, 0, 100, 20))
    pixels = read_image(_save(tmp_path / "a.png", image), Reading(10))
    assert pixels.shape == (10, 10, 3)
    assert tuple(pixels[5, 1]) == RED
    assert tuple(pixels[5, 8]) == WHITE


def test_shrinking_is_antialiased(tmp_path):
    """Fine black and white stripes shrink to grey instead of one of the two."""
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    pixels = read_image(_save(tmp_path / "a.png", Image.fromarray(stripes)), Reading(8))
    assert abs(pixels[2:-2, 2:-2].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_interpolation(tmp_path, interpolation):
    """Each interpolation gives what Pillow gives by the same name, alone and among others."""
    image = _noise((50, 67))
    path = _save(tmp_path / "a.png", image)
    expected = np.asarray(image.resize((24, 24), Image.Resampling[interpolation.upper()]))
    np.testing.assert_array_equal(read_image(path, Reading(24, interpolation)), expected)
    np.testing.assert_array_equal(build_pixels([path], Reading(24, interpolation), None)[0], expected)


def test_big_jpeg_is_as_good_as_png(tmp_path):
    """A JPEG decoded at a reduced scale shows the same picture as the PNG that was decoded in full."""
    image = _noise((50, 67)).resize((757, 1003), Image.Resampling.BICUBIC)
    jpeg = read_image(_save(tmp_path / "a.jpg", image, quality=95), Reading(64))
    png = read_image(_save(tmp_path / "a.png", image), Reading(64))
    assert abs(jpeg.astype(int) - png.astype(int)).max() <= 6


def test_cmyk_jpeg(tmp_path):
    """A CMYK JPEG becomes RGB."""
    path = _save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))
    np.testing.assert_allclose(read_image(path, Reading(4)).reshape(-1, 3).astype(int), [RED] * 16, atol=3)


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled(tmp_path, ending):
    """16-bit grey is scaled from 0 … 65535 to 0 … 255 and not cut off at 255."""
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    pixels = read_image(_save(tmp_path / f"a.{ending}", Image.fromarray(values)), Reading(2))
    np.testing.assert_array_equal(pixels[..., 0], [[0, 100], [200, 255]])
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_big_endian_16_bit_tiff(tmp_path):
    """A TIFF with the high byte first has the same grey values as one with the low byte first."""
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], ">u2")
    path = _save(tmp_path / "a.tif", Image.frombytes("I;16B", (2, 2), values.tobytes()))
    np.testing.assert_array_equal(read_image(path, Reading(2))[..., 1], [[0, 100], [200, 255]])


def test_transparent_16_bit_grey(tmp_path):
    """The grey value that a 16-bit PNG declares transparent becomes white."""
    values = np.array([[0, 1000], [1000, 65535]], np.uint16)
    path = _save(tmp_path / "a.png", Image.fromarray(values), transparency=1000)
    np.testing.assert_array_equal(read_image(path, Reading(2))[..., 0], [[0, 255], [255, 255]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 25700], [51400, 65535]], np.int32), [[0, 100], [200, 255]]),
        (np.array([[-100, 0], [0, 100]], np.int32), [[0, 128], [128, 255]]),
        (np.array([[0, 0.4], [0.8, 1]], np.float32), [[0, 102], [204, 255]]),
        (np.array([[0, 100], [200, 255]], np.float32), [[0, 100], [200, 255]]),
        (np.array([[0, 25700], [51400, 65535]], np.float32), [[0, 100], [200, 255]]),
        (np.array([[-1e6, 0], [0, 1e6]], np.float32), [[0, 128], [128, 255]]),
        (np.array([[np.nan, 0.4], [np.inf, 1]], np.float32), [[0, 102], [0, 255]]),
        (np.full((2, 2), -3, np.float32), [[0, 0], [0, 0]]),
    ],
)
def test_32_bit_grey(tmp_path, values, expected):
    """32-bit grey counts from 0 to the first usual limit that holds it, or else from its lowest to its highest."""
    pixels = read_image(_save(tmp_path / "a.tif", Image.fromarray(values)), Reading(2))
    np.testing.assert_allclose(pixels[..., 0].astype(int), expected, atol=1)


def test_palette(tmp_path):
    """A palette becomes its colours."""
    _assert_quarters(
        read_image(_save(tmp_path / "a.png", _palette_image()), Reading(2)), [BLACK, RED, (0, 255, 0), RED]
    )


@pytest.mark.parametrize(("ending", "transparency"), [("png", bytes([255, 0, 255])), ("png", 1), ("gif", 1)])
def test_palette_with_transparency(tmp_path, ending, transparency):
    """What a palette declares transparent becomes white, without a warning."""
    path = _save(tmp_path / f"a.{ending}", _palette_image(), transparency=transparency)
    _assert_quarters(read_image(path, Reading(2)), [BLACK, WHITE, (0, 255, 0), WHITE])


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("L", (4, 4), 77), {}, (77, 77, 77)),
        (Image.new("LA", (4, 4), (0, 128)), {}, (127, 127, 127)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), {}, WHITE),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 51)), {}, (255, 204, 204)),
        (Image.new("1", (4, 4), 1), {}, WHITE),
        (Image.new("1", (4, 4), 0), {"transparency": 0}, WHITE),
        (Image.new("RGB", (4, 4), RED), {"transparency": RED}, WHITE),
    ],
    ids=["grey", "grey-alpha", "clear", "alpha", "1-bit", "1-bit-key", "colour-key"],
)
def test_modes(tmp_path, image, options, expected):
    """Grey and 1-bit pictures become RGB, and transparency is laid on white."""
    pixels = read_image(_save(tmp_path / "a.png", image, **options), Reading(4))
    np.testing.assert_allclose(pixels.reshape(-1, 3).astype(int), [expected] * 16, atol=1)


def test_hidden_colours_do_not_bleed(tmp_path):
    """The colour of fully transparent pixels leaves no trace when the picture shrinks."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 32, 64))
    pixels = read_image(_save(tmp_path / "a.png", image), Reading(9))
    assert (pixels[..., 0] >= 253).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "avif"])
def test_exif_orientation(tmp_path, orientation, ending):
    """Each of the eight EXIF orientations is undone, in every format that knows them."""
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20, :20] = RED
    upright[20:, :20] = 255
    undo = {  # where the stored picture must be turned so that it stands upright, by numpy alone
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 3),
    }[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if ending == "webp" else {"quality": 100} if ending in ("jpg", "avif") else {}
    path = _save(tmp_path / f"a.{ending}", Image.fromarray(np.ascontiguousarray(undo(upright))), exif=exif, **options)
    np.testing.assert_allclose(read_image(path, Reading(40)).astype(int)[5::30, 5::30], upright[5::30, 5::30], atol=12)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12"]
)
def test_broken_exif_is_forgiven(tmp_path, exif):
    """A picture with broken EXIF data is read as it stands, without a warning."""
    path = _save(tmp_path / "a.jpg", Image.new("RGB", (8, 8), RED), exif=exif)
    assert read_image(path, Reading(4))[0, 0, 0] > 250


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_tiny_and_long_pictures(tmp_path, size, ending, resize):
    """A picture of one pixel, or 5,000 times as long as wide, fills the square, or a line of it where it is padded."""
    path = _save(tmp_path / f"a.{ending}", Image.new("RGB", size, (10, 200, 30)))
    pixels = read_image(path, Reading(6, resize=resize))
    if resize == "pad" and size != (1, 1):
        filled = pixels[..., 1] > 150
        assert (filled.sum(), filled.any(axis=0).sum() * filled.any(axis=1).sum()) == (6, 6)
        return
    np.testing.assert_allclose(pixels.reshape(-1, 3).astype(int), [(10, 200, 30)] * 36, atol=3)


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path, ending):
    """Of an animation the first frame is read."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    options = {"lossless": True} if ending == "webp" else {}
    path = _save(tmp_path / f"a.{ending}", frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 2
    np.testing.assert_array_equal(read_image(path, Reading(2)).reshape(-1, 3), [RED] * 4)


def test_the_name_does_not_decide_the_format(tmp_path):
    """A PNG under the name of a JPEG is read, and so are names with spaces, Korean letters and upper-case endings."""
    folder = tmp_path / "마스크 착용"
    folder.mkdir()
    path = folder / "홍길동 1.JPG"
    Image.new("RGB", (4, 4), RED).save(path, format="PNG")
    assert tuple(read_image(path, Reading(2))[0, 0]) == RED


@pytest.mark.parametrize("name", ["a.avif", "a.jp2", "a.j2k", "avif.jpg", "jpeg2000.jpg"])
def test_avif_and_jpeg_2000(tmp_path, name):
    """AVIF and JPEG 2000 are read, and so they are under the name of a JPEG."""
    image = _noise((40, 30)).resize((16, 16), Image.Resampling.BICUBIC)
    kind = {"avif.jpg": "AVIF", "jpeg2000.jpg": "JPEG2000"}.get(name)
    options = {"quality": 100, "subsampling": "4:4:4"} if "avif" in name else {"irreversible": False}
    pixels = read_image(_save(tmp_path / name, image, format=kind, **options), Reading(16))
    np.testing.assert_allclose(pixels.astype(int), np.asarray(image).astype(int), atol=4)


def test_jpeg_2000_of_12_bits(tmp_path):
    """A JPEG 2000 of more than 8 bits becomes grey levels from 0 to 255."""
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = read_image(_save(tmp_path / "a.jp2", Image.fromarray(values), irreversible=False), Reading(64))
    np.testing.assert_allclose(pixels[..., 0].astype(int), np.rint(values / 257), atol=1)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_heic_names_its_format_and_the_package_that_reads_it(tmp_path, monkeypatch):
    """A HEIC picture without the package that reads it is refused in a line with the format and the package."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    monkeypatch.setattr(formats, "_readable", formats._readable.__wrapped__)
    path = tmp_path / "a.jpg"
    path.write_bytes(HEIC)
    with pytest.raises(DataError, match=r"it is HEIC, which wants the package pillow-heif: `pip install pillow-heif`"):
        read_image(path, Reading(8))


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    """A HEIC picture is read by the package pillow-heif."""
    heif = pytest.importorskip("pillow_heif", reason="an optional package, which the constraints do not name")
    image = Image.new("RGB", (64, 64), RED)
    image.paste((0, 0, 255), (0, 0, 32, 32))
    heif.from_pillow(image).save(tmp_path / "a.heic", quality=90)
    pixels = read_image(tmp_path / "a.heic", Reading(64))
    np.testing.assert_allclose(pixels[[8, 8, 56], [8, 56, 8]].astype(int), [(0, 0, 255), RED, RED], atol=8)


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "iCCP", "tEXt"])
def test_a_png_with_long_texts(tmp_path, kind):
    """A good PNG is read however long its texts and its colour profile are, as long as they fit into the memory."""
    image, info, profile = _noise((16, 16)), PngInfo(), None
    if kind == "iCCP":
        profile = bytes(3_000_000)
    elif kind == "iTXt":
        info.add_itxt("notes", "a" * 3_000_000, zip=True)
    else:
        for number in range(30 if kind == "tEXt" else 1):  # of several texts the sum has a limit, too
            info.add_text(f"notes{number}", "a" * 3_000_000, zip=kind == "zTXt")
    path = _save(tmp_path / "a.png", image, pnginfo=info, icc_profile=profile)
    np.testing.assert_array_equal(read_image(path, Reading(16)), np.asarray(image))
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20


def test_a_bomb_of_text(tmp_path):
    """A PNG whose text would fill the memory is refused in a line with the limit."""
    info = PngInfo()
    info.add_text("notes", "a" * (formats.MAX_TEXT_BYTES + 1), zip=True)
    path = _save(tmp_path / "a.png", _noise((4, 4)), pnginfo=info)
    with pytest.raises(DataError, match="its texts or its colour profile have more than 64 MiB"):
        read_image(path, Reading(4))


def test_a_link_is_followed(tmp_path):
    """A symbolic link is read as the file that it leads to."""
    (tmp_path / "link.png").symlink_to(_save(tmp_path / "a.png", Image.new("RGB", (4, 4), RED)))
    assert tuple(read_image(tmp_path / "link.png", Reading(2))[0, 0]) == RED


def test_a_picture_that_pillow_would_refuse(tmp_path):
    """A picture of 182 megapixels is read without a warning, and Pillow's own limit is as it was."""
    path = _save(tmp_path / "a.png", Image.new("1", (14_000, 13_000), 1))
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    assert 2 * limit < 14_000 * 13_000
    assert (read_image(path, Reading(8)) == 255).all()
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_strips_do_not_change_a_bit(tmp_path, monkeypatch, mode):
    """A picture of many grey levels that is brought to 8 bits in strips is what it is when taken as a whole."""
    kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
    values = (np.random.default_rng(0).random((50, 40)) * 60_000 - (30_000 if mode == "I" else 0)).astype(kind)
    path = _save(tmp_path / "a.tif", Image.fromarray(values))
    whole = read_image(path, Reading(30))
    monkeypatch.setattr("trainer.images.samples.STRIP_SAMPLES", 130)
    np.testing.assert_array_equal(read_image(path, Reading(30)), whole)
    exact = values.astype(np.float32)
    low, high = (exact.min(), exact.max()) if mode == "I" else (np.float32(0), np.float32(65535))
    grey = np.rint((exact - low) * (255 / float(high - low))).astype(np.uint8)
    expected = Image.fromarray(grey).resize((30, 30), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(whole[:, :, 0], np.asarray(expected))


def test_a_large_16_bit_picture_takes_little_memory(tmp_path):
    """The numbers on the way from 16 to 8 bits take less than 4 bytes a pixel, however large the picture is."""
    path = _save(tmp_path / "a.png", Image.fromarray(np.zeros((6_000, 6_000), np.uint16)))
    tracemalloc.start()
    try:
        assert (read_image(path, Reading(8)) == 0).all()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 36_000_000


def _png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def _float_rgb_tiff() -> bytes:
    """A sound TIFF of one pixel of three 32-bit floats, which Pillow does not read."""
    tags = {256: 1, 257: 1, 258: 32, 259: 1, 262: 2, 273: 8, 277: 3, 278: 1, 279: 12, 339: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 20) + bytes(12) + struct.pack("<H", len(tags)) + entries + bytes(4)


def _encoded(ending: str) -> bytes:
    buffer = io.BytesIO()
    formats = {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000"}
    _noise((300, 300)).save(buffer, format=formats.get(ending, ending))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "the file is empty"),
        (b"hello", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "it is PostScript, which is not read; save it as PNG"),
        (_png_header(30_000, 30_000), "more than 500 million pixels"),
        (_png_header(0, 0), "it is PNG of a kind that is not read, or its first bytes are broken"),
        (b"\xff\xd8\xff\xe0", ""),
        (b"8BPS" + bytes(200), "it is PSD, which is not read; save it as PNG"),
        (bytes(128) + b"DICM" + bytes(200), "it is DICOM, which is not read; save it as PNG"),
        (_float_rgb_tiff(), "it is TIFF of a kind that is not read"),
    ],
    ids=["empty", "text", "postscript", "bomb", "no pixels", "bare start", "psd", "dicom", "float colour"],
)
def test_bad_files(tmp_path, content, cause):
    """A file that is empty, no image or too large is refused in one line with its name, the cause and what to do."""
    path = tmp_path / "bad one.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError) as failure:
        read_image(path, Reading(8))
    message = str(failure.value)
    assert "bad one.jpg" in message
    assert cause in message
    assert message.endswith("remove or replace it")
    assert "\n" not in message


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp", "gif", "webp", "tif", "ppm", "avif", "jp2"])
def test_truncated_files(tmp_path, ending):
    """Half of a file is refused in every format."""
    content = _encoded(ending)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(content)
    read_image(path, Reading(8))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read"):
        read_image(path, Reading(8))


def test_missing_file_and_folder(tmp_path):
    """A path without a file, or of a folder, is refused with the system's reason."""
    with pytest.raises(DataError, match="No such file"):
        read_image(tmp_path / "gone.png", Reading(8))
    with pytest.raises(DataError, match="Is a directory"):
        read_image(tmp_path, Reading(8))


def test_threads_leave_warnings_and_limits_alone(tmp_path):
    """Many threads that decode at once leave Python's warnings and Pillow's limit as they found them."""
    paths = _noisy_files(tmp_path, 8)
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    threads = [
        threading.Thread(target=lambda path=path: [read_image(path, Reading(8)) for _ in range(20)]) for path in paths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS
    assert warnings.filters == filters


@pytest.mark.parametrize("name", [None, "deep/cache/pixels.npy"])
def test_build_pixels_keeps_the_order(tmp_path, name):
    """Pixels in memory and in a file are the same: each image in its place, read-only, progress counted to the end."""
    paths = _noisy_files(tmp_path, 20)
    file = None if name is None else tmp_path / name
    progress = []
    pixels = build_pixels(paths, Reading(8), file, lambda done, total: progress.append((done, total)))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.stack([read_image(path, Reading(8)) for path in paths]))
    assert progress == [(done, 20) for done in range(1, 21)]
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0
    assert isinstance(pixels, np.memmap) == (file is not None)


def test_a_finished_file_is_used_again(tmp_path):
    """A second call reads the file and decodes nothing, even where the images are gone."""
    paths = _noisy_files(tmp_path, 3)
    first = np.array(build_pixels(paths, Reading(8), tmp_path / "pixels.npy"))
    for path in paths:
        path.unlink()
    np.testing.assert_array_equal(build_pixels(paths, Reading(8), tmp_path / "pixels.npy"), first)


@pytest.mark.parametrize("content", [b"", b"no numbers", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_not_ours_is_replaced(tmp_path, content):
    """A file under the same name that does not hold these pixels is built anew."""
    file = tmp_path / "pixels.npy"
    file.write_bytes(content)
    paths = _noisy_files(tmp_path, 3)
    np.testing.assert_array_equal(build_pixels(paths, Reading(8), file), build_pixels(paths, Reading(8), None))


def test_a_cut_file_is_replaced(tmp_path):
    """A file of pixels that lost its end is built anew."""
    paths, file = _noisy_files(tmp_path, 3), tmp_path / "pixels.npy"
    build_pixels(paths, Reading(8), file)
    os.truncate(file, file.stat().st_size - 1)
    np.testing.assert_array_equal(build_pixels(paths, Reading(8), file), build_pixels(paths, Reading(8), None))


@pytest.mark.parametrize("name", [None, "pixels.npy"])
def test_all_broken_images_are_counted(tmp_path, name):
    """All broken images are reported at once, the first five by name and cause, and no file is left behind."""
    paths = _noisy_files(tmp_path, 10)
    for path in paths[2:9]:
        path.write_bytes(b"")
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as failure:
        build_pixels(paths, Reading(8), None if name is None else cache / name)
    message = str(failure.value)
    assert message.startswith("7 of 10 images cannot be read")
    assert message.endswith("remove or replace them")
    assert message.count("the file is empty") == 5
    assert str(paths[2]) in message
    assert str(paths[7]) not in message
    assert "\n" not in message
    assert name is None or [path.name for path in cache.iterdir()] == ["building.lock"]


def test_full_disk_is_seen_before_the_work(tmp_path, monkeypatch):
    """Too little free space is refused before any image is decoded, with the space needed and free."""
    usage = namedtuple("usage", "total used free")(10, 10, 2_000_000_000)  # noqa: PYI024 (as shutil's own)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 3\.1 GB and 2\.0 GB are free; free some space"):
        build_pixels([tmp_path / "gone.png"] * 1000, Reading(1024), tmp_path / "pixels.npy")


def test_disk_that_fills_up_meanwhile(tmp_path, monkeypatch):
    """A disk that fills up while the pixels are written is one line that says so, and leaves no half file."""

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    paths, cache = _noisy_files(tmp_path, 3), tmp_path / "cache"
    with pytest.raises(DataError, match=r"pixels\.npy' cannot be written: No space left on device; free some space"):
        build_pixels(paths, Reading(8), cache / "pixels.npy")
    assert [path.name for path in cache.iterdir()] == ["building.lock"]


def test_writes_that_are_cut_short_go_on(tmp_path, monkeypatch):
    """A system that writes fewer bytes than asked is asked again, so that no pixel is missing."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:7], offset))
    paths = _noisy_files(tmp_path, 3)
    pixels = build_pixels(paths, Reading(8), tmp_path / "pixels.npy")
    np.testing.assert_array_equal(pixels, build_pixels(paths, Reading(8), None))


def test_folder_that_cannot_be_written(tmp_path):
    """A cache in a place where no folder can be is one line that says what to do."""
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written: .*; .* choose a cache that you may write to"):
        build_pixels(_noisy_files(tmp_path, 1), Reading(8), tmp_path / "taken" / "pixels.npy")


def test_an_interrupt_stops_early(tmp_path, monkeypatch):
    """An interrupt ends the decoding of the images to come, and leaves only the lock."""
    paths, cache = _noisy_files(tmp_path, 1) * 5000, tmp_path / "cache"

    def interrupt(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    decoded = []
    original = pixels_module._decode
    monkeypatch.setattr(pixels_module, "_decode", lambda *a: decoded.append(1) or time.sleep(0.01) or original(*a))
    with pytest.raises(KeyboardInterrupt):
        build_pixels(paths, Reading(8), cache / "pixels.npy", interrupt)
    assert len(decoded) < 1000
    assert [path.name for path in cache.iterdir()] == ["building.lock"]


BUILDER = """
import os, sys, time
from pathlib import Path
from trainer.images.pixels import Reading, build_pixels
folder, crash = Path(sys.argv[1]), sys.argv[2] == "crash"
paths = sorted(folder.glob("*.png"))
decoded = 0
def progress(done, total):
    global decoded
    decoded = done
    time.sleep(0.05)
    if crash and done == 5:
        os._exit(9)
print("ready", flush=True)
sys.stdin.readline()
pixels = build_pixels(paths, Reading(8), folder / "cache" / "pixels.npy", progress)
print(decoded, int(pixels.astype(int).sum()))
"""


def _builder(folder: Path, *, crash: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(folder), "crash" if crash else "run"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_processes_at_once_one_builds(tmp_path):
    """Of three processes that want the same pixels at once one decodes, and all see the same."""
    paths = _noisy_files(tmp_path, 10)
    processes = [_builder(tmp_path) for _ in range(3)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].split() for process in processes]
    assert sorted(int(decoded) for decoded, _ in answers) == [0, 0, 10]
    assert {int(total) for _, total in answers} == {int(build_pixels(paths, Reading(8), None).astype(int).sum())}


def test_a_crash_half_way_leaves_nothing_that_looks_complete(tmp_path):
    """After a builder is killed half-way the file is not there, and the next one builds it and clears up."""
    paths, cache = _noisy_files(tmp_path, 10), tmp_path / "cache"
    process = _builder(tmp_path, crash=True)
    process.communicate("\n")
    assert process.returncode == 9
    assert sorted(path.name for path in cache.iterdir()) == ["building.lock", "pixels.npy.tmp"]
    pixels = build_pixels(paths, Reading(8), cache / "pixels.npy")
    np.testing.assert_array_equal(pixels, build_pixels(paths, Reading(8), None))
    assert sorted(path.name for path in cache.iterdir()) == ["building.lock", "pixels.npy"]


def test_pixels_beyond_the_memory(tmp_path):
    """Neither building the pixels nor taking batches of them holds more than a small part in memory."""
    paths = _noisy_files(tmp_path, 5) * 100
    tracemalloc.start()
    try:
        pixels = build_pixels(paths, Reading(128), tmp_path / "pixels.npy")
        total = sum(int(pixels[np.arange(start, start + 20)].sum(dtype=np.int64)) for start in range(0, 500, 20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 100 * int(build_pixels(paths[:5], Reading(128), None).sum(dtype=np.int64))
    assert pixels.nbytes == 24_576_000
    assert peak < pixels.nbytes / 4


def test_more_images_than_wait_at_a_time(tmp_path, monkeypatch):
    """Images go to the threads in portions, and all of them arrive, counted to the end."""
    monkeypatch.setattr(pixels_module, "CHUNK", 3)
    paths, progress = _noisy_files(tmp_path, 8), []
    pixels = build_pixels(paths, Reading(8), None, lambda done, total: progress.append((done, total)))
    np.testing.assert_array_equal(pixels, np.stack([read_image(path, Reading(8)) for path in paths]))
    assert progress == [(done, 8) for done in range(1, 9)]


def test_the_module_stays_light():
    """Reading an index and pixels imports neither torch nor Optuna, so that commands which need no model start fast."""
    code = "import sys, trainer.data; print({'torch', 'optuna', 'cv2', 'hpo', 'storage'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
