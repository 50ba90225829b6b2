"""What a worker does while a run trains: keeps checkpoints, progress, log and pictures, and leaves when it must."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna

from hpo.study.out_of_fold import out_of_fold_file
from hpo.study.pruners import may_pause
from hpo.worker.ends import one_line
from hpo.worker.pictures import draw_pictures
from storage.keys import CONFIRMS_KEY, OUT_OF_FOLD_NAME
from storage.places import Progress

if TYPE_CHECKING:
    from hpo.worker.checkpoints import Checkpoints
    from hpo.worker.context import WorkerContext
    from hpo.worker.runs import Run
    from hpo.worker.stopwatch import TrainingTime
    from hpo.worker.time_limit import TimeLimit
    from hpo.worker.trial_log import TrialLog
    from trainer.checkpoint import Capture
    from trainer.fit import Epoch
    from trainer.observer import Result


class InterruptedTrialError(Exception):
    """The worker is to leave its trial to another; the text says why."""


class RunObserver:
    """Observes the training of one run for its worker.

    Args:
        context: of the worker.
        run: that trains.
        checkpoints: of the run.
        log: takes what the trial prints.
        time: of the training.
        limit: of the trial's time.

    Attributes:
        best: the highest validation score so far; to be set where the trial has epochs already.
        best_epoch: which one had it; 0 before the first; likewise.
        pictures: of the trial, PNGs by name, once it has ended; and of one that confirms what it says of its fold.
    """

    def __init__(
        self,
        context: WorkerContext,
        run: Run,
        checkpoints: Checkpoints,
        log: TrialLog,
        time: TrainingTime,
        limit: TimeLimit,
    ) -> None:
        self._limit, self._steps = limit, context.steps
        self._context, self._run, self._checkpoints, self._log, self._time = context, run, checkpoints, log, time
        self.best, self.best_epoch = 0.0, 0
        self.pictures: dict[str, bytes] = {}

    def on_step(self, capture: Capture) -> None:
        """Keep a checkpoint where one is due.

        Raises:
            InterruptedTrialError: another worker is to go on with the trial, whose checkpoint is kept.
            LostPlaceError: the run no longer counts.
            optuna.TrialPruned: the time of the trial is over.
        """
        self._steps.step_ended()
        reason = self._context.heartbeat.reason_to_leave(self._run)
        if reason or self._checkpoints.is_due(epoch_ended=False):
            with self._context.stopwatch.time("storage"):
                self._checkpoints.write(capture)
        if reason:
            raise InterruptedTrialError(reason)
        if self._limit.is_over():
            raise optuna.TrialPruned
        self._steps.step_begins()

    def on_epoch(self, epoch: Epoch) -> None:
        """Log the epoch, keep a checkpoint where one is due, and then the progress.

        Raises:
            LostPlaceError: the run no longer counts.
        """
        assert epoch.validation, "a trial has validation images"
        self._context.trackers.write(epoch)
        self._time.epoch_ended(epoch.seconds, epoch.data_seconds)
        self._steps.epoch_ended()
        self._limit.epoch_ended(epoch.number, epoch.seconds)
        score, metric = epoch.validation.score, self._context.opened.metric
        if score > self.best or not self.best_epoch:
            self.best, self.best_epoch = score, epoch.number
        values = {
            metric.title: metric.value(score),
            "macro-F1": epoch.validation.macro_f1,
            "accuracy": epoch.validation.accuracy,
        }
        shown = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._log.write(
            f"epoch {epoch.number} of {epoch.epochs}: {shown},"
            f" train loss {epoch.train_loss:.4f}, learning rate {epoch.learning_rate:.2e}, {epoch.seconds:.1f} s\n"
        )
        with self._context.stopwatch.time("storage"):
            # A trial that may be paused now goes on from here, whenever that is.
            pausing = may_pause(self._context.opened.study, self._run.trial, epoch.number)
            if pausing or self._checkpoints.is_due(epoch_ended=True):
                self._checkpoints.write(epoch.capture)
            progress = Progress(epoch.number, epoch.epochs, score, self.best)
            self._context.lease.keep_progress(self._run.place, self._run.trial, progress, self._log.take_lines())

    def on_end(self, result: Result) -> None:
        """Draw the pictures; where one cannot be drawn, the trial ends without it and those after it.

        Raises:
            LostPlaceError: the run no longer counts.
        """
        self._context.heartbeat.reason_to_leave(self._run)  # for what it raises; the training has ended
        if CONFIRMS_KEY in self._run.trial.user_attrs:
            images = self._context.data.split.valid
            self.pictures[OUT_OF_FOLD_NAME] = out_of_fold_file(images, result.probabilities.numpy())
        try:
            extensions = self._context.opened.file.space.extensions
            for name, content in draw_pictures(result, self._context.data, extensions):
                self.pictures[name] = content
        except Exception as error:  # noqa: BLE001 - nothing that goes wrong in a picture is worth a trial
            self._log.write(f"pictures: {one_line(error)}; the trial ends without\n")
