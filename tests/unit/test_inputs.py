"""Which bundles and rows of images a command line of `hpo predict` stands for."""

from __future__ import annotations

import unicodedata
import zipfile
from pathlib import Path

import pytest

from hpo.bundle.bundle import Bundle
from hpo.bundle.inputs import find_bundles, find_images, groups_of, known_of
from hpo.bundle.writing import write_lists
from hpo.errors import HpoError
from tests.conftest import paint
from trainer.data import load_data
from trainer.images.index import Grouping
from trainer.images.pixels import Reading

pytestmark = pytest.mark.unit

CLASSES = ("blue", "green", "red")


def test_folders_named_as_classes_give_the_true_classes(photos):
    """A folder of class folders gives every image its class, also with folders between and below them."""
    rows = find_images([str(photos)], CLASSES)
    assert len(rows) == 36
    assert all(row.true == row.file.parent.name for row in rows)
    paint(photos / "new" / "red" / "more" / "1.png", (1, 2, 3), 0)
    [deep] = [row for row in find_images([str(photos)], CLASSES) if "more" in row.path]
    assert deep.true == "red"


def test_images_without_an_ending_are_predicted_as_they_are_learned(photos):
    """In a folder where no file has an ending those that turn out to be images are taken, the others never."""
    for file in list((photos / "red").iterdir()):
        file.rename(file.with_suffix(""))
    (photos / "red" / "notes").write_text("no image")
    (photos / "blue" / "notes").write_text("no image")
    rows = find_images([str(photos)], CLASSES)
    assert len(rows) == 36
    assert {row.file.suffix for row in rows if row.true == "red"} == {""}


def test_an_image_of_unknown_class_leaves_the_others_theirs(photos):
    """Loose images and those of a folder that is no class have none; the others keep theirs."""
    paint(photos / "loose.png", (1, 2, 3), 0)
    paint(photos / "new" / "1.png", (1, 2, 3), 0)
    rows = find_images([str(photos)], CLASSES)
    known = known_of(rows)
    assert (len(rows), known.known, known.missing, known.unknown) == (38, 36, 2, {})
    assert [row.path for row in rows if row.true is None] == [str(photos / "loose.png"), str(photos / "new/1.png")]


def test_a_class_folder_given_alone_tells_its_class(photos, monkeypatch):
    """A folder named as a class tells it, however it is given; so does the folder of a single file or pattern."""
    paint(photos / "red" / "more" / "1.png", (1, 2, 3), 0)
    monkeypatch.chdir(photos / "red" / "more")
    for given in (str(photos / "red"), "..", str(photos / "r*"), str(photos / "red/1.png"), str(photos / "red/1*.png")):
        rows = find_images([given], CLASSES)
        assert rows
        assert {row.true for row in rows} == {"red"}


def test_a_folder_that_is_a_class_by_accident_tells_nothing_of_its_class_folders(photos):
    """Where a folder holds class folders its own name tells no class: `test` may be a class, and a part of a split."""
    paint(photos / "loose.png", (1, 2, 3), 0)
    rows = find_images([str(photos)], (*CLASSES, "photos"))
    assert {row.path: row.true for row in rows}[str(photos / "loose.png")] is None
    assert {row.true for row in rows} == {*CLASSES, None}


def test_patterns_files_and_upper_case_endings(photos, tmp_path, monkeypatch):
    """Patterns and files are found once each, in their order; a file whose name looks like a pattern is that file."""
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "odd [1].PNG", (1, 2, 3), 0)
    rows = find_images(["odd [1].PNG", "photos/red/1*.png", "photos/red/1.png"], ())
    assert [row.file.name for row in rows] == ["odd [1].PNG", "1.png", "10.png", "11.png"]


def test_a_csv_names_images_beside_it_with_or_without_labels(photos):
    """A CSV's paths are relative to it, and its labels are the true classes; without labels nothing is known."""
    (photos / "list.csv").write_text("path,label\nred/1.png,red\nblue/1.png,blue\n")
    rows = find_images([str(photos / "list.csv")], ("blue", "red"))
    assert [row.file for row in rows] == [photos / "red/1.png", photos / "blue/1.png"]
    assert [row.true for row in rows] == ["red", "blue"]
    (photos / "list.csv").write_text("path\nred/1.png\n")
    assert [row.true for row in find_images([str(photos / "list.csv")], CLASSES)] == [None]


def test_a_csv_is_read_as_the_search_reads_it(photos):
    """Spaces around headings and labels, a byte-order mark, empty lines and doubled rows hinder nothing."""
    text = "\ufeffpath , label\r\nred/1.png, red \r\n\r\nred/1.png,red\r\n"
    (photos / "list.csv").write_text(text, encoding="utf-8", newline="")
    rows = find_images([str(photos / "list.csv"), str(photos / "red/1.png"), str(photos / "red")], CLASSES)
    assert [row.file.name for row in rows[:3]] == ["1.png"] * 3
    assert [row.true for row in rows[:3]] == ["red"] * 3
    assert len(rows) == 2 + 12


@pytest.mark.parametrize(("classes", "expected"), [(("1", "2"), ("1", "2")), (("1.0", "1", "2.0"), ("1.0", "2.0"))])
def test_labels_that_are_whole_numbers_are_known_however_they_are_written(photos, classes, expected):
    """A label 1.0 is the class 1 where there is no class of just that text, and 2 the class 2.0 of an old bundle."""
    (photos / "list.csv").write_text("path,label\nred/1.png,1.0\nblue/1.png,2\n")
    assert tuple(row.true for row in find_images([str(photos / "list.csv")], classes)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("path,label\nred/1.png,red\nred/1.png,red,1\n", r"1 row with more cells than the header \('line 3'\)"),
        ("path,label\n,red\n", r"1 row without a path \('line 2'\)"),
        (
            "path\nred/1.png\nnowhere.png\nred\n",
            r"2 files that do not exist \('nowhere.png', 'red'\); its paths are looked for from .*: correct them",
        ),
        ("path\n", "lists no images"),
        ("", "has no column 'path'"),
        ("file,label\nred/1.png,red\n", "has no column 'path', but 'file', 'label'"),
        ("path,label,Label\nred/1.png,red,blue\n", "has 2 columns called 'label'"),
        ("path,Label\nred/1.png,red\n", "has no column 'label', but 'path', 'Label'"),
        ('path\n"red/1.png\n', "cannot be read: unexpected end of data"),
    ],
)
def test_mistakes_of_a_csv_are_named(photos, text, problem):
    """What cannot be one image a row is refused with its lines or names."""
    (photos / "list.csv").write_text(text)
    with pytest.raises(HpoError, match=problem):
        find_images([str(photos / "list.csv")], CLASSES)


def test_labels_that_are_not_utf_8_can_be_shown(photos):
    """A label in another encoding is unknown, and named in text that every terminal and JSON can hold."""
    (photos / "list.csv").write_bytes(b"path,label\nred/1.png,\xb0\xad\n")
    assert known_of(find_images([str(photos / "list.csv")], CLASSES)).unknown == {"\\xb0\\xad": 1}


def test_class_folders_written_by_macos_are_recognised(tmp_path):
    """A class name with accents is the same class in either way of writing it."""
    paint(tmp_path / unicodedata.normalize("NFD", "안경") / "1.png", (1, 2, 3), 0)
    name = unicodedata.normalize("NFC", "안경")
    assert [row.true for row in find_images([str(tmp_path)], (name, "other"))] == [name]


@pytest.mark.parametrize("given", ["nowhere.png", "nothing/*.png", "empty"])
def test_what_gives_no_image_is_named(tmp_path, monkeypatch, given):
    """A missing file, a pattern without matches and an empty folder are errors that name them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HpoError, match=given.replace("*", r"\*")):
        find_images([given], ())


def test_a_bundle_says_how_files_become_images(make_bundle):
    """Size, way of resizing and interpolation are those of the training; a bundle without a word of it stretches."""
    padded = make_bundle("padded", size="32x48", resize="pad", interpolation="bilinear")
    assert find_bundles([padded, "x"])[0][0].reading == Reading("32x48", "bilinear", resize="pad")
    old = Path(make_bundle("old"))
    recipe = (old / "recipe.toml").read_text()
    (old / "recipe.toml").write_text(recipe.replace('resize = "stretch"\n', "").replace("crop_scale = 0.08\n", ""))
    assert (old / "recipe.toml").read_text() != recipe
    assert find_bundles([str(old), "x"])[0][0].reading == Reading(32)


def test_leading_bundles_are_bundles_and_the_rest_images(make_bundle):
    """Of what is named on a command line the first folders with a bundle.json are bundles, the rest is for images."""
    one, two = make_bundle("one"), make_bundle("two", size=40, interpolation="bilinear")
    bundles, rest = find_bundles([one, two, "photos", "*.jpg"])
    assert [str(bundle.folder) for bundle in bundles] == [one, two]
    assert [bundle.recipe.image_size for bundle in bundles] == [32, 40]
    assert [bundle.reading.interpolation for bundle in bundles] == ["bicubic", "bilinear"]
    assert rest == ["photos", "*.jpg"]
    assert find_bundles([one, "list.csv"])[1] == ["list.csv"]


def test_a_folder_of_bundles_stands_for_all_of_them(make_bundle, tmp_path):
    """A folder that holds bundles and nothing else is those bundles; with anything else in it, it holds images."""
    (tmp_path / "best").mkdir()
    names = [make_bundle(f"best/trial-{number}") for number in (14, 3)]
    bundles, rest = find_bundles([str(tmp_path / "best"), "photos"])
    assert [str(bundle.folder) for bundle in bundles] == names
    assert rest == ["photos"]
    (tmp_path / "best" / "1.png").touch()
    with pytest.raises(HpoError, match="best is no bundle"):
        find_bundles([str(tmp_path / "best"), "photos"])
    assert find_bundles([names[0], str(tmp_path / "best")])[1] == [str(tmp_path / "best")]


def test_what_cannot_be_told_apart_is_named(make_bundle):
    """No bundle in front, no images at the end, and a bundle among the images are errors that say what to do."""
    one, two = make_bundle("one"), make_bundle("two")
    with pytest.raises(HpoError, match="photos is no bundle"):
        find_bundles(["photos", one])
    with pytest.raises(HpoError, match=r"no images are given; name .* after the bundles"):
        find_bundles([one, two])
    with pytest.raises(HpoError, match=f"{two} is a bundle; name it before the images"):
        find_bundles([one, "photos", two])


@pytest.mark.parametrize(
    ("classes", "difference"),
    [
        (("blue", "pink", "red"), "only {one} has green; only {two} has pink"),
        (("blue", "red"), "only {one} has green"),
        (("red", "green", "blue"), "they have another order"),
    ],
)
def test_bundles_of_different_classes_do_not_vote(make_bundle, classes, difference):
    """Bundles whose classes differ are refused with both names and what differs."""
    one, two = make_bundle("one"), make_bundle("two", classes)
    with pytest.raises(HpoError) as failure:
        find_bundles([one, two, "photos"])
    differ = difference.format(one=one, two=two)
    assert str(failure.value) == f"predict: {one} and {two} cannot vote together, their classes differ: {differ}"


def test_the_images_of_an_archive_are_named_as_if_it_were_a_folder(tmp_path):
    """A zip stands for its images, with the classes that its folders tell, or for the CSV in it."""
    paint(tmp_path / "new" / "red" / "1.png", (200, 0, 0), 1)
    archive = tmp_path / "new.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(tmp_path / "new" / "red" / "1.png", "red/1.png")
    [row] = find_images([str(archive)], ("red", "blue"), unpack=tmp_path / "unpacked")
    assert (row.path, row.true) == (f"{archive}/red/1.png", "red")
    assert row.file.read_bytes() == (tmp_path / "new" / "red" / "1.png").read_bytes()
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr("labels.csv", "path,label\nred/1.png,blue\n")
    [row] = find_images([str(archive)], ("red", "blue"), unpack=tmp_path / "unpacked")
    assert (row.path, row.true) == ("red/1.png", "blue")
    archive.write_bytes(b"")
    with pytest.raises(HpoError, match=r"predict: .*new\.zip' cannot be unpacked: .*; copy or pack it again"):
        find_images([str(archive)], ("red", "blue"), unpack=tmp_path / "unpacked")


def test_the_lists_of_a_bundle_say_which_images_belong_together(photos, tmp_path):
    """Their column group has the study's groups, with copies joined; where each image is alone there is none."""
    images = sorted(photos.rglob("*.png"))
    images[1].write_bytes(images[7].read_bytes())
    lines = [f"{image.relative_to(tmp_path)},{image.parent.name},{number // 3}" for number, image in enumerate(images)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,person", *lines]))
    data = load_data(tmp_path / "all.csv", grouping=Grouping("person"))
    (tmp_path / "bundle").mkdir()
    write_lists(tmp_path / "bundle", tmp_path / "bundle", data)
    reading = Reading(8, "bilinear", "stretch")
    bundle = Bundle(tmp_path / "bundle", None, CLASSES, reading, {}, None)
    learned = find_images([str(tmp_path / "bundle/train.csv")], CLASSES)
    expected = data.index.groups_with_copies[data.split.train]
    assert len(set(expected.tolist())) < len(learned) / 2
    found = groups_of(learned, bundle)
    assert (
        len(set(zip(expected.tolist(), found.tolist(), strict=True))) == len(set(expected.tolist())) == found.max() + 1
    )

    of_study = Bundle(bundle.folder, None, CLASSES, reading, {"origin": {"data": {"group": "person"}}}, None)
    rows = find_images([str(tmp_path / "all.csv")], CLASSES)
    assert (groups_of(rows, of_study) == [number // 3 for number in range(len(rows))]).all()
    assert len(set(groups_of(rows, bundle).tolist())) == len(rows)
    assert groups_of([rows[0], rows[5], rows[0]], bundle).tolist() == [0, 1, 0]
    images[1].unlink()
    (tmp_path / "alone").mkdir()
    write_lists(tmp_path / "alone", tmp_path / "alone", load_data(photos))
    assert (tmp_path / "alone" / "train.csv").read_text().startswith("path,label\n")
