"""The checkpoints of one run, kept where every worker reaches them: when one is due, and from which to go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hpo.retention import CHECKPOINT_KEY
from storage.artifacts import checkpoint_id
from storage.errors import StorageError
from storage.store import discard, get, put
from trainer.checkpoint import load_checkpoint, save_checkpoint
from trainer.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hpo.runs import Run
    from hpo.study import OpenStudy
    from trainer.checkpoint import Capture, Checkpoint

SHARE = 0.01  # of a run's time that its checkpoints may cost: a slow one waits longer for the next
STEP_SECONDS = 30.0  # without a checkpoint before one is due within an epoch


class Checkpoints:
    """Writes the last checkpoint of a run over the one before, and finds that of an earlier run of its trial.

    What cannot be written or read is said in the trial's log, and the run goes on without.

    Args:
        opened: the study in the storage.
        run: whose checkpoints they are.
        folder: for files on their way.
        say: takes a line for the log.
    """

    def __init__(self, opened: OpenStudy, run: Run, folder: Path, say: Callable[[str], object]) -> None:
        self._store, self._trial, self._say = opened.artifacts, run.trial, say
        self._file = folder / "checkpoint"
        self._id = checkpoint_id(opened.owner)
        self._named = False  # whether the trial says where its checkpoint is
        self._earlier = [key for trial in run.earlier if (key := trial.user_attrs.get(CHECKPOINT_KEY))]
        self._last, self._cost = time.monotonic(), 0.0
        self._trouble: str | None = None

    def resume(self) -> Checkpoint | None:
        """The latest checkpoint of an earlier run that can be read; None where the trial begins anew."""
        for artifact_id in self._earlier:
            try:
                if get(self._store, artifact_id, self._file):
                    return load_checkpoint(self._file)
            except (CheckpointError, StorageError) as error:
                self._tell(error)
        return None

    def is_due(self, *, epoch_ended: bool) -> bool:
        """Whether it is time for the next one."""
        since = time.monotonic() - self._last
        return since * SHARE >= self._cost and (epoch_ended or since >= STEP_SECONDS)

    def write(self, capture: Capture) -> None:
        """Keep where the training stands now."""
        begun = time.monotonic()
        try:
            save_checkpoint(capture(), self._file)
            put(self._store, self._id, self._file)
        except (OSError, StorageError) as error:
            self._tell(error)
        else:
            if not self._named:
                self._trial.set_user_attr(CHECKPOINT_KEY, self._id)
                self._named = True
                self._discard(self._earlier)
        self._last = time.monotonic()
        self._cost = self._last - begun

    def discard(self) -> None:
        """Remove them all: the trial has come to its end."""
        self._discard([*self._earlier, *([self._id] if self._named else [])])

    def _discard(self, ids: list[str]) -> None:
        for artifact_id in ids:
            try:
                discard(self._store, artifact_id)
            except StorageError as error:
                self._tell(error)

    def _tell(self, error: Exception) -> None:
        if str(error) != self._trouble:
            self._trouble = str(error)
            self._say(f"checkpoint: {error}; the training goes on\n")
