"""Which images a command line stands for."""

from __future__ import annotations

import os
import unicodedata

import pytest

from hpo.bundle import new_folder
from hpo.errors import HpoError
from hpo.prediction import find_images
from tests.conftest import paint

pytestmark = pytest.mark.unit


def test_folders_named_as_classes_give_the_true_classes(photos):
    """A folder of class folders gives every image its class."""
    images = find_images([str(photos)], ("blue", "green", "red"))
    assert len(images.files) == 36
    assert images.labels == tuple(file.parent.name for file in images.files)


def test_one_image_of_unknown_class_leaves_all_without(photos):
    """Metrics are given for all images or for none."""
    paint(photos / "loose.png", (1, 2, 3), 0)
    images = find_images([str(photos)], ("blue", "green", "red"))
    assert len(images.files) == 37
    assert images.labels is None


def test_patterns_files_and_upper_case_endings(photos, tmp_path, monkeypatch):
    """Patterns and files are found once each, in their order; a file whose name looks like a pattern is that file."""
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "odd [1].PNG", (1, 2, 3), 0)
    images = find_images(["odd [1].PNG", "photos/red/1*.png", "photos/red/1.png"], ())
    assert [file.name for file in images.files] == ["odd [1].PNG", "1.png", "10.png", "11.png"]


def test_a_csv_names_images_beside_it_with_or_without_labels(photos):
    """A CSV's paths are relative to it, and its labels are the true classes."""
    (photos / "list.csv").write_text("path,label\nred/1.png,red\nblue/1.png,blue\n")
    images = find_images([str(photos / "list.csv")], ("blue", "red"))
    assert images.files == (photos / "red/1.png", photos / "blue/1.png")
    assert images.labels == ("red", "blue")


def test_class_folders_written_by_macos_are_recognised(tmp_path):
    """A class name with accents is the same class in either way of writing it."""
    paint(tmp_path / unicodedata.normalize("NFD", "안경") / "1.png", (1, 2, 3), 0)
    assert find_images([str(tmp_path)], (unicodedata.normalize("NFC", "안경"), "other")).labels is not None


@pytest.mark.parametrize("given", ["nowhere.png", "nothing/*.png", "empty"])
def test_what_gives_no_image_is_named(tmp_path, monkeypatch, given):
    """A missing file, a pattern without matches and an empty folder are errors that name them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HpoError, match=given.replace("*", r"\*")):
        find_images([given], ())


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    """A failure while a bundle is written leaves nothing; success leaves it with the user's usual permissions."""

    def fail():
        with new_folder(tmp_path / "bundle") as temporary:
            (temporary / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "bundle") as temporary:
        (temporary / "file").write_text("whole")
        assert not (tmp_path / "bundle").exists()
    assert (tmp_path / "bundle" / "file").read_text() == "whole"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o777 & ~mask
    with pytest.raises(HpoError, match="exists already"), new_folder(tmp_path / "bundle"):
        pass
