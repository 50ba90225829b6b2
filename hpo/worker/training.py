"""The training of one run, and the files that it leaves."""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError

from hpo.study.confirmed import hopeless_after
from hpo.study.open_study import keep_micro_batches, read_micro_batches
from hpo.study.pruners import may_pause
from hpo.worker.checkpoints import Checkpoints, wait_for_store
from hpo.worker.ends import Complete, Pruned, Requeued, end_after, one_line
from hpo.worker.observer import InterruptedTrialError, RunObserver
from hpo.worker.stopwatch import TimedTrial, TrainingTime
from hpo.worker.time_limit import TimeLimit
from hpo.worker.trial_log import TrialLog
from storage.artifacts.artifacts import keep_file
from storage.errors import StorageError
from storage.keys import BEST_EPOCH_KEY, CONFIRMS_KEY, RESUMED_KEY, THREADS_KEY, WEIGHTS_NAME
from storage.outage_retry import is_outage
from storage.places import LostPlaceError
from trainer.device import torch_threads
from trainer.errors import CheckpointError
from trainer.objective import objective
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.worker.context import WorkerContext
    from hpo.worker.ends import RunEnd
    from hpo.worker.runs import Run
    from trainer.checkpoint import Checkpoint


class Training:
    """One run on this worker's device.

    Args:
        context: of the worker.
        run: what to train.
        folder: for files until they are kept; empty.

    Attributes:
        checkpoints: of the run.
    """

    def __init__(self, context: WorkerContext, run: Run, folder: Path) -> None:
        self._context, self._run, self._folder = context, run, folder
        self._log = TrialLog()
        self.checkpoints = Checkpoints(context.opened, run, self._log.write)

    def train(self) -> RunEnd:
        """Train to the end, and say how it ended; `keep_files` is to follow.

        Raises:
            LostPlaceError, UpdateFinishedTrialError: the run no longer counts.
        """
        opened, stopwatch = self._context.opened, self._context.stopwatch
        if CONFIRMS_KEY in self._run.trial.user_attrs and (not_needed := self._end_of_hopeless()):
            return not_needed
        time = TrainingTime(stopwatch)
        limit = TimeLimit(opened.file.trial_minutes, self._run.earlier)
        observer = RunObserver(self._context, self._run, self.checkpoints, self._log, time, limit)
        with stopwatch.time("storage"):
            try:
                checkpoint = wait_for_store(self.checkpoints.resume, self._reason_to_leave)
            except StorageError as error:
                return Requeued(one_line(error), failed=not self._reason_to_leave())
            known = read_micro_batches(opened.study)
            if checkpoint:
                self._report_earlier_epochs(checkpoint)
                if history := checkpoint.history:
                    observer.best, observer.best_epoch = max(history), history.index(max(history)) + 1
        if checkpoint and self._is_paused_at(checkpoint):
            self._run.trial.set_user_attr(BEST_EPOCH_KEY, observer.best_epoch)
            return Pruned({})
        resources = replace(self._context.resources, micro_batches=dict(known))
        end: RunEnd
        threads = checkpoint.threads if checkpoint and resources.device.type == "cpu" else None  # as the run has begun
        tracking = self._context.trackers.tracking(self._run.trial, self._log.write)
        with tracking, self._log.capturing(), torch_threads(threads):
            try:
                value = objective(
                    cast("optuna.Trial", TimedTrial(self._run.trial, stopwatch, limit)),
                    opened.file.space,
                    self._context.data,
                    resources=resources,
                    observer=observer,
                    resume=checkpoint,
                    best_weights=self._folder / WEIGHTS_NAME,
                    metric=opened.metric,
                )
                end = Complete(value, observer.pictures)
            except optuna.TrialPruned:
                end = Pruned(observer.pictures, limit.reason)
                if limit.reason:
                    self._log.write(f"{limit.reason}\n")
                    self._run.trial.set_user_attr(BEST_EPOCH_KEY, observer.best_epoch)  # hpo has trained it
            except InterruptedTrialError as why:
                end = Requeued(str(why), failed=False)
            except (LostPlaceError, UpdateFinishedTrialError):
                raise
            except Exception as error:
                if is_outage(error):
                    raise
                if isinstance(error, CheckpointError):
                    self.checkpoints.forget_earlier()
                self._log.write(traceback.format_exc())
                end = end_after(error, resources.device)
            self._context.trackers.ends_as(end.state)
        self._context.steps.begin()
        time.claim()
        with stopwatch.time("storage"):
            keep_micro_batches(opened.study, dict(resources.micro_batches.items() - known.items()))
            self._context.lease.log(self._run.trial.number, self._log.take_lines(all_of_it=True))
        return end

    def keep_files(self, end: RunEnd) -> RunEnd:
        """Keep the files of a run that has ended so, before anybody is told; returns how it ends now.

        The weights of a complete run have to be kept: where the store is away for long, the run is requeued. Pictures
        do not: where the store refuses one, the run ends without it and those after it.

        Raises:
            LostPlaceError: the run no longer counts.
        """
        match end:
            case Complete():
                try:
                    wait_for_store(self._keep_weights, self._reason_to_leave)
                except StorageError as error:
                    return Requeued(one_line(error), failed=not self._reason_to_leave())
                self._keep_pictures(end.pictures)
            case Pruned():
                self._keep_pictures(end.pictures)
        return end

    def _end_of_hopeless(self) -> Pruned | None:
        """How a training ends before it begins that confirms a recipe which is probably worse than another by now."""
        opened, trial = self._context.opened, self._run.trial
        with self._context.stopwatch.time("storage"):
            after = hopeless_after(opened, trial)
            if after is None:
                return None
            reason = f"not needed: after {counted(after, 'fold')} its recipe is probably worse than the best one"
            trial.set_user_attr(BEST_EPOCH_KEY, 0)  # hpo has ended it, and nobody from outside
            self._context.lease.log(trial.number, [reason])
            return Pruned({}, reason)

    def _is_paused_at(self, checkpoint: Checkpoint) -> bool:
        """Whether the trial is paused where it was left: its worker may have died before it could tell."""
        trial = self._run.trial
        if checkpoint.steps_done or not may_pause(self._context.opened.study, trial, checkpoint.epochs_done):
            return False
        with self._context.stopwatch.time("storage"):
            self._context.lease.log(trial.number, self._log.take_lines())
            return trial.should_prune()

    def _keep_weights(self) -> None:
        self._context.lease.hold(self._run.place)
        self._keep(WEIGHTS_NAME)

    def _keep_pictures(self, pictures: Mapping[str, bytes]) -> None:
        self._context.lease.hold(self._run.place)
        try:
            for name, content in pictures.items():
                (self._folder / name).write_bytes(content)
                self._keep(name)
        except (OSError, StorageError) as error:
            self._log.write(f"pictures: {one_line(error)}; the trial ends without\n")
            self._context.lease.log(self._run.trial.number, self._log.take_lines())

    def _keep(self, name: str) -> None:
        opened = self._context.opened
        keep_file(opened.artifacts, self._run.trial, self._folder / name, opened.owner)

    def _reason_to_leave(self) -> str | None:
        return self._context.heartbeat.reason_to_leave(self._run)

    def _report_earlier_epochs(self, checkpoint: Checkpoint) -> None:
        """Give the trial what the earlier runs have reported."""
        trial, done = self._run.trial, checkpoint.epochs_done
        for number, score in enumerate(checkpoint.history, start=1):
            trial.report(score, number)
        trial.set_user_attr(RESUMED_KEY, done)
        trial.set_user_attr(THREADS_KEY, checkpoint.threads)
        self._log.write(
            f"going on after epoch {done} and {checkpoint.steps_done} steps, where trial"
            f" {self._run.earlier[0].number} was left\n"
        )
