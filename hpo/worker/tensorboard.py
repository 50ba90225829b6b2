"""What TensorBoard shows of a trial, where the study file asks for it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import optuna
    from torch.utils.tensorboard import SummaryWriter

    from hpo.study.study_file import StudyFile
    from trainer.fit import Epoch


class TensorBoardLog:
    """Writes the scalars of each epoch of a trial, and its parameters with the first; `with` brackets the trial.

    Args:
        file: of the study.
        trial: whose log it is.
        say: takes a line on what keeps the logs from being written.
    """

    def __init__(self, file: StudyFile, trial: optuna.Trial, say: Callable[[str], object]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._trial, self._say = trial, say
        self._writer: SummaryWriter | None = None
        with self._going_on():
            self._writer = SummaryWriter(str(file.tensorboard_folder / f"trial-{trial.number:05}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._going_on():
            if self._writer:
                self._writer.close()

    def write(self, epoch: Epoch) -> None:
        """Write what an epoch gave; where that is impossible, say so in the log once and go on."""
        with self._going_on():
            if self._writer:
                self._write(self._writer, epoch)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._writer = None
            self._say(f"tensorboard: the logs cannot be written ({error}); the trial goes on without\n")

    def _write(self, writer: SummaryWriter, epoch: Epoch) -> None:
        if epoch.number == 1:
            rows = (f"    {name} = {value}" for name, value in self._trial.params.items())
            writer.add_text("recipe", "\n".join(rows), 0)
        assert epoch.validation, "a trial has validation images"
        for name, value in (
            ("train/loss", epoch.train_loss),
            ("train/learning_rate", epoch.learning_rate),
            ("valid/macro_f1", epoch.validation.macro_f1),
            ("valid/accuracy", epoch.validation.accuracy),
            ("seconds/epoch", epoch.seconds),
            ("seconds/waiting_for_data", epoch.data_seconds),
        ):
            writer.add_scalar(name, value, epoch.number)
