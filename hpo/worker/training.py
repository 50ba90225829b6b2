"""The training of one run: what it tells the storage on its way, and how it ends."""

from __future__ import annotations

import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError

from hpo.study.open_study import keep_micro_batches, read_micro_batches
from hpo.worker.checkpoints import wait_for_store
from hpo.worker.pictures import draw_pictures
from hpo.worker.stopwatch import TimedTrial
from hpo.worker.tensorboard import TensorBoardLog
from storage.errors import StorageError
from storage.keys import RESUMED_KEY
from storage.outage_retry import is_outage
from storage.places import LostPlaceError, Progress
from trainer.errors import CheckpointError, TrainerError
from trainer.objective import objective
from trainer.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from hpo.worker.checkpoints import Checkpoints
    from hpo.worker.runs import Run
    from hpo.worker.stopwatch import Stopwatch
    from hpo.worker.trial_log import TrialLog
    from storage.places import Lease
    from trainer.checkpoint import Capture, Checkpoint
    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.loaders import Loaders
    from trainer.observer import Result


class InterruptedTrialError(Exception):
    """The worker is to leave its trial to another; the text says why."""


@dataclass(frozen=True)
class End:
    """How a run ended.

    Attributes:
        state: complete, pruned or failed; waiting where it is to be run again.
        value: of a complete one.
        reason: of a failed or waiting one, in one line.
        counts: whether a waiting one counts among the failed runs, which `retries` bounds.
        broken: what has left this process unable to train anything more.
        pictures: of a complete or pruned one, PNGs by name.
    """

    state: str
    value: float | None = None
    reason: str | None = None
    counts: bool = False
    broken: Exception | None = None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


class Training:
    """One run on this worker's device.

    Args:
        file: what is searched.
        opened: the study in the storage.
        data: the images.
        run: what to train.
        lease: of the worker.
        device: where to train.
        loaders: processes that augment.
        watch: claims this process's time.
        checkpoints: of the run.
        log: takes what the trial prints.
        to_leave: called after each batch; why the run is to be left to another worker, None to go on. Raises
            LostPlaceError where it no longer counts.
    """

    def __init__(
        self,
        file: StudyFile,
        opened: OpenStudy,
        data: Data,
        run: Run,
        *,
        lease: Lease,
        device: torch.device,
        loaders: Loaders,
        watch: Stopwatch,
        checkpoints: Checkpoints,
        log: TrialLog,
        to_leave: Callable[[], str | None],
    ) -> None:
        self._file, self._opened, self._data, self._run = file, opened, data, run
        self._lease, self._device, self._loaders, self._watch = lease, device, loaders, watch
        self._checkpoints, self._log, self._to_leave = checkpoints, log, to_leave
        self._board: TensorBoardLog | None = None
        self._best = 0.0
        self._pictures: dict[str, bytes] = {}
        self._begun = time.perf_counter()
        self._in_storage_before = watch.storage
        self._data_seconds = 0.0
        self._preparing_seconds: float | None = None  # before the first step

    def train(self, weights: Path) -> End:
        """Train to the end, writing the best epoch's weights to the file, and say how it ended.

        Raises:
            LostPlaceError, UpdateFinishedTrialError: the run no longer counts.
        """
        with self._watch.time("storage"):
            try:
                checkpoint = wait_for_store(self._checkpoints.resume, self._to_leave)
            except StorageError as error:
                return End("waiting", reason=reason_of(error), counts=not self._to_leave())
            micro_batches = read_micro_batches(self._opened.study)
            if checkpoint:
                self._take_over(checkpoint)
        known = dict(micro_batches)
        with self._boarded(), self._log.capturing(), _threads(checkpoint, self._device):
            end = self._ended(checkpoint, micro_batches, weights)
        seconds = time.perf_counter() - self._begun
        preparing = self._preparing_seconds or 0.0
        in_storage = self._watch.storage - self._in_storage_before
        self._watch.add("data", self._data_seconds)
        self._watch.add("preparing", preparing)
        self._watch.add("training", seconds - self._data_seconds - preparing - in_storage)
        with self._watch.time("storage"):
            keep_micro_batches(self._opened.study, dict(micro_batches.items() - known.items()))
            self._lease.log(self._run.trial.number, self._log.take_lines(all_of_it=True))
        return end

    def _ended(self, checkpoint: Checkpoint | None, micro_batches: dict[str, int], weights: Path) -> End:
        try:
            value = objective(
                cast("optuna.Trial", TimedTrial(self._run.trial, self._watch)),
                self._file.space,
                self._data,
                resources=Resources(
                    device=self._device,
                    loaders=self._loaders,
                    weights=self._file.weights,
                    micro_batches=micro_batches,
                ),
                observer=self,
                resume=checkpoint,
                best_weights=weights,
            )
        except optuna.TrialPruned:
            return End("pruned", pictures=self._pictures)
        except InterruptedTrialError as why:
            return End("waiting", reason=str(why))
        except (LostPlaceError, UpdateFinishedTrialError):
            raise
        except Exception as error:
            if is_outage(error):
                raise
            if isinstance(error, CheckpointError):
                self._checkpoints.forget_earlier()
            self._log.write(traceback.format_exc())
            return _end_by(error)
        return End("complete", value, pictures=self._pictures)

    def _take_over(self, checkpoint: Checkpoint) -> None:
        """Give the trial what the earlier runs have reported."""
        trial, done = self._run.trial, checkpoint.epochs_done
        for number, macro_f1 in enumerate(checkpoint.history, start=1):
            trial.report(macro_f1, number)
        trial.set_user_attr(RESUMED_KEY, done)
        trial.set_user_attr("threads", checkpoint.threads)
        self._best = max(checkpoint.history, default=0.0)
        self._log.write(
            f"going on after epoch {done} and {checkpoint.steps_done} steps, where trial"
            f" {self._run.earlier[0].number} was left\n"
        )

    def on_epoch(self, epoch: Epoch) -> None:
        """Keep its checkpoint, and tell the storage what it gave."""
        if self._board:
            self._board.write(epoch)
        if self._preparing_seconds is None:
            to_first_step = time.perf_counter() - self._begun - epoch.seconds
            self._preparing_seconds = to_first_step - (self._watch.storage - self._in_storage_before)
            self._watch.note("to_first_step", to_first_step)
        assert epoch.validation, "a trial has validation images"
        macro_f1, accuracy = epoch.validation.macro_f1, epoch.validation.accuracy
        self._best, self._data_seconds = max(self._best, macro_f1), self._data_seconds + epoch.data_seconds
        self._log.write(
            f"epoch {epoch.number} of {epoch.epochs}: macro-F1 {macro_f1:.4f}, accuracy {accuracy:.4f},"
            f" train loss {epoch.train_loss:.4f}, learning rate {epoch.learning_rate:.2e}, {epoch.seconds:.1f} s\n"
        )
        with self._watch.time("storage"):
            if self._checkpoints.is_due(epoch_ended=True):
                self._checkpoints.write(epoch.capture)
            progress = Progress(epoch.number, epoch.epochs, macro_f1, self._best)
            self._lease.keep_progress(self._run.place, self._run.trial, progress, self._log.take_lines())

    def on_step(self, capture: Capture) -> None:
        """Keep a checkpoint where one is due; raise InterruptedTrialError where another worker is to go on."""
        reason = self._to_leave()
        if reason or self._checkpoints.is_due(epoch_ended=False):
            with self._watch.time("storage"):
                self._checkpoints.write(capture)
        if reason:
            raise InterruptedTrialError(reason)

    def on_end(self, result: Result) -> None:
        """Draw the pictures of the trial."""
        self._to_leave()  # which raises where the run no longer counts
        try:
            for name, content in draw_pictures(result, self._data, self._file.space.extensions):
                self._pictures[name] = content
        except Exception as error:  # noqa: BLE001 - nothing that goes wrong in a picture is worth a trial
            self._log.write(f"pictures: {reason_of(error)}; the trial ends without\n")

    @contextmanager
    def _boarded(self) -> Iterator[None]:
        """Write TensorBoard's logs meanwhile, where the study file asks for them."""
        if not self._file.tensorboard:
            yield
            return
        with TensorBoardLog(self._file, self._run.trial, self._log.write) as self._board:
            yield


@contextmanager
def _threads(checkpoint: Checkpoint | None, device: torch.device) -> Iterator[None]:
    """Give a training that goes on as many threads as it had, since a CPU's last bits depend on them."""
    here = torch.get_num_threads()
    if checkpoint and device.type == "cpu":
        torch.set_num_threads(checkpoint.threads)
    try:
        yield
    finally:
        torch.set_num_threads(here)


def _end_by(error: Exception) -> End:
    """How a run ended that raised: for good, unless another run, or another worker, may fare better."""
    reason = reason_of(error)
    if isinstance(error, RuntimeError) and "CUDA error" in str(error):  # a context that is lost for this process
        return End("waiting", reason=reason, counts=True, broken=error)
    if isinstance(error, OSError | MemoryError | StorageError | CheckpointError):
        return End("waiting", reason=reason, counts=True)
    return End("failed", reason=reason)


def reason_of(error: BaseException) -> str:
    """One line for why a trial failed."""
    lines = str(error).strip().splitlines()
    if isinstance(error, TrainerError | StorageError):
        return " ".join(lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
