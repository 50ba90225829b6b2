"""One worker process: take a place in the budget, ask for its trial, train, tell, until nothing is left to take."""

from __future__ import annotations

import logging
import os
import re
import socket
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FixedTrial

from hpo.errors import HpoError
from hpo.study.confirmation import mark_of
from hpo.study.environment import software
from hpo.study.fresh_folds import data_of_fold
from hpo.study.model_limits import check_of
from hpo.study.paused_checkpoints import drop_surplus_checkpoints
from hpo.study.pruners import RungPruner
from hpo.study.retention import drop_surplus_weights
from hpo.tracking.trackers import Trackers
from hpo.worker.context import WorkerContext
from hpo.worker.ends import Complete, Failed, Pruned, Requeued
from hpo.worker.heartbeat import Heartbeat
from hpo.worker.runs import Runs
from hpo.worker.speeds import Speeds
from hpo.worker.step_watch import StepWatch
from hpo.worker.training import Training
from storage.errors import StorageError
from storage.keys import DEVICE_KEY, ENVIRONMENT_KEY, HOST_KEY, NO_RECIPE_LEFT_KEY, THREADS_KEY
from storage.outage_retry import is_outage, retry_outages
from storage.places import LostPlaceError
from trainer.device import choose_device, device_name
from trainer.resources import Resources
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.study.open_study import OpenStudy
    from hpo.worker.checkpoints import Checkpoints
    from hpo.worker.ends import RunEnd
    from hpo.worker.runs import Run
    from hpo.worker.shutdown import Shutdown
    from hpo.worker.stopwatch import Stopwatch
    from trainer.data import Data
    from trainer.loaders import Loaders

IDLE_SECONDS = 1.0  # between two attempts to take a place while others still run
HOPELESS_TRIALS = 5  # that many failed trials at the start of a search end it where all have the same reason

logger = logging.getLogger(__name__)


class Worker:
    """One process at work on a study; it holds at most one place in the budget at a time.

    Args:
        opened: the study in the storage.
        data: the images.
        name: of the worker; no other may ever have it.
        loaders: processes that augment, kept from trial to trial; the worker ends them.
        stopwatch: divides the time of this process among headings.
        shutdown: whether the worker has been asked to end.

    Raises:
        StorageError: the store of the study's files cannot be used.
        HpoError: no model of the search space is within the limits.
    """

    def __init__(
        self, opened: OpenStudy, data: Data, *, name: str, loaders: Loaders, stopwatch: Stopwatch, shutdown: Shutdown
    ) -> None:
        opened.artifacts  # noqa: B018 - opened here, so that a worker that cannot use the store begins no trial
        resources = Resources(choose_device(), loaders, opened.file.weights)
        lease, self._presence = opened.rows.for_worker(name)
        self._device_name = device_name(resources.device)
        about = {
            HOST_KEY: socket.gethostname(),
            DEVICE_KEY: self._device_name,
            THREADS_KEY: torch.get_num_threads(),
            ENVIRONMENT_KEY: software(),
        }
        classes = len(data.index.classes)
        self._speeds = Speeds(opened, classes, resources.device)
        models = check_of(opened.file.model_limits, opened.file.space, classes, self._speeds.milliseconds)
        self._runs = Runs(opened, lease, about, models)
        steps = StepWatch(opened.file.hang_minutes)
        heartbeat = Heartbeat(self._presence, stopwatch, shutdown, steps, self._runs.give_up)
        self._context = WorkerContext(
            opened, data, lease, steps, heartbeat, resources, stopwatch, Trackers(opened, logger.warning)
        )
        self._shutdown = shutdown
        self._hopeful = False  # whether the search has passed its first trials

    def run(self) -> None:
        """Work until the budget is used up and no place can come back, or until asked to end.

        Raises:
            HpoError: the first trials all failed for the same reason, or the study was deleted.
            StorageError: there is or was another worker of this name.
        """
        stopwatch = self._context.stopwatch
        with self._joined():
            while not self._shutdown.asked.is_set():
                with stopwatch.time("storage"):
                    self._refuse_hopeless()
                    run = self._runs.begin()
                if run:
                    stopwatch.training_begins()
                    with TemporaryDirectory(prefix="hpo-") as folder, self._dropped_if_lost(run):
                        training = Training(self._context_of(run), run, Path(folder))
                        with self._context.heartbeat.watching(run):
                            end = training.train()
                        stopwatch.training_ended()
                        with stopwatch.time("storage"):
                            self._tell(run, training.keep_files(end), training.checkpoints)
                        if isinstance(end, Complete):
                            self._measure(run)
                elif self._is_over():
                    return
                else:
                    with stopwatch.waiting_for_a_place():
                        self._wait()

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """While the block runs, be known to the others and beat; a deleted study ends it with one line.

        A worker that has been asked to end does so also without its database: what it held comes back by itself.
        """
        opened = self._context.opened
        try:
            self._presence.join(socket.gethostname(), os.getpid(), self._device_name)
            try:
                with self._context.heartbeat.beating():
                    self._context.stopwatch.started_up()
                    yield
            except Exception as error:
                if is_outage(error) or self._context.lease.study_exists():
                    raise
                raise HpoError(f'worker: the study "{opened.file.name}" was deleted') from None
            finally:
                self._context.resources.loaders.close()
                self._presence.leave(self._context.stopwatch.seconds(), interrupted=self._shutdown.asked.is_set())
                self._context.trackers.close()
        except Exception as error:
            if not (is_outage(error) and self._shutdown.asked.is_set()):
                raise
            logger.warning("the database is away: the others will miss this worker's beat, and go on with its trial")

    @contextmanager
    def _dropped_if_lost(self, run: Run) -> Iterator[None]:
        """Let go of the run where the block finds that it no longer counts."""
        try:
            yield
        except (LostPlaceError, UpdateFinishedTrialError):
            logger.warning("trial %d %s; this worker drops it", run.trial.number, self._runs.drop(run))

    def _context_of(self, run: Run) -> WorkerContext:
        """What the run is given: in a study that confirms another one, the images as its fold divides them."""
        context = self._context
        if mark := mark_of(run.trial):
            opened = context.opened
            return replace(context, data=data_of_fold(context.data, mark[1], opened.file.seed, opened.metric))
        return context

    def _tell(self, run: Run, end: RunEnd, checkpoints: Checkpoints) -> None:
        """Tell how a run ended, whose files are kept.

        Raises:
            LostPlaceError: its place is no longer this worker's.
            Exception: what has made the device unusable for this process, once the run is requeued.
        """
        match end:
            case Requeued():
                self._runs.hand_back(run, end.reason, failed=end.failed)
                if end.device_error:
                    raise end.device_error
                return
            case Complete():
                self._runs.complete(run, end.score)
            case Pruned():
                self._runs.prune(run, end.reason)
            case Failed():
                self._runs.fail(run, end.reason)
        opened = self._context.opened
        # What the pruner of rungs ends is paused, and goes on from its checkpoint.
        paused = isinstance(end, Pruned) and end.reason is None and isinstance(opened.study.pruner, RungPruner)
        if not paused:
            checkpoints.discard()
        try:
            if paused and checkpoints.size_bytes is not None:
                opened.rows.note_checkpoint(run.trial.number, checkpoints.size_bytes)
            if isinstance(opened.study.pruner, RungPruner):
                drop_surplus_checkpoints(opened)
            if isinstance(end, Complete):
                drop_surplus_weights(opened, opened.file.keep_weights)
        except StorageError as error:  # the next trial's worker, or `hpo prune-artifacts`, does it
            logger.warning("files that are no longer needed stay: %s", error)

    def _measure(self, run: Run) -> None:
        """Measure how fast the model of a complete trial is, where no worker with such a device has."""
        try:
            self._speeds.milliseconds(suggest(FixedTrial(run.trial.params), self._context.opened.file.space))
        except RuntimeError as error:  # as where others have taken the GPU's memory
            logger.warning("the speed of the model of trial %d cannot be measured: %s", run.trial.number, error)

    def _refuse_hopeless(self) -> None:
        """Raise HpoError where the first trials all failed for the same reason."""
        if self._hopeful:
            return
        ends = self._context.lease.first_ends(HOPELESS_TRIALS)
        # Numbers differ from trial to trial where the cause is the same (bytes asked for, a step, an address).
        causes = {re.sub(r"\d+", "#", reason or "") for _, reason in ends}
        if len(ends) == HOPELESS_TRIALS and len(causes) == 1 and all(state == "failed" for state, _ in ends):
            raise HpoError(f"search: the first {HOPELESS_TRIALS} trials failed for the same reason: {ends[0][1]}")
        self._hopeful = len(causes) > 1 or any(state != "failed" for state, _ in ends)

    def _is_over(self) -> bool:
        """Whether nothing is left to do for this worker, where there is no place to take."""
        lease = self._context.lease
        halt = lease.halt()
        if halt == "stop":
            logger.warning("the study was stopped: the worker ends; `hpo resume` lets workers begin again")
        reason = self._runs.reason_to_end()
        limits = None if reason else self._context.opened.file.limits
        over = halt == "stop" or not (halt == "pause" or lease.may_get_a_place(limits))
        if over and halt != "stop" and not reason:
            # On a paused host, where others may end the search meanwhile, but need not; and where a pause was lifted
            # just now, after it had kept this worker from its place.
            over = not self._runs.may_begin_a_trial()
        if over and reason:
            logger.warning("no further trial begins: %s", reason)
        elif over and halt != "stop" and self._runs.space_is_used_up:
            self._note_that_no_recipe_is_left()
            logger.warning("every recipe of the search space was tried: the worker ends")
        return over

    def _note_that_no_recipe_is_left(self) -> None:
        """Have the study's status say so, until another worker joins: that one tries what has failed once more."""
        opened = self._context.opened

        def note() -> None:
            opened.study.set_user_attr(NO_RECIPE_LEFT_KEY, len(opened.rows.read().workers))

        retry_outages(opened.outage_retry, note)

    def _wait(self) -> None:
        """Wait a moment for a place, without the GPU memory that is kept for the next trial: others may need it."""
        if self._context.resources.device.type == "cuda":
            torch.cuda.empty_cache()
        self._shutdown.asked.wait(IDLE_SECONDS)
