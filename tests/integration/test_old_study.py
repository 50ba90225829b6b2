"""A study that an earlier version of hpo began goes on with this one.

`tests/data/old_study` holds such a study as commit 5a8c4c3 left it: its study file, a dump of its database, the two
files of weights that were kept, the checkpoint of an interrupted trial, and what `hpo status --json` said then. 12 of
14 places were taken: 5 trials are complete, 5 pruned, one was run again after its worker had died, one failed, and one
was interrupted in its third epoch. One more trial waits.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image
from sqlalchemy import create_engine

from hpo.study.open_study import load_study, model_of
from hpo.study.study_file import read_study_file
from storage.keys import FIRST_RUN_KEY, REPEATS_KEY, RESUMED_KEY
from tests.conftest import STORAGE_VARIABLES
from tests.support import faulty_hpo
from tests.support.faulty_hpo import linear
from tests.support.hpo_process import HpoProcess
from tests.support.tally import count
from trainer.extensions import Extensions

pytestmark = pytest.mark.integration

OLD = Path(__file__).parent.parent / "data" / "old_study"
COLOURS = {"red": (140, 120, 120), "green": (120, 140, 120), "blue": (120, 120, 140)}
INTERRUPTED, ENQUEUED = 12, 13  # numbers of trials
CONTINUED = {1: 0.6083333333333334, 2: 0.6654456654456654, 3: 0.5952380952380952, 4: 0.5952380952380952}
"""Macro-F1 by epoch that the version of then reached when it went on with the interrupted trial."""
TWO_IMAGES = 0.12  # of macro-F1, on 18 validation images: what rounding on another processor may change


class OldStudy:
    """The old study in a database and a folder of the test."""

    def __init__(self, folder, url):
        self.folder, self.url = folder, url
        for name, colour in COLOURS.items():
            (folder / "photos" / name).mkdir(parents=True)
            for number in range(24):
                noise = np.random.default_rng(number).integers(-120, 121, (16, 16, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.bmp")
        shutil.copy(OLD / "study.toml", folder)
        shutil.copytree(OLD / "artifacts", folder / ".hpo" / "artifacts")
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql((OLD / "study.sql").read_text().replace("%", "%%"))
        engine.dispose()
        extensions = Extensions(losses={"slow": lambda *_: None}, backbones={"linear": linear})
        self.file = read_study_file(folder / "study.toml", extensions)

    def hpo(self, command, *arguments):
        """Run a command on the study to its end; returns what it printed."""
        variables = {**dict.fromkeys(STORAGE_VARIABLES, ""), "HPO_STORAGE": self.url}
        process = HpoProcess([faulty_hpo.__file__, command, "study.toml", *arguments], self.folder, variables)
        code = process.end()
        assert code == 0, process.printed
        return process.printed

    def status(self):
        """What `hpo status --json` says, but for what depends on the time and the place of the database."""
        found = json.loads(self.hpo("status", "--json"))
        return {key: value for key, value in found.items() if key not in ("storage", "dead_workers")}


@pytest.fixture
def old(tmp_path, database):
    """The old study, as it was left."""
    return OldStudy(tmp_path, database)


def part_of(now, then):
    """What `hpo status --json` says now of all that it said then; it says more by now."""
    return {key: part_of(now[key], value) if isinstance(value, dict) else now[key] for key, value in then.items()}


def test_an_old_study_has_the_numbers_that_it_had(old):
    """Its settings are accepted; status and report name the counts, the budget used and the best trial as before."""
    assert "is ready" in old.hpo("init")
    then = json.loads((OLD / "status.json").read_text())
    assert part_of(old.status(), then) == then
    printed = old.hpo("report", "-o", "report.html")
    assert "12 trials: 5 complete, 5 pruned, 1 failed, 1 waiting" in printed
    assert "best validation macro-F1 0.9441 (trial 1); the default recipe reached 0.6111" in printed


def test_an_old_study_goes_on_to_the_end_of_its_budget(old):
    """A worker goes on with the interrupted trial from its checkpoint, runs the waiting one, and ends at the budget."""
    old.hpo("init")
    old.hpo("worker", "--threads", "1")
    opened = load_study(old.file, old.url)
    trials = opened.study.trials
    again = next(trial for trial in trials if trial.user_attrs.get(REPEATS_KEY) == INTERRUPTED)
    weights = model_of(trials[1], opened, old.file.space.extensions, 3, torch.device("cpu")).state_dict()
    assert (opened.file.sampler, opened.file.pruner) == ("tpe", "median")  # the default of its time
    opened.storage.engine.dispose()

    assert (again.user_attrs[RESUMED_KEY], again.user_attrs[FIRST_RUN_KEY]) == (2, INTERRUPTED)
    assert again.state is TrialState.COMPLETE
    assert [again.intermediate_values[epoch] for epoch in (1, 2)] == [CONTINUED[1], CONTINUED[2]]
    assert again.intermediate_values == pytest.approx(CONTINUED, abs=TWO_IMAGES)
    assert trials[ENQUEUED].state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert trials[ENQUEUED].params["learning_rate"] == 0.003

    tally = count(old.file, old.url)
    assert tally.problems == ()
    assert tally.states.total() == tally.budget == 14
    assert tally.states["failed"] == 1
    assert {tuple(weight.shape) for weight in weights.values()} == {(3, 3 * 8 * 8), (3,)}
    trials_before, status = json.loads((OLD / "status.json").read_text())["trials"], old.status()
    assert status["trials"]["complete"] > trials_before["complete"]
    assert status["best"]["macro_f1"] >= trials[1].value
