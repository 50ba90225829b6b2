"""Files of the same bytes are found, and stay on one side of the split."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from tests.support.waiting import limit
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images.duplicates import Sets, find_copies, keep_copies_together, members
from trainer.images.index import Index, read_index
from trainer.images.split import split

pytestmark = pytest.mark.unit


def _write(folder, contents):
    """Files with these contents; their paths and sizes."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{number:04d}.png" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files, [len(content) for content in contents]


def _index(labels, groups=None):
    """An index of files that need not exist."""
    return Index(
        root=None,
        paths=tuple(f"{number:06d}.png" for number in range(len(labels))),
        labels=np.array(labels, np.int64),
        groups=np.arange(len(labels)) if groups is None else np.array(groups, np.int64),
        classes=tuple(f"class {number}" for number in range(max(labels) + 1)),
    )


def _sides(index, divided):
    sides = np.full(len(index.paths), -1)
    for side, images in enumerate((divided.train, divided.valid, divided.test)):
        sides[images] = side
    return sides


# Finding them


def test_copies_are_files_of_the_same_bytes(tmp_path):
    """Equal files have the number of the first of them; equal sizes, heads, middles or ends are not enough."""
    long = bytes(range(256)) * 100
    middle, end = bytearray(long), bytearray(long)
    middle[len(long) // 2] ^= 1
    end[-1] ^= 1
    files, sizes = _write(tmp_path, [b"a", long, b"b", bytes(middle), b"a", long, bytes(end), long, b"a" * 2])
    assert find_copies(files, sizes).tolist() == [0, 1, 2, 3, 0, 1, 6, 1, 8]


def test_empty_and_unreadable_files_are_nobodys_copies(tmp_path):
    """Empty files, which are broken, and files that cannot be read are each by themselves."""
    files, sizes = _write(tmp_path, [b"", b"", b"abc", b"abc", b"abc"])
    files[4].unlink()
    assert find_copies(files, sizes).tolist() == [0, 1, 2, 2, 4]


def test_links_are_copies(tmp_path):
    """An image and a link to it, in whatever class, are copies of each other."""
    for label in "ab":
        _write(tmp_path / label, [f"{label}{number}".encode() for number in range(2)])
    (tmp_path / "b" / "link.png").symlink_to(tmp_path / "a" / "0000.png")
    index = read_index(tmp_path)
    assert index.paths[4] == "b/link.png"
    assert index.copies.tolist() == [0, 1, 2, 3, 0]


def test_an_index_whose_image_is_gone_has_no_copies(tmp_path):
    """An image that vanished since the index was read is named."""
    _write(tmp_path / "a", [b"1"])
    _write(tmp_path / "b", [b"2"])
    index = read_index(tmp_path)
    (tmp_path / "b" / "0000.png").unlink()
    with pytest.raises(DataError, match=r"b/0000\.png' cannot be read"):
        index.copies  # noqa: B018 (a property)


def test_copies_among_many_files_are_found_at_once(tmp_path):
    """5,000 files of one size are compared within two seconds."""
    files, sizes = _write(tmp_path, [os.urandom(4) + bytes(6000) for _ in range(2500)] * 2)
    start = time.process_time()
    copies = find_copies(files, sizes)
    assert time.process_time() - start < limit(4)
    assert len(np.unique(copies)) <= 2500
    assert (copies[:2500] == copies[2500:]).all()


# Joining them


def test_sets_are_those_of_a_graph():
    """Joining things two by two gives the connected components, numbered by their first members."""
    random = np.random.default_rng(0)
    for _ in range(20):
        edges = random.integers(0, 40, (25, 2))
        sets, reached = Sets(40), np.eye(40, dtype=bool)
        for one, other in edges.tolist():
            sets.join(one, other)
            reached[one, other] = reached[other, one] = True
        for _ in range(6):
            reached = reached @ reached
        assert sets.numbers().tolist() == reached.argmax(axis=1).tolist()
        assert sets.numbers(np.array([7, 3])).tolist() == sets.numbers()[[7, 3]].tolist()


def test_members_are_the_sets_of_two_and_more():
    """Sets are listed in the order of their first members, those of one left out."""
    assert [one.tolist() for one in members(np.array([5, 0, 7, 0, 5, 0]))] == [[0, 4], [1, 3, 5]]
    assert members(np.arange(3)) == []


def test_groups_that_share_a_copy_become_one():
    """Groups are joined through copies, over several steps; without copies they stay as they are."""
    groups = np.array([0, 0, 1, 1, 2, 2, 3])
    assert keep_copies_together(groups, np.arange(7)) is groups
    joined = keep_copies_together(groups, np.array([0, 1, 1, 3, 3, 5, 6]))
    assert joined.tolist() == [0] * 6 + [6]


# The split


@pytest.mark.parametrize("seed", range(20))
def test_copies_never_lie_on_two_sides(seed):
    """Whatever the classes, groups and copies are, a copy and its groups are whole, and each side has each class."""
    random = np.random.default_rng(seed)
    count = int(random.integers(60, 400))
    labels = random.integers(0, 3, count).tolist()
    groups = random.integers(0, count // 2, count) if seed % 2 else np.arange(count)
    copies = np.arange(count)
    copied = random.choice(count, count // 5, replace=False)
    copies[copied] = random.choice(count, len(copied))
    _, first, back = np.unique(copies, return_index=True, return_inverse=True)
    copies = first[back]
    index = _index(labels, groups.tolist())
    divided = split(index, valid=0.2, test=0.15, seed=seed, copies=copies)
    sides = _sides(index, divided)
    for numbers in (copies, groups):
        for one in members(numbers):
            assert len(set(sides[one].tolist())) == 1
    for images in (divided.train, divided.valid, divided.test):
        assert set(index.labels[images].tolist()) == {0, 1, 2}
    unaware = _sides(index, split(index, valid=0.2, test=0.15, seed=seed))
    assert any(len(set(unaware[one].tolist())) > 1 for one in members(copies)), "else this test could not fail"


def test_without_copies_the_split_stays_as_it_was():
    """Data without copies has the same split and digest as if nobody had looked for them."""
    index = _index([0, 1] * 10)
    plain = split(index, valid=0.2, test=0.15, seed=7)
    assert split(index, valid=0.2, test=0.15, seed=7, copies=np.arange(20)).digest == plain.digest


def test_the_split_of_copies_does_not_depend_on_their_numbers():
    """Only which images are copies counts: the same split everywhere."""
    index = _index([0, 1] * 10)
    digests = {
        split(index, valid=0.2, test=0.15, seed=7, copies=np.array([*range(16), *last])).digest
        for last in ([0, 1, 18, 19], [0, 1, 40, 30])
    }
    assert len(digests) == 1


def test_load_data_keeps_copies_together_and_groups_as_given(tmp_path):
    """Loaded data has each copy on one side, also across classes; the index keeps the groups of the user."""
    contents = [f"image {number}".encode() for number in range(30)]
    _write(tmp_path / "a", contents)
    _write(tmp_path / "b", [*contents[:6], *(content + b"b" for content in contents)])
    data = load_data(tmp_path, valid=0.25, test=0.25)
    sides = _sides(data.index, data.split)
    sets = members(data.index.copies)
    assert len(sets) == 6
    assert all(len(set(sides[one].tolist())) == 1 for one in sets)
    assert data.index.groups.tolist() == list(range(66))


def test_a_class_of_copies_alone_is_refused_with_the_reason(tmp_path):
    """A class with too few images that are no copies of one another is named, and why they do not count."""
    _write(tmp_path / "a", [b"one", b"one", b"one", b"two"])
    _write(tmp_path / "b", [b"1", b"2", b"3", b"4"])
    with pytest.raises(DataError) as failure:
        load_data(tmp_path)
    assert str(failure.value).startswith(
        "each class needs 3 groups, one for each part, where files of the same bytes count as one group: "
        "'a' has 2 with 4 images; "
    )
