"""Weights with a config.json by which timm itself loads them."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from trainer.extensions import Extensions
from trainer.images.pixels import read_image
from trainer.model.backbones import build_model, save_weights
from trainer.model.hub_layout import write_config
from trainer.recipe import Recipe

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CLASSES = ("blue", "green", "grün und 赤")


@pytest.fixture
def write(tmp_path):
    """A function that writes random weights and their config.json; returns the model, and why timm cannot load it."""

    def write(extensions=None, **recipe):
        torch.manual_seed(0)
        changes = {"backbone": "test_resnet", "pretrained": False, "image_size": 32} | recipe
        made, own = Recipe(**changes), extensions or Extensions()
        model = build_model(made, len(CLASSES), own, pretrained=False)
        save_weights(model, tmp_path / "model.safetensors")
        return model.eval(), write_config(tmp_path / "model.safetensors", made, CLASSES, own)

    return write


@pytest.mark.parametrize(
    "recipe",
    [
        {"dropout": 0.2, "drop_path": 0.1, "loss": "focal"},
        {"pooling": "catavgmax"},
        {"backbone": "test_vit", "image_size": 64, "pooling": "avg"},
        {"backbone": "test_efficientnet", "freeze": 1},
        {"image_size": "32x48"},
    ],
)
def test_timm_loads_the_folder(write, tmp_path, recipe):
    """`timm.create_model("local-dir:…")` has the classes, and of an image file the same logits by timm's transform."""
    model, problem = write(**recipe)
    assert problem is None
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert tuple(loaded.pretrained_cfg["label_names"]) == CLASSES
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(loaded))
    with torch.inference_mode(), Image.open(tmp_path / "picture.png") as image:
        theirs = loaded(transform(image)[None])
        read = read_image(tmp_path / "picture.png", model.reading)
        ours = model(torch.from_numpy(read)[None])
    assert (ours - ours.mean()).abs().max() > 0
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_timm_crops_and_pads_as_the_recipe_does(write, tmp_path, resize):
    """Timm's transform gives the same image, as nearly as its rounding of pixels and colours allows."""
    model, problem = write(resize=resize)
    assert problem is None
    Image.linear_gradient("L").resize((90, 50)).save(tmp_path / "picture.png")
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{tmp_path}", pretrained=True))
    with Image.open(tmp_path / "picture.png") as image:
        theirs = timm.data.create_transform(**config)(image.convert("RGB"))
    read = torch.from_numpy(read_image(tmp_path / "picture.png", model.reading))[None]
    assert (theirs - model.normalized(read)[0]).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("recipe", "problem"),
    [
        ({"pooling": "gem"}, 'timm has no pooling "gem"'),
        ({"loss": "arcface"}, 'timm has no head of cosines, which loss = "arcface" trains'),
        ({"backbone": "linear"}, 'the backbone "linear" is one of your own'),
    ],
)
def test_what_timm_does_not_have_is_said(write, tmp_path, extensions, recipe, problem):
    """A head, a pooling or a backbone that timm lacks is named, and there is no config.json that would promise more."""
    assert write(extensions, **recipe)[1] == problem
    assert not (tmp_path / "config.json").exists()


def test_a_loss_of_ones_own_leaves_timms_head(write):
    """A loss of one's own called arcface has timm's linear head, which timm loads."""
    assert write(Extensions(losses={"arcface": torch.nn.functional.cross_entropy}), loss="arcface")[1] is None


@pytest.mark.parametrize("spoil", ["logits", "loading"])
def test_what_timm_cannot_load_is_found_out(write, tmp_path, monkeypatch, spoil):
    """Where timm fails, or gives other logits, the reason is returned and no config.json is left."""
    create = timm.create_model

    def spoiled(name, *arguments, **options):
        if not name.startswith("local-dir:"):
            return create(name, *arguments, **options)
        if spoil == "loading":
            raise RuntimeError("unexpected keys\nfc.weight")
        return create(name, *arguments, **options | {"pretrained": False})

    monkeypatch.setattr(timm, "create_model", spoiled)
    said = {"loading": "timm cannot load it: unexpected keys", "logits": "timm gives other logits by these weights"}
    assert write()[1] == said[spoil]
    assert not (tmp_path / "config.json").exists()


def test_random_numbers_stay_as_they_were(write):
    """Trying the config draws nothing from torch's generator, on which the next training depends."""
    write()
    expected = torch.rand(3)
    torch.manual_seed(0)
    build_model(Recipe(backbone="test_resnet", pretrained=False, image_size=32), 3, Extensions(), pretrained=False)
    assert torch.equal(torch.rand(3), expected)
