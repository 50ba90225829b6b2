"""One worker process: take a place in the budget, ask, train, tell, until nothing is left to take."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from optuna.exceptions import UpdateFinishedTrialError

from hpo.errors import HpoError
from hpo.study.retention import drop_surplus_weights
from hpo.worker.checkpoints import Checkpoints, wait_for_store
from hpo.worker.runs import Runs
from hpo.worker.training import End, Training, reason_of
from hpo.worker.trial_log import TrialLog
from storage.artifacts.artifacts import keep_file
from storage.errors import StorageError
from storage.heartbeat import BEAT_SECONDS, INTERRUPTED, WorkerPresence
from storage.keys import WEIGHTS_NAME
from storage.outage_retry import is_outage
from storage.places import Lease, LostPlaceError
from trainer.device import choose_device, device_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from hpo.worker.runs import Run
    from hpo.worker.shutdown import Shutdown
    from hpo.worker.stopwatch import Stopwatch
    from trainer.data import Data
    from trainer.loaders import Loaders

IDLE_SECONDS = 1.0  # between two looks for a place while others still run
HOPELESS_TRIALS = 5  # that fail for one reason at the start of a search, and no other one ends it
HALTS = {"pause": "the study was paused", "stop": "the study was stopped"}

logger = logging.getLogger(__name__)


class Worker:
    """One process at work on a study; it holds at most one place in the budget at a time.

    Args:
        file: what is searched.
        opened: the study in the storage.
        data: the images.
        name: of the worker; no other may ever have it.
        loaders: processes that augment, kept from trial to trial; the worker ends them.
        watch: claims this process's time.
        stop: ends the worker.
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
        stop: Shutdown,
        parent: int | None = None,
    ) -> None:
        self._file, self._opened, self._data = file, opened, data
        self._store = opened.artifacts  # here, so that a worker that cannot use it begins no trial
        self._loaders, self._watch, self._stop, self._parent = loaders, watch, stop, parent
        self._device = choose_device()
        self._lease = Lease(opened.storage.engine, opened.study_id, name, opened.outage_retry)
        self._presence = WorkerPresence(opened.storage.engine, opened.study_id, name, opened.outage_retry)
        about = {
            "host": socket.gethostname(),
            "device": device_name(self._device),
            "threads": torch.get_num_threads(),
        }
        self._runs = Runs(file, opened, self._lease, about)
        self._ended = threading.Event()
        self._run: Run | None = None  # the one that trains now
        self._halted: tuple[Run, str] | None = None  # one that is to be left to another worker, and why
        self._lost_run: Run | None = None  # one that no longer counts
        self._hopeful = False
        self._trained: float | None = None  # time.perf_counter() at the end of the last training

    def run(self) -> None:
        """Work until the budget is used up and no place can come back, or until told to stop.

        Raises:
            HpoError: the first trials all failed for the same reason, or the study was deleted.
        """
        beating = threading.Thread(target=self._beat, daemon=True)
        with self._unless_away():
            self._presence.join(socket.gethostname(), os.getpid(), device_name(self._device))
            beating.start()
            self._watch.started_up()
            try:
                self._work()
            except Exception as error:
                if is_outage(error) or self._lease.study_exists():
                    raise
                raise HpoError(f'worker: the study "{self._file.name}" was deleted') from None
            finally:
                self._ended.set()
                beating.join()
                self._loaders.close()
                self._presence.leave(self._watch.seconds(), interrupted=self._stop.asked.is_set())

    def _work(self) -> None:
        while not self._stop.asked.is_set():
            with self._watch.time("storage"):
                self._refuse_hopeless()
                run = self._runs.begin()
            if run:
                self._train(run)
            elif self._is_over():
                return
            else:
                with self._watch.time("idle"):
                    if self._device.type == "cuda":  # what it holds for the next trial is somebody else's meanwhile
                        torch.cuda.empty_cache()
                    self._stop.asked.wait(IDLE_SECONDS)

    def _is_over(self) -> bool:
        """Whether nothing is left to do for this worker, where there is no place to take."""
        halt = self._lease.halt()
        if halt == "stop":
            logger.warning("the study was stopped: the worker ends; `hpo resume` lets workers begin again")
        return halt == "stop" or not (halt == "pause" or self._lease.may_get_a_place(self._file.limits))

    @contextlib.contextmanager
    def _unless_away(self) -> Iterator[None]:
        """Let a worker that is to end do so without its database; what it held comes back by itself."""
        try:
            yield
        except Exception as error:
            if not (is_outage(error) and self._stop.asked.is_set()):
                raise
            logger.warning("the database is away: the others will miss this worker's beat, and go on with its trial")

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            if self._parent is not None and os.getppid() != self._parent:
                logger.warning("the process that started this worker is gone: the worker stops")
                self._stop.ask()
            try:
                run = self._run
                standing = self._presence.beat(self._watch.seconds())
                if run and run is self._run:
                    if standing.trial != run.trial.number:
                        self._lost_run = run
                    if standing.halt:
                        self._halted = run, HALTS[standing.halt]
                self._presence.reap()
            except Exception as error:  # a later beat will tell
                if not is_outage(error):  # which whoever waits for it has told
                    logger.warning("the database did not take a beat", exc_info=True)

    def _refuse_hopeless(self) -> None:
        if self._hopeful:
            return
        ends = self._lease.first_ends(HOPELESS_TRIALS)
        # Numbers differ from trial to trial where the cause is the same (bytes asked for, a step, an address).
        causes = {re.sub(r"\d+", "#", reason or "") for _, reason in ends}
        if len(ends) == HOPELESS_TRIALS and len(causes) == 1 and all(state == "failed" for state, _ in ends):
            raise HpoError(f"search: the first {HOPELESS_TRIALS} trials failed for the same reason: {ends[0][1]}")
        self._hopeful = len(causes) > 1 or any(state != "failed" for state, _ in ends)

    def _train(self, run: Run) -> None:
        """Bring a run to its end, or hand it back, or drop it where it no longer counts."""
        if self._trained is not None:
            self._watch.note("turnover", time.perf_counter() - self._trained)
        end, log = None, TrialLog()
        with TemporaryDirectory(prefix="hpo-") as folder, self._unless_away():
            checkpoints, weights = Checkpoints(self._opened, run, log.write), Path(folder) / WEIGHTS_NAME
            training = Training(
                self._file,
                self._opened,
                self._data,
                run,
                lease=self._lease,
                device=self._device,
                loaders=self._loaders,
                watch=self._watch,
                checkpoints=checkpoints,
                log=log,
                to_leave=lambda: self._to_leave(run),
            )
            self._run = run
            try:
                end = training.train(weights)
                self._run, self._trained = None, time.perf_counter()
                with self._watch.time("storage"):
                    self._end(run, end, weights, checkpoints, log)
            except (LostPlaceError, UpdateFinishedTrialError):
                logger.warning("trial %d %s; this worker drops it", run.trial.number, self._runs.drop(run))
            finally:
                self._run = None
        if end and end.broken:
            raise end.broken

    def _to_leave(self, run: Run) -> str | None:
        if self._lost_run is run:
            raise LostPlaceError
        if self._stop.asked.is_set():
            return INTERRUPTED
        return self._halted[1] if self._halted and self._halted[0] is run else None

    def _end(self, run: Run, end: End, weights: Path, checkpoints: Checkpoints, log: TrialLog) -> None:
        """Tell how a run ended: only the holder of its place may, and only when its files are safe."""
        if end.state == "complete":
            end = self._with_weights_kept(run, end, weights)
        if end.state == "waiting":
            self._runs.hand_back(run, end.reason or "", failed=end.counts)
            return
        self._keep_pictures(run, end, weights.parent, log)
        if end.state == "complete":
            assert end.value is not None, "a complete run has one"
            self._runs.complete(run, end.value)
        elif end.state == "pruned":
            self._runs.prune(run)
        else:
            self._runs.fail(run, end.reason or "")
        checkpoints.discard()
        if end.state == "complete":
            try:
                drop_surplus_weights(self._opened, self._file.keep_weights)
            except StorageError as error:  # the next complete trial's worker, or `hpo prune-artifacts`, does it
                logger.warning("weights that are no longer needed stay: %s", error)

    def _keep_pictures(self, run: Run, end: End, folder: Path, log: TrialLog) -> None:
        """Keep the pictures of a run; where the store refuses one, the run ends without it and those after it."""
        self._lease.hold(run.place)
        try:
            for name, content in end.pictures.items():
                (folder / name).write_bytes(content)
                keep_file(self._store, run.trial, folder / name, self._opened.owner)
        except (OSError, StorageError) as error:
            log.write(f"pictures: {reason_of(error)}; the trial ends without\n")
            self._lease.log(run.trial.number, log.take_lines())

    def _with_weights_kept(self, run: Run, end: End, weights: Path) -> End:
        """Keep the weights of a complete run; where the store is away for long, the run is left to another worker."""

        def keep() -> None:
            self._lease.hold(run.place)
            keep_file(self._store, run.trial, weights, self._opened.owner)

        try:
            wait_for_store(keep, lambda: self._to_leave(run))
        except StorageError as error:
            return End("waiting", reason=reason_of(error), counts=not self._to_leave(run))
        return end
