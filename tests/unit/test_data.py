"""From a folder or a CSV to an index, a split and pixels."""

from __future__ import annotations

import hashlib
import math
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.waiting import limit
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images.cache import PixelCache
from trainer.images.index import Grouping, Index, read_index
from trainer.images.pixels import Reading
from trainer.images.split import divide_into_folds, split

pytestmark = pytest.mark.unit


def _image(path: Path, colour: tuple[int, int, int] = (1, 2, 3)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), colour).save(path, format="PNG")
    return path


def _images(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        _image(root / name, (1, 2, number))  # all different: copies stay together in the split
    return root


def _csv(root: Path, text: str, encoding: str = "utf-8") -> Path:
    path = root / "images.csv"
    path.write_text(text, encoding=encoding)
    return path


def _index(labels: list[int], groups: list[int] | None = None, prefix: str = "") -> Index:
    """An index of files that need not exist."""
    return Index(
        root=Path(),
        paths=tuple(f"{prefix}{number:06d}.png" for number in range(len(labels))),
        labels=np.array(labels, np.int64),
        groups=np.arange(len(labels)) if groups is None else np.array(groups, np.int64),
        classes=tuple(f"class {number}" for number in range(max(labels) + 1)),
    )


def _rows(index: Index) -> list[tuple[str, str]]:
    return [(path, index.classes[label]) for path, label in zip(index.paths, index.labels, strict=True)]


def _refusal(call, *args, **options) -> str:
    """The one line with which the call refuses."""
    with pytest.raises(DataError) as failure:
        call(*args, **options)
    message = str(failure.value)
    assert "\n" not in message
    return message


def _counts(index: Index, side: np.ndarray) -> list[int]:
    return np.bincount(index.labels[side], minlength=len(index.classes)).tolist()


# Folders


def test_a_folder_is_a_class(tmp_path):
    """One folder is one class, in alphabetical order; images lie at any depth; names keep spaces and Korean letters."""
    _images(tmp_path, "cat/b.png", "cat/deep/er/a.JPG", "Ant/1.TIFF", "마스크 착용/홍길동 1.jpeg")
    index = read_index(tmp_path)
    assert index.classes == ("Ant", "cat", "마스크 착용")
    assert _rows(index) == [
        ("Ant/1.TIFF", "Ant"),
        ("cat/b.png", "cat"),
        ("cat/deep/er/a.JPG", "cat"),
        ("마스크 착용/홍길동 1.jpeg", "마스크 착용"),
    ]
    assert index.root == tmp_path
    assert index.labels.dtype == index.groups.dtype == np.int64
    assert index.groups.tolist() == [0, 1, 2, 3]


def test_what_is_no_image_is_ignored(tmp_path):
    """Files with other endings or outside of the class folders are listed as ignored, hidden ones are not even that."""
    _images(tmp_path, "a/1.png", "b/1.png", "a/.hidden.png", ".git/x.png", "b/.thumbs/y.png", "stray.png")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "README").touch()
    (tmp_path / ".DS_Store").touch()
    index = read_index(tmp_path)
    assert index.paths == ("a/1.png", "b/1.png")
    assert index.ignored == ("README", "a/notes.txt", "stray.png")


def test_images_without_an_ending(tmp_path):
    """A class whose files have no ending is read by what they hold; beside images with one they are passed over."""
    _images(tmp_path, "a/1", "a/2", "b/1.png", "b/2")
    (tmp_path / "a" / "notes").write_text("no image")
    index = read_index(tmp_path)
    assert index.paths == ("a/1", "a/2", "b/1.png")
    assert index.ignored == ("a/notes", "b/2")
    assert "'c' (only such as 'c/x.dat')" in _refusal(read_index, _images(tmp_path, "c/x.dat"))


def test_what_systems_leave_is_no_class(tmp_path):
    """Folders that systems leave beside those of the classes are passed over and named."""
    index = read_index(_images(tmp_path, "a/1.png", "b/1.png", "__MACOSX/a/._1.png", "@eaDir/thumb.jpg"))
    assert (index.classes, index.ignored) == (("a", "b"), ("@eaDir/", "__MACOSX/"))


def test_links_are_followed(tmp_path):
    """Links to images, to folders of images and to class folders count as what they lead to."""
    elsewhere = _images(tmp_path / "elsewhere", "x.png", "more/y.png")
    root = _images(tmp_path / "root", "a/1.png")
    (root / "a" / "2.png").symlink_to(elsewhere / "x.png")
    (root / "a" / "more").symlink_to(elsewhere / "more")
    (root / "b").symlink_to(elsewhere)
    assert read_index(root).paths == ("a/1.png", "a/2.png", "a/more/y.png", "b/more/y.png", "b/x.png")


def test_circles_of_links_end(tmp_path):
    """A link to a folder above it ends there instead of going round for ever."""
    _images(tmp_path, "a/1.png", "a/deep/2.png", "b/1.png")
    (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "root").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b" / "self")
    assert read_index(tmp_path).paths == ("a/1.png", "a/deep/2.png", "b/1.png")


def test_links_that_lead_nowhere(tmp_path):
    """Links whose image is gone are refused with their number and names."""
    _images(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nothing.png")
    message = _refusal(read_index, tmp_path)
    assert "1 link that leads nowhere ('a/gone.png')" in message


def test_empty_classes_are_named(tmp_path):
    """Class folders without an image are refused, all of them by name."""
    _images(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "only text").mkdir()
    (tmp_path / "only text" / "a.txt").touch()
    message = _refusal(read_index, tmp_path)
    assert "'empty', 'only text'" in message
    assert "'a'" not in message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], "has no images; make one folder a class"),
        (["1.png", "2.png"], "has 2 images and no class folders; make one folder a class"),
        (["a/1.png"], "has the one class 'a' and needs two at least"),
    ],
)
def test_folders_of_the_wrong_kind(tmp_path, names, expected):
    """A folder that is empty, flat or of one class is refused with the layout that is needed."""
    message = _refusal(read_index, _images(tmp_path, *names))
    assert expected in message
    assert "make one folder a class (cat/1.jpg, dog/2.jpg), or write a CSV with the columns path,label" in message


def test_paths_that_lead_nowhere(tmp_path):
    """A path that does not exist, or is neither a folder nor a CSV, is refused by name."""
    assert "gone' does not exist" in _refusal(read_index, tmp_path / "gone")
    (tmp_path / "a.txt").touch()
    assert "a.txt' is neither a folder nor a .csv, .zip or .tar file" in _refusal(read_index, tmp_path / "a.txt")


def test_line_breaks_in_names_stay_out_of_messages(tmp_path):
    """A folder whose name has a line break is still reported in one line."""
    _images(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "two\nlines").mkdir()
    assert r"'two\nlines'" in _refusal(read_index, tmp_path)


# Groups


def test_group_pattern(tmp_path):
    """Images whose paths hold the same captured text are one group, across classes."""
    _images(tmp_path, "a/p1_x.png", "a/p2_x.png", "b/p1_y.png", "b/p22_y.png")
    index = read_index(tmp_path, grouping=Grouping(pattern=r"/p(\d+)_"))
    assert index.groups.tolist() == [0, 1, 0, 2]


def test_group_pattern_must_match_all(tmp_path):
    """Images that the pattern does not match, or where it captures nothing, are counted and shown."""
    _images(tmp_path, "a/p1.png", "a/x.png", "b/p1.png", "b/p.png")
    message = _refusal(read_index, tmp_path, grouping=Grouping(pattern=r"/p(\d*)"))
    assert "finds no group in 2 of 4 paths ('a/x.png', 'b/p.png')" in message


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("p(", "is no regular expression"),
        ("p1", "has 0 capture groups and needs one"),
        ("(p)(1)", "has 2 capture groups and needs one"),
    ],
)
def test_group_patterns_of_the_wrong_kind(tmp_path, pattern, expected):
    """A pattern that is no regular expression, or has not one capture group, is refused with its text."""
    message = _refusal(read_index, _images(tmp_path, "a/p1.png", "b/p1.png"), grouping=Grouping(pattern=pattern))
    assert f"group_pattern = '{pattern}' {expected}" in message


def test_a_folder_has_no_group_column(tmp_path):
    """A column name given with a folder is refused with the setting that a folder takes."""
    message = _refusal(read_index, _images(tmp_path, "a/1.png", "b/1.png"), grouping=Grouping("person"))
    assert "group = 'person'" in message
    assert "use group_pattern" in message


# CSV


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv(tmp_path, encoding):
    """A CSV lists images relative to its folder or absolute, with or without a byte order mark, rows in any order."""
    _images(tmp_path / "lists", "사진/1.png", "사진/2, b.png", "3.png")
    _image(tmp_path / "outside.png")
    text = (
        "label,extra,path,person\n"
        f"dog,,{tmp_path / 'outside.png'},p2\n"
        "고양이,x,사진/1.png,p1\n"
        '\n고양이,x,"사진/2, b.png",p1\n'
        f"dog, , {tmp_path / 'lists' / '3.png'} ,p2\n"
    )
    index = read_index(_csv(tmp_path / "lists", text, encoding), grouping=Grouping("person"))
    assert _rows(index) == [
        (str(tmp_path / "outside.png"), "dog"),
        ("3.png", "dog"),
        ("사진/1.png", "고양이"),
        ("사진/2, b.png", "고양이"),
    ]
    assert index.groups.tolist() == [0, 0, 1, 1]
    assert index.root == tmp_path / "lists"


def test_csv_without_groups(tmp_path):
    """Without a group column each image of a CSV is its own group; a pattern makes groups as in a folder."""
    path = _csv(_images(tmp_path, "p1_a.png", "p1_b.png"), "path,label\np1_a.png,x\np1_b.png,y\n")
    assert read_index(path).groups.tolist() == [0, 1]
    assert read_index(path, Grouping(pattern="(p1)")).groups.tolist() == [0, 0]
    assert "exclude each other" in _refusal(read_index, path, grouping=Grouping("label", "(p1)"))


def test_csv_names_in_pieces(tmp_path):
    """A CSV written with composed Korean letters finds files whose names are stored in pieces, as macOS does."""
    name = unicodedata.normalize("NFD", "홍길동.png")
    _images(tmp_path, name, "b.png")
    index = read_index(_csv(tmp_path, "path,label\n홍길동.png,x\nb.png,y\n"))
    assert index.paths == ("b.png", name)


def test_all_mistakes_of_a_csv_at_once(tmp_path):
    """Empty cells, long rows, unknown files and repeated paths are reported in one line, each kind with its cases."""
    _images(tmp_path, "a.png", "b.png", "sub/c.png")
    unknown = "".join(f"gone{number}.png,x\n" for number in range(7))
    text = f"path,label\na.png,x\nsub/../a.png,y\nb.png,\n,x\nb.png,x,z\n{unknown}{'n' * 300}.png,x\nb\n"
    message = _refusal(read_index, _csv(tmp_path, text))
    assert "images.csv'" in message
    assert "1 row with more cells than the header, where a comma may want quotes ('line 6')" in message
    assert "3 rows with an empty cell ('line 4', 'line 5', 'line 15')" in message
    assert "9 files that do not exist ('gone0.png', 'gone1.png', 'gone2.png', 'gone3.png', 'gone4.png', …)" in message
    assert "2 paths listed more than once ('a.png', 'b.png')" in message
    assert message.count("; ") == 4


@pytest.mark.parametrize(
    ("text", "group", "expected"),
    [
        ("", None, "has no column 'path', 'label', but "),
        ("path;label\na.png;x\n", None, "has no column 'path', 'label', but 'path;label'"),
        ("path,label\na.png,x\n", "person", "has no column 'person', but 'path', 'label'"),
        ("path,label\n", None, "lists no images"),
        ("path,label\na.png,x\n", None, "has the one class 'x'"),
        ('path,label\n"a.png,x\n', None, "unexpected end of data"),
    ],
)
def test_csv_of_the_wrong_kind(tmp_path, text, group, expected):
    """A CSV without its columns, without rows, with one class or with an open quote is refused by name."""
    message = _refusal(read_index, _csv(_images(tmp_path, "a.png"), text), grouping=Grouping(group))
    assert "images.csv'" in message
    assert expected in message


def test_whole_numbers_written_as_floats_are_those_numbers(tmp_path):
    """Labels 1, 1.0, 1. and 1.000e+00 are one class; 1.5, 01 and v1.0 are what they are."""
    labels = ["1", "1.0", "1.", "1.000e+00", "10.0", "-1.0", "1.5", "01", "v1.0"]
    names = [f"{number}.png" for number in range(len(labels))]
    rows = "".join(f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    index = read_index(_csv(_images(tmp_path, *names), f"path,label\n{rows}"))
    assert [label for _, label in _rows(index)] == ["1", "1", "1", "1", "10", "-1", "1.5", "01", "v1.0"]


def test_numbers_written_as_floats_keep_the_digest_that_their_studies_know(tmp_path):
    """Where a class is written as a float throughout, the digest holds that text, as it always did."""
    root = _images(tmp_path, "a.png", "b.png")
    digests = {
        labels: read_index(_csv(root, "path,label\na.png,{}\nb.png,{}\n".format(*labels))).digest
        for labels in (("0.0", "1.0"), ("0", "1"), ("0.0", "1"))
    }
    rows = [("a.png", "0.0", "0"), ("b.png", "1.0", "1")]
    lines = ["\0".join([*row, str((root / row[0]).stat().st_size)]) + "\n" for row in rows]
    assert digests["0.0", "1.0"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert len(set(digests.values())) == 3


@pytest.mark.parametrize("label", ["nan", "NaN", "NA", "<NA>", "N/A", "#N/A", "null", "NULL"])
def test_labels_that_say_that_they_are_missing(tmp_path, label):
    """What programs write for a missing label is no class: it is refused with its line."""
    text = f"path,label\na.png,x\nb.png,{label}\nc.png,y\n"
    message = _refusal(read_index, _csv(_images(tmp_path, "a.png", "b.png", "c.png"), text))
    assert f"1 row whose label says that it is missing ('line 3: {label}'); correct these rows" in message


def test_none_is_a_class(tmp_path):
    """A class may be called none: so many data sets call what has no defect, no mask or no disease."""
    index = read_index(_csv(_images(tmp_path, "a.png", "b.png"), "path,label\na.png,None\nb.png,none\n"))
    assert index.classes == ("None", "none")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("path,label,label", "has 2 columns called 'label' ('label', 'label')"),
        ("path,label,Label", "has 2 columns called 'label' ('label', 'Label')"),
        ("path,PATH,label", "has 2 columns called 'path' ('path', 'PATH')"),
        ("path,label,group,group", "has 2 columns called 'group' ('group', 'group')"),
    ],
)
def test_headings_that_stand_there_twice(tmp_path, header, expected):
    """Of two columns with one heading none is taken: it is said which to rename, before any row is looked at."""
    message = _refusal(read_index, _csv(tmp_path, f"{header}\nx.png,a,b,c\n"))
    assert f"{expected}; leave one, rename the others" in message


def test_double_headings_that_nobody_reads(tmp_path):
    """Other columns may have what headings they like."""
    text = "path,,note,label,note,\na.png,,,x,,\nb.png,,,y,,\n"
    assert read_index(_csv(_images(tmp_path, "a.png", "b.png"), text)).classes == ("x", "y")


def test_csv_in_another_encoding(tmp_path):
    """A CSV that is not UTF-8 is refused with how to save it."""
    message = _refusal(read_index, _csv(tmp_path, "path,label\n사진.png,x\n", "cp949"))
    assert "is not UTF-8; save it as CSV UTF-8" in message


# Digest


def test_digest_is_the_same_everywhere(tmp_path):
    """The same images have the same digest in another folder, from a CSV in any order, and with letters in pieces."""
    names = ("나/가.png", "나/b.png", "c/é.png", "c/f.png")  # in pieces é is sorted before f
    first = read_index(_images(tmp_path / "1", *names))
    pieces = read_index(_images(tmp_path / "2", *(unicodedata.normalize("NFD", name) for name in names)))
    rows = "c/f.png,c\nc/é.png,c\n나/b.png,나\n나/가.png,나\n"
    listed = read_index(_csv(tmp_path / "1", f"path,label\n{rows}"))
    assert first.paths != pieces.paths
    assert first.paths == tuple(unicodedata.normalize("NFC", path) for path in pieces.paths)
    assert first.classes == pieces.classes
    assert first.digest == pieces.digest == listed.digest
    assert len(first.digest) == 64


@pytest.mark.parametrize("change", ["path", "label", "group", "bytes"])
def test_digest_changes_with_the_data(tmp_path, change):
    """Another path, class, grouping or file size gives another digest."""
    root = _images(tmp_path, "p1.png", "p2.png", "q1.png")
    path = _csv(root, "path,label\np1.png,x\np2.png,x\nq1.png,y\n")
    before = read_index(path).digest
    assert read_index(path).digest == before
    pattern = None
    if change == "path":
        (root / "p2.png").rename(root / "p3.png")
        _csv(root, "path,label\np1.png,x\np3.png,x\nq1.png,y\n")
    elif change == "label":
        _csv(root, "path,label\np1.png,x\np2.png,y\nq1.png,y\n")
    elif change == "group":
        pattern = "([pq])"
    else:
        with (root / "p1.png").open("ab") as file:
            file.write(b"x")
    assert read_index(path, Grouping(pattern=pattern)).digest != before


def test_digest_of_an_image_that_is_gone(tmp_path):
    """An image that vanished since the index was read is named."""
    index = read_index(_images(tmp_path, "a/1.png", "b/1.png"))
    (tmp_path / "b" / "1.png").unlink()
    with pytest.raises(DataError, match=r"b/1\.png' cannot be read: No such file"):
        index.digest  # noqa: B018 (a property)


# Split


def _check_whole(index: Index, sides) -> None:
    """Every image on one side, groups whole, every class on every side."""
    assert sorted(np.concatenate([sides.train, sides.valid, sides.test]).tolist()) == list(range(len(index.paths)))
    groups = [set(index.groups[side].tolist()) for side in (sides.train, sides.valid, sides.test)]
    assert sum(map(len, groups)) == len(set(index.groups.tolist()))
    for side in (sides.train, sides.valid, sides.test):
        assert side.dtype == np.int64
        assert side.tolist() == sorted(side.tolist())
        assert min(_counts(index, side)) >= 1


def test_each_class_has_its_fractions():
    """Without groups each class has round(n * fraction) images on each side, but at least one."""
    sizes = [3, 4, 10, 57, 1000]
    index = _index([label for label, size in enumerate(sizes) for _ in range(size)])
    sides = split(index, valid=0.2, test=0.15, seed=0)
    _check_whole(index, sides)
    assert _counts(index, sides.valid) == [1, 1, 2, 11, 200]
    assert _counts(index, sides.test) == [1, 1, 2, 9, 150]


def test_large_fractions_leave_an_image_to_train():
    """However large the fractions are, each class keeps an image to train."""
    index = _index([0] * 3 + [1] * 4 + [2] * 100)
    sides = split(index, valid=0.6, test=0.39, seed=0)
    _check_whole(index, sides)
    assert _counts(index, sides.train) == [1, 1, 1]


def test_no_test_side():
    """With a test fraction of 0 the test side is empty and two images a class are enough."""
    index = _index([0, 0, 1, 1])
    sides = split(index, valid=0.2, test=0, seed=0)
    assert sides.test.tolist() == []
    assert sides.test.dtype == np.int64
    assert _counts(index, sides.train) == _counts(index, sides.valid) == [1, 1]


def test_the_seed_decides():
    """One seed always gives the same split, known for all times; another seed gives another."""
    index = _index([0, 1] * 10)
    sides = split(index, valid=0.2, test=0.15, seed=7)
    assert sides.valid.tolist() == [2, 9, 10, 13]
    assert sides.test.tolist() == [8, 11, 17, 18]
    assert split(index, valid=0.2, test=0.15, seed=7).digest == sides.digest
    assert len({split(index, valid=0.2, test=0.15, seed=seed).digest for seed in range(20)}) == 20


def test_the_split_is_drawn_evenly():
    """Over many seeds each image is held out about as often as any other."""
    index = _index([0, 1] * 20)
    held = np.zeros(40)
    for seed in range(400):
        held[split(index, valid=0.25, test=0, seed=seed).valid] += 1
    assert abs(held - 100).max() < 4 * math.sqrt(400 * 0.25 * 0.75)


def test_the_order_of_files_does_not_matter(tmp_path):
    """A CSV in another order, other group names and letters in pieces give the same split and digest."""
    names = [f"사진{number}.png" for number in range(12)]
    rows = [f"{name},{'xy'[number % 2]},p{number // 2 % 5}" for number, name in enumerate(names)]
    other = [row.replace(",p", ",zz") for row in reversed(rows)]
    results = []
    for folder, form, lines in (("1", "NFC", rows), ("2", "NFD", other)):
        root = _images(tmp_path / folder, *(unicodedata.normalize(form, name) for name in names))
        index = read_index(_csv(root, "\n".join(["path,label,person", *lines])), grouping=Grouping("person"))
        sides = split(index, valid=0.3, test=0.2, seed=1)
        results.append((sides.digest, sides.valid.tolist(), sides.test.tolist(), index.digest))
    assert results[0] == results[1]


def test_split_digest_is_tied_to_the_paths():
    """The same positions in other data, or the same data on other sides, have another digest."""
    digests = {
        split(_index([0, 1] * 10, prefix=prefix), valid=valid, test=0.15, seed=0).digest
        for prefix in ("a", "b")
        for valid in (0.2, 0.3)
    }
    assert len(digests) == 4


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_whole(seed):
    """A group of any size and any classes is on one side, and the fractions are still met for each class."""
    random = np.random.default_rng(seed)
    sizes = (3 * random.pareto(1.2, 80) + 1).astype(int).clip(1, 80)  # few are big and most are small
    people = np.repeat(np.arange(80), sizes)
    index = _index(random.integers(0, 3, len(people)).tolist(), people.tolist())
    sides = split(index, valid=0.2, test=0.15, seed=seed)
    _check_whole(index, sides)
    for side, fraction in ((sides.valid, 0.2), (sides.test, 0.15)):
        shares = np.array(_counts(index, side)) / np.bincount(index.labels)
        assert abs(shares - fraction).max() < 0.01


def test_few_groups_of_any_size():
    """Three groups a class are enough for three sides, however unequal they are."""
    sizes = [[5, 5, 5], [100, 1, 1], [50, 49, 2], [1, 1, 1]]
    labels, groups = [], []
    for label, of_class in enumerate(sizes):
        for size in of_class:
            groups += [max(groups, default=-1) + 1] * size
            labels += [label] * size
    index = _index(labels, groups)
    _check_whole(index, split(index, valid=0.2, test=0.15, seed=0))


def test_groups_that_stand_in_each_others_way():
    """Few groups of several classes each are divided so that no side misses a class, whatever the seed."""
    members = [[0, 1, 1], [0], [2, 2, 1, 1], [0], [1, 2], [2, 0, 0]]
    groups = [group for group, labels in enumerate(members) for _ in labels]
    index = _index([label for labels in members for label in labels], groups)
    for seed in range(50):
        _check_whole(index, split(index, valid=0.2, test=0.15, seed=seed))


def test_groups_that_cannot_be_divided():
    """Where no way is found to have each class on each side, that is said with what to do."""
    members = [[0, 1], [1, 2], [2, 0], [0, 1, 2]]  # only one of them is a side by itself
    index = _index([label for group in members for label in group], [0, 0, 1, 1, 2, 2, 3, 3, 3])
    message = _refusal(split, index, valid=0.2, test=0.15, seed=0)
    assert "found no way to have each of the 3 classes in each part with whole groups" in message
    assert "set test = 0" in message


def test_too_few_images_are_named():
    """Each class with fewer images than sides is named with what it has and needs."""
    index = _index([0] * 2 + [1] * 3 + [2])
    message = _refusal(split, index, valid=0.2, test=0.15, seed=0)
    assert message.startswith("each class needs 3 images, one for each part: 'class 0' has 2, 'class 2' has 1; ")
    assert "set test = 0" in message
    assert "set test = 0" not in _refusal(split, index, valid=0.2, test=0, seed=0)


def test_too_few_groups_are_named():
    """Each class with fewer groups than sides is named, however many images it has."""
    index = _index([0] * 40 + [1] * 3, [0] * 20 + [1] * 20 + [2, 3, 4])
    message = _refusal(split, index, valid=0.2, test=0.15, seed=0)
    assert "each class needs 3 groups, one for each part: 'class 0' has 2 with 40 images; " in message


def test_folds_hold_each_image_once_by_class_and_groups_whole():
    """Each fold has its share of every class, groups and copies whole, and another seed gives other folds."""
    labels, groups = [0] * 40 + [1] * 20 + [2] * 20, [number // 2 for number in range(80)]
    index, images = _index(labels, groups), np.arange(4, 80)
    copies = np.arange(80)
    copies[79] = copies[4]  # of another group and class
    folds = divide_into_folds(index, images, 4, seed="a", copies=copies)
    assert folds.min() == 0
    for label, wanted in ((0, 9), (1, 5), (2, 5)):
        held = np.bincount(folds[index.labels[images] == label], minlength=4)
        assert abs(held - wanted).max() <= 2
    assert all(len(set(folds[index.groups[images] == group])) == 1 for group in set(groups[4:]))
    assert folds[0] == folds[-1]
    assert (folds == divide_into_folds(index, images, 4, seed="a", copies=copies)).all()
    assert (folds != divide_into_folds(index, images, 4, seed="b", copies=copies)).any()


def test_each_class_trains_in_every_fold():
    """A class of two groups is judged in two folds of four, and the only group of a class always trains."""
    labels, groups = [0] * 20 + [1] * 4 + [2] * 3, [*range(20), 20, 20, 21, 21, 22, 22, 22]
    folds = divide_into_folds(_index(labels, groups), np.arange(27), 4, seed="a")
    assert len(set(folds[20:24])) == 2
    assert set(folds[24:]) == {-1}
    torn = divide_into_folds(_index([0, 1] * 4, [0, 0, 1, 1, 2, 2, 3, 3]), np.arange(8), 2, seed="a")
    assert set(torn) == {0, 1}


def test_a_large_data_set_is_split_at_once():
    """50,000 images are split within two seconds, with groups and without."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 100, 50_000).tolist()
    start = time.process_time()
    split(_index(labels), valid=0.2, test=0.15, seed=0)
    split(_index(labels, random.integers(0, 5_000, 50_000).tolist()), valid=0.2, test=0.15, seed=0)
    assert time.process_time() - start < limit(4)


# All together


@pytest.mark.parametrize(
    ("valid", "test"),
    [(0, 0.1), (1, 0), (-0.1, 0.1), (0.5, 0.5), (0.2, -0.1), (0.2, 1), (math.nan, 0.1), (0.2, math.nan)],
)
def test_fractions_out_of_range(tmp_path, valid, test):
    """Fractions that leave nothing to train or to validate are refused with their values before any file is read."""
    message = _refusal(load_data, tmp_path / "gone", valid=valid, test=test)
    assert f"valid = {valid} and test = {test}" in message


def test_load_data(tmp_path):
    """Data has index, split and pixels; a path may be text; nothing is decoded before pixels are asked for."""
    root = _images(tmp_path, *(f"{label}/p{number}.png" for label in "ab" for number in range(10)))
    _image(root / "b" / "p3.png", (200, 100, 50))
    data = load_data(str(root), valid=0.3, test=0.2, seed=3, grouping=Grouping(pattern=r"(p\d)"))
    assert data.split.digest == split(data.index, valid=0.3, test=0.2, seed=3).digest  # there are no copies
    assert (len(data.split.train), len(data.split.valid), len(data.split.test)) == (10, 6, 4)
    pixels = data.pixels(Reading(8))
    assert pixels.shape == (20, 8, 8, 3)
    assert pixels[data.index.paths.index("b/p3.png"), 0, 0].tolist() == [200, 100, 50]
    assert pixels[data.index.paths.index("a/p3.png"), 0, 0].tolist() == [1, 2, 3]
    assert data.pixels(Reading(8)) is pixels
    assert data.pixels(Reading(4)).shape == (20, 4, 4, 3)
    assert data.pixels(Reading(8, "bicubic")) is pixels
    assert data.pixels(Reading(8, "nearest")) is not pixels


def test_pixels_in_a_cache(tmp_path):
    """With a cache the pixels are memory-mapped files, named by what they are of, and the next reader finds them."""
    root = _images(tmp_path / "images", *(f"{label}/{number}.png" for label in "ab" for number in range(3)))
    data = load_data(root, cache=PixelCache(tmp_path / "cache"))
    progress = []
    pixels = data.pixels(Reading(8, "bilinear"), lambda done, total: progress.append((done, total)))
    file = tmp_path / "cache" / f"{data.index.fingerprint[:16]}-8-bilinear.npy"
    assert file.is_file()
    assert isinstance(pixels, np.memmap)
    assert progress[-1] == (6, 6)
    written = file.stat().st_ino
    again = load_data(root, cache=PixelCache(tmp_path / "cache")).pixels(
        Reading(8, "bilinear"), lambda *_: pytest.fail("decoded again")
    )
    np.testing.assert_array_equal(again, pixels)
    assert file.stat().st_ino == written
    data.pixels(Reading(8, "nearest"))
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 2
    with pytest.raises(DataError, match=r"\[data\] pixels_gb"):
        load_data(root, cache=PixelCache(tmp_path / "cache", 1e3)).pixels(Reading(16))


def test_broken_images_are_found_by_pixels(tmp_path):
    """A broken image does not stop the index, but its pixels name it."""
    root = _images(tmp_path, *(f"{label}/{number}.png" for label in "ab" for number in range(3)))
    (root / "a" / "1.png").write_bytes(b"")
    data = load_data(root)
    message = _refusal(data.pixels, Reading(8))
    assert message.startswith("1 of 6 images cannot be read: ")
    assert "a/1.png': the file is empty; remove or replace them" in message


def test_groups_that_are_whole_numbers_are_one_however_they_are_written(tmp_path: Path) -> None:
    """Group 7 and group 7.0 of a CSV are one group."""
    rows = "a.png,x,7\nb.png,y,7.0\nc.png,x,8\n"
    index = read_index(_csv(_images(tmp_path, "a.png", "b.png", "c.png"), f"path,label,group\n{rows}"))
    assert index.groups.tolist() == [0, 0, 1]


def test_a_column_called_group_is_the_group_by_itself(tmp_path: Path) -> None:
    """A CSV with a column `group` keeps its groups whole, without being told so."""
    rows = []
    for number in range(24):
        name = f"{number}.png"
        Image.new("L", (4, 4), number).save(tmp_path / name)
        rows.append(f"{name},{'ab'[number % 2]},person {number // 4}")
    (tmp_path / "images.csv").write_text("\n".join(["path,label,group", *rows]))
    index = read_index(tmp_path / "images.csv")
    assert len(set(index.groups.tolist())) == 6
    sides = split(index, valid=0.25, test=0.25, seed=0)
    sides = [set(index.groups[side].tolist()) for side in (sides.train, sides.valid, sides.test)]
    assert sum(map(len, sides)) == 6
