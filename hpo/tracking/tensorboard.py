"""Trials as TensorBoard's logs, in a folder beside the study file."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hpo.tracking.tracked_trial import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from hpo.tracking.tracked_trial import State, TrackedTrial
    from trainer.fit import Epoch


class TensorBoardRun:
    """Writes the scalars of each epoch of a trial, and its parameters with the first of this run.

    Args:
        folder: of the study's logs.
        trial: whose log it is.
        parameters: by which the trial is trained; asked for with the first epoch.
        say: takes a line on what keeps the logs from being written.
    """

    def __init__(
        self,
        folder: Path,
        trial: TrackedTrial,
        parameters: Callable[[], Mapping[str, Any]],
        say: Callable[[str], object],
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._parameters, self._say, self._begun = parameters, say, False
        self._writer: SummaryWriter | None = None
        with self._going_on():
            self._writer = SummaryWriter(str(folder / f"trial-{trial.number:05}"))

    def write(self, epoch: Epoch) -> None:
        """Write what an epoch gave; where that is impossible, say so once and go on."""
        with self._going_on():
            if self._writer:
                if not self._begun:
                    self._begun = True
                    rows = (f"    {name} = {value}" for name, value in self._parameters().items())
                    self._writer.add_text("recipe", "\n".join(rows), 0)
                for name, value in values_of(epoch).items():
                    self._writer.add_scalar(name, value, epoch.number)

    def close(self, _: State) -> None:
        """Write what is left."""
        with self._going_on():
            if self._writer:
                self._writer.close()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            self._say(f"tensorboard: the logs cannot be written ({error}); the trial goes on without\n")
