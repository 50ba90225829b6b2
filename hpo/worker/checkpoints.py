"""The checkpoints of one run, kept where every worker reaches them: when one is due, and from which to go on."""

from __future__ import annotations

import io
import logging
import time
from typing import TYPE_CHECKING, TypeVar

from optuna.artifacts.exceptions import ArtifactNotFound

from storage.artifacts.artifact_store import discard
from storage.artifacts.artifacts import checkpoint_id
from storage.errors import StorageError
from storage.keys import CHECKPOINT_KEY
from trainer.checkpoint import decode, encode
from trainer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.study.open_study import OpenStudy
    from hpo.worker.runs import Run
    from trainer.checkpoint import Capture, Checkpoint

T = TypeVar("T")

SHARE = 0.01  # of a run's time that its checkpoints may cost: a slow one waits longer for the next
STEP_SECONDS = 30.0  # without a checkpoint before one is due within an epoch
STORE_SECONDS = 600.0  # for which an artifact store that is away is waited for, where a trial needs it
STORE_PAUSE = 2.0  # seconds between two attempts

logger = logging.getLogger(__name__)


class Checkpoints:
    """Writes the last checkpoint of a run over the one before, and finds that of an earlier run of its trial.

    What cannot be written or read is said in the trial's log, and the run goes on without.

    Args:
        opened: the study in the storage.
        run: whose checkpoints they are.
        say: takes a line for the log.
    """

    def __init__(self, opened: OpenStudy, run: Run, say: Callable[[str], object]) -> None:
        self._store, self._trial, self._say = opened.artifacts, run.trial, say
        self._id = checkpoint_id(opened.owner)
        self._named = False  # whether the trial says where its checkpoint is
        self._earlier = [key for trial in run.earlier if (key := trial.user_attrs.get(CHECKPOINT_KEY))]
        self._last, self._cost = time.monotonic(), 0.0
        self._trouble: str | None = None
        self.size_bytes: int | None = None  # of the last one that was written or read

    def resume(self) -> Checkpoint | None:
        """The latest checkpoint of an earlier run that is whole; None where the trial begins anew.

        Raises:
            StorageError: the store does not answer.
        """
        for artifact_id in self._earlier:
            try:
                with self._store.open_reader(artifact_id) as reader:
                    content = reader.read()
                checkpoint, self.size_bytes = decode(content), len(content)
                return checkpoint
            except ArtifactNotFound:
                self._tell(f"{artifact_id} is not in this store; the training goes on without")
            except CheckpointError as error:
                self._tell(f"{error}; the training goes on without")
        return None

    def is_due(self, *, epoch_ended: bool) -> bool:
        """Whether it is time for the next one."""
        since = time.monotonic() - self._last
        return since * SHARE >= self._cost and (epoch_ended or since >= STEP_SECONDS)

    def write(self, capture: Capture) -> None:
        """Keep where the training stands now."""
        begun = time.monotonic()
        try:
            content = encode(capture())
            self._store.write(self._id, io.BytesIO(content))
        except StorageError as error:
            self._tell(f"{error}; the training goes on")
            self._cost = SHARE * STEP_SECONDS  # so that the next attempt comes soon
        else:
            if not self._named:
                self._trial.set_user_attr(CHECKPOINT_KEY, self._id)
                self._named = True
                self._discard(self._earlier)
            self._cost, self.size_bytes = time.monotonic() - begun, len(content)
        self._last = time.monotonic()

    def discard(self) -> None:
        """Remove them all: the trial has come to its end."""
        self._discard([*self._earlier, *([self._id] if self._named else [])])

    def forget_earlier(self) -> None:
        """Let the trial begin anew, also the next time: no earlier checkpoint is of use."""
        self._discard(self._earlier)
        self._earlier = []

    def _discard(self, ids: list[str]) -> None:
        for artifact_id in ids:
            try:
                discard(self._store, artifact_id)
            except StorageError as error:
                self._tell(str(error))

    def _tell(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._say(f"checkpoint: {trouble}\n")


def wait_for_store(attempt: Callable[[], T], to_leave: Callable[[], str | None]) -> T:
    """What an attempt returns as soon as the artifact store lets it, for as long as a trial can wait.

    Args:
        attempt: raises StorageError where the store is away.
        to_leave: why the trial is to be left to another worker, None to go on waiting.

    Raises:
        StorageError: the store was away for too long, or the trial is to be left.
    """
    begun = time.monotonic()
    while True:
        try:
            return attempt()
        except StorageError as error:
            if to_leave() or time.monotonic() - begun > STORE_SECONDS:
                raise
            logger.warning("waiting for the artifact store: %s", error)
            time.sleep(STORE_PAUSE)
