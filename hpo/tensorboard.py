"""What TensorBoard shows of a trial, where the study file asks for it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    import optuna

    from hpo.study_file import StudyFile
    from trainer.fit import Epoch


def is_installed() -> bool:
    """Whether TensorBoard, an optional package, is there."""
    return find_spec("tensorboard") is not None


def folder_of(file: StudyFile) -> Path:
    """Where the logs of a study's trials are, a folder a trial: what `tensorboard --logdir` wants."""
    return file.folder / "tensorboard" / quote(file.name, safe=" ")


class TensorBoardLog:
    """Writes the scalars of each epoch of a trial, and its parameters with the first; `with` brackets the trial."""

    def __init__(self, file: StudyFile, trial: optuna.Trial) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._trial = trial
        self._writer = SummaryWriter(str(folder_of(file) / f"trial-{trial.number:05}"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def write(self, epoch: Epoch) -> None:
        """Write what an epoch gave."""
        if epoch.number == 1:
            rows = (f"    {name} = {value}" for name, value in self._trial.params.items())
            self._writer.add_text("recipe", "\n".join(rows), 0)
        for name, value in (
            ("train/loss", epoch.train_loss),
            ("train/learning_rate", epoch.learning_rate),
            ("valid/macro_f1", epoch.macro_f1),
            ("valid/accuracy", epoch.accuracy),
            ("seconds/epoch", epoch.seconds),
            ("seconds/waiting_for_data", epoch.data_seconds),
        ):
            self._writer.add_scalar(name, value, epoch.number)
