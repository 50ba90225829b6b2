"""The temperature and the offsets of a bundle: found on images that its models had not learned, judged on others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.calibration import Decision, Offsets, Temperature, Unseen, fit_offsets, fit_temperature
from trainer.images.split import divide_into_folds
from trainer.objective_metric import MACRO_F1
from trainer.scoring import class_score
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trainer.data import Data
    from trainer.objective_metric import Metric

FEWEST_IMAGES = 30  # of which anything is concluded
PARTS = 5  # each is judged by what was fitted on the others
MOST_CLASSES = 100  # for which offsets are looked for: the time grows with their square


@dataclass(frozen=True)
class Found:
    """What was found for a bundle.

    Attributes:
        source: of which predictions, for people.
        images: how many.
        temperature: None where there were too few images.
        offsets: None where there were too few images, or too many classes, or the metric is one of probabilities.
        metric: for which the offsets were found.
    """

    source: str
    images: int = 0
    temperature: Temperature | None = None
    offsets: Offsets | None = None
    metric: Metric = MACRO_F1

    @property
    def decision(self) -> Decision:
        """What the bundle uses of it."""
        return Decision(self._value, self._offsets() if self.offsets and self.offsets.helps else ())

    def crossed(self, probabilities: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What the decision makes of the predictions that it was found by, each fifth judged by the others.

        The decision itself, which has seen their true classes, would flatter them.

        Args:
            probabilities: those that it was found by, float32 [n, classes].

        Returns:
            the probabilities that are shown, float32 [n, classes], and the classes, int64 [n].
        """
        shown = self.temperature.crossed if self.temperature and self.temperature.helps else probabilities
        return shown, self.offsets.crossed if self.offsets and self.offsets.helps else shown.argmax(axis=1)

    @property
    def _value(self) -> float:
        return self.temperature.value if self.temperature and self.temperature.helps else 1.0

    def _offsets(self) -> tuple[float, ...]:
        """Those that are added to the logits that are shown, which are divided by the temperature."""
        return tuple((self.offsets.values / self._value).tolist()) if self.offsets else ()

    def lines(self) -> list[str]:
        """What people are told."""
        if self.temperature is None:
            return [f"calibration and thresholds: left out, {self.source}"]
        errors, losses = self.temperature.calibration_error, self.temperature.log_loss
        use = "" if self.temperature.helps else "; left out, as it does not lower the log loss"
        line = (
            f"calibration: temperature {self.temperature.value:.2f}, by {self.source}: expected calibration error"
            f" {errors[0]:.4f} before, {errors[1]:.4f} after, log loss {losses[0]:.4f} before, {losses[1]:.4f} after"
            f" (each fifth judged by the others){use}"
        )
        said = [line]
        if self.offsets:
            low, high = self.offsets.interval
            use = "used" if self.offsets.helps else "left out, as this is no gain beyond chance"
            said.append(
                f"thresholds: an offset for each class changes the {self.metric.title} of images that it was not fitted"
                f" on by {self.offsets.gain:+.4f} ({low:+.4f} to {high:+.4f} in 95 %): {use}"
            )
        return said

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """`calibration` and `thresholds` of bundle.json, each None where nothing was found out."""
        found: dict[str, Any] = {"calibration": None, "thresholds": None}
        if self.temperature:
            names = ("without", "with")
            found["calibration"] = {
                "temperature": self.temperature.value,
                "used": self.temperature.helps,
                "fitted_on": self.source,
                "images": self.images,
                "expected_calibration_error": dict(zip(names, self.temperature.calibration_error, strict=True)),
                "log_loss": dict(zip(names, self.temperature.log_loss, strict=True)),
            }
        if self.offsets:
            found["thresholds"] = {
                "offsets": dict(zip(classes, self._offsets(), strict=True)),
                "used": self.offsets.helps,
                self.metric.name: dict(zip(("without", "with"), self.offsets.scores, strict=True)),
                "gain": self.offsets.gain,
                "interval": list(self.offsets.interval),
            }
        return found


def find_decision(
    data: Data,
    images: NDArray[np.int64],
    probabilities: NDArray[np.float32],
    source: str,
    metric: Metric = MACRO_F1,
) -> Found:
    """Find temperature and offsets of models by what they say of images that they had not learned.

    Args:
        data: of the images.
        images: positions of these images, int64 [n].
        probabilities: of their classes, float32 [n, classes].
        source: whose predictions these are, for people.
        metric: of the study, which the offsets are for; where it is one of probabilities, there are none.
    """
    if len(images) < FEWEST_IMAGES:
        return Found(f"as {counted(len(images), 'image')} are too few to find them by")
    index = data.index
    parts = divide_into_folds(index, images, PARTS, seed="calibration", copies=index.copies)
    if len(np.unique(parts[parts >= 0])) < PARTS:
        return Found("as the images are of too few groups to judge them by")
    groups = index.groups_with_copies[images]
    unseen = Unseen(index.labels[images], probabilities, groups, parts)
    temperature = fit_temperature(unseen)
    offsets = None
    if metric.is_by_class and len(index.classes) <= MOST_CLASSES:
        offsets = fit_offsets(unseen, score=class_score(metric, index.classes))
    return Found(source, len(images), temperature, offsets, metric)


def decision_of(info: Mapping[str, Any], classes: Sequence[str]) -> Decision:
    """What a bundle.json says of temperature and offsets; that of an earlier version says nothing, and so has none.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is not as hpo writes it.
    """
    calibration, thresholds = info.get("calibration"), info.get("thresholds")
    value = float(calibration["temperature"]) if calibration and calibration["used"] else 1.0
    if not 0 < value < math.inf:
        raise ValueError(f"{value} is no temperature")
    kept = thresholds["offsets"] if thresholds and thresholds["used"] else {}
    return Decision(value, tuple(float(kept[name]) for name in classes) if kept else ())
