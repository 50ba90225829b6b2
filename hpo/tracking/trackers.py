"""The trackers that a study file names, for the worker that trains and the command that exports."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from optuna.trial import FixedTrial

from hpo.study.metric_settings import kept_metric
from hpo.tracking.mlflow_server import MlflowServer
from hpo.tracking.sender import Sender, SentRun, one_line
from hpo.tracking.tracked_trial import tracked, tracked_name
from hpo.tracking.wandb_server import WandbServer
from trainer.recipe import used_fields
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from hpo.tracking.tracked_trial import State, TrackingServer
    from trainer.fit import Epoch


class TrackedRun(Protocol):
    """One run of a trial, as a tracker is told of it; nothing here raises, or waits for a server."""

    def write(self, epoch: Epoch) -> None:
        """Tell of an epoch."""

    def close(self, state: State) -> None:
        """Tell how the run has ended."""


class Trackers:
    """The trackers of one worker.

    Args:
        opened: the study.
        say: takes a line on what keeps a tracker from being told.
    """

    def __init__(self, opened: OpenStudy, say: Callable[[str], object]) -> None:
        self._file, self._owner = opened.file, opened.owner
        self._senders = [Sender(name, server, say) for name, server in _servers(opened.file).items()]
        self._state: State = "interrupted"
        self._runs: list[TrackedRun] = []

    @contextmanager
    def tracking(self, trial: optuna.Trial, say: Callable[[str], object]) -> Iterator[None]:
        """While the block runs, `write` tells of this trial's epochs.

        Args:
            trial: that trains.
            say: takes text for the log of the trial.
        """
        known = tracked(trial, self._file.name, self._owner)

        def parameters() -> Mapping[str, Any]:
            return used_fields(suggest(FixedTrial(trial.params), self._file.space))

        self._state = "interrupted"
        self._runs = [SentRun(sender, known, parameters) for sender in self._senders]
        if "tensorboard" in self._file.track:
            from hpo.tracking.tensorboard import TensorBoardRun

            self._runs.append(TensorBoardRun(self._file.tensorboard_folder, known, parameters, say))
        try:
            yield
        finally:
            for run in self._runs:
                run.close(self._state)
            self._runs = []

    def write(self, epoch: Epoch) -> None:
        """Tell of an epoch of the trial that trains."""
        for run in self._runs:
            run.write(epoch)

    def ends_as(self, state: State) -> None:
        """Have the run of the trial that trains end so; where nobody calls this, it was interrupted."""
        self._state = state

    def close(self) -> None:
        """Send what is not sent yet, for a limited time."""
        for sender in self._senders:
            sender.close()


def add_bundle(opened: OpenStudy, trial: FrozenTrial, folder: Path, info: Mapping[str, Any]) -> Iterator[str]:
    """Keep a bundle with the run of its trial, on each tracking server; yields a line on each.

    Args:
        opened: the study.
        trial: that the bundle is made of.
        folder: of the bundle.
        info: its bundle.json.
    """
    test = info["metrics"]["test"]
    metric = kept_metric(info)
    names = {tracked_name(metric): metric.name, "macro_f1": "macro_f1", "accuracy": "accuracy"}
    scores = {f"test/{name}": test[key] for name, key in names.items() if test and test[key] is not None}
    known = tracked(trial, opened.file.name, opened.owner)
    for name, server in _servers(opened.file).items():
        try:
            server.add_bundle(known, folder, scores)
        except Exception as error:  # noqa: BLE001 - the bundle is there, whatever a server says
            yield f"track: {name}: the bundle could not be sent: {one_line(error)}"
        else:
            yield f"track: {name}: the bundle is with the run of {known.name}"


def _servers(file: StudyFile) -> dict[str, TrackingServer]:
    """The tracking servers that a study file names."""
    made: dict[str, Callable[[], TrackingServer]] = {
        "mlflow": MlflowServer,
        "wandb": lambda: WandbServer(file.folder / "wandb"),
    }
    return {name: make() for name, make in made.items() if name in file.track}
