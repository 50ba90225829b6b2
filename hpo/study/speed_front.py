"""The front of a search: the complete trials of which no other is both better and faster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.study.ranking import counts, of_best_value
from storage.keys import SPEED_KEY
from trainer.objective_metric import MACRO_F1

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from optuna.trial import FrozenTrial

    from trainer.image_size import ImageSize
    from trainer.objective_metric import Metric
    from trainer.space import Space

Model = tuple[Any, Any]  # a backbone and an image size


@dataclass(frozen=True)
class Speeds:
    """How fast the models of a study are.

    Attributes:
        device: on which they were measured: the kind that has measured most of them.
        milliseconds: for one image by itself, by backbone and image size.
    """

    device: str
    milliseconds: Mapping[Model, float]


@dataclass(frozen=True)
class FrontTrial:
    """A trial of the front: its number, its score, its model, and the milliseconds that this takes for an image."""

    trial: int
    score: float
    milliseconds: float
    backbone: str
    image_size: ImageSize
    metric: Metric = MACRO_F1

    def as_json(self) -> dict[str, Any]:
        """As `hpo status --json` prints it: the value by the metric's name."""
        value = {"trial": self.trial, self.metric.name: self.metric.value(self.score)}
        return {**value, "milliseconds": self.milliseconds, "backbone": self.backbone, "image_size": self.image_size}


def speeds_of(attributes: Mapping[str, Any]) -> Speeds | None:
    """What workers have measured, out of the attributes of a study; None where they have not."""
    by_device: dict[str, dict[Model, float]] = {}
    for key, speed in attributes.items():
        if key.startswith(SPEED_KEY):
            model = speed["backbone"], speed["image_size"]
            by_device.setdefault(speed["device"], {})[model] = speed["milliseconds"]
    if not by_device:
        return None
    device = max(sorted(by_device), key=lambda name: len(by_device[name]))
    return Speeds(device, by_device[device])


def front_of(
    trials: Iterable[FrozenTrial], space: Space, speeds: Speeds | None, metric: Metric = MACRO_F1
) -> Sequence[FrontTrial]:
    """The front of a study's trials, the best trial first and the fastest last; empty where no speed is known."""
    front: list[FrontTrial] = []
    if speeds is None:
        return front
    fixed = {name: space.values(name)[0] for name in ("backbone", "image_size")}
    for trial in of_best_value(trials):
        backbone, size = (trial.params.get(name, value) for name, value in fixed.items())
        taken = speeds.milliseconds.get((backbone, size))
        if taken is not None and (not front or taken < front[-1].milliseconds) and counts(trial, space):
            assert trial.value is not None, "it is complete"
            front.append(FrontTrial(trial.number, trial.value, taken, backbone, size, metric))
    return front
