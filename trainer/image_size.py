"""The size of images as a recipe has it: the side of a square in pixels, or height x width of a rectangle."""

from __future__ import annotations

import re

ImageSize = int | str  # 224, or "200x320", which is 200 pixels high and 320 wide
HOW_TO_WRITE = 'a rectangle is a text, height x width: "200x320"'

_RECTANGLE = re.compile(r"([1-9][0-9]*)x([1-9][0-9]*)")


def shape_of(size: ImageSize) -> tuple[int, int]:
    """Height and width in pixels.

    Raises:
        ValueError: the text is no rectangle.
    """
    if isinstance(size, int):
        return size, size
    match = _RECTANGLE.fullmatch(size)
    if match is None:
        raise ValueError(f"{size!r} is no size of an image")
    return int(match[1]), int(match[2])


def size_of(height: int, width: int) -> ImageSize:
    """The size as a recipe has it."""
    return height if height == width else f"{height}x{width}"


def side_or_shape(size: ImageSize) -> int | tuple[int, int]:
    """The size as models are told it: the side of a square, or height and width of a rectangle."""
    return size if isinstance(size, int) else shape_of(size)


def scaled(size: ImageSize, factor: float) -> ImageSize:
    """The size with both sides so many times as long, in whole pixels."""
    height, width = shape_of(size)
    return size_of(round(height * factor), round(width * factor))


def rectangle_problem(text: str, low: float, high: float) -> str | None:
    """What is wrong with a text as a rectangle whose sides are in these limits, in a few words, or None."""
    if text.isascii() and text.isdigit():
        return f"is a text: write {int(text)}"
    if _RECTANGLE.fullmatch(text) is None:
        return f"is no size of an image; {HOW_TO_WRITE}"
    height, width = shape_of(text)
    if height == width:
        return f"is a square: write {height}"
    if not (low <= min(height, width) and max(height, width) <= high):
        return f"has a side outside {low:g} to {high:g}"
    return None
