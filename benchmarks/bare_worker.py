"""A worker that asks the database for all that hpo's asks for, and trains nothing."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FixedTrial

from hpo.study.open_study import give_id, load_study, read_micro_batches
from hpo.study.retention import drop_surplus_weights
from hpo.study.study_file import DataSettings, StudyFile
from hpo.worker.runs import Runs
from storage.artifacts.artifacts import keep_file
from storage.budget import Limits
from storage.database import connect
from storage.heartbeat import WorkerPresence
from storage.keys import SETTINGS_KEY, WEIGHTS_NAME
from storage.outage_retry import OutageRetry
from storage.places import Lease, Progress
from trainer.recipe import DEFAULTS
from trainer.space import Space, suggest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from optuna.distributions import BaseDistribution

    from hpo.worker.runs import Run

EPOCHS = 10
SPACE = Space(
    {
        **DEFAULTS,
        "epochs": EPOCHS,
        "augment": "randaugment",
        "batch_size": [8, 16, 32, 64],
        "optimizer": ["adamw", "sgd"],
        "layer_decay": [0.65, 0.75, 0.9, 1.0],
        "freeze": [0.0, 0.25, 0.5, 0.75],
        "loss": ["cross_entropy", "soft_f1"],
        "ema": [False, True],
        **{name: {"low": 1e-5, "high": 1e-1, "log": True} for name in ("learning_rate", "weight_decay", "clip_norm")},
        **{name: {"low": 0.0, "high": 0.5} for name in ("dropout", "drop_path", "warmup")},
        "randaugment_ops": {"low": 1, "high": 8},
        "randaugment_magnitude": {"low": 1, "high": 30},
        "seed": {"low": 1, "high": 64, "log": True},
    }
)
"""15 fields vary: six choices, six ranges of fractions and three of whole numbers."""


def _distributions() -> dict[str, BaseDistribution]:
    trial = FixedTrial(SPACE.default_parameters())
    suggest(trial, SPACE)
    return trial.distributions


FIELDS = _distributions()
METRICS = {
    "per_class": {
        f"class {n}": {"precision": 0.9123 + n / 1e4, "recall": 0.8876, "f1": 0.8998, "images": 36} for n in range(24)
    }
}  # about 2 kB, as the objective keeps them


def study_file(
    folder: Path, name: str, *, trials: int | None = None, sampler: str = "tpe", pruner: str = "median"
) -> StudyFile:
    """A study of that budget; the files of its trials go into the folder, in which `weights.safetensors` is made."""
    (folder / WEIGHTS_NAME).write_bytes(bytes(1000))
    return StudyFile(
        folder / "study.toml",
        name,
        DataSettings(folder),
        Limits(trials=trials),
        SPACE,
        sampler=sampler,
        pruner=pruner,
    )


def create_study(file: StudyFile, url: str) -> int:
    """Make the study of a file, in a storage that is initialised; returns its id."""
    storage = connect(url)
    study = optuna.create_study(study_name=file.name, storage=storage, direction="maximize")
    give_id(study)
    study.set_user_attr(SETTINGS_KEY, {"recipe": file.space.as_dict()})
    study_id = storage.get_study_id_from_name(file.name)
    storage.engine.dispose()  # of what processes that are forked later would share
    return study_id


class BareWorker:
    """All that one worker asks for in a trial, in its order; what its second thread asks for comes once a trial.

    Args:
        file: of a study that exists.
        url: of its storage.
        name: of the worker; no other may ever have it.
    """

    def __init__(self, file: StudyFile, url: str, name: str) -> None:
        self._file, self._weights = file, file.path.parent / WEIGHTS_NAME
        self._opened = load_study(file, url, OutageRetry())
        self._lease = Lease(self._opened.storage.engine, self._opened.study_id, name, self._opened.outage_retry)
        self._runs = Runs(self._opened, self._lease, {"host": "host", "device": "none", "threads": 1})
        self._presence = WorkerPresence(
            self._opened.storage.engine, self._opened.study_id, name, self._opened.outage_retry
        )
        self._presence.join(socket.gethostname(), os.getpid(), "none")
        self._run: Run | None = None
        self.study, self.storage = self._opened.study, self._opened.storage

    def ask(self) -> optuna.Trial | None:
        """A new trial that runs; None where the budget is used up."""
        self._run = self._runs.begin()
        if self._run is None:
            return None
        read_micro_batches(self.study)
        self._presence.beat({})
        self._presence.reap()
        return self._run.trial

    def report(self, trial: optuna.Trial, value: float, epoch: int) -> None:
        """An epoch of the trial that runs, with the line that it prints."""
        assert self._run
        line = f"epoch {epoch} of {EPOCHS}: macro-F1 {value:.4f}, accuracy {value:.4f}, train loss {1 - value:.4f}"
        self._lease.keep_progress(self._run.place, trial, Progress(epoch, EPOCHS, value, value), [line])
        trial.report(value, epoch)

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """The end of the trial that runs; None where it was pruned."""
        assert self._run
        if value is not None:
            trial.set_user_attr("best_epoch", EPOCHS)
            trial.set_user_attr("metrics", METRICS)
        self._lease.log(trial.number, [])
        if value is None:
            self._runs.prune(self._run)
            return
        self._lease.hold(self._run.place)
        keep_file(self._opened.artifacts, trial, self._weights, self._opened.owner)
        self._runs.complete(self._run, value)
        drop_surplus_weights(self._opened, self._file.keep_weights)

    def leave(self) -> None:
        """The end of the worker."""
        self._presence.leave({})
        self.storage.engine.dispose()


def work(worker: BareWorker, called: Callable[[float], object]) -> int:
    """Run trials with scores that are drawn until the budget is used up; returns how many.

    Args:
        worker: that runs them.
        called: takes the seconds of each of its calls.
    """

    def timed(call: Callable[..., Any], *arguments: object) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        called(time.perf_counter() - began)
        return result

    trials = 0
    while trial := timed(worker.ask):
        random = np.random.default_rng(trial.number)
        suggest(trial, SPACE)
        value: float | None = None
        for epoch in range(1, EPOCHS + 1):
            value = random.random()
            timed(worker.report, trial, value, epoch)
            if timed(trial.should_prune):
                value = None
                break
        timed(worker.tell, trial, value)
        trials += 1
    worker.leave()
    return trials
