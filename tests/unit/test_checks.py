"""What is wrong with a data set is found, told with its remedy, and nothing else is."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from hpo.check.run import write_groups
from tests.unit.test_near_duplicates import compressed, picture
from trainer.data import load_data
from trainer.images.index import Grouping, read_index
from trainer.images.split import Split, split
from trainer.images.value_range import ValueRange, ValueRanges
from trainer.quality.checks import (
    broken_files,
    doubted_labels,
    odd_sizes,
    passed_over,
    small_test,
    suspects,
    tiny_classes,
    wrong_labels,
)
from trainer.quality.classes import class_counts, similar_classes
from trainer.quality.folders import odd_folders
from trainer.quality.leaks import exact_copies, leaks, near_copies, torn_groups
from trainer.quality.near_duplicates import Pair, find_pairs
from trainer.quality.survey import look_at
from trainer.quality.values import little_contrast, several_pages, value_ranges

pytestmark = pytest.mark.unit


@pytest.fixture
def folder(tmp_path):
    """Two classes of twelve pictures."""
    for label in "ab":
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(12):
            picture(number + 50 * (label == "b"), 40).save(tmp_path / "images" / label / f"{number:02d}.png")
    return tmp_path / "images"


def _split(index, sides):
    """A split made by hand: 0, 1 or 2 for each path; the rest is to train."""
    of = np.array([sides.get(path, 0) for path in index.paths])
    return Split(*(np.flatnonzero(of == side) for side in range(3)), digest="")


def _pairs(index):
    return find_pairs(look_at(index).thumbnails, index.labels)


def _levels(findings):
    return [(finding.check, finding.level) for finding in findings]


def _seen(folder):
    index = read_index(folder)
    return index, look_at(index)


# Files


def test_good_data_has_nothing_but_ok(folder):
    """Images that are sound and different give no warning but that they are few."""
    data = load_data(folder, valid=0.25, test=0.25)
    survey = look_at(data.index)
    findings = [
        broken_files(data.index, survey),
        passed_over(data.index),
        several_pages(data.index, survey),
        value_ranges(data.index, survey),
        little_contrast(data.index, survey),
        *exact_copies(data.index, data.split),
        *near_copies(data.index, _pairs(data.index)),
        leaks(data.index, _pairs(data.index), data.split),
        *odd_sizes(data.index, survey, 32),
    ]
    assert {finding.level for finding in findings} == {"ok"}
    assert not any(finding.cases or finding.remedy for finding in findings)


def test_all_broken_files_are_named_with_their_causes(folder):
    """Every broken file is a case with its cause, beyond the first five; the sound ones are seen all the same."""
    good = (folder / "a" / "00.png").read_bytes()
    for number in range(7):
        (folder / "a" / f"bad{number}.png").write_bytes(good[: len(good) // 2])
    (folder / "b" / "empty.jpg").touch()
    (folder / "b" / "text.jpg").write_text("no image")
    counted = []
    index = read_index(folder)
    survey = look_at(index, on_progress=lambda done, of: counted.append((done, of)))
    finding = broken_files(index, survey)
    assert finding.level == "error"
    assert finding.message == "9 of 33 images cannot be read"
    causes = {case.paths[0]: case.note for case in finding.cases}
    assert len(causes) == 9
    assert causes["b/empty.jpg"] == "the file is empty"
    assert causes["b/text.jpg"] == "it is no image, or its first bytes are broken"
    assert "truncated" in causes["a/bad3.png"]
    assert survey.sizes[index.paths.index("a/00.png")].tolist() == [40, 40]
    assert survey.sizes[index.paths.index("b/text.jpg")].tolist() == [0, 0]
    assert counted == [(number, 33) for number in range(1, 34)]
    assert near_copies(index, _pairs(index))[0].level == "ok"


def test_files_that_are_passed_over_are_named(folder):
    """A file that is no image by its ending is a warning, which says where it is one all the same."""
    (folder / "a" / "notes.txt").touch()
    (folder / "a" / "picture").write_bytes((folder / "a" / "00.png").read_bytes())
    finding = passed_over(read_index(folder))
    assert finding.level == "warning"
    assert [(case.paths, case.note) for case in finding.cases] == [
        (("a/notes.txt",), ""),
        (("a/picture",), "is an image without an ending"),
    ]


def test_files_of_several_pages_are_named(folder):
    """A TIFF of several pages and an animation are one warning, which says that the first is read of each."""
    pictures = [picture(number, 40) for number in range(200, 203)]
    pictures[0].save(folder / "a" / "pages.tif", save_all=True, append_images=pictures[1:])
    pictures[0].save(folder / "a" / "frames.gif", save_all=True, append_images=pictures[1:2])
    (folder / "a" / "broken.tif").write_bytes(b"II*\0")
    index, survey = _seen(folder)
    finding = several_pages(index, survey)
    assert finding.level == "warning"
    assert finding.message == "2 of 27 files have several pages or frames: the first of each is read"
    assert [(case.paths, case.note) for case in finding.cases] == [
        (("a/frames.gif",), "2 pages"),
        (("a/pages.tif",), "3 pages"),
    ]


# Classes


def _classes(tmp_path, counts):
    """An index of a CSV with so many images of each label."""
    rows = []
    for label, count in counts.items():
        for _ in range(count):
            rows.append(f'{len(rows)}.png,"{label}"\n')
            (tmp_path / f"{len(rows) - 1}.png").touch()
    (tmp_path / "images.csv").write_text("path,label\n" + "".join(rows))
    return read_index(tmp_path / "images.csv")


def test_classes_are_listed_with_their_images(tmp_path):
    """Up to thirty classes stand in one line with their images; the others of many are cases."""
    finding = class_counts(_classes(tmp_path, {"cat": 2, "two\nlines": 1}))
    assert (finding.level, finding.message) == ("ok", r"2 classes with their images: 'cat' 2, 'two\nlines' 1")
    finding = class_counts(_classes(tmp_path, {f"{number:02d}": 1 for number in range(32)}))
    assert finding.message.endswith("'28' 1, '29' 1, …")
    assert [case.note for case in finding.cases] == ["'30' 1", "'31' 1"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("no mask", "no  mask"),
        ("hot dog", "hotdog"),
        ("\ufb01r", "fir"),
        ("\uff21", "a"),
        ("cat\u200b", "cat"),
        ("straße", "STRASSE"),
    ],
)
def test_classes_whose_names_are_alike(tmp_path, one, other):
    """Names that differ only in case, white space or the form of Unicode are an error, with the images of each."""
    finding = similar_classes(_classes(tmp_path, {one: 2, other: 3, "dog": 1}))
    assert finding.level == "error"
    assert finding.message.startswith("1 class has several names")
    assert sorted(finding.cases[0].note.split(" and ")) == sorted([f"{one!r} 2", f"{other!r} 3"])


def test_classes_whose_names_are_different(tmp_path):
    """Other letters, marks and digits are other classes."""
    names = ("cat", "cats", "cät", "1", "01", "no-mask", "no_mask")
    assert similar_classes(_classes(tmp_path, dict.fromkeys(names, 1))).level == "ok"


def _as_16_bits(folder, times):
    """Replace the pictures of the folder by grey ones of 16 bits, their values taken so many times."""
    for file in folder.rglob("*.png"):
        grey = np.asarray(Image.open(file).convert("L"))
        Image.fromarray(grey.astype(np.uint16) * times).save(file)


def test_the_range_of_values_is_told_and_images_unlike_the_rest_are_named(folder):
    """The range is one line; images whose values reach much less far than it, or farther, are named with theirs."""
    _as_16_bits(folder, 16)
    index, survey = _seen(folder)
    finding = value_ranges(index, survey)
    assert (finding.level, finding.cases) == ("ok", ())
    assert finding.message == (
        "24 of 24 images have more than 8 bits: integers from 0 to 4095 are black to white, measured over all of them"
    )
    for number in range(20):
        Image.open(folder / "a" / "00.png").save(folder / "b" / f"more{number}.png")
    dark = (np.asarray(Image.open(folder / "a" / "01.png")) // 16).astype(np.uint16)
    Image.fromarray(dark).save(folder / "a" / "dark.png")
    index, survey = _seen(folder)
    finding = value_ranges(index, survey)
    assert (finding.level, [case.paths for case in finding.cases]) == ("warning", [("a/dark.png",)])
    assert finding.cases[0].note.endswith(f" to {survey.extents[index.paths.index('a/dark.png')].high:g}")
    dark = little_contrast(index, survey)
    assert [case.paths for case in dark.cases] == [("a/dark.png",)]
    Image.fromarray(np.asarray(Image.open(folder / "a" / "01.png")) * np.uint16(16)).save(folder / "a" / "dark.png")
    bright = value_ranges(*_seen(folder))
    assert [case.paths for case in bright.cases] == [("a/dark.png",)]


def test_near_copies_are_not_seen_among_pictures_of_a_small_part_of_16_bits(folder):
    """Pictures of 8 bits kept in 16 are compared by what they show, and not as the black that they would be."""
    _as_16_bits(folder, 1)
    index, survey = _seen(folder)
    assert survey.thumbnails.max() > 200
    assert find_pairs(survey.thumbnails, index.labels) == []


def test_a_range_that_is_set_and_changes_nothing_is_told(folder):
    """Where no image has more than 8 bits, a range in the study file is a warning."""
    given = ValueRange(0, 100, "set")
    index = read_index(folder)
    finding = value_ranges(index, look_at(index, ValueRanges(given, given)))
    assert finding.level == "warning"
    assert "[data] value_range changes nothing" in finding.message
    assert value_ranges(index, look_at(index)).level == "ok"


def test_images_of_one_colour_or_few_grey_levels_are_named(folder):
    """An image of nearly one colour and one of few grey levels are named; black and white line art is neither."""
    Image.new("RGB", (40, 40), (200, 30, 30)).save(folder / "a" / "plain.png")
    grey = np.asarray(picture(1, 40).convert("L"))
    Image.fromarray(grey // 16).save(folder / "a" / "sixteen.png")
    Image.fromarray(grey // 32 * 4).save(folder / "a" / "eight.png")
    picture(2, 40).convert("1").save(folder / "a" / "line art.png")
    index, survey = _seen(folder)
    finding = little_contrast(index, survey)
    assert finding.level == "warning"
    assert [case.paths[0] for case in finding.cases] == ["a/eight.png", "a/plain.png", "a/sixteen.png"]
    assert finding.cases[1].note == "nearly one colour, a contrast of 0 of 255"
    assert "grey levels, a contrast of" in finding.cases[0].note


# Folders


def _written(root, *names):
    """Different images of these names."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), number).save(root / name)
    return read_index(root)


def test_a_copy_of_the_whole_set_in_a_class_is_an_error(tmp_path):
    """A folder that holds folders named as the other classes is told with its images."""
    index = _written(tmp_path, "cat/1.png", "dog/1.png", "photos/cat/1.png", "photos/old/dog/1.png")
    [finding] = odd_folders(index)
    assert finding.level == "error"
    assert "('photos' holds 'cat', 'dog', with 2 images)" in finding.message


@pytest.mark.parametrize(
    ("pictures", "others"), [("images", "masks"), ("image", "Mask"), ("rgb", "outlines"), (".", "annotations")]
)
def test_folders_in_each_class_that_hold_no_pictures(tmp_path, pictures, others):
    """Folders like images and masks in the classes are told by their names, or by files of the same names in both."""
    names = [f"{label}/{folder}/{number}.png" for label in "ab" for folder in (pictures, others) for number in range(3)]
    [finding] = odd_folders(_written(tmp_path, *names))
    assert finding.level == "warning"
    assert f"'{others}' (6 images)" in finding.message


def test_sides_of_a_split_in_each_class(tmp_path):
    """Folders like train and test inside the classes are not used as sides, which is told with the remedy."""
    names = [f"{label}/{side}/{number}.png" for label in "ab" for side in ("train", "test") for number in range(3)]
    [finding] = odd_folders(_written(tmp_path, *names))
    assert "'test' (6 images) and 'train' (6 images) that look like sides of a split" in finding.message


def test_classes_that_are_called_images_and_masks(tmp_path):
    """A folder of images and one of masks are hardly two classes."""
    [finding] = odd_folders(_written(tmp_path, "images/1.png", "masks/1.png"))
    assert "classes are called 'images', 'masks'" in finding.message


def test_folders_of_persons_or_days_are_not_odd(tmp_path):
    """Folders in a class that are no part of each other are nobody's fault, and neither is a CSV."""
    names = [f"{label}/{person}/{number}.png" for label in "ab" for person in "pqrstu" for number in range(2)]
    assert _levels(odd_folders(_written(tmp_path / "1", *names))) == [("odd folders", "ok")]
    names = [f"{label}/201{year}/{year}{number}.png" for label in "ab" for year in (8, 9) for number in range(2)]
    assert _levels(odd_folders(_written(tmp_path / "2", *names))) == [("odd folders", "ok")]
    (tmp_path / "1" / "list.csv").write_text("path,label\na/p/0.png,x\nb/p/0.png,a\n")
    assert _levels(odd_folders(read_index(tmp_path / "1" / "list.csv"))) == [("odd folders", "ok")]


# Sides that the data give


def test_copies_and_groups_across_given_sides_are_errors(folder, tmp_path):
    """Copies and groups that the data themselves put on two sides stay there, and are errors."""
    root = tmp_path / "given"
    for label in "ab":
        for number in range(12):
            side = "train" if number < 8 else "test"
            (root / side / label).mkdir(parents=True, exist_ok=True)
            (folder / label / f"{number:02d}.png").rename(root / side / label / f"{number:02d}.png")
    (root / "test" / "a" / "90.png").write_bytes((root / "train" / "a" / "00.png").read_bytes())
    data = load_data(root, grouping=Grouping(pattern=r"(\w/\d+)"))
    leak = leaks(data.index, (), data.split)
    assert (leak.level, leak.cases[0].paths) == ("error", ("test/a/90.png", "train/a/00.png"))
    assert "remove all but one of each set" in leak.remedy
    [copies] = [one for one in exact_copies(data.index, data.split) if one.check == "exact copies"]
    assert "unless the data themselves give it two" in copies.message
    assert torn_groups(data.index, data.split) == []
    data = load_data(root, grouping=Grouping(pattern=r"\d(\d)\.png"))
    [finding] = torn_groups(data.index, data.split)
    assert (finding.level, len(finding.cases)) == ("error", 2)  # 0 and 1 are in both


# Copies and leaks


def test_exact_copies_are_counted_and_those_that_would_cross_come_first(folder):
    """Exact copies are counted, and so are those that would lie on two sides if nothing kept them together."""
    for copy, original in (("a/90.png", "a/00.png"), ("a/91.png", "a/00.png"), ("b/90.png", "b/05.png")):
        (folder / copy).write_bytes((folder / original).read_bytes())
    index = read_index(folder)
    [finding] = exact_copies(index, _split(index, {"b/05.png": 1, "b/90.png": 2}))
    assert finding.level == "warning"
    assert finding.message.startswith("3 images are exact copies of others (5 images in 2 sets); ")
    assert "would tear 1 of them" in finding.message
    assert finding.cases[0].paths == ("b/05.png", "b/90.png")
    assert finding.cases[0].note == "without regard to copies: to validate, held out"
    assert (finding.cases[1].paths, finding.cases[1].note) == (("a/00.png", "a/90.png", "a/91.png"), "")
    sides = split(index, valid=0.25, test=0.25, seed=0, copies=index.copies)
    assert leaks(index, [], sides).level == "ok"
    assert near_copies(index, _pairs(index))[0].level == "ok"  # they are told once


def test_a_copy_in_another_class_is_a_wrong_label(folder):
    """One image in two classes is a warning that names both, be the copy exact or near."""
    (folder / "b" / "90.png").write_bytes((folder / "a" / "00.png").read_bytes())
    compressed(picture(3, 40), 50).save(folder / "b" / "91.jpg")
    index = read_index(folder)
    _, exact = exact_copies(index, None)
    assert (exact.check, exact.level) == ("labels of copies", "warning")
    assert (exact.cases[0].paths, exact.cases[0].note) == (("a/00.png", "b/90.png"), "'a' and 'b'")
    _, near = near_copies(index, _pairs(index))
    assert near.cases[0].paths == ("a/03.png", "b/91.jpg")


def test_a_near_copy_across_the_split_is_an_error_and_on_one_side_a_warning(folder):
    """A near copy between train and validation is an error with the sides; on one side it is a warning alone."""
    compressed(picture(0, 40), 40).save(folder / "a" / "90.jpg")
    index = read_index(folder)
    pairs = _pairs(index)
    assert _levels(near_copies(index, pairs)) == [("near copies", "warning")]
    assert leaks(index, pairs, _split(index, {"b/00.png": 1})).level == "ok"
    leak = leaks(index, pairs, _split(index, {"a/90.jpg": 1, "b/00.png": 2}))
    assert leak.level == "error"
    assert leak.message.startswith("1 set of nearly the same images lies on two sides of the split: 1 image to")
    assert (leak.cases[0].paths, leak.cases[0].note) == (("a/00.png", "a/90.jpg"), "to train, to validate")


def test_a_leak_through_an_exact_copy_of_a_near_one_is_found(folder):
    """A near copy whose own exact copy lies on another side leaks."""
    compressed(picture(0, 40), 40).save(folder / "a" / "90.jpg")
    (folder / "a" / "91.jpg").write_bytes((folder / "a" / "90.jpg").read_bytes())
    index = read_index(folder)
    pairs = [Pair(index.paths.index("a/00.png"), index.paths.index("a/90.jpg"), mirrored=False)]
    leak = leaks(index, pairs, _split(index, {"a/91.jpg": 2, "a/90.jpg": 2}))
    assert leak.cases[0].paths == ("a/00.png", "a/90.jpg", "a/91.jpg")


def test_copies_in_two_groups_are_told_where_there_are_groups(folder):
    """A copy in two groups is a warning, since the split keeps such groups together; without groups nothing is said."""
    (folder / "a" / "90.png").write_bytes((folder / "a" / "00.png").read_bytes())
    compressed(picture(1, 40), 40).save(folder / "a" / "91.jpg")
    alone = read_index(folder)
    assert _levels(exact_copies(alone, None)) == [("exact copies", "warning")]
    index = read_index(folder, grouping=Grouping(pattern=r"/(\d)"))
    [_, exact] = exact_copies(index, None)
    assert (exact.check, exact.level) == ("groups of copies", "warning")
    assert "such groups are kept together as one" in exact.message
    assert exact.cases[0].paths == ("a/00.png", "a/90.png")
    [_, near] = near_copies(index, _pairs(index))
    assert near.cases[0].paths == ("a/01.png", "a/91.jpg")
    assert "kept together" not in near.message


def test_too_many_images_to_compare_are_said_to_be(folder):
    """Where near copies were not looked for, that is a warning, and the leaks say that they know exact ones alone."""
    index = read_index(folder)
    assert near_copies(index, None)[0].level == "warning"
    assert "only exact copies were looked for" in leaks(index, None, _split(index, {"a/00.png": 1})).message


# Classes and sizes


def test_tiny_classes_are_named_with_their_numbers(folder):
    """A class with few images on a side is a case with its numbers; copies count once, and no test part is no side."""
    for number in range(100):
        picture(100 + number, 24).save(folder / "b" / f"more{number}.png")
    for number in range(30):
        (folder / "a" / f"copy{number}.png").write_bytes((folder / "a" / "00.png").read_bytes())
    data = load_data(folder, valid=0.2, test=0.0)
    finding = tiny_classes(data.index, data.split)
    assert finding.level == "warning"
    [case] = finding.cases
    assert case.note.startswith("'a': ")
    assert sum(int(word) for word in case.note.split() if word.isdigit()) == 12
    assert "1 of 2 classes" in finding.message


def test_large_classes_are_no_warning(folder):
    """Classes with images enough on each side are fine."""
    for label in "ab":
        for number in range(40):
            (folder / label / f"x{number}.png").write_bytes(os.urandom(9))
    data = load_data(folder, valid=0.3, test=0.2)
    assert tiny_classes(data.index, data.split).level == "ok"


def test_a_test_split_that_tells_little_is_named(folder):
    """Few images held out are a warning with the number that would do, and so are many images of few groups."""
    for label in "ab":
        for number in range(100):
            (folder / label / f"x{number}.png").write_bytes(os.urandom(9))
    index = read_index(folder)
    labels = index.labels.tolist()
    small = small_test(index, _split(index, {index.paths[image]: 2 for image in (0, 1, 2, -1, -2, -3)}))
    assert small.level == "warning"
    each = 70
    assert "about 139 are needed" in small.message
    enough = [*range(each), *range(labels.index(1), labels.index(1) + each)]
    sides = _split(index, {index.paths[image]: 2 for image in enough})
    assert small_test(index, sides).level == "ok"
    grouped = replace(index, groups=np.arange(len(labels)) // 20)
    assert "of 9 groups" in small_test(grouped, sides).message
    assert small_test(grouped, sides).level == "warning"
    assert (small_test(index, _split(index, {})).level, "hpo nested" in small.remedy) == ("ok", True)


def test_enlarged_long_and_outlying_images_are_named(folder):
    """Images that are small for the recipe, long, or far from the others in size are each a warning with their size."""
    index, survey = _seen(folder)
    [small] = odd_sizes(index, survey, 80)
    assert "24 of 24 images are enlarged 2 times or more to 80 pixels" in small.message
    picture(7, 400).save(folder / "a" / "huge.png")
    picture(8, 90).resize((40, 130)).save(folder / "b" / "long.png")
    index, survey = _seen(folder)
    long, outlying = odd_sizes(index, survey, 32)
    assert [(case.paths, case.note) for case in long.cases] == [(("b/long.png",), "40 x 130")]
    assert [(case.paths, case.note) for case in outlying.cases] == [(("a/huge.png",), "400 x 400")]
    assert "5 times larger or smaller than the median of 40 pixels" in outlying.message


@pytest.mark.parametrize(
    ("size", "resizes", "said"),
    [
        (32, ["stretch"], "1 of 25 images is 3 times as long as wide or more, and stretched to a square"),
        (32, ["crop", "pad"], "1 of 25 images is 3 times as long as wide or more, and cut to a square"),
        (32, ["pad"], None),
        (
            "40x120",
            ["crop", "stretch"],
            "25 of 25 images are 3 times as long or as wide as 40x120 in proportion or more, and stretched to it",
        ),
        (
            "120x40",
            ["crop"],
            "24 of 25 images are 3 times as long or as wide as 120x40 in proportion or more, and cut to it",
        ),
    ],
)
def test_long_images_are_told_as_they_will_be_resized(folder, size, resizes, said):
    """A long image is named with what becomes of it, compared with the proportions of the recipe's images."""
    picture(8, 90).resize((40, 130)).save(folder / "b" / "long.png")
    index, survey = _seen(folder)
    messages = [finding.message for finding in odd_sizes(index, survey, size, resizes)]
    assert [message for message in messages if "times as long" in message] == ([said] if said else [])


def test_another_size_among_images_of_one_size_is_named(folder):
    """Where nearly all images have one size, another one is named even if it is near."""
    picture(7, 44).save(folder / "a" / "other.png")
    index, survey = _seen(folder)
    [finding] = odd_sizes(index, survey, 32)
    assert "1 of 25 images is not of 40 x 40 pixels like the rest" in finding.message
    assert finding.cases[0].paths == ("a/other.png",)


# Labels


def test_suspects_of_an_example_worked_by_hand():
    """Suspects are those of confident learning's equations 1 and 2, worked by hand, the surest first."""
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0],  # 0
            [0.7, 0.2, 0.1],  # 0
            [0.2, 0.8, 0.0],  # 0, is a 1: 0.8 reaches the threshold of class 1
            [0.4, 0.55, 0.05],  # 0, but 0.55 does not reach it
            [0.1, 0.9, 0.0],  # 1
            [0.95, 0.05, 0.0],  # 1, is a 0
            [0.2, 0.8, 0.0],  # 1
            [0.0, 0.1, 0.9],  # 2
            [0.6, 0.1, 0.3],  # 2, is a 0: 0.6 reaches the threshold of class 0
        ],
        np.float32,
    )
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    # Thresholds: (0.9 + 0.7 + 0.2 + 0.4) / 4 = 0.55; (0.9 + 0.05 + 0.8) / 3 = 0.583; (0.9 + 0.3) / 2 = 0.6.
    assert suspects(probabilities, labels) == [(5, 0), (2, 1), (8, 0)]


def test_a_label_more_probable_than_the_expected_class_is_no_suspect():
    """A class with a low threshold does not make a suspect of what the model itself takes for its label."""
    probabilities = np.array([[0.6, 0.4], [0.95, 0.05], [0.7, 0.3], [0.8, 0.2]], np.float32)
    assert suspects(probabilities, np.array([0, 0, 1, 1])) == [(3, 0)]


def test_a_class_without_images_is_never_expected():
    """A class that none of the images has is expected of none of them, and nothing is divided by zero."""
    probabilities = np.array([[0.2, 0.1, 0.7], [0.1, 0.9, 0.0], [0.8, 0.1, 0.1]], np.float32)
    assert suspects(probabilities, np.array([0, 1, 0])) == []


def test_labels_that_models_agree_with_are_not_suspected():
    """Where every image has its own class as the most probable, nothing is suspected."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(5), 500).astype(np.float32)
    assert suspects(probabilities, probabilities.argmax(axis=1)) == []


def test_wrong_labels_say_what_was_looked_at(folder):
    """The finding says how many images were looked at, and each case what its label and the models say."""
    index = read_index(folder)
    images = np.array([0, 1, 12, 13])
    probabilities = np.array([[0.9, 0.1], [0.04, 0.96], [0.1, 0.9], [0.2, 0.8]], np.float32)
    looked = ("of the 4 images to validate, by the 3 best models", "the others were not looked at")
    finding = wrong_labels(index, doubted_labels(index, images, probabilities), *looked)
    assert finding.level == "warning"
    assert finding.message.startswith("1 label of the 4 images to validate, by the 3 best models, may be wrong; ")
    assert finding.cases[0].paths == ("a/01.png",)
    assert finding.cases[0].note == "labelled 'a' (0.04), looks like 'b' (0.96)"
    sure = doubted_labels(index, images[2:], probabilities[2:])
    assert (sure, wrong_labels(index, sure, *looked).level) == ((), "ok")


def test_findings_are_json(folder):
    """A finding becomes plain values."""
    (folder / "notes.txt").touch()
    assert json.loads(json.dumps(passed_over(read_index(folder)).as_json())) == {
        "check": "other files",
        "level": "warning",
        "message": "1 file or folder is passed over (no image by its ending, or in no class folder)",
        "remedy": "move them if they should be images of a class, and give an image an ending such as .png",
        "cases": [{"paths": ["notes.txt"], "note": ""}],
    }


def test_the_list_of_groups_keeps_the_names_that_groups_have(folder, tmp_path):
    """Groups keep name and heading; two that share a picture become one by the first name, also one like a formula."""
    rows = [f"{label}/{number:02d}.png,{label},={label}{number // 6}\n" for label in "ab" for number in range(12)]
    (folder / "list.csv").write_text("path,label,person\n" + "".join(rows))
    index = read_index(folder / "list.csv", Grouping(column="person"))
    pair = Pair(index.paths.index("a/01.png"), index.paths.index("b/07.png"), mirrored=False)
    write_groups(index, [pair], tmp_path / "joined.csv", "person")
    again = read_index(tmp_path / "joined.csv", Grouping(column="person"))
    names = [again.group_names[group] for group in again.groups]
    assert names == ["=a0"] * 6 + ["=a1"] * 6 + ["=b0"] * 6 + ["=a0"] * 6


def test_planted_wrong_labels_of_digits_are_found():
    """Of 90 wrong labels among 1,797 digits 7 in 10 are found by nearest neighbours that had not learned them.

    Nine in ten of the labels that are doubted are wrong.
    """
    digits, random = load_digits(), np.random.default_rng(0)
    labels, wrong = digits.target.copy(), random.choice(1797, 90, replace=False)
    labels[wrong] = (labels[wrong] + random.integers(1, 10, 90)) % 10
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    neighbours = KNeighborsClassifier(10, weights="distance")
    probabilities = cross_val_predict(neighbours, digits.data, labels, cv=folds, method="predict_proba")
    found = suspects(probabilities.astype(np.float32), labels)
    planted = set(wrong.tolist())
    hits = [(row, expected) for row, expected in found if row in planted]
    assert len(hits) / len(found) > 0.9
    assert len(hits) / len(planted) > 0.7
    assert np.mean([digits.target[row] == expected for row, expected in hits]) > 0.95
