"""A small study whose workers meet faults: real commands, real training, a real Postgres."""

from __future__ import annotations

import hashlib
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from hpo.study.open_study import create_study, load_study
from hpo.study.study_file import read_study_file
from storage import logs
from storage.artifacts.artifacts import fetch_file
from storage.keys import WEIGHTS_NAME
from storage.study_rows import places
from tests.conftest import STORAGE_VARIABLES, paint
from tests.support import faulty_hpo
from tests.support.faulty_hpo import HELD, Faults, linear
from tests.support.hpo_process import HpoProcess
from tests.support.tally import ENDS, count
from tests.support.waiting import paced, wait_until
from trainer.extensions import Extensions

COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}
STUDY = """
[study]
name = "{name}"
pruner = "{pruner}"
sampler = "random"
retries = {retries}
keep_weights = 1000
artifacts = "disk/artifacts"
[data]
path = "photos"
[budget]
trials = {trials}
[recipe]
backbone = "linear"
image_size = 16
epochs = {epochs}
batch_size = {batch_size}
loss = "slow"
learning_rate = {{ low = 1e-5, high = 1e-3, log = true }}
dropout = 0.0
augment = "flip"
mixing = "none"
optimizer = "adamw"
schedule = "cosine"
ema = true
"""


@dataclass(frozen=True)
class Ended:
    """How a trial ended: its parameters, macro-F1 by epoch, and a digest of its weights."""

    recipe: dict[str, object]
    macro_f1: dict[int, float]
    weights: str


def changed(ends, calm):
    """The places whose trials ended otherwise than they do where nothing happens to them.

    The recipe that the study begins with goes to the first worker that asks. Where the one that took the first place
    died before it asked, that is the worker in another place: two places then have other recipes.
    """
    others = [place for place, end in ends.items() if end.recipe != calm[place].recipe]
    return [place for place, end in ends.items() if end != calm[place] and (place not in others or len(others) > 2)]


def _paced(faults):
    """The same faults, with durations that the patience of the tests makes longer."""
    durations = ("grace_seconds", "step_seconds")
    return {name: paced(value) if name in durations and value else value for name, value in faults.items()}


class FaultyStudy:
    """A study in a folder and a database of its own, and what runs on it.

    Args:
        folder: for everything but the database.
        url: of its database.
        trials, epochs, retries, batch_size, pruner: as in a study file.
        faults: of all of its processes: fields of Faults.
    """

    def __init__(
        self, folder, url, *, name="faults", trials, epochs, retries=100, batch_size=8, pruner="none", **faults
    ):
        self.disk, self.store = folder / "disk", folder / "disk" / "artifacts"
        self.folder, self.url, self._faults, self._processes = folder, url, {"grace_seconds": 2.0, **faults}, []
        folder.mkdir(exist_ok=True)
        if not (folder / "photos").exists():
            for colour, rgb in COLOURS.items():
                for number in range(12):
                    paint(folder / "photos" / colour / f"{number}.png", rgb, number)
        study = folder / f"{name}.toml"
        settings = {"trials": trials, "epochs": epochs, "retries": retries, "batch_size": batch_size, "pruner": pruner}
        study.write_text(STUDY.format(name=name, **settings))
        extensions = Extensions(losses={"slow": lambda *_: None}, backbones={"linear": linear})
        self.file = read_study_file(study, extensions)
        create_study(self.file, url, self.file.data.load(self.file.folder / "pixels"))
        self.opened = load_study(self.file, url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            if process.runs:
                process.send(signal.SIGKILL)
                process.end()
        self.opened.storage.engine.dispose()

    def begin(self, command, *arguments, variables=None, **faults):
        """Start a command on the study, with its faults."""
        clean = dict.fromkeys(STORAGE_VARIABLES, "")
        environment = {**clean, "HPO_STORAGE": self.url, **(variables or {})}
        faults = Faults(**_paced({**self._faults, **faults}))
        words = [faulty_hpo.__file__, command, str(self.file.path), *arguments]
        process = HpoProcess(words, self.folder, {**environment, faulty_hpo.VARIABLE: faults.as_text()})
        self._processes.append(process)
        return process

    def hold(self):
        """Let no training go on that has come to the step of `hold_at_step`, until they are released."""
        (self.folder / HELD).touch()

    def release(self):
        """Let them go on."""
        (self.folder / HELD).unlink()

    def wait_for_beats(self):
        """Wait until the only worker that has a trial has heard what was told before."""
        query = text("SELECT beat FROM hpo.worker JOIN hpo.place ON worker = id WHERE state = 'running'")

        def beat():
            with self.opened.storage.engine.connect() as connection:
                return connection.execute(query).scalar_one()

        before = beat()
        wait_until(lambda: beat() >= before + 3)  # the next one may be under way; after the last one it knows

    def worker(self, *, variables=None, **faults):
        """Start a worker, with its faults."""
        name = uuid.uuid4().hex
        process = self.begin("worker", "--threads", "1", "--name", name, variables=variables, **faults)
        process.name = name
        return process

    @property
    def places(self):
        """All places of the budget."""
        with self.opened.storage.engine.connect() as connection:
            return places(connection, self.opened.study_id)

    @property
    def trials(self):
        """All trials."""
        return self.opened.study.get_trials()

    @property
    def is_finished(self):
        """Whether every trial of the budget has ended."""
        ended = [place.state in ENDS for place in self.places]
        return len(ended) == self.file.limits.trials and all(ended)

    def place_of(self, worker, epoch=0):
        """The place in which a worker trains, once it has done so many epochs of its trial; None until then."""
        return next(
            (row for row in self.places if row.worker == worker.name and row.state == "running" and row.epoch >= epoch),
            None,
        )

    def log(self, trial):
        """What a trial printed, as one text."""
        with self.opened.storage.engine.connect() as connection:
            return "\n".join(line for _, line in logs.read(connection, self.opened.study_id, trial))

    def tally(self):
        """The study, counted; printed, too."""
        tally = count(self.file, self.url)
        print(f"\n{self.file.name}\n{tally}")
        return tally

    def ends(self):
        """How the complete trial in each place has ended."""
        trials, ended = self.trials, {}
        with TemporaryDirectory() as folder:
            for place in self.places:
                if place.state == "complete":
                    trial, weights = trials[place.trial], Path(folder) / WEIGHTS_NAME
                    fetch_file(self.opened.artifacts, self.opened.storage, trial, WEIGHTS_NAME, weights)
                    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
                    ended[place.number] = Ended(trial.params, trial.intermediate_values, digest)
        return ended
