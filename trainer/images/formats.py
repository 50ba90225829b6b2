"""Which formats of image files are read, how such a file is opened, and why one is not."""

from __future__ import annotations

import threading
import warnings
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

# Formats that a file may have, whatever its name says. By default Pillow also tries some that start other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "HEIF")
MAX_PIXELS = 500_000_000  # of one picture: 2 GB once decoded
HEAVY_PIXELS = 50_000_000  # from here on one picture at a time, so that memory does not grow with the cores
MAX_TEXT_BYTES = 64 * 2**20  # of a text or colour profile of a PNG; all of them together may have four times as many

HEAD_BYTES = 132  # of a file: what tells its format
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (8, b"WEBP", "WebP"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    *((4, b"ftyp" + brand, "HEIC") for brand in HEIC_BRANDS),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"8BPS", "PSD"),
    (0, b"%PDF", "PDF"),
    (0, b"%!PS", "PostScript"),
    (128, b"DICM", "DICOM"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\x93NUMPY", "NPY"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
)  # offset and bytes there -> the format


class UnreadableError(Exception):
    """Why a file gives no pixels, in a few words."""


@contextmanager
def opened(picture: Path | Image.Image) -> Iterator[Image.Image]:
    """Open an image file, whose pixels are decoded only as they are asked for; an image that is open is taken as it is.

    While anyone has one open Pillow warns of nothing, and takes pictures and texts up to our limits.

    Raises:
        UnreadableError: it cannot be read, here or in the block, with the cause in a few words.
    """
    try:
        with TOLERANCE, _image_of(picture) as image:
            yield image
    except UnreadableError:
        raise
    except Exception as error:  # decoders meet broken bytes with all kinds of exceptions
        raise UnreadableError(_cause(error, picture)) from error


def _image_of(picture: Path | Image.Image) -> AbstractContextManager[Image.Image]:
    return nullcontext(picture) if isinstance(picture, Image.Image) else Image.open(picture, formats=_readable())


_HEAVY = threading.Lock()


def taking_turns(image: Image.Image) -> AbstractContextManager[object]:
    """While a picture is decoded: those that take much memory are decoded one after the other."""
    return _HEAVY if image.width * image.height > HEAVY_PIXELS else nullcontext()


class _Tolerance:
    """While anyone decodes: Pillow warns of nothing and takes files up to our limits; the last one out restores both.

    Pillow has its limits, and Python its filters of warnings, once for all threads. Threads that each saved and
    restored them would leave them changed for good.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._restore = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                # Pillow warns from its number of pixels on and refuses twice as many.
                self._change(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS // 2)
                # By default a good PNG with 1 MB of text or colour profile is refused.
                self._change(PngImagePlugin, "MAX_TEXT_CHUNK", MAX_TEXT_BYTES)
                self._change(PngImagePlugin, "MAX_TEXT_MEMORY", 4 * MAX_TEXT_BYTES)
            self._users += 1

    def _change(self, module: object, name: str, value: int) -> None:
        self._restore.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore.close()


TOLERANCE = _Tolerance()  # whoever opens many files enters it around them all, so that the limits change only once


@cache
def _readable() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads, by itself or by the optional package."""
    missing = set()
    for name, module in (("AVIF", "PIL.AvifImagePlugin"), ("HEIF", "pillow_heif")):
        try:
            plugin = import_module(module)
        except ImportError:
            missing.add(name)
        else:
            if name == "HEIF":
                plugin.register_heif_opener()
    return tuple(name for name in FORMATS if name not in missing)


def format_of(path: Path) -> str | None:
    """The format that the first bytes of a file tell, of those that people take for images; None for any other."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return next((name for at, mark, name in SIGNATURES if head.startswith(mark, at)), None)


def _cause(error: Exception, picture: Path | Image.Image) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS // 1_000_000} million pixels"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, UnidentifiedImageError) and not isinstance(picture, Image.Image):
        return _unidentified(picture)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "MAX_TEXT" in str(error):
        return f"its texts or its colour profile have more than {MAX_TEXT_BYTES // 2**20} MiB"
    return " ".join(str(error).split()) or type(error).__name__


def _unidentified(path: Path) -> str:
    """Why Pillow does not know what a file is."""
    if not path.stat().st_size:
        return "the file is empty"
    name = format_of(path)
    if name is None:
        return "it is no image, or its first bytes are broken"
    if name == "HEIC" and "HEIF" not in _readable():
        return "it is HEIC, which wants the package pillow-heif: `pip install pillow-heif`, or save it as JPEG"
    if name in ("JPEG", "PNG", "GIF", "TIFF", "WebP", "JPEG 2000", "AVIF", "HEIC"):
        return f"it is {name} of a kind that is not read, or its first bytes are broken; saving it as PNG may help"
    return f"it is {name}, which is not read; save it as PNG"
