"""The pictures of a trial: what they show, for classes of any number and name."""

import io
import math
import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from hpo.worker import pictures
from hpo.worker.pictures import (
    Wrong,
    draw_confusion_matrix,
    draw_learning_curves,
    draw_most_wrong,
    draw_pictures,
    most_confused,
    most_wrong,
    shares_of,
)
from tests.support.waiting import limit
from trainer.data import Data
from trainer.observer import Result
from trainer.recipe import recipe_from

pytestmark = pytest.mark.unit

ODD_NAMES = [
    "$x^2$",
    "얼굴",
    "cat\tdog\n",
    "مرحبا",
    "😀",
    "a" * 300,
    "漢字" * 30,
    "<b>&\\n{}%s",
    "",
    "\udcff",
    "e\u0301",
]
OF_ANOTHER_FONT = "\u1d81"  # which STIX has, another font that comes with matplotlib, and the default one has not


@pytest.fixture
def result():
    """A function that makes a result over some classes, whose last one has no image."""
    import torch  # not above: it takes seconds

    def make(classes, history=(0.2, 0.6, 0.4), train_losses=(2.0, 1.0, 0.5)):
        random = np.random.default_rng(classes)
        labels = random.integers(0, classes - 1, 40)
        probabilities = random.dirichlet(np.ones(classes), 40).astype(np.float32)
        matrix = np.zeros((classes, classes), np.int64)
        np.add.at(matrix, (labels, probabilities.argmax(axis=1)), 1)
        recipe = recipe_from({"backbone": "linear", "pretrained": False, "epochs": 9, "image_size": 16})
        best = history.index(max(history)) + 1
        return Result(recipe, history, train_losses, best, torch.from_numpy(matrix), torch.from_numpy(probabilities))

    return make


@pytest.fixture
def figure_of(monkeypatch):
    """A function that gives what a picture was drawn from, in place of its PNG."""

    def draw(function, *arguments):
        with monkeypatch.context() as patched:
            patched.setattr(pictures, "_png", lambda figure: figure)
            return function(*arguments)

    return draw


def opened(content):
    """A PNG, decoded."""
    picture = Image.open(io.BytesIO(content))
    picture.load()
    assert picture.format == "PNG"
    return picture


@pytest.mark.parametrize("classes", [2, 18, 20, 21, 40, 41, 100, 1000])
def test_any_number_of_classes(classes, result):
    """Every picture is a PNG of 720 pixels width and some kilobytes, for two classes and for a thousand."""
    names = [f"class-{number}" for number in range(classes)]
    given = result(classes)
    wrong = most_wrong(given.probabilities.numpy(), np.zeros(40, np.int64), np.arange(40))
    pixels = np.zeros((40, 30, 30, 3), np.uint8)
    for content in (
        draw_learning_curves(given),
        draw_confusion_matrix(given.confusion.numpy(), names, "images"),
        draw_most_wrong(wrong, pixels, names * 40, names),
    ):
        picture = opened(content)
        assert picture.width == 720
        assert 200 < picture.height < 900
        assert len(content) < 60_000


def test_odd_names(result, figure_of):
    """Class and file names of any letters are drawn without a warning; one that no font has is the class's number."""
    names = [f"{name}{number}" for number, name in enumerate(ODD_NAMES)]
    given = result(len(names))
    wrong = most_wrong(given.probabilities.numpy(), np.zeros(40, np.int64), np.arange(40))
    opened(draw_confusion_matrix(given.confusion.numpy(), names, "images"))
    opened(draw_most_wrong(wrong, np.zeros((40, 8, 8, 3), np.uint8), names * 4, names))
    axes = figure_of(
        draw_confusion_matrix, given.confusion.numpy(), [*names[:-1], f"a {OF_ANOTHER_FONT}"], "images"
    ).axes[0]
    shown = [label.get_text().strip(pictures.LEFT) for label in axes.get_xticklabels()]
    assert shown[0] == "$x^2$0"
    assert shown[2] == "cat dog 2"
    assert shown[3] == f"{ODD_NAMES[3]}3"
    assert shown[5] == "aaaaaaaaa…aaaaaaaa5"
    assert shown[9] == "class 9"
    assert shown[10] == f"a {OF_ANOTHER_FONT}"
    assert len(set(shown)) == len(shown)


def test_learning_curves_show_every_epoch(result, figure_of):
    """Macro-F1 and train loss are drawn over the epochs, the best of which is marked; an unknown loss is a gap."""
    scores, losses = figure_of(draw_learning_curves, result(3, train_losses=(math.nan, 1.0, 0.5))).axes
    assert scores.lines[1].get_xydata().tolist() == [[1, 0.2], [2, 0.6], [3, 0.4]]
    assert losses.lines[1].get_xydata()[1:].tolist() == [[2, 1.0], [3, 0.5]]
    assert math.isnan(losses.lines[1].get_ydata()[0])
    assert scores.lines[0].get_xdata() == losses.lines[0].get_xdata() == [2, 2]
    assert scores.get_title() == "validation macro-F1, 0.6000 in epoch 2"
    opened(draw_learning_curves(result(3, history=(0.5,), train_losses=(math.nan,))))


def test_the_confusion_matrix_shows_counts_and_shares(result, figure_of):
    """A cell has its number of images, and the shade of the share of its true class."""
    given = result(4)
    axes = figure_of(draw_confusion_matrix, given.confusion.numpy(), "abcd", "images").axes[0]
    matrix = given.confusion.numpy()
    drawn = np.zeros_like(matrix)
    for number in axes.texts:
        column, row = number.get_position()
        drawn[row, column] = int(number.get_text())
    assert (drawn == matrix).all()
    assert np.allclose(axes.images[0].get_array(), shares_of(matrix))
    assert axes.get_yticklabels()[0].get_text().endswith(f"({matrix[0].sum()})")


def test_shares_of_a_class_without_images():
    """Each row of shares adds up to 1, and is 0 where the class has no image."""
    shares = shares_of(np.array([[1, 3, 0], [0, 0, 0], [2, 0, 2]]))
    assert shares.tolist() == [[0.25, 0.75, 0], [0, 0, 0], [0.5, 0, 0.5]]


def test_the_most_confused_classes():
    """Of many classes those are shown which are confused the most, whichever is taken for which; of few, all."""
    assert most_confused(np.eye(40, dtype=np.int64)) == list(range(40))
    matrix = np.diag(np.full(100, 50))
    for times, (true, predicted) in enumerate(zip(range(40, 60), range(99, 79, -1), strict=True), start=3):
        matrix[true, predicted] = times // 2
        matrix[predicted, true] = times - times // 2
    matrix[7, 8] = 2
    assert most_confused(matrix) == [*range(50, 60), *range(80, 90)]
    once = np.eye(41, dtype=np.int64)
    once[40, 30] = 1
    assert most_confused(once) == [*range(18), 30, 40]


def test_the_most_wrong_images():
    """Wrong ones come first, those with the least probability of their class before the others, at most sixteen."""
    random = np.random.default_rng(3)
    labels, images = random.integers(0, 5, 300), random.permutation(300)[:120]
    probabilities = random.dirichlet(np.full(5, 0.5), 120).astype(np.float32)
    probabilities[:110, :] = np.eye(5, dtype=np.float32)[labels[images[:110]]] * 0.9 + 0.02
    found = most_wrong(probabilities, labels, images)
    assert len(found) == 16

    def judged(row):
        image = images[row]
        true, predicted = labels[image], probabilities[row].argmax()
        return Wrong(image, true, predicted, probabilities[row, true], probabilities[row, predicted])

    expected = sorted(map(judged, range(120)), key=lambda one: (not one.is_wrong, one.probability))
    wrong = sum(one.is_wrong for one in expected)
    assert 0 < wrong < 16
    assert found[:wrong] == expected[:wrong]
    assert [one.probability for one in found] == [one.probability for one in expected[:16]]
    assert len(most_wrong(probabilities[:3], labels, images[:3])) == 3


def test_thumbnails(figure_of):
    """An image is shown as the model sees it, with its classes, their probabilities and its file's name."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 40, 40, 3), dtype=np.uint8)
    wrong = [Wrong(7, 0, 1, 0.0123, 0.9), Wrong(2, 1, 1, 0.5, 0.5)]
    figure = figure_of(draw_most_wrong, wrong, pixels, [f"cat/{n}.png" for n in range(9)], ["cat", "dog"])
    assert [np.asarray(image.get_array())[::3, ::3].tolist() for image in figure.images] == [
        pixels[7].tolist(),
        pixels[2].tolist(),
    ]
    texts = [text.get_text().replace(pictures.LEFT, "") for text in figure.texts]
    assert texts[1:] == ["cat  1.2%", "→ dog  90.0%", "7.png", "dog  50.0%", "2.png"]
    large = np.zeros((1, 500, 500, 3), np.uint8)
    assert opened(draw_most_wrong([Wrong(0, 0, 1, 0.1, 0.9)], large, ["a"], ["cat", "dog"])).height < 250


def test_nothing_is_wrong(figure_of):
    """Where every image is classified rightly, the picture says so."""
    figure = figure_of(draw_most_wrong, [Wrong(0, 1, 1, 0.6, 0.6)], np.zeros((1, 8, 8, 3), np.uint8), ["a"], ["b", "c"])
    assert figure.texts[0].get_text().startswith("no validation image is classified wrongly")


def test_no_image_is_decoded(result, colours, extensions):
    """The pictures come from the pixels that the training has used: the files may be out of reach by then."""
    data = Data(colours.index, colours.split, None)
    data._pixels[16, "bicubic"] = np.zeros((72, 16, 16, 3), np.uint8)
    given = result(3)
    valid = len(colours.split.valid)
    given = Result(**{**vars(given), "probabilities": given.probabilities[:valid]})
    drawn = dict(draw_pictures(given, data, extensions))
    assert list(drawn) == ["learning_curves.png", "confusion_matrix.png", "most_wrong.png"]
    assert all(opened(content).width == 720 for content in drawn.values())


def test_a_style_of_ones_own(result):
    """What a user has set for matplotlib neither changes a picture nor is changed by one."""
    plain = draw_learning_curves(result(3))
    with mpl.rc_context({"figure.dpi": 30, "lines.linewidth": 9, "font.family": "monospace"}):
        assert draw_learning_curves(result(3)) == plain
        assert mpl.rcParams["font.family"] == ["monospace"]


READ_ONLY_HOME = """
import sys
from hpo.worker import pictures
assert not {"matplotlib", "torch"} & sys.modules.keys()
import numpy as np
wrong = [pictures.Wrong(0, 0, 1, 0.1, 0.9)]
print(len(pictures.draw_most_wrong(wrong, np.zeros((1, 8, 8, 3), np.uint8), ["a"], ["b", "c"])))
assert "matplotlib.pyplot" not in sys.modules
"""


def test_a_home_that_cannot_be_written_to():
    """Nothing is printed where matplotlib finds no place for its cache; it is imported with the first picture alone."""
    nowhere = {"HOME": "/proc/nowhere"}
    kept = {name: value for name, value in os.environ.items() if name not in ("MPLCONFIGDIR", "XDG_CACHE_HOME")}
    command = [sys.executable, "-W", "error", "-c", READ_ONLY_HOME]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**kept, **nowhere}, timeout=limit(60)
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0
