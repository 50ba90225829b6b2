"""Which bundles and images a command line stands for, and what is written of them."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.bundle.bundle import new_folder, read_bundle
from hpo.bundle.commands import run_predict
from hpo.bundle.prediction import Ensemble, find_bundles, find_images, predict_to_csv
from hpo.cli import parser
from hpo.errors import HpoError
from hpo.hardware import cores
from tests.conftest import paint
from trainer.extensions import Extensions
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

CLASSES = ("blue", "green", "red")


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


@pytest.mark.parametrize(("classes", "expected"), [(("1", "2"), ("1", "2")), (("1.0", "1", "2.0"), ("1.0", "2.0"))])
def test_labels_that_are_whole_numbers_are_known_however_they_are_written(photos, classes, expected):
    """A label 1.0 is the class 1 where there is no class of just that text, and 2 the class 2.0 of an old bundle."""
    (photos / "list.csv").write_text("path,label\nred/1.png,1.0\nblue/1.png,2\n")
    assert find_images([str(photos / "list.csv")], classes).labels == expected


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


def test_a_folder_is_made_without_lifting_the_umask(tmp_path, monkeypatch):
    """The umask of the process, which its other threads see, is not touched while a bundle is written."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail(f"the umask was set to {mask}"))
    with new_folder(tmp_path / "bundle") as temporary:
        (temporary / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.fixture
def make_bundle(tmp_path):
    """A function that writes a bundle with an untrained model; returns its path as text."""

    def make(name, classes=CLASSES, *, size=32, seed=0, **preprocessing):
        from trainer.model.backbones import build_model, save_weights

        torch.manual_seed(seed)
        recipe = Recipe(backbone="test_resnet", pretrained=False, image_size=size)
        model, folder = build_model(recipe, len(classes), Extensions(), pretrained=False), tmp_path / name
        folder.mkdir()
        recipe.write(folder / "recipe.toml")
        (folder / "bundle.json").write_text(json.dumps({"classes": classes, "preprocessing": preprocessing}))
        save_weights(model, folder / "model.safetensors")
        return str(folder)

    return make


def test_leading_bundles_are_bundles_and_the_rest_images(make_bundle):
    """Of what is named on a command line the first folders with a bundle.json are bundles, the rest is for images."""
    one, two = make_bundle("one"), make_bundle("two", size=40, interpolation="bilinear")
    bundles, rest = find_bundles([one, two, "photos", "*.jpg"])
    assert [str(bundle.folder) for bundle in bundles] == [one, two]
    assert [bundle.recipe.image_size for bundle in bundles] == [32, 40]
    assert [bundle.interpolation for bundle in bundles] == ["bicubic", "bilinear"]
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


def test_an_unknown_interpolation_is_named(make_bundle):
    """A bundle that asks for a way of resizing that does not exist is refused by its name."""
    with pytest.raises(HpoError, match='there is no interpolation "cubist"'):
        read_bundle(Path(make_bundle("one", interpolation="cubist")))


def _read(file):
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return [row["predicted"] for row in rows], np.array([[float(row[name]) for name in CLASSES] for row in rows])


@pytest.mark.usefixtures("one_thread")
def test_bundles_vote(make_bundle, photos, tmp_path):
    """The CSV of several bundles has the mean of what each alone gives, or the shares of their votes."""
    names = [make_bundle(f"b{seed}", seed=seed, size=24 + 8 * seed, interpolation="bilinear") for seed in range(3)]
    images, output = find_images([str(photos)], CLASSES), tmp_path / "out.csv"
    bundles, _ = find_bundles([*names, str(photos)])
    alone = []
    for bundle in bundles:
        predict_to_csv(Ensemble([bundle], Extensions()), images, output)
        alone.append(_read(output)[1])
    metrics = predict_to_csv(Ensemble(bundles, Extensions()), images, output)
    predicted, probabilities = _read(output)
    np.testing.assert_allclose(probabilities, np.mean(alone, axis=0), atol=2e-6)
    assert metrics["accuracy"] == np.mean([a == b for a, b in zip(predicted, images.labels, strict=True)])
    predict_to_csv(Ensemble(bundles, Extensions(), voting="hard"), images, output)
    votes = np.eye(3)[np.argmax(alone, axis=2)].mean(axis=0)
    np.testing.assert_allclose(_read(output)[1], votes, atol=1e-6)
    predict_to_csv(Ensemble(bundles, Extensions(), tta="crops"), images, output, batch_size=5)
    assert abs(_read(output)[1] - probabilities).max() > 1e-4


def test_one_bundle_has_nothing_to_vote_on(make_bundle, photos, tmp_path):
    """Hard voting of one bundle is refused, as it would only hide the probabilities."""
    bundles, _ = find_bundles([make_bundle("alone"), str(photos)])
    with pytest.raises(HpoError, match="--voting hard is for several bundles"):
        predict_to_csv(
            Ensemble(bundles, Extensions(), voting="hard"), find_images([str(photos)], CLASSES), tmp_path / "out.csv"
        )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(("given", "expected"), [((), (cores(), None)), (("--threads", "3"), (3, 3))])
def test_threads_of_predict(make_bundle, photos, tmp_path, monkeypatch, given, expected):
    """--threads bounds what torch and the decoding use; without it torch has all cores that hpo may use."""
    used = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, decoders):
            used.append((torch.get_num_threads(), decoders))
            super().__init__(decoders)

    monkeypatch.setattr("trainer.predict.ThreadPoolExecutor", Pool)
    arguments = ["predict", make_bundle("alone"), str(photos), "-o", str(tmp_path / "out.csv"), *given]
    options = parser().parse_args(arguments)
    options.extensions = None
    assert run_predict(options) == 0
    assert used == [expected]


def test_predictions_are_not_written_through_a_planted_link(make_bundle, photos, tmp_path):
    """A link under the name of the process beside the output, or at the output itself, is not written through."""
    bundles, _ = find_bundles([make_bundle("alone"), str(photos)])
    (tmp_path / "precious").write_text("precious")
    for name in (f".out.csv.{os.getpid()}.tmp", "out.csv"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    predict_to_csv(Ensemble(bundles, Extensions()), find_images([str(photos)], CLASSES), tmp_path / "out.csv")
    assert (tmp_path / "precious").read_text() == "precious"
    assert len(_read(tmp_path / "out.csv")[0]) == 36


@pytest.mark.parametrize(
    ("name", "text"), [("bundle.json", "[" * 200_000), ("recipe.toml", f"a = {'[' * 200_000}")], ids=["json", "toml"]
)
def test_a_bundle_that_is_nested_too_deeply_is_named(make_bundle, name, text):
    """A bundle.json or recipe.toml of lists in lists without end is refused in one line."""
    folder = Path(make_bundle("deep"))
    (folder / name).write_text(text)
    with pytest.raises(HpoError, match=r"is no bundle \(its bundle\.json or recipe\.toml is nested too deeply\)"):
        read_bundle(folder)


def test_classes_and_paths_of_formulas_are_written_as_text(make_bundle, tmp_path, monkeypatch):
    """In predictions.csv no cell begins as a formula, and hpo reads the file back."""
    monkeypatch.chdir(tmp_path)
    classes = ("=cmd|x!A0", "-cat", "-1")
    paint(tmp_path / "@odd/1.png", (1, 2, 3), 0)
    bundles, _ = find_bundles([make_bundle("odd", classes), "@odd"])
    predict_to_csv(Ensemble(bundles, Extensions()), find_images(["@odd"], classes), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["path", "predicted", "'=cmd|x!A0", "'-cat", "-1"]
    assert row[0] == "'@odd/1.png"
    assert row[1] in header[2:]
    assert find_images(["out.csv"], classes).files == (Path("@odd/1.png"),)
