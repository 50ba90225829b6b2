"""The winner as a bundle, with pseudo-labels."""

from __future__ import annotations

import csv
import json
import shutil
import time

import pytest
import torch
from optuna.trial import FixedTrial, TrialState, create_trial

import hpo.bundle.export
from hpo.bundle.commands import run_export_best
from hpo.cli import parser
from hpo.errors import HpoError
from hpo.study.open_study import create_study, load_study
from hpo.study.study_file import read_study_file
from hpo.worker.shutdown import Shutdown
from hpo.worker.stopwatch import Stopwatch
from hpo.worker.worker import Worker
from storage.keys import BEST_EPOCH_KEY
from tests.conftest import paint
from trainer.errors import DataError
from trainer.extensions import Extensions
from trainer.loaders import Loaders
from trainer.space import suggest

pytestmark = pytest.mark.integration

# The pixels of all images fit within pixels_gb, but not those of the labelled ones beside them.
STUDY = """
[study]
name = "colours"
pruner = "none"
[data]
path = "photos"
pixels_gb = 1e-5
[budget]
trials = 1
[recipe]
backbone = "linear"
image_size = 8
epochs = 20
batch_size = 8
learning_rate = 1e-2
augment = "none"
"""


def linear(classes, size):
    """The smallest model."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * size * size, classes))


def open_new(file, url):
    """Create a study and load it; returns it with its images."""
    data = file.data.load(file.folder / "pixels")
    create_study(file, url, data)
    return load_study(file, url), data


def search(file, url):
    """Search to the end of the budget; lets go of the images, as a process does by its end."""
    opened, data = open_new(file, url)
    stopwatch, shutdown = Stopwatch(time.perf_counter()), Shutdown()
    Worker(opened, data, name="worker", loaders=Loaders(0), stopwatch=stopwatch, shutdown=shutdown).run()
    opened.storage.engine.dispose()


@pytest.fixture
def export(tmp_path, photos, database, capsys):
    """Searches a study to its end; gives a function that exports its winner and returns bundle.json and the lines."""
    (tmp_path / "study.toml").write_text(STUDY)
    extensions = Extensions(backbones={"linear": linear})
    search(read_study_file(tmp_path / "study.toml", extensions), database)

    def run(folder, *more):
        given = ["export-best", tmp_path / "study.toml", "-o", tmp_path / folder, *more]
        options = parser().parse_args([str(one) for one in given])
        options.extensions, options.url = extensions, database
        capsys.readouterr()
        assert run_export_best(options) == 0
        return json.loads((tmp_path / folder / "bundle.json").read_text()), capsys.readouterr().out.splitlines()

    return run


def test_sure_images_are_learned_by_a_second_model(export, tmp_path):
    """Images that the retrained winner is sure of are trained on with its classes; copies of test images are not."""
    plain, said = export("plain")
    assert plain["pseudo_labels"] is None
    with (tmp_path / "plain/test.csv").open() as file:
        held_out = [tmp_path / "plain" / row["path"] for row in csv.DictReader(file)]
    for number in range(10):
        paint(
            tmp_path / "found" / "red" / f"{number}.png", (60, 60, 200), 100 + number
        )  # blue, whatever its folder says
    for number, file in enumerate(held_out[:3]):
        shutil.copy(file, tmp_path / "found" / f"copy {number}.png")

    info, lines = export("bundle", "--unlabelled", tmp_path / "found", "--confidence", 0.6)
    assert info["pseudo_labels"] == {
        "images": 10,
        "of": 10,
        "confidence": 0.6,
        "per_class": {"blue": 10, "green": 0, "red": 0},
    }
    trained = [line for line in lines if not line.startswith("epoch ")]
    learned = 36 - len(held_out)
    assert trained[1] == (
        "left out of the unlabelled images as exact copies: 3 of held-out test images, 0 of other images"
    )
    assert trained[2].startswith(f"retraining on {learned} images, training and validation, for ")
    assert trained[3].endswith("0.6 or more: blue 10, green 0, red 0")
    assert trained[4].startswith(f"retraining on {learned + 10} images, 10 of them unlabelled, for ")

    # The first training is the plain one, the second has as many epochs and gives another model.
    losses = [line.split(",")[0] for line in lines if line.startswith("epoch ")]
    assert losses[: len(losses) // 2] == [line.split(",")[0] for line in said if line.startswith("epoch ")]
    assert len(losses) == 2 * info["epochs"]
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "bundle")]
    assert written[0] != written[1]

    # Both are tested on the same images, once each.
    for name in ("data_digest", "split_digest"):
        assert info[name] == plain[name]
    assert info["metrics"]["test"]["images"] == len(held_out)
    assert [plain["test_uses"], info["test_uses"]] == [1, 2]
    assert info["metrics"]["test"]["macro_f1"] > 0.8


def test_what_cannot_be_learned_leaves_no_bundle(export, tmp_path):
    """Unsure images, broken ones and places without images are foreseen failures, and nothing half-made is left."""
    grey = tmp_path / "grey.png"
    paint(grey, (110, 110, 110), 1)
    with pytest.raises(HpoError, match="lower --confidence"):
        export("bundle", "--unlabelled", grey, "--confidence", 1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 38 images cannot be read: .*broken\.png"):
        export("bundle", "--unlabelled", grey, tmp_path / "broken.png")
    with pytest.raises(HpoError, match=r"export: .*nowhere does not exist"):
        export("bundle", "--unlabelled", tmp_path / "nowhere")
    assert not list(tmp_path.glob("*bundle*"))


def test_a_confidence_without_images_is_refused():
    """--confidence without --unlabelled would change nothing, and is said."""
    options = parser().parse_args(["export-best", "study.toml", "-o", "bundle", "--confidence", "0.9"])
    with pytest.raises(HpoError, match="give --unlabelled, too"):
        run_export_best(options)


def test_a_retraining_follows_the_plateaus_of_the_winner(tmp_path, photos, database, monkeypatch):
    """With `schedule = "plateau"` the rate of a retraining falls after the epochs after which the winner's fell."""
    (tmp_path / "study.toml").write_text(f'{STUDY}schedule = "plateau"\nwarmup = 0.0\n')
    extensions = Extensions(backbones={"linear": linear})
    opened, _ = open_new(read_study_file(tmp_path / "study.toml", extensions), database)
    # It rises to the second epoch, stands still for three, is best in the seventh and has an eighth.
    scores = dict(enumerate([0.3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.9, 0.8], start=1))
    asked = FixedTrial(opened.file.space.default_parameters())
    suggest(asked, opened.file.space)
    winner = create_trial(
        state=TrialState.COMPLETE,
        value=0.9,
        params=asked.params,
        distributions=asked.distributions,
        intermediate_values=scores,
        user_attrs={BEST_EPOCH_KEY: 7},
    )
    opened.study.add_trial(winner)
    rates, fit = [], hpo.bundle.export.fit

    def watched(*arguments, **options):
        for epoch in fit(*arguments, **options):
            rates.append(epoch.learning_rate)
            yield epoch

    monkeypatch.setattr(hpo.bundle.export, "fit", watched)
    hpo.bundle.export.export_best(opened, tmp_path / "bundle", retrain=True, say=lambda _: None)
    opened.storage.engine.dispose()
    assert rates == pytest.approx([0.01] * 5 + [0.003] * 2)
