"""Uses of the test split by `hpo predict`."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpo.bundle.bundle import read_bundle
from hpo.bundle.commands import run_predict
from hpo.bundle.held_out import count_use
from hpo.cli import parser
from tests.support.file_server import file_server

pytestmark = pytest.mark.unit


@pytest.fixture
def tested(make_bundle, photos):
    """The folder of a bundle of which the red photos are held out, and the others learned."""
    folder = Path(make_bundle("bundle"))
    for name, classes in (("test", ["red"]), ("train", ["blue"]), ("valid", ["green"])):
        rows = [f"../photos/{file.parent.name}/{file.name},{file.parent.name}" for file in _images(photos, *classes)]
        (folder / f"{name}.csv").write_text("\n".join(["path,label", *rows]))
    info = json.loads((folder / "bundle.json").read_text())
    info |= {"metrics": {"test": {"images": 12}}, "test_uses": 3, "retrained": True}
    (folder / "bundle.json").write_text(json.dumps(info))
    return folder


def _images(photos, *classes):
    return [file for label in classes for file in sorted((photos / label).iterdir())]


def _uses(folder):
    return json.loads((folder / "bundle.json").read_text())["test_uses"]


def test_scores_of_held_out_images_are_a_use(tested, photos, tmp_path, capsys):
    """`hpo predict` with scores of held-out images counts a use and says so; the same files of whichever list do."""
    listed = [f"{file},red" for file in _images(photos, "red")]
    (tmp_path / "elsewhere.csv").write_text("\n".join(["path,label", *listed]))
    for count, images in enumerate((tested / "test.csv", tmp_path / "elsewhere.csv", photos), start=4):
        options = parser().parse_args(["predict", str(tested), str(images), "-o", str(tmp_path / "out.csv")])
        options.extensions = None
        assert run_predict(options) == 0
        assert f"use {count} of the test split: 12 images here are held out" in capsys.readouterr().out
        assert _uses(tested) == count
    options.json = True
    assert run_predict(options) == 0
    assert json.loads(capsys.readouterr().out)["test_uses"] == {
        str(tested): {"images": 12, "learned": 24, "uses": 7, "problem": None}
    }


def test_held_out_images_at_urls_are_found(tested, photos, tmp_path, capsys):
    """A list of the bundle that names images by URL tells the same images where they are fetched to be predicted."""
    with file_server(photos) as served:
        rows = [f"{served.url}/red/{file.name},red" for file in _images(photos, "red")]
        (tested / "test.csv").write_text("\n".join(["path,label", *rows]))
        options = parser().parse_args(["predict", str(tested), str(tested / "test.csv"), "-o", str(tmp_path / "o.csv")])
        options.extensions = None
        assert run_predict(options) == 0
    assert "use 4 of the test split: 12 images here are held out" in capsys.readouterr().out
    [line] = count_use(read_bundle(tested), _images(photos, "red"), tmp_path).lines()
    assert "12 of 12 images of" in line


def test_copies_and_links_of_held_out_images_are_found(tested, photos, tmp_path):
    """A copy, by whatever name, and a link are the image; one image of many is a use, too."""
    bundle, (first, second, *_) = read_bundle(tested), _images(photos, "red")
    shutil.copy(first, tmp_path / "copy.png")
    (tmp_path / "link.png").symlink_to(second)
    assert count_use(bundle, [tmp_path / "copy.png", *_images(photos, "blue")]).images == 1
    assert count_use(bundle, [tmp_path / "link.png", tmp_path / "copy.png", first]).images == 2
    assert _uses(tested) == 5


def test_scores_of_other_images_are_no_use(tested, photos, tmp_path):
    """Images that are not held out use nothing, of which a line tells; that of learned ones warns of their scores."""
    bundle = read_bundle(tested)
    shutil.copy(_images(photos, "red")[0], tmp_path / "new.png")
    with (tmp_path / "new.png").open("ab") as file:
        file.write(b"more")
    assert count_use(bundle, [tmp_path / "new.png"]).lines() == [
        "no use of the test split: none of these images is held out"
    ]
    assert count_use(bundle, _images(photos, "green", "blue")).lines() == [
        "no use of the test split: none of these images is held out",
        "the models have learned 24 images here: that flatters the scores",
    ]
    bundle.info["retrained"] = False  # then the validation images are not learned
    assert count_use(bundle, _images(photos, "green", "blue")).learned == 12
    rows = [f"../photos/green/{number}.png,{'green' * (number < 5)}" for number in range(12)]
    (tested / "pseudo_labels.csv").write_text("\n".join(["path,label", *rows]))  # of which five were learned
    assert count_use(bundle, _images(photos, "green", "blue")).learned == 17
    assert _uses(tested) == 3


def test_what_cannot_be_known_or_noted_is_said(tested, photos, tmp_path, monkeypatch):
    """Where the list or its images are gone, or bundle.json cannot be written, a line says so in place of a number."""
    bundle, red = read_bundle(tested), _images(photos, "red")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("hpo.bundle.held_out.whole_file", refuse)
        [line] = count_use(bundle, red).lines()
    assert line == (
        "a use of the test split (12 images) that is not counted:"
        f" {tested / 'bundle.json'} cannot be written: Permission denied"
    )
    shutil.move(photos / "red", tmp_path / "red")
    file = tested / "test.csv"
    begun = "whether this is a use of the test split is not known:"
    assert count_use(bundle, _images(tmp_path, "red")).lines() == [
        f"{begun} 12 of 12 images of {file} are not here to compare"
    ]
    file.unlink()
    assert count_use(bundle, _images(tmp_path, "red")).lines() == [
        f"{begun} {file}, which names the images that are held out, is gone"
    ]
    assert _uses(tested) == 3
    (tested / "bundle.json").write_text(json.dumps({"classes": bundle.info["classes"]}))  # of one model of several
    assert "is gone" in count_use(read_bundle(tested), _images(tmp_path, "red")).lines()[0]


def test_no_use_is_lost_where_several_count(tested, photos):
    """Predictions side by side count each its own use, and leave the rest of bundle.json as it is."""
    bundle, before = read_bundle(tested), json.loads((tested / "bundle.json").read_text())
    with ThreadPoolExecutor(8) as pool:
        uses = list(pool.map(lambda _: count_use(bundle, _images(photos, "red")).uses, range(16)))
    assert sorted(uses) == list(range(4, 20))
    assert json.loads((tested / "bundle.json").read_text()) == before | {"test_uses": 19}
