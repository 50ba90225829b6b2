"""What a tracker is told of a trial: its name, its parameters, its epochs, and how a run of it has ended."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from storage.keys import FIRST_RUN_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from optuna import Trial
    from optuna.trial import FrozenTrial

    from trainer.fit import Epoch
    from trainer.objective_metric import Metric

    State = Literal["complete", "pruned", "failed", "interrupted"]  # what is interrupted or pruned may go on


@dataclass(frozen=True)
class TrackedTrial:
    """A trial with all that run it again or continue it: one run of a tracker.

    Attributes:
        study: its name.
        owner: the study's own id, which no other study has.
        number: of the first of these trials.
    """

    study: str
    owner: str
    number: int

    @property
    def name(self) -> str:
        """What people are shown."""
        return f"trial {self.number}"


def tracked(trial: Trial | FrozenTrial, study: str, owner: str) -> TrackedTrial:
    """What a tracker knows a trial by."""
    return TrackedTrial(study, owner, int(trial.user_attrs.get(FIRST_RUN_KEY, trial.number)))


class TrackingServer(Protocol):
    """Where runs are tracked. Each call may wait for a server and may raise anything; it may be repeated."""

    def begin(self, trial: TrackedTrial, parameters: Mapping[str, Any]) -> None:
        """Begin the run of a trial, or go on with it."""

    def log(self, trial: TrackedTrial, epoch: int, values: Mapping[str, float]) -> None:
        """Keep what an epoch gave, the first one being 1."""

    def end(self, trial: TrackedTrial, state: State) -> None:
        """End the run; it may go on later."""

    def add_bundle(self, trial: TrackedTrial, folder: Path, scores: Mapping[str, float]) -> None:
        """Keep a bundle and its scores with the run of its trial."""


def tracked_name(metric: Metric) -> str:
    """The name of a metric with letters that every tracker takes."""
    return re.sub(r"[^A-Za-z0-9_. -]", "_", metric.name)


def values_of(epoch: Epoch) -> dict[str, float]:
    """What is tracked of an epoch, by name."""
    validation = epoch.validation
    assert validation, "a trial has validation images"
    return {
        f"valid/{tracked_name(validation.metric)}": validation.metric.value(validation.score),
        "train/loss": epoch.train_loss,
        "train/learning_rate": epoch.learning_rate,
        "valid/macro_f1": validation.macro_f1,
        "valid/accuracy": validation.accuracy,
        "seconds/epoch": epoch.seconds,
        "seconds/waiting_for_data": epoch.data_seconds,
    }
