"""Which unlabelled images join the training, and with which classes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from hpo.bundle.pseudo_labels import choose, join
from hpo.cli import parser
from hpo.errors import HpoError
from tests.conftest import paint
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images.pixels import Reading

pytestmark = pytest.mark.unit


@pytest.fixture
def data(photos):
    """Three classes of twelve images."""
    return load_data(photos, valid=0.25, test=0.25)


@pytest.fixture
def found(tmp_path):
    """Four unlabelled images."""
    files = [tmp_path / "found" / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        paint(file, (60, 60, 200), 100 + number)
    return files


def probabilities(*rows):
    """Float32 [images, classes]."""
    return np.array(rows, np.float32)


def test_unlabelled_images_come_behind_the_labelled_ones(data, found):
    """Labelled images keep their positions, classes, split and pixels; unlabelled ones are in no part of the split."""
    joined = join(data, found)
    assert joined.unlabelled.tolist() == [36, 37, 38, 39]
    assert joined.data.index.paths[:36] == data.index.paths
    assert [joined.data.index.root / path for path in joined.data.index.paths[36:]] == found
    assert joined.data.index.labels[:36].tolist() == data.index.labels.tolist()
    assert len(set(joined.data.index.groups.tolist())) == 40
    assert joined.data.split is data.split
    np.testing.assert_array_equal(joined.data.pixels(Reading(8))[:36], data.pixels(Reading(8)))
    assert joined.left_out() is None


def test_copies_are_left_out(data, found, tmp_path):
    """Copies of held-out images, of other labelled ones and of each other are left out, and it is said how many."""
    held_out, learned = (data.index.root / data.index.paths[part[0]] for part in (data.split.test, data.split.valid))
    for number in range(2):
        shutil.copy(held_out, tmp_path / f"of test {number}.png")
    shutil.copy(learned, tmp_path / "of valid.png")
    shutil.copy(found[2], tmp_path / "again.png")
    extra = [tmp_path / name for name in ("of test 0.png", "of valid.png", "again.png", "of test 1.png")]
    joined = join(data, [extra[0], *found, *extra[1:]])
    assert [joined.data.index.root / path for path in joined.data.index.paths[36:]] == found
    assert (joined.copies_of_test, joined.other_copies) == (2, 2)
    assert joined.left_out() == (
        "left out of the unlabelled images as exact copies: 2 of held-out test images, 2 of other images"
    )


def test_nothing_but_copies_is_refused(data):
    """The labelled images themselves are not unlabelled ones."""
    files = [data.index.root / path for path in data.index.paths]
    with pytest.raises(HpoError, match=r"each of the 36 unlabelled images is .* \(9 of held-out test images\)"):
        join(data, files)


def test_an_image_that_is_gone_is_named(data, tmp_path):
    """A file that does not exist is a DataError with its name."""
    with pytest.raises(DataError, match=r"gone\.png"):
        join(data, [tmp_path / "gone.png"])


def test_the_confidence_is_inclusive(data, found):
    """An image joins from exactly the confidence on, as its most probable class; the others have none."""
    rows = probabilities([0.02, 0.03, 0.95], [0.94, 0.05, 0.01], [0.01, 0.98, 0.01], [0.3, 0.3, 0.4])
    chosen = choose(join(data, found), rows, 0.95)
    assert chosen.images.tolist() == [36, 38]
    assert chosen.data.index.labels[chosen.images].tolist() == [2, 1]
    assert chosen.data.index.labels[:36].tolist() == data.index.labels.tolist()


def test_counts_of_each_class(data, found):
    """bundle.json has how many of how many images, the confidence and each class; the line has the largest first."""
    rows = probabilities([0.1, 0.1, 0.8], [0.6, 0.4, 0], [0.1, 0.2, 0.7], [0.4, 0.3, 0.3])
    chosen = choose(join(data, found), rows, 0.6)
    assert chosen.as_json() == {
        "images": 3,
        "of": 4,
        "confidence": 0.6,
        "per_class": {"blue": 1, "green": 0, "red": 2},
    }
    assert chosen.line() == (
        "3 of 4 unlabelled images have a class with a probability of 0.6 or more: red 2, blue 1, green 0"
    )


def test_where_no_image_is_sure_the_line_has_the_highest_probability(data, found):
    """Where no image reaches the confidence, the line says how far to lower it."""
    rows = probabilities(*[[0.4, 0.3, 0.3]] * 3, [0.2, 0.55, 0.25])
    chosen = choose(join(data, found), rows, 0.95)
    assert chosen.line() == (
        "pseudo-labels left out: none of 4 unlabelled images has a class with a probability of 0.95 or more, the"
        " highest is 0.5500; a lower --confidence may learn some"
    )


def test_new_classes_need_no_new_pixels(data, found):
    """Pixels that were decoded before the classes were known are used with them."""
    joined = join(data, found)
    pixels = joined.data.pixels(Reading(8))
    assert choose(joined, probabilities(*[[1, 0, 0]] * 4), 1).data.pixels(Reading(8)) is pixels


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--unlabelled", "found", "--no-retrain"], "not allowed with argument"),
        (["--unlabelled", "found", "--confidence", "1.5"], "1.5 is not between 0 and 1"),
        (["--unlabelled", "found", "--confidence", "nan"], "nan is not between 0 and 1"),
    ],
)
def test_wrong_usage(capsys, options, line):
    """--unlabelled without retraining, and a confidence that is no probability, are wrong usage."""
    with pytest.raises(SystemExit) as refused:
        parser().parse_args(["export-best", "study.toml", "-o", "bundle", *options])
    assert refused.value.code == 2
    assert line in capsys.readouterr().err
