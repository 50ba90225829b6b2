"""Wrong labels, found by the trainings that confirm a study."""

from __future__ import annotations

import csv
import time
from datetime import UTC, datetime

import pytest

from hpo.check.label_errors import find_label_errors, write_label_errors
from hpo.errors import HpoError
from hpo.report.page import make_report
from hpo.study.confirmation import begin_confirmation, find_confirmation
from hpo.study.fresh_folds import data_of_fold
from hpo.study.open_study import create_study, load_study
from hpo.study.out_of_fold import read_out_of_fold
from hpo.study.study_file import read_study_file
from hpo.worker.shutdown import Shutdown
from hpo.worker.stopwatch import Stopwatch
from hpo.worker.worker import Worker
from storage.keys import OUT_OF_FOLD_NAME
from tests.conftest import paint
from tests.integration.conftest import linear
from trainer.extensions import Extensions
from trainer.loaders import Loaders

pytestmark = pytest.mark.integration

PLANTED = {"red/blue 0.png": "blue", "red/green 1.png": "green", "blue/green 2.png": "green", "green/red 3.png": "red"}
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}
STUDY = """
[data]
path = "photos"
[budget]
trials = 1
[recipe]
backbone = "linear"
image_size = 8
epochs = 10
batch_size = 8
learning_rate = 1e-1
augment = "none"
"""


def work(opened, data, name):
    """Train all that waits in a study."""
    stopwatch, shutdown = Stopwatch(time.perf_counter()), Shutdown()
    Worker(opened, data, name=name, loaders=Loaders(0), stopwatch=stopwatch, shutdown=shutdown).run()


@pytest.fixture
def searched(tmp_path, photos, ready_database):
    """A study that has searched images of which four have a wrong label, and its images."""
    for seed, (path, colour) in enumerate(PLANTED.items(), start=100):
        paint(photos / path, COLOURS[colour], seed)
    (tmp_path / "study.toml").write_text(STUDY)
    file = read_study_file(tmp_path / "study.toml", Extensions(backbones={"linear": linear}))
    data = file.data.load(file.folder / "pixels")
    create_study(file, ready_database, data)
    opened = load_study(file, ready_database)
    work(opened, data, "search")
    yield opened, data
    opened.storage.engine.dispose()


def found_in(opened, data):
    """What is found out about the labels."""
    return find_label_errors(opened, data, {}, lambda *_: None)


def test_a_confirmation_finds_wrong_labels_among_all_images(searched, tmp_path):
    """All of four planted labels to train and to validate are found, and no other; held-out ones are not looked at."""
    opened, data = searched
    seen = {data.index.paths[image] for image in (*data.split.train, *data.split.valid)}
    planted = {path: label for path, label in PLANTED.items() if path in seen}
    of_search = found_in(opened, data)
    assert f"of the {len(data.split.valid)} images to validate, by the best model" in of_search.finding.message
    assert read_out_of_fold(opened) is None

    work(begin_confirmation(opened, data, top=1, repeats=2), data, "two folds")
    judged = {
        image
        for fold in (0, 1)
        for image in data_of_fold(data, fold, opened.file.seed, opened.metric).split.valid.tolist()
    }
    assert set(read_out_of_fold(opened).images.tolist()) == judged
    others = len(seen) - len(judged)
    message = found_in(opened, data).finding.message
    assert f"and {others} others were in no fold: `hpo confirm --repeats` adds folds" in message

    work(begin_confirmation(opened, data, top=1, repeats=4), data, "all folds")
    found = found_in(opened, data)
    assert f"of the {len(seen)} images to train and to validate, by 4 models of the folds" in found.finding.message
    assert "in no fold" not in found.finding.message
    classes, paths = data.index.classes, data.index.paths
    assert {paths[one.image]: classes[one.expected] for one in found.doubted} == planted
    assert all(classes[one.label] == paths[one.image].split("/")[0] for one in found.doubted)
    assert len(planted) >= 3

    write_label_errors(data.index, found.doubted, tmp_path / "doubted.csv")
    with (tmp_path / "doubted.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["expected"] for row in rows} == {f"photos/{path}": it for path, it in planted.items()}
    assert all(float(row["expected_probability"]) > float(row["label_probability"]) for row in rows)
    with pytest.raises(HpoError, match=r"doubted.csv cannot be written: File exists"):
        write_label_errors(data.index, found.doubted, tmp_path / "doubted.csv")

    page = make_report(opened, datetime.now(UTC)).html
    assert f"{len(planted)} labels of {len(seen)} images to train and to validate are doubted" in page
    for path in planted:
        assert f'alt="{path}"' in page
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert "Labels that may be wrong" not in make_report(opened, datetime.now(UTC)).html

    kept = list(find_confirmation(opened).rows.kept_files(OUT_OF_FOLD_NAME))
    assert len(kept) == 4
