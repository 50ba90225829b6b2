"""Sides of a split that data come with: folders like train and test, a column of a CSV, names of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpo.check.run import write_groups
from hpo.errors import StudyFileError
from hpo.study.study_file import read_study_file
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images.index import Grouping, read_index
from trainer.images.sides import NONE, SIDES, Splits, side_of_word, sides_of
from trainer.images.split import split
from trainer.quality.classes import given_sides

pytestmark = pytest.mark.unit


@pytest.fixture
def write(tmp_path):
    """A function that writes so many different images into each of these folders below tmp_path."""

    def written(folders):
        number = 0
        for folder, count in folders.items():
            for image in range(count):
                number += 1
                file = tmp_path / folder / f"{image}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number % 256, number // 256, 0)).save(file)
        return tmp_path

    return written


def _classes_in(*folders, cat=10, dog=10):
    return {f"{folder}/{name}": count for folder in folders for name, count in (("cat", cat), ("dog", dog))}


def _sides(data):
    """The outermost folders of the images on each side."""
    return [
        {Path(data.index.paths[image]).parts[0] for image in side}
        for side in (data.split.train, data.split.valid, data.split.test)
    ]


def _refusal(root, splits=None, **options):
    with pytest.raises(DataError) as refused:
        load_data(root, grouping=Grouping(splits=splits or Splits()), **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


# Names


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"), ("training_set", "train"),
        ("trainData", "train"),
        ("train2017", "train"), ("val", "valid"), ("valid", "valid"), ("Validation", "valid"), ("dev", "valid"),
        ("eval", "valid"), ("TEST", "test"), ("Test Images", "test"), ("testing", "test"), ("holdout", "test"),
        ("pred", "unlabelled"), ("cat", None), ("train_station", None), ("latest", None), ("invalid", None),
        ("train_test", None), ("1", None), ("", None),
    ],
)  # fmt: skip
def test_names_that_tell_a_side(name, side):
    """A word like train, val or test tells a side, however it is written; with other words it is another name."""
    assert side_of_word(name) == side


def test_names_that_differ_in_the_word_for_the_side_alone():
    """Of names of several words those tell sides that another one differs from in that word alone."""
    assert sides_of(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train", "seg_test": "test", "seg_pred": "unlabelled",
    }  # fmt: skip
    assert sides_of(["airport", "train_station", "test_tube"]) == {}
    assert sides_of(["seg_train", "cat"]) == {}


# Folders


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Validation", "TEST"),
        ("training_set", "dev_set", "test_set"),
        ("a_train", "a_val", "a_test"),
        ("data/train", "data/valid", "data/test"),
        ("train/train", "val/val", "test/test"),
    ],
)
def test_folders_of_all_three_sides(write, train, valid, test):
    """Folders named as sides are these sides as they are; classes are the folders in them, wherever they are nested."""
    root = write({**_classes_in(train), **_classes_in(valid, cat=1, dog=2), **_classes_in(test, cat=3, dog=4)})
    data = load_data(root)
    assert data.index.classes == ("cat", "dog")
    assert [len(side) for side in (data.split.train, data.split.valid, data.split.test)] == [20, 3, 7]
    for side, folder in zip((data.split.train, data.split.valid, data.split.test), (train, valid, test), strict=True):
        assert all(data.index.paths[image].startswith(f"{folder}/") for image in side)
    assert data.index.given_sides == SIDES
    assert load_data(root, valid=0.5, test=0.3, seed=3).split.digest == data.split.digest


def test_what_is_not_given_is_cut_from_the_images_to_train(write):
    """Without val or test, their fractions are cut from train, by class; what is given stays whole."""
    root = write({**_classes_in("train", cat=20, dog=10), **_classes_in("test", cat=3, dog=4)})
    data = load_data(root, valid=0.2, test=0.5, seed=1)
    assert _sides(data) == [{"train"}, {"train"}, {"test"}]
    assert np.bincount(data.index.labels[data.split.valid]).tolist() == [4, 2]
    assert len(data.split.test) == 7
    assert load_data(root, seed=2).split.digest != data.split.digest
    assert given_sides(data.index, data.split).message == "the data give the sides train, test; cut from train: valid 6"
    for file in (root / "test").rglob("*.png"):
        file.unlink()
    for folder in (root / "test" / "cat", root / "test" / "dog", root / "test"):
        folder.rmdir()
    write(_classes_in("val", cat=1, dog=1))
    data = load_data(root, test=0.1)
    assert _sides(data) == [{"train"}, {"val"}, {"train"}]
    assert len(load_data(root, test=0).split.test) == 0


def test_what_is_cut_keeps_groups_and_copies_on_one_side(write):
    """The part that is cut from train keeps groups whole, and files of the same bytes together."""
    root = write({**_classes_in("train", cat=20, dog=20), **_classes_in("test", cat=2, dog=2)})
    (root / "train/cat/90.png").write_bytes((root / "train/cat/0.png").read_bytes())
    index = load_data(root, valid=0.3, grouping=Grouping(pattern=r"/(\w+/\d)")).index
    for seed in range(10):
        sides = split(index, valid=0.3, test=0.1, seed=seed, copies=index.copies)
        valid = {index.groups[image] for image in sides.valid}
        assert valid.isdisjoint(index.groups[sides.train].tolist())
        copies = [index.paths.index("train/cat/0.png"), index.paths.index("train/cat/90.png")]
        assert len(set(copies) & set(sides.valid.tolist())) in (0, 2)


def test_too_few_images_for_what_is_cut(write):
    """A class of train that has too few images for the part to be cut is named, with the setting that takes none."""
    root = write({**_classes_in("train", cat=1, dog=9), **_classes_in("val", cat=2, dog=2)})
    assert "'cat' has 1; add some, leave the class out or set test = 0" in _refusal(root)
    assert len(load_data(root, test=0).split.train) == 10


@pytest.mark.parametrize("test", ["test", "test/test", "test/unknown", "Test Set"])
def test_a_test_side_without_classes(write, test):
    """Images of test that lie in no class can only be predicted, and are no test: that is cut from train."""
    root = write({**_classes_in("train"), test: 3})
    data = load_data(root)
    assert _sides(data) == [{"train"}] * 3
    assert data.index.unlabelled == tuple(f"{test}/{number}.png" for number in range(3))
    finding = given_sides(data.index, data.split)
    assert "3 images of the side test have no class and can only be predicted" in finding.message
    assert "hpo predict BUNDLE BUNDLE/unlabelled.csv" in finding.remedy
    assert data.index.ignored == ()


def test_images_that_are_only_there_to_be_predicted(write):
    """Three parts as seg_train, seg_test and seg_pred have them: the last one has no classes, and is in no side."""
    root = write({
        **_classes_in("seg_train/seg_train"), **_classes_in("seg_test/seg_test", cat=3, dog=3), "seg_pred/seg_pred": 2
    })  # fmt: skip
    data = load_data(root)
    assert _sides(data) == [{"seg_train"}, {"seg_train"}, {"seg_test"}]
    assert data.index.unlabelled == ("seg_pred/seg_pred/0.png", "seg_pred/seg_pred/1.png")


@pytest.mark.parametrize("name", ["test", "val", "Train", "test_set"])
def test_a_folder_like_a_side_beside_classes(write, name):
    """A folder that looks like a side beside class folders is refused with both ways on; one makes it a class."""
    root = write({"cat": 10, "dog": 10, name: 10})
    message = _refusal(root)
    assert f"folders that look like sides of a split ('{name}') beside others ('cat', 'dog')" in message
    assert "train/cat/1.jpg" in message
    assert "splits = false in [data]" in message
    assert load_data(root, grouping=Grouping(splits=NONE)).index.classes == tuple(sorted(("cat", "dog", name)))


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (_classes_in("train", "dev", "eval"), "several folders that look like one side ('dev', 'eval')"),
        (_classes_in("val", "test"), "has 'test', 'val', but no folder of images to train"),
        ({**_classes_in("train"), "val": 3}, "'val' is the side valid and has no class folders"),
        ({"train": 3, "test": 3}, "'train' is the side train and has no class folders"),
        ({**_classes_in("train"), "test/cat": 1, "test/cow": 1},
         "the side test has classes that the side train lacks ('cow'; train has 'cat', 'dog')"),
        ({**_classes_in("train"), "val/Cat": 1, "val/dog": 1}, "the side valid has classes that the side train lacks"),
    ],
)  # fmt: skip
def test_folders_of_sides_that_cannot_be_used(write, folders, expected):
    """Two folders of one side, no train, sides without classes, and classes that are not to train are refused."""
    assert expected in _refusal(write(folders))


def test_a_class_that_a_judging_side_lacks(write):
    """Not every class needs images in val and test."""
    data = load_data(write({**_classes_in("train"), "test/dog": 2, "val/cat": 2}))
    assert (len(data.split.valid), len(data.split.test)) == (2, 2)


def test_folders_with_names_of_ones_own(write):
    """Folders that are named are the sides; others are passed over; a name that is not there is refused."""
    root = write({**_classes_in("a"), **_classes_in("b", cat=2, dog=2), **_classes_in("test", cat=1, dog=1)})
    data = load_data(root, grouping=Grouping(splits=Splits(train=("a",), test=("b",))))
    assert _sides(data) == [{"a"}, {"a"}, {"b"}]
    assert data.index.ignored == ("test/",)
    both = load_data(root, grouping=Grouping(splits=Splits(train=("a", "b"), test=("test",))))
    assert _sides(both)[2] == {"test"}
    assert len(both.split.train) + len(both.split.valid) == 24
    assert "has no folder 'c', but 'a', 'b', 'test'" in _refusal(root, Splits(train=("a",), test=("c",)))
    assert "column = 'fold' is for a CSV" in _refusal(root, Splits(column="fold"))


def test_links_in_circles_among_sides_end(write):
    """A side that holds nothing but a link to itself is refused like any other without classes."""
    root = write(_classes_in("train"))
    (root / "test").mkdir()
    (root / "test" / "self").symlink_to(root / "test")
    assert "no images in the class folders" in _refusal(root)


def test_the_only_folder_is_looked_into(write):
    """A folder that lies alone in another one, as archives have it, holds the classes; train alone is all there is."""
    root = write({"photos/photos/cat": 4, "photos/photos/dog": 4})
    assert read_index(root).classes == ("cat", "dog")
    data = load_data(write({f"only/{name}": count for name, count in _classes_in("train").items()}) / "only")
    assert data.index.given_sides == ("train",)
    assert [len(side) > 0 for side in (data.split.train, data.split.valid, data.split.test)] == [True] * 3


# CSV


def _csv(root, side, label=lambda name, _: name, header="path,label,split"):
    rows = [
        f"{name}/{number}.png,{label(name, number)},{side(number)}" for name in ("cat", "dog") for number in range(10)
    ]
    (root / "list.csv").write_text("\n".join([header, *rows]))
    return root / "list.csv"


@pytest.fixture
def listed(write):
    """A folder with ten images of cats and ten of dogs."""
    return write({"cat": 10, "dog": 10})


def test_a_column_split(listed):
    """A column `split` gives the sides, whatever the case of its words; what it does not give is cut from train."""
    file = _csv(listed, lambda number: "Train" if number < 6 else ("VAL" if number < 8 else "test_set"))
    data = load_data(file, test=0.4)
    assert [len(side) for side in (data.split.train, data.split.valid, data.split.test)] == [12, 4, 4]
    assert {data.index.paths[image] for image in data.split.test} == {
        f"{name}/{number}.png" for name in ("cat", "dog") for number in (8, 9)
    }
    data = load_data(_csv(listed, lambda number: "training" if number < 8 else "testing"), valid=0.25)
    assert [len(side) for side in (data.split.train, data.split.valid, data.split.test)] == [12, 4, 4]


def test_a_column_and_words_of_ones_own(listed):
    """Another column, and other words in it, can be named; a word that is not is refused, and so is a lost column."""
    file = _csv(listed, lambda number: number % 5 + 0.0 if number > 4 else number, header="path,label,fold")
    folds = Splits("fold", train=("0", "1", "2"), valid=("3",), test=("4",))
    data = load_data(file, grouping=Grouping(splits=folds))
    assert [len(side) for side in (data.split.train, data.split.valid, data.split.test)] == [12, 4, 4]
    message = _refusal(file, Splits("fold", train=("0", "1", "2"), valid=("3",)))
    assert "4 rows whose fold names no side: [data.splits] names '0', '1', '2', '3' ('line 6: 4', " in message
    assert "has no column 'split'" in _refusal(file, Splits(train=("0",), test=("1",)))


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (lambda number: "train" if number else "", "2 rows with an empty cell ('line 2', 'line 12')"),
        (lambda number: "train" if number else "fold 2", "2 rows whose split names no side: train, val and test are"),
        (lambda number: "train" if number else "fold 2", "to leave it unread ('line 2: fold 2', 'line 12: fold 2')"),
        (lambda number: "val" if number else "test", "has no image to train"),
    ],
)
def test_a_column_split_that_cannot_be_used(listed, side, expected):
    """Empty cells, unknown words and a column without train are refused, with the lines."""
    file = _csv(listed, side)
    assert expected in _refusal(file)
    assert load_data(file, grouping=Grouping(splits=NONE)).index.sides is None


@pytest.mark.parametrize("nothing", ["", "nan"])
def test_a_csv_whose_test_images_have_no_label(listed, nothing):
    """Where no image of test has a label they can only be predicted; where some have, the others are mistakes."""

    def side(number):
        return "train" if number < 8 else "test"

    file = _csv(
        listed, lambda number: "train" if number < 8 else "test", lambda name, number: name if number < 8 else nothing
    )
    data = load_data(file)
    assert data.index.unlabelled == ("cat/8.png", "cat/9.png", "dog/8.png", "dog/9.png")
    assert data.index.classes == ("cat", "dog")
    assert len(data.split.test) > 0
    file = _csv(
        listed, lambda number: "train" if number < 8 else "test", lambda name, number: name if number < 9 else nothing
    )
    assert re.search(r"2 rows .*'line 11", _refusal(file))


def test_images_that_can_only_be_predicted_need_no_group(tmp_path):
    """Where test has no labels its rows may have no group, either; a row to train without one is a mistake."""
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},p{number},train" for number in range(20)]
    rows += ["20.png,,,test", "21.png,,p3,test"]
    for number in range(len(rows)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    file = tmp_path / "list.csv"
    file.write_text("\n".join(["path,label,group,split", *rows]))
    assert read_index(file).unlabelled == ("20.png", "21.png")
    file.write_text(file.read_text().replace(",p4,", ",,"))
    assert "1 row with an empty cell ('line 6')" in _refusal(file)


def test_the_list_of_groups_keeps_the_sides(write, tmp_path):
    """The CSV that `hpo check --groups` writes has the sides that the data give."""
    data = load_data(write({**_classes_in("train"), **_classes_in("test", cat=2, dog=2)}))
    write_groups(data.index, [], tmp_path / "groups.csv", "group")
    again = load_data(tmp_path / "groups.csv")
    assert again.index.paths == data.index.paths
    assert again.split.digest == data.split.digest


# Study file


def _study(folder, splits):
    (folder / "study.toml").write_text(f'[data]\npath = "photos"\n{splits}\n')
    return read_study_file(folder / "study.toml")


def test_the_study_file_names_sides(tmp_path):
    """[data.splits] names a column, and one name or several for each side; `splits = false` leaves all unread."""
    table = '[data.splits]\ncolumn = "fold"\ntrain = ["0", "1"]\nvalid = "2"'
    assert _study(tmp_path, table).data.grouping.splits == Splits("fold", ("0", "1"), ("2",))
    assert _study(tmp_path, "splits = false").data.grouping.splits == NONE
    assert _study(tmp_path, "").data.grouping.splits == Splits()


@pytest.mark.parametrize(
    ("splits", "problem"),
    [
        ("splits = true", "data.splits: true is neither false nor a table"),
        ('splits = "train"', 'data.splits: "train" is neither false nor a table'),
        ('splits = { trian = "a" }', 'data.splits.trian: there is no such key; did you mean "train"?'),
        ("splits = { column = 3 }", "data.splits.column: 3 is not a text"),
        ("splits = { train = 0 }", "data.splits.train: 0 is neither a text nor a list of texts"),
        ('splits = { test = "b" }', "data.splits.train: is missing"),
        ('splits = { train = "a", test = ["a"] }', 'data.splits: "a" is named twice'),
    ],
)
def test_mistakes_in_the_names_of_sides(tmp_path, splits, problem):
    """What [data.splits] cannot mean is told with its key."""
    with pytest.raises(StudyFileError) as refused:
        _study(tmp_path, splits)
    assert problem in str(refused.value)
