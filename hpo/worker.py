"""One worker process: take a place in the budget, ask, train, tell, until nothing is left to take."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

import optuna
import torch
from optuna.trial import TrialState

from hpo.errors import HpoError
from hpo.stopwatch import TimedTrial
from hpo.study import DEFAULT_KEY, WEIGHTS_NAME, keep_micro_batches, make_pruner, make_sampler, read_micro_batches
from hpo.tensorboard import TensorBoardLog
from hpo.trial_log import TrialLog
from storage.artifacts import keep_file
from storage.database import OUTAGES
from storage.errors import StorageError
from storage.lease import BEAT_SECONDS, Lease, LostPlaceError
from trainer.device import choose_device, device_name
from trainer.errors import TrainerError
from trainer.objective import objective

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hpo.stopwatch import Stopwatch
    from hpo.study import OpenStudy
    from hpo.study_file import StudyFile
    from storage.lease import Place
    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.loaders import Loaders

IDLE_SECONDS = 1.0  # between two looks for a place while others still run
HOPELESS_TRIALS = 5  # that fail for one reason at the start of a search, and no other one ends it

logger = logging.getLogger(__name__)


class InterruptedTrialError(Exception):
    """The worker was asked to stop in the middle of a trial."""


class Worker:
    """One process at work on a study; it holds at most one place in the budget at a time.

    Args:
        file: what is searched.
        opened: the study in the storage.
        data: the images.
        name: of the worker; no other may ever have it.
        loaders: processes that augment, kept from trial to trial; the worker ends them.
        watch: claims this process's time.
        stop: when set, the worker hands its trial back at the next step, and ends.
        parent: process without which the worker is to end; None to work without one.
    """

    def __init__(
        self,
        file: StudyFile,
        opened: OpenStudy,
        data: Data,
        *,
        name: str,
        loaders: Loaders,
        watch: Stopwatch,
        stop: threading.Event,
        parent: int | None = None,
    ) -> None:
        self._file, self._opened, self._data = file, opened, data
        self._loaders, self._watch, self._stop, self._parent = loaders, watch, stop, parent
        self._device = choose_device()
        self._lease = Lease(opened.storage.engine, opened.study_id, name)
        self._ended = threading.Event()
        self._trained: float | None = None  # time.perf_counter() at the end of the last training

    def run(self) -> None:
        """Work until the budget is used up and no place can come back, or until told to stop.

        Raises:
            HpoError: the first trials all failed for the same reason.
        """
        self._lease.join(socket.gethostname(), os.getpid(), device_name(self._device))
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        self._watch.started_up()
        try:
            while not self._stop.is_set():
                with self._watch.time("storage"):
                    self._refuse_hopeless()
                    place = self._lease.take(self._file.limits)
                if place:
                    self._fill(place)
                elif self._lease.others_run():
                    with self._watch.time("idle"):
                        self._stop.wait(IDLE_SECONDS)
                else:
                    break
        finally:
            self._ended.set()
            beating.join()
            self._loaders.close()
            self._lease.beat(self._watch.seconds())
            self._lease.leave()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if self._parent is not None and os.getppid() != self._parent:
                logger.warning("the process that started this worker is gone: the worker stops")
                self._stop.set()
            try:
                self._lease.beat(self._watch.seconds())
                self._lease.reap()
            except Exception:  # whatever the database is up to: a later beat will tell
                logger.warning("the database did not take a beat", exc_info=True)

    def _refuse_hopeless(self) -> None:
        ends = self._lease.first_ends(HOPELESS_TRIALS)
        # Numbers differ from trial to trial where the cause is the same (bytes asked for, a step, an address).
        causes = {re.sub(r"\d+", "#", reason or "") for _, reason in ends}
        if len(ends) == HOPELESS_TRIALS and len(causes) == 1 and all(state == "failed" for state, _ in ends):
            raise HpoError(f"search: the first {HOPELESS_TRIALS} trials failed for the same reason: {ends[0][1]}")

    def _fill(self, place: Place) -> None:
        """Bring a place in the budget to its end, or hand it back."""
        try:
            with self._watch.time("storage"):
                trial = self._ask(place)
            if trial:
                self._train(place, trial)
        except LostPlaceError as lost:
            logger.warning("%s; this worker drops it", lost)

    def _ask(self, place: Place) -> optuna.Trial | None:
        """The trial for a place; None where an earlier one settles it."""
        study = self._opened.study
        study.sampler, study.pruner = make_sampler(self._file, place.number), make_pruner(self._file)
        if place.interrupted_trial is not None:
            earlier = study.get_trials(deepcopy=False)[place.interrupted_trial]
            if earlier.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._lease.finish(place, earlier.state.name.lower())
                return None
            if place.deaths > self._file.retries:
                reason = f"its worker died {place.deaths} times"
                self._tell_failed(earlier.number, reason)
                self._lease.finish(place, "failed", reason)
                return None
            self._tell_failed(earlier.number, "its worker died; run again as another trial")
            trial = self._repeat(earlier)
        else:
            trial = study.ask()
        self._lease.begin(place, trial.number)
        trial.set_user_attr("host", socket.gethostname())
        trial.set_user_attr("device", device_name(self._device))
        trial.set_user_attr("threads", torch.get_num_threads())
        return trial

    def _repeat(self, earlier: FrozenTrial) -> optuna.Trial:
        """A running trial with the parameters of an earlier one, made in one step so that no other worker gets it."""
        marks = {key: value for key, value in earlier.user_attrs.items() if key == DEFAULT_KEY}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=earlier.params,
            distributions=earlier.distributions,
            user_attrs={**marks, "repeats": earlier.number},
        )
        trial_id = self._opened.storage.create_new_trial(self._opened.study_id, template_trial=template)
        return optuna.Trial(self._opened.study, trial_id)

    def _train(self, place: Place, trial: optuna.Trial) -> None:
        log = TrialLog(self._opened.storage.engine, self._opened.study_id, trial.number)
        begun, storage_before = time.perf_counter(), self._watch.storage
        if self._trained is not None:
            self._watch.note("turnover", begun - self._trained)
        best, data_seconds, preparing_seconds = 0.0, 0.0, 0.0
        micro_batches = read_micro_batches(self._opened.study)
        known = dict(micro_batches)

        def on_epoch(epoch: Epoch) -> None:
            nonlocal best, data_seconds, preparing_seconds
            if board:
                board.write(epoch)
            if epoch.number == 1:
                to_first_step = time.perf_counter() - begun - epoch.seconds
                preparing_seconds = to_first_step - (self._watch.storage - storage_before)
                self._watch.note("to_first_step", to_first_step)
            assert epoch.macro_f1 is not None, "there are validation images"
            best, data_seconds = max(best, epoch.macro_f1), data_seconds + epoch.data_seconds
            log.write(
                f"epoch {epoch.number} of {epoch.epochs}: macro-F1 {epoch.macro_f1:.4f}, accuracy {epoch.accuracy:.4f},"
                f" train loss {epoch.train_loss:.4f}, learning rate {epoch.learning_rate:.2e}, {epoch.seconds:.1f} s\n"
            )
            with self._watch.time("storage"):
                self._lease.progress(place, epoch.number, epoch.epochs, epoch.macro_f1, best)
                log.flush_lines()

        def on_step() -> None:
            if self._stop.is_set():
                raise InterruptedTrialError

        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="hpo-"))
            board = (
                stack.enter_context(TensorBoardLog(self._file, trial, log.write)) if self._file.tensorboard else None
            )
            weights, value, reason = Path(folder) / WEIGHTS_NAME, None, None
            try:
                with log.capturing():
                    value = objective(
                        cast("optuna.Trial", TimedTrial(trial, self._watch)),
                        self._file.space,
                        self._data,
                        device=self._device,
                        weights=self._file.weights,
                        loaders=self._loaders,
                        micro_batches=micro_batches,
                        best_weights=weights,
                        on_epoch=on_epoch,
                        on_step=on_step,
                    )
                state = TrialState.COMPLETE
            except optuna.TrialPruned:
                state = TrialState.PRUNED
            except InterruptedTrialError:
                state, reason = TrialState.WAITING, "interrupted; run again as another trial"
            except (LostPlaceError, *OUTAGES):
                raise  # with the worker, if it is an outage: its place then goes to the next
            except Exception as error:  # noqa: BLE001 - a trial may fail in any way, and the worker goes on
                state, reason = TrialState.FAIL, reason_of(error)
                log.write(traceback.format_exc())
            self._trained = time.perf_counter()
            spent = self._trained - begun
            self._watch.add("data", data_seconds)
            self._watch.add("preparing", preparing_seconds)
            in_storage = self._watch.storage - storage_before
            self._watch.add("training", spent - data_seconds - preparing_seconds - in_storage)
            with self._watch.time("storage"):
                keep_micro_batches(self._opened.study, dict(micro_batches.items() - known.items()))
                log.flush_lines(all_of_it=True)
                self._end(place, trial, state, value=value, reason=reason, weights=weights)

    def _end(
        self,
        place: Place,
        trial: optuna.Trial,
        state: TrialState,
        *,
        value: float | None,
        reason: str | None,
        weights: Path,
    ) -> None:
        """Tell how a trial ended: only the holder of its place may, and only when its files are safe."""
        self._lease.hold(place)
        if state is TrialState.COMPLETE:
            try:
                keep_file(self._opened.artifacts, trial, weights)
            except StorageError as error:
                state, value, reason = TrialState.FAIL, None, reason_of(error)
        if state is TrialState.WAITING:
            self._tell_failed(trial.number, reason or "")
            self._lease.hand_back(place)
        elif state is TrialState.FAIL:
            self._tell_failed(trial.number, reason or "")
            self._lease.finish(place, "failed", reason)
        else:
            self._opened.study.tell(trial, value, state=state, skip_if_finished=True)
            self._lease.finish(place, state.name.lower())

    def _tell_failed(self, number: int, reason: str) -> None:
        study, storage = self._opened.study, self._opened.storage
        trial = study.get_trials(deepcopy=False)[number]
        if not trial.state.is_finished():
            storage.set_trial_user_attr(trial._trial_id, "reason", reason)  # noqa: SLF001 - no public way by number
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)


def reason_of(error: BaseException) -> str:
    """One line for why a trial failed."""
    lines = str(error).strip().splitlines()
    if isinstance(error, TrainerError | StorageError):
        return " ".join(lines)
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
