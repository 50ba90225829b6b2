"""Failures that are foreseen: one line that names what failed and what to do next."""

from __future__ import annotations


class TrainerError(Exception):
    """A foreseen failure of a training; its text is one line for the user."""


class RecipeError(TrainerError):
    """A recipe or a search space that cannot be used; `problems` holds one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type[RecipeError], tuple[list[str]]]:
        """How to send it to another process."""
        return RecipeError, (self.problems,)


class DataError(TrainerError):
    """Images or a manifest that cannot be used as they are."""


class WeightsError(TrainerError):
    """Pretrained weights that cannot be had."""


class CheckpointError(TrainerError):
    """A checkpoint from which this training cannot go on."""


class NonFiniteLossError(TrainerError):
    """The loss became NaN or infinite."""


class UndefinedMetricError(TrainerError):
    """The validation images, or what the model says of them, do not define the metric."""


class OutOfDeviceMemoryError(TrainerError):
    """The device has not even memory for a single image."""
