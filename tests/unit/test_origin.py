"""What a bundle keeps of its training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hpo.bundle.bundle import read_bundle
from hpo.bundle.origin import data_of, origin_of
from hpo.bundle.reproduction import Again, reproduce_bundle
from hpo.bundle.retraining import Chosen
from hpo.errors import HpoError
from hpo.study.study_file import read_study_file
from trainer.extensions import Extensions
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

STUDY = """
[data]
path = "photos/list.csv"
valid = 0.3
seed = 4
test_fold = [2, 3]
group = "person"
value_range = [0, 4095]
splits = {column = "part", train = ["a", "b"], test = "c"}
"""


def test_a_bundle_knows_its_images_wherever_it_goes_with_them(make_bundle, tmp_path):
    """The whole table [data] comes back from bundle.json, with the path from where the bundle is."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/list.csv").touch()
    (tmp_path / "study.toml").write_text(STUDY)
    file = read_study_file(tmp_path / "study.toml")
    folder = Path(make_bundle("bundle"))
    info = json.loads((folder / "bundle.json").read_text())
    recipe = Recipe(backbone="test_resnet", pretrained=False)
    chosen = Chosen(recipe, 1, [0.5], file.metric, Extensions(), None, torch.device("cpu"), 1, print)
    info["origin"] = origin_of(file, folder, chosen, None)
    assert info["origin"]["data"]["path"] == "../photos/list.csv"
    (folder / "bundle.json").write_text(json.dumps(info))
    assert data_of(read_bundle(folder), None) == file.data
    (folder / "bundle.json").write_text(json.dumps(info | {"origin": {"data": {"path": "x"}}}))
    with pytest.raises(HpoError, match="does not tell its images"):
        data_of(read_bundle(folder), None)


def test_a_bundle_that_keeps_too_little_names_the_way(make_bundle):
    """A bundle of an earlier version is refused in one line, which says that its trial can be trained again."""
    again = Again(Extensions(), None, None, print)
    with pytest.raises(HpoError, match=r"did not keep where its images are; `hpo reproduce STUDY --trial N` trains"):
        reproduce_bundle(read_bundle(Path(make_bundle("old"))), again)
