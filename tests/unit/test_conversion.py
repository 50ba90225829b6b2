"""A bundle as one ONNX file."""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from hpo import load_bundle
from hpo.bundle.bundle import read_bundle
from hpo.bundle.commands import run_convert
from hpo.bundle.conversion import compare, convert
from hpo.cli import parser
from hpo.errors import HpoError
from trainer.calibration import Decision
from trainer.extensions import Extensions
from trainer.images.pixels import Reading, read_image
from trainer.model.whole_graph import WholeGraph
from trainer.recipe import read_recipe

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]


def picture(height, width, seed=0):
    """Noise of a middle contrast, which no filter takes beyond black or white, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(90, 166, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("interpolation", "resize", "size"),
    [
        *product(["bilinear", "hamming", "bicubic", "lanczos"], ["stretch", "crop", "pad"], [32, "24x40"]),
        *product(["nearest", "box"], ["stretch", "crop"], [32]),  # elsewhere pixels lie on the edge of two
    ],
)
def test_the_graph_resizes_as_the_bundle_does(interpolation, resize, size):
    """In the graph a picture gets Pillow's pixels; some may be 1 of 255 away, most where Pillow resizes down first."""
    reading = Reading(size, interpolation, resize=resize)
    graph = WholeGraph(torch.nn.Identity(), reading, Decision())
    for height, width in ((50, 90), (17, 20), (32, 32), (24, 40), (1, 5), (200, 311), (300, 77)):
        pixels = picture(height, width)
        found = graph.resized(torch.from_numpy(pixels)[None])[0].numpy()
        away = np.abs(found - read_image(Image.fromarray(pixels), reading))
        assert away.max() <= 1, (height, width)
        assert (away > 0).mean() <= 0.35, (height, width)


@pytest.fixture
def convert_by_command(capsys):
    """A function that runs `hpo convert --onnx` and returns what it prints."""

    def run(bundle, *more, extensions=None):
        options = parser().parse_args(["convert", str(bundle), "--onnx", "--threads", "1", *map(str, more)])
        options.extensions = extensions
        assert run_convert(options) == 0
        return capsys.readouterr().out

    return run


def test_a_bundle_becomes_one_file(make_bundle, convert_by_command, tmp_path):
    """onnxruntime gives the bundle's probabilities for batches and images of any size; the file names the classes."""
    import onnxruntime

    folder = Path(make_bundle("bundle", ("grün", "red", "赤"), interpolation="bilinear"))
    recipe = read_recipe(folder / "recipe.toml")
    dataclasses.replace(recipe, image_size="40x32", resize="pad").write(folder / "recipe.toml")
    info = json.loads((folder / "bundle.json").read_text())
    info["calibration"] = {"used": True, "temperature": 0.5}
    info["thresholds"] = {"used": True, "offsets": {"grün": 9.0, "red": 0.0, "赤": -9.0}}
    (folder / "bundle.json").write_text(json.dumps(info))
    for number in range(3):
        Image.fromarray(picture(40 + number, 60, number)).save(tmp_path / f"{number}.png")
    (folder / "valid.csv").write_text("path,label\n../0.png,red\n../1.png,grün\n")
    said = convert_by_command(folder)
    assert said.startswith(f"{folder / 'model.onnx'}: ")
    assert "ms an image on the CPU with 1 thread; its probabilities are at most " in said
    assert said.endswith("from the bundle's, on 2 images (allowed: 0.01)\n")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["grün", "red", "赤"]
    bundle = load_bundle(folder)
    for count, height, width in ((1, 20, 30), (5, 333, 100), (3, 32, 32)):
        images = np.stack([picture(height, width, seed) for seed in range(count)])
        found, numbers = session.run(["probabilities", "predicted"], {"images": images})
        expected = bundle.predict(images)
        np.testing.assert_allclose(found, expected.probabilities, atol=1e-3)
        assert [bundle.classes[number] for number in numbers] == list(expected.predicted) == ["grün"] * count
    assert not (found.argmax(axis=1) == numbers).all()  # it is the offsets that decide

    # What gives other probabilities is not written.
    other = read_bundle(Path(make_bundle("other", ("grün", "red", "赤"), seed=1)))
    weights = load_file(other.folder / "model.safetensors")
    save_file(weights | {"fc.weight": 99 * weights["fc.weight"]}, other.folder / "model.safetensors")
    with pytest.raises(
        HpoError, match=r"test_resnet gives other probabilities as ONNX, by up to .* nothing is written"
    ):
        compare((folder / "model.onnx").read_bytes(), other, Extensions(), [picture(30, 40)], threads=1)


class Undecided(torch.nn.Module):
    """A model whose way depends on its numbers, as no graph can have it."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 3)

    def forward(self, images):
        """Logits of the mean colour."""
        mean = images.mean((2, 3))
        return self.head(mean) if mean.sum() > 0 else -self.head(mean)


def test_a_model_that_cannot_be_exported_is_refused(make_bundle, make_recipe, tmp_path):
    """A model with a way that depends on its numbers is refused in one line, and no file is left."""
    folder = Path(make_bundle("bundle", size=16))
    make_recipe().write(folder / "recipe.toml")
    save_file(Undecided().state_dict(), folder / "model.safetensors")
    Image.fromarray(picture(16, 16)).save(tmp_path / "one.png")
    own = Extensions(backbones={"linear": lambda *_: Undecided()})
    with pytest.raises(
        HpoError, match=r"onnx: linear cannot be exported: .+; use the bundle by hpo\.load_bundle"
    ) as failed:
        convert(read_bundle(folder), own, [str(tmp_path / "one.png")], 1)
    assert "\n" not in str(failed.value)
    assert sorted(file.name for file in folder.iterdir()) == ["bundle.json", "model.safetensors", "recipe.toml"]


def test_what_a_conversion_lacks_is_said(make_bundle, convert_by_command, monkeypatch):
    """Without images to compare on, or without the extra, one line says what to give or to install."""
    folder = Path(make_bundle("bundle"))
    with pytest.raises(
        HpoError, match=r"valid\.csv cannot be read: .* to compare on other images, name some: .*--images"
    ):
        convert_by_command(folder)
    (folder / "valid.csv").write_text("path,label\ngone.png,red\n")
    with pytest.raises(HpoError, match=r"file that does not exist .* --images"):
        convert_by_command(folder)
    with pytest.raises(HpoError, match="nowhere does not exist"):
        convert_by_command(folder, "--images", "nowhere")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(HpoError, match=r"needs the package onnxscript; pip install 'hpo-images\[onnx\]'"):
        convert_by_command(folder)
