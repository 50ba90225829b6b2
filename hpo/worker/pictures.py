"""The pictures of a trial: its learning curves, its confusion matrix, and the images that it got most wrong."""

from __future__ import annotations

import io
import logging
import re
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from storage.keys import CONFUSION_MATRIX, LEARNING_CURVES, MOST_WRONG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from trainer.data import Data
    from trainer.extensions import Extensions
    from trainer.observer import Result


WIDTH = 720  # of each picture, in pixels
DOTS = 100  # pixels an inch, of which text has its size
COLOURS = 256  # of a picture: a third of the bytes
NAMED_CLASSES = 40  # whose names have room; of more, those with the most confusions are shown
COUNTED_CLASSES = 20  # whose numbers have room
THUMBNAILS, COLUMNS = 16, 4
THUMBNAIL = 128  # pixels
LINE, LETTER = 14, 6  # pixels: the height of a line of text, the width of most letters
ROW, CAPTION = 20, 16  # letters of a name, of which wide ones (Chinese, Korean, …) count twice
LEFT = "\u200e"  # keeps numbers beside an Arabic or Hebrew name where they are
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#666666"  # which people who see fewer colours can tell apart
STYLE = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.dpi": DOTS,
    "font.size": 8,
    "text.parse_math": False,  # a class may be called $x$
}


@dataclass(frozen=True)
class Wrong:
    """A validation image, and what the model took it for.

    Attributes:
        image: its number in the index.
        true: its class.
        predicted: the class that the model gave the highest probability.
        probability: of the true class, in [0, 1].
        predicted_probability: of the predicted class, likewise.
    """

    image: int
    true: int
    predicted: int
    probability: float
    predicted_probability: float

    @property
    def is_wrong(self) -> bool:
        """Whether it was taken for another class."""
        return self.predicted != self.true


def draw_pictures(result: Result, data: Data, extensions: Extensions) -> Iterator[tuple[str, bytes]]:
    """Draw the pictures of a trial that is complete or pruned.

    Args:
        result: what its training came to.
        data: the images.
        extensions: of the search space.

    Yields:
        the name of each picture and its PNG, as soon as it is drawn.
    """
    from trainer.model.backbones import reading_of

    classes = data.index.classes
    yield LEARNING_CURVES, draw_learning_curves(result)
    title = f"validation images in epoch {result.best_epoch}"
    yield CONFUSION_MATRIX, draw_confusion_matrix(result.confusion.numpy(), classes, title)
    pixels = data.pixels(reading_of(result.recipe, extensions))  # there by now
    wrong = most_wrong(result.probabilities.numpy(), data.index.labels, data.split.valid)
    yield MOST_WRONG, draw_most_wrong(wrong, pixels, data.index.paths, classes)


def draw_learning_curves(result: Result) -> bytes:
    """The metric on the validation images and the train loss of each epoch, the best one marked, as PNG."""
    numbers, best, metric = range(1, len(result.history) + 1), result.best_epoch, result.metric
    values = [metric.value(score) for score in result.history]
    panels = (
        (f"validation {metric.title}, {values[best - 1]:.4f} in epoch {best}", values, BLUE),
        ("train loss", result.train_losses, ORANGE),
    )
    with _style(()):
        from matplotlib.ticker import MaxNLocator

        figure = _figure(280)
        for panel, (title, shown, colour) in enumerate(panels):
            axes = _axes(figure, 45 + panel * WIDTH // 2, 30, WIDTH // 2 - 60, 205)
            axes.axvline(best, color=GREY, linestyle=":")
            axes.plot(numbers, shown, color=colour, marker="o", markersize=3)
            axes.set_title(title)
            axes.set_xlabel(f"epoch (of {result.recipe.epochs})")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
        return _png(figure)


def draw_confusion_matrix(matrix: NDArray[np.int64], classes: Sequence[str], images: str) -> bytes:
    """How many images of which class were taken for which, int64 [true, predicted], as PNG; `images` says which."""
    left, top, side = 200, 30, 430
    shown = most_confused(matrix)
    counts, shares = matrix[np.ix_(shown, shown)], shares_of(matrix)[np.ix_(shown, shown)]
    cell = side / len(shown)
    with _style(tuple(classes)) as families:
        from matplotlib.colors import PowerNorm

        names = [_class(number, classes, families, ROW) for number in shown]
        rows = [f"{name} ({matrix[number].sum()})" for name, number in zip(names, shown, strict=True)]
        width = LETTER * max(map(_width, names))
        figure = _figure(top + side + 3 * LINE + (width if width > cell else 0))
        axes = _axes(figure, left, top, side, side)
        shade = PowerNorm(0.5, vmin=0, vmax=1)  # so that some of a hundred are seen, too
        image = axes.imshow(shares, cmap="Blues", norm=shade)
        bar = _axes(figure, left + side + 15, top, 12, side)
        figure.colorbar(image, cax=bar, label="share of the true class", format="{x:.0%}")
        axes.set_xticks(range(len(shown)), names, rotation=90 if width > cell else 0)
        axes.set_yticks(range(len(shown)), rows)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class (images)")
        some = f", the {len(shown)} of {len(matrix)} classes with the most confusions" * (len(shown) < len(matrix))
        axes.set_title(f"{images}{some}")
        if len(shown) <= COUNTED_CLASSES:
            points = min(8, cell / len(str(counts.max())))
            for row, column in np.argwhere(counts):
                colour = "white" if shade(shares[row, column]) > 0.5 else "black"
                axes.text(column, row, counts[row, column], color=colour, size=points, ha="center", va="center")
        return _png(figure)


def draw_most_wrong(
    wrong: Sequence[Wrong], pixels: NDArray[np.uint8], paths: Sequence[str], classes: Sequence[str]
) -> bytes:
    """Thumbnails of these images as the model sees them, with what it took them for, as PNG.

    Args:
        wrong: the images, at least one.
        pixels: of all images, uint8 [N, height, width, 3].
        paths: of all images, in the order of the index.
        classes: their names.
    """
    thumbnails = [_thumbnail(pixels[one.image]) for one in wrong]
    side = len(thumbnails[0])
    head, cell = 2 * LINE, side + 4 * LINE
    height = head + -(-len(wrong) // COLUMNS) * cell
    with _style(tuple(classes)) as families:
        figure = _figure(height)

        def write(text: str, left: int, top: int, colour: str = "black") -> None:
            figure.text(left / WIDTH, 1 - top / height, text, color=colour, va="top")

        if any(one.is_wrong for one in wrong):
            title = "true class → predicted class, with the probabilities that the model gave them"
        else:
            title = "no validation image is classified wrongly; these have the least probability of their class"
        write(title, 10, 6)
        for position, (one, thumbnail) in enumerate(zip(wrong, thumbnails, strict=True)):
            left, top = position % COLUMNS * WIDTH // COLUMNS + 10, head + position // COLUMNS * cell
            figure.figimage(thumbnail, left, height - top - side)
            top += side + 3
            write(f"{_class(one.true, classes, families, CAPTION)}  {one.probability:.1%}", left, top)
            if one.is_wrong:
                top += LINE
                predicted = _class(one.predicted, classes, families, CAPTION)
                write(f"→ {predicted}  {one.predicted_probability:.1%}", left, top)
            file = re.sub("\0+", "…", _drawable(PurePath(paths[one.image]).name, families))
            write(_shortened(file, CAPTION), left, top + LINE, GREY)
        return _png(figure)


def shares_of(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each true class the share that was taken for each class, float64 [classes, classes]; 0 where it has no image.

    `matrix` is int64 [true class, predicted class].
    """
    shares: NDArray[np.float64] = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return shares


def most_confused(matrix: NDArray[np.int64]) -> list[int]:
    """The classes that have room in the picture, in their order: all, or those of the commonest confusions.

    `matrix` is int64 [true class, predicted class]. A pair of classes counts in both directions together, so that the
    picture shows whole pairs; where there are fewer confusions, the first of the other classes fill it up.
    """
    if len(matrix) <= NAMED_CLASSES:
        return list(range(len(matrix)))
    first, second = np.triu_indices(len(matrix), k=1)
    order = np.argsort(-(matrix + matrix.T)[first, second], kind="stable")[: COUNTED_CLASSES**2]
    pairs = np.stack([first[order], second[order]], axis=1)
    return sorted(list(dict.fromkeys(pairs.ravel().tolist()))[:COUNTED_CLASSES])


def most_wrong(probabilities: NDArray[np.float32], labels: NDArray[np.int64], images: NDArray[np.int64]) -> list[Wrong]:
    """The images to whose true class a model gave the least probability, the wrongly classified ones first.

    Args:
        probabilities: of the classes, float32 [images, classes].
        labels: of all images of the index, int64 [N].
        images: which of them were classified, int64 [images].
    """
    true, predicted = labels[images], probabilities.argmax(axis=1)
    each = np.arange(len(images))
    true_probabilities = probabilities[each, true]
    order = np.lexsort((true_probabilities, true == predicted))[:THUMBNAILS]
    columns = (images, true, predicted, true_probabilities, probabilities[each, predicted])
    return [Wrong(*(column[number].item() for column in columns)) for number in order]


@contextmanager
def _style(texts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Draw in our style, whatever the user's is elsewhere; gives the families of fonts that have these texts."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it has much to say about a home that it cannot write to
    from matplotlib import style

    families = _families(texts)
    with style.context(["default", {**STYLE, "font.family": list(families)}]):
        yield families


def _figure(height: int) -> Figure:
    """An empty picture, `height` in pixels; no window, and nothing that outlives it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / DOTS, height / DOTS))


def _axes(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Room for a chart, in pixels from the upper left; matplotlib's own layouts take as long as all the drawing."""
    over, down = figure.get_size_inches() * DOTS
    return figure.add_axes((left / over, 1 - (top + height) / down, width / over, height / down))


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # of which mypy knows nothing
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    content = io.BytesIO()
    picture.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(content, "PNG")
    return content.getvalue()


def _thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image, uint8 [height, width, 3], as small as a thumbnail; a smaller one with its pixels as larger squares."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    if side > THUMBNAIL:
        size = max(1, width * THUMBNAIL // side), max(1, height * THUMBNAIL // side)
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    times = THUMBNAIL // side
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _class(number: int, classes: Sequence[str], families: tuple[str, ...], width: int) -> str:
    """What a class is called in a picture: by its number where no installed font has its name."""
    name = _drawable(classes[number], families)
    return f"class {number}" if "\0" in name else f"{LEFT}{_shortened(name, width)}{LEFT}"


def _drawable(text: str, families: tuple[str, ...]) -> str:
    """A text in one line, with NUL for each letter that these fonts do not have."""
    line = " ".join(unicodedata.normalize("NFC", text).split())
    return "".join(letter if _covers(families, letter) else "\0" for letter in line)


def _covers(families: tuple[str, ...], letter: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    return any(get_font(findfont(family)).get_char_index(ord(letter)) for family in families)


@lru_cache(maxsize=8)
def _families(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The default family of fonts, and installed ones for letters that it does not have."""
    from matplotlib.font_manager import fontManager, get_font

    families: tuple[str, ...] = ("DejaVu Sans",)  # which comes with matplotlib
    missing = {letter for letter in set().union(*texts) if not _covers(families, letter)}
    for font in fontManager.ttflist:
        if missing and font.weight == 400 and font.style == "normal" and not font.name.startswith("Last Resort"):
            found = {letter for letter in missing if get_font(font.fname).get_char_index(ord(letter))}
            families, missing = (*families, font.name) if found else families, missing - found
    return families


def _shortened(text: str, width: int) -> str:
    """A text without its middle where it is too long."""
    if _width(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{text[: _fitting(text, half)]}…{text[len(text) - _fitting(text[::-1], half) :]}"


def _fitting(text: str, width: int) -> int:
    """How many letters of a text fit into a width."""
    return sum(_width(text[: end + 1]) <= width for end in range(len(text)))


def _width(text: str) -> int:
    """The width of a text in letters, of which wide ones count twice."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)
