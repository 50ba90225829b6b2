"""The range of values of images is found once, kept with the study and the bundle, and used wherever they are read."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hpo.bundle.commands import run_export_best, run_predict
from hpo.cli import parser
from hpo.errors import HpoError
from hpo.study.images import load_images
from hpo.study.open_study import create_study, load_study
from hpo.study.study_file import read_study_file
from hpo.study.takeover import take_over
from storage.keys import VALUE_RANGES_KEY
from tests.integration.test_export import STUDY, linear, search
from trainer.extensions import Extensions
from trainer.images.pixels import Reading
from trainer.images.value_range import ValueRange, ValueRanges, ranges_set_to

pytestmark = pytest.mark.integration

BITS_12 = ValueRanges(ValueRange(0, 4095, "measured"))
EXTENSIONS = Extensions(backbones={"linear": linear})


@pytest.fixture
def folder(tmp_path, photos):
    """A study file and grey photographs of 12 bits, kept in 16: the images of `photos`, darker by class."""
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        grey = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
        Image.fromarray((grey * (16 - 5 * ("green" in str(file)))).astype(np.uint16)).save(file)
        if number == 0:
            values = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
            Image.fromarray(values).save(file)
    (tmp_path / "study.toml").write_text(STUDY.replace("pixels_gb = 1e-5\n", ""))
    return tmp_path


def _read(folder, data=""):
    """The study file, with more in its table [data]."""
    path = folder / "study.toml"
    path.write_text(path.read_text().replace("[budget]", f"{data}\n[budget]"))
    return read_study_file(path, EXTENSIONS)


@pytest.fixture
def open_study(ready_database):
    """A function that loads a study; its connections are closed at the end."""
    opened = []

    def load(file):
        opened.append(load_study(file, ready_database))
        return opened[-1]

    yield load
    for each in opened:
        each.storage.engine.dispose()


def test_a_study_keeps_the_range_that_it_was_begun_with(folder, ready_database, open_study):
    """Whoever works on a study takes the range that was found when it began, whatever would be found now."""
    file = _read(folder)
    create_study(file, ready_database, load_images(file, None))
    study = open_study(file).study
    assert study.user_attrs[VALUE_RANGES_KEY] == {"integers": {"low": 0.0, "high": 4095.0, "source": "measured"}}
    study.set_user_attr(VALUE_RANGES_KEY, {"integers": {"low": 0.0, "high": 8190.0, "source": "measured"}})
    kept = load_images(file, open_study(file).study)
    assert kept.ranges() == ValueRanges(ValueRange(0, 8190, "measured"))
    assert load_images(file, None).ranges() == BITS_12
    study.set_user_attr(VALUE_RANGES_KEY, {"integers": {"low": 9, "high": 0, "source": "measured"}})
    with pytest.raises(HpoError, match="9 to 0 is no range of values; begin another study"):
        load_images(file, open_study(file).study)


def test_a_study_of_before_ranges_goes_on_without_one(folder, ready_database, open_study, monkeypatch):
    """A study that keeps no range reads its images as it did, also where another takes over from it."""
    file = _read(folder)
    with monkeypatch.context() as before:
        before.setattr("hpo.study.open_study.keep_ranges", lambda *_: None)
        create_study(file, ready_database, load_images(file, None))
    data = load_images(file, open_study(file).study)
    assert data.ranges() is None
    assert data.pixels(Reading(16)).max() == 16  # of 255, as it was
    new = replace(file, name="new")
    take_over(new, ready_database, load_images(new, None), file.name)
    assert load_images(new, open_study(new).study).ranges() is None


def test_a_range_in_the_study_file_holds_and_may_not_change(folder, ready_database, open_study):
    """`[data] value_range` is the range of a study that begins, and is refused in one that has begun without it."""
    file = _read(folder)
    create_study(file, ready_database, load_images(file, None))
    changed = _read(folder, "value_range = [0, 1000]")
    with pytest.raises(HpoError, match=r"data\.value_range was not set, is now \[0\.0, 1000\.0\]"):
        create_study(changed, ready_database, load_images(changed, None))
    other = replace(changed, name="other")
    create_study(other, ready_database, load_images(other, None))
    assert load_images(other, open_study(other).study).ranges() == ranges_set_to(0, 1000)


def test_a_bundle_reads_one_image_by_the_range_of_its_training(folder, ready_database, capsys):
    """A bundle keeps the range: one image alone, even a dark one, gives the probabilities that it gives among all."""
    search(_read(folder), ready_database)

    def run(command, *given):
        options = parser().parse_args([str(one) for one in given])
        options.extensions, options.url = EXTENSIONS, ready_database
        assert command(options) == 0
        return capsys.readouterr()

    run(run_export_best, "export-best", folder / "study.toml", "-o", folder / "bundle")
    info = json.loads((folder / "bundle" / "bundle.json").read_text())
    assert info["preprocessing"]["value_ranges"] == BITS_12.as_json()

    dark = folder / "dark.png"
    Image.fromarray(np.full((16, 16), 200, np.uint16)).save(dark)
    eight = folder / "eight.png"
    Image.fromarray(np.full((16, 16), round(200 * 255 / 4095), np.uint8)).save(eight)
    given = ["predict", folder / "bundle", dark, eight, "-o", folder / "out.csv"]
    assert run(run_predict, *given).err == ""
    with (folder / "out.csv").open() as file:
        first, second = [row[2:] for row in list(csv.reader(file))[1:]]
    assert first == second

    # The bundle of an old version keeps no range; one that was trained on 8 bits alone finds it over the images here.
    preprocessing = info["preprocessing"]
    for kept, said in ((None, ""), ({}, "integers from 0 to 255 are black to white, measured over all of them")):
        preprocessing["value_ranges"] = kept
        (folder / "bundle" / "bundle.json").write_text(json.dumps(info))
        Image.fromarray(np.linspace(0, 255, 256).reshape(16, 16).astype(np.uint16)).save(dark)
        Image.fromarray(np.linspace(0, 255, 256).reshape(16, 16).astype(np.uint8)).save(eight)
        assert said in run(run_predict, *given).err
        with (folder / "out.csv").open() as file:
            first, second = [row[2:] for row in list(csv.reader(file))[1:]]
        assert (first == second) == bool(said)
    preprocessing["value_ranges"] = {"integers": {"low": 5}}
    (folder / "bundle" / "bundle.json").write_text(json.dumps(info))
    with pytest.raises(HpoError, match="its value ranges are no ranges"):
        run(run_predict, *given)


def test_a_worker_on_another_machine_reads_the_same_pixels(folder, ready_database, open_study, tmp_path_factory):
    """Two machines, each with its own cache, have the same pixels to the bit, though only one has found the range."""
    file = _read(folder)
    first = load_images(file, None)
    create_study(file, ready_database, first)
    second = load_images(file, open_study(file).study)
    elsewhere = replace(second, cache=replace(second.cache, folder=tmp_path_factory.mktemp("cache")))
    elsewhere = elsewhere.with_ranges(second.ranges())
    np.testing.assert_array_equal(first.pixels(Reading(16)), elsewhere.pixels(Reading(16)))
    assert torch.from_numpy(first.pixels(Reading(16)).copy()).float().mean() > 50
