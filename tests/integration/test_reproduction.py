"""Trainings that are done again: of bundles without their study, and of trials."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from hpo.bundle.commands import run_export_best, run_reproduce
from hpo.cli import parser
from hpo.errors import HpoError
from storage.keys import ENVIRONMENT_KEY
from tests.conftest import paint
from tests.integration.conftest import FIXED
from trainer.device import torch_threads

pytestmark = pytest.mark.integration


@pytest.fixture
def study(harness):
    """A study with one complete trial of a plateau schedule, which followed its own scores."""
    made = harness(torch.nn.functional.cross_entropy, trials=1, recipe={**FIXED, "schedule": "plateau", "epochs": 3})
    made.work()
    return made


@pytest.fixture
def run(study, capsys):
    """Runs a command; gives its exit code and lines."""

    def run(command, *given):
        options = parser().parse_args([command.__name__.removeprefix("run_").replace("_", "-"), *map(str, given)])
        options.extensions, options.url = study.file.space.extensions, study.url
        capsys.readouterr()
        with torch_threads(1):
            code = command(options)
        return code, capsys.readouterr().out.splitlines()

    return run


def test_a_bundle_is_trained_again_without_its_study(study, run, tmp_path):
    """A bundle comes out bit for bit, without a database, also where it has moved; what differs is named."""
    run(run_export_best, study.file.path, "-o", tmp_path / "bundle")
    study.url = "postgresql://nobody@127.0.0.1:1/nothing"
    shutil.move(tmp_path / "bundle", tmp_path / "elsewhere" / "bundle")
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    with pytest.raises(HpoError, match=r"photos, which does not exist; say where by --data PATH"):
        run(run_reproduce, tmp_path / "elsewhere/bundle")
    code, lines = run(run_reproduce, tmp_path / "elsewhere/bundle", "--data", tmp_path / "moved")
    epochs = json.loads((tmp_path / "elsewhere/bundle/bundle.json").read_text())["epochs"]
    assert lines[0] == "the environment is as it was then: versions, processor, device, threads, images, split"
    assert lines[-1].startswith(f"the same, bit for bit: the train loss of {epochs} epoch")
    assert code == 0

    # A model that is not the one that comes out, and images that are not the ones it learned.
    bundle = tmp_path / "elsewhere/bundle"
    info = json.loads((bundle / "bundle.json").read_text())
    info["origin"]["train_losses"][0] += 1e-9
    info["versions"]["torch"] = "0.4"
    (bundle / "bundle.json").write_text(json.dumps(info))
    paint(tmp_path / "moved/red/0.png", (60, 200, 60), 99)
    code, lines = run(run_reproduce, bundle, "--data", tmp_path / "moved")
    assert code == 1
    assert lines[0] == f"torch: 0.4 then, {torch.__version__.split('+')[0]} here"
    assert lines[1].startswith("images, by their digest: ")
    assert [line.split(":")[0] for line in lines if line.startswith("different")] == ["different, first in epoch 1"]


def test_a_bundle_of_each_kind_is_trained_again(study, run, tmp_path):
    """A trial's own weights, and a model that learned pseudo-labels, come out bit for bit as well."""
    for number in range(4):
        paint(tmp_path / "found" / f"{number}.png", (60, 60, 200), 100 + number)
    shutil.copy(tmp_path / "photos/red/0.png", tmp_path / "found/1 copy.png")
    run(run_export_best, study.file.path, "-o", tmp_path / "own", "--no-retrain")
    run(
        run_export_best,
        study.file.path,
        "-o",
        tmp_path / "pseudo",
        "--unlabelled",
        tmp_path / "found",
        "--confidence",
        0.3,
        "--keep-pseudo-labels",
    )
    for name in ("own", "pseudo"):
        code, lines = run(run_reproduce, tmp_path / name)
        assert lines[-1].startswith("the same, bit for bit: ")
        assert code == 0
    (tmp_path / "found/2.png").unlink()
    with pytest.raises(HpoError, match=r"reproduce: .*pseudo_labels\.csv: 1 file that does not exist"):
        run(run_reproduce, tmp_path / "pseudo")


def test_a_trial_is_trained_again(study, run, tmp_path):
    """A trial's scores by epoch and its kept weights come out bit for bit; it says which trials there are."""
    assert study.trials[0].user_attrs[ENVIRONMENT_KEY]["versions"].keys() > {"torch", "pillow"}
    code, lines = run(run_reproduce, study.file.path, "--trial", 0)
    assert lines[-1] == "the same, bit for bit: the validation macro-F1 of 3 epochs, 2 tensors of weights"
    assert code == 0
    with pytest.raises(HpoError, match='"colours" has no trial 1; it has 1'):
        run(run_reproduce, study.file.path, "--trial", 1)
    with pytest.raises(HpoError, match="say which trial"):
        run(run_reproduce, study.file.path)
