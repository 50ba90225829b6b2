"""What the tests of the training share: small images, models that train in milliseconds, a recipe for them."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.conftest import paint
from trainer.data import load_data
from trainer.extensions import Extensions
from trainer.images.cache import PixelCache
from trainer.recipe import Recipe

SIDE = 16  # pixels
TIME = 1_700_000_000  # of files, in seconds since 1970, even as in a zip


def paint_two_classes(folder):
    """Write two classes with six images each, all changed at the same time."""
    for name, colour in (("cat", (200, 0, 0)), ("dog", (0, 0, 200))):
        for number in range(6):
            file = folder / name / f"{number}.png"
            paint(file, colour, number)
            os.utime(file, (TIME, TIME))


@pytest.fixture
def one_thread():
    """One thread of torch: the order of its sums is then the same on every machine."""
    import torch  # not above: most tests of the search need no torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def write_colours(tmp_path_factory):
    """A function that writes noisy images, each a little red, green or blue, into one folder a class."""

    def write(images, tint=25, side=SIDE):
        folder = tmp_path_factory.mktemp("colours")
        random = np.random.default_rng(1)
        for channel, (name, count) in enumerate(images.items()):
            (folder / name).mkdir()
            for number in range(count):
                noisy = random.normal(110, 45, (side, side, 3))
                noisy[..., channel] += tint
                pixels = noisy.clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def colours(write_colours, tmp_path_factory):
    """Three classes of 24 images, 16 pixels a side, memory-mapped: 36 to train, 18 to validate, 18 to test."""
    folder = write_colours({"red": 24, "green": 24, "blue": 24})
    return load_data(folder, valid=0.25, test=0.25, cache=PixelCache(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def oblong(tmp_path):
    """Two classes of 8 images of different proportions, in memory: 8 to train, 8 to validate."""
    random = np.random.default_rng(2)
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(8):
            noise = random.integers(1, 256, (20 + 4 * number, 48 - 2 * number, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / name / f"{number}.png")
    return load_data(tmp_path, valid=0.5, test=0.0)


@pytest.fixture
def extensions():
    """Models of one's own: `linear`, and `dropout`, which draws random numbers at each step."""
    from torch import nn

    def linear(classes, side):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))

    def dropout(classes, side):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * side * side, classes))

    return Extensions(backbones={"linear": linear, "dropout": dropout})


@pytest.fixture(scope="session")
def make_recipe():
    """A function that makes a recipe for two quick epochs of the linear model, with these changes."""

    def make(**changes):
        quick = {
            "backbone": "linear",
            "pretrained": False,
            "image_size": SIDE,
            "epochs": 2,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "augment": "none",
        }
        return Recipe(**(quick | changes))

    return make


@pytest.fixture
def start(colours, extensions):
    """A function that starts a training of `colours`, or of other data, on its training part, validated on its own."""
    import torch  # not above: most tests of the search need no torch

    from trainer.fit import Subsets, fit
    from trainer.resources import Resources

    def start(recipe, resume=None, on_step=None, data=colours, **changes):
        split = data.split
        options = {
            "train": split.train,
            "valid": split.valid,
            "extensions": extensions,
            "device": torch.device("cpu"),
        } | changes
        own = options.pop("extensions")
        images = {name: options.pop(name) for name in ("train", "valid", "plateau") if name in options}
        return fit(
            recipe,
            data,
            Subsets(**images),
            extensions=own,
            resources=Resources(**options),
            resume=resume,
            on_step=on_step,
        )

    return start


@pytest.fixture
def make_bundle(tmp_path):
    """A function that writes a bundle with an untrained model; returns its path as text."""
    import torch  # not above: most tests of the search need no torch

    from trainer.model.backbones import build_model, save_weights

    def make(name, classes=("blue", "green", "red"), *, size=32, resize="stretch", seed=0, **preprocessing):
        torch.manual_seed(seed)
        recipe = Recipe(backbone="test_resnet", pretrained=False, image_size=size, resize=resize)
        model, folder = build_model(recipe, len(classes), Extensions(), pretrained=False), tmp_path / name
        folder.mkdir()
        recipe.write(folder / "recipe.toml")
        (folder / "bundle.json").write_text(json.dumps({"classes": classes, "preprocessing": preprocessing}))
        save_weights(model, folder / "model.safetensors")
        return str(folder)

    return make
