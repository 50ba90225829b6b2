"""The metric by which trainings are compared, by name: the score that is the higher the better, and its words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from trainer.rules import nearest, show
from trainer.uncertainty import standard_error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHOWN_CLASSES = 20  # names in a message


@dataclass(frozen=True)
class _Kind:
    """What is known of the metrics of one name.

    Attributes:
        title: the field's name for it.
        decided_by: whether the predicted class alone makes it, or its probability, too.
        one_class: whether ":CLASS" has to follow the name, may follow it, or may not.
        ordered: whether the order of the classes matters.
        maximised: whether a high value is good.
        lowest: the lowest score; None where there is none.
        error: what its standard error comes from: the recall of each class, the accuracy, or draws of the images.
    """

    title: str
    decided_by: Literal["class", "probability"] = "class"
    one_class: Literal["never", "may", "must"] = "never"
    ordered: bool = False
    maximised: bool = True
    lowest: float | None = 0.0
    error: Literal["recall", "accuracy", "draws"] = "draws"


_KINDS = {
    "macro_f1": _Kind("macro-F1", error="recall"),
    "accuracy": _Kind("accuracy", error="accuracy"),
    "balanced_accuracy": _Kind("balanced accuracy", error="recall"),
    "weighted_f1": _Kind("weighted F1"),
    "f1": _Kind("F1", one_class="must"),
    "roc_auc": _Kind("ROC-AUC", decided_by="probability", one_class="may"),
    "average_precision": _Kind("average precision", decided_by="probability", one_class="may"),
    "quadratic_kappa": _Kind("quadratic kappa", ordered=True, lowest=-1.0),
    "log_loss": _Kind("log-loss", decided_by="probability", maximised=False, lowest=None),
}
METRICS = tuple(f"{name}:CLASS" if kind.one_class == "must" else name for name, kind in _KINDS.items())
"""How the metrics are written."""


@dataclass(frozen=True)
class Metric:
    """A metric of a classification.

    Its *value* is what people are shown. Its *score* is the higher the better: the value, or of the log-loss the
    negative value. All that compares trainings compares scores.

    Attributes:
        kind: its name without a class.
        of_class: the one class that it judges; None where it judges all.
        order: the classes from the lowest to the highest, where it is of ordered classes; empty for the order that
            `ordered` finds.
    """

    kind: str = "macro_f1"
    of_class: str | None = None
    order: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As a study file writes it, but for the order of the classes."""
        return self.kind if self.of_class is None else f"{self.kind}:{self.of_class}"

    @property
    def title(self) -> str:
        """As people read it, within a sentence."""
        title = _KINDS[self.kind].title
        return title if self.of_class is None else f"{title} of {self.of_class}"

    @property
    def with_article(self) -> str:
        """As people read it after "with" or "has"."""
        return f"{'an' if self.title[0] in 'aF' else 'a'} {self.title}"

    @property
    def heading(self) -> str:
        """As people read it, at the beginning of a sentence."""
        return self.title[0].upper() + self.title[1:]

    @property
    def score_title(self) -> str:
        """What its score is called where that is shown as it is, as in Optuna's own tables."""
        return self.title if self.maximised else f"negative {self.title}"

    @property
    def maximised(self) -> bool:
        """Whether a high value is good."""
        return _KINDS[self.kind].maximised

    @property
    def is_by_class(self) -> bool:
        """Whether the predicted class alone makes it, and not how probable that is."""
        return _KINDS[self.kind].decided_by == "class"

    @property
    def ordered(self) -> bool:
        """Whether the order of the classes matters."""
        return _KINDS[self.kind].ordered

    @property
    def lowest(self) -> float | None:
        """The lowest score that there is; None where there is none."""
        return _KINDS[self.kind].lowest

    @property
    def highest(self) -> float:
        """The highest score that there is."""
        return 1.0 if self.maximised else 0.0

    def value(self, score: float) -> float:
        """The value of a score."""
        return score if self.maximised else 0.0 - score

    def score(self, value: float) -> float:
        """The score of a value."""
        return self.value(value)  # a change of the sign undoes itself

    def text(self, score: float) -> str:
        """The value of a score as people read it."""
        return f"{self.value(score):.4f}"

    def share(self, score: float) -> float:
        """The score on a scale from 0 to 1, in the same order, for a model that learns from scores.

        Of the log-loss it is the geometric mean of the probabilities of the true classes: a few trainings of a very
        high loss, as there are in any search, would make all others look alike.
        """
        if self.lowest is None:
            return math.exp(score)
        return score if self.lowest == 0 else (score - self.lowest) / (self.highest - self.lowest)

    def standard_error(self, metrics: Mapping[str, Any]) -> float | None:
        """How far its value may be off by the choice of the images alone; None where that is not known.

        Args:
            metrics: of the training, as `trainer.scoring.metrics_with_error_of` gives them.
        """
        error = _KINDS[self.kind].error
        if error == "recall":
            return standard_error(metrics["per_class"])
        if error == "accuracy":
            return standard_error({"all": {"recall": metrics["accuracy"], "images": metrics["images"]}})
        known: float | None = metrics.get("standard_error", {}).get(self.name)
        return known

    @property
    def draws_images(self) -> bool:
        """Whether its standard error comes from draws of the images, as no formula gives it."""
        return _KINDS[self.kind].error == "draws"

    def position(self, classes: Sequence[str]) -> int | None:
        """Which of these classes it judges; None for all.

        Of two classes the average precision judges the second one, as scikit-learn does.
        """
        if self.of_class is not None:
            return classes.index(self.of_class)
        return 1 if self.kind == "average_precision" and len(classes) == 2 else None

    def ranks(self, classes: Sequence[str]) -> list[int]:
        """Positions of these classes from the lowest to the highest.

        That is the order that is set; else that of the numbers where all names are numbers, else that of the classes.
        """
        if self.order:
            return [classes.index(name) for name in self.order]
        try:
            return sorted(range(len(classes)), key=lambda position: float(classes[position]))
        except ValueError:
            return list(range(len(classes)))

    def problem(self, classes: Sequence[str], images: Sequence[int]) -> str | None:
        """Say in one line why the metric is not defined for validation images, or None.

        Args:
            classes: their names.
            images: how many images of each class there are to validate.
        """
        named = [*self.order, *([] if self.of_class is None else [self.of_class])]
        for name in named:
            if name not in classes:
                return f"there is no class {show(name)}{nearest(name, classes) or f'; {_listed(classes)}'}"
        if missing := [name for name in classes if self.order and name not in self.order]:
            return f"class_order lacks {_listed(missing)}"
        here = sum(count > 0 for count in images)
        position = self.position(classes)
        if position is not None and not images[position]:
            why = f"no image of the class {show(classes[position])} is among those to validate"
        elif here < 2 and (self.ordered or not self.is_by_class) and self.maximised:
            why = f"the images to validate are all of the class {show(classes[list(images).index(max(images))])}"
        else:
            return None
        return f"{self.title} is not defined, as {why}; raise [data] valid, add such images or choose another metric"


MACRO_F1 = Metric()


def metric_of(name: str) -> Metric:
    """The metric that is written so, such as "accuracy", "f1:cat" or 'f1:"black cat"'.

    Raises:
        ValueError: there is none; the text is one line.
    """
    kind, colon, given = (part.strip() for part in name.partition(":"))
    listed = f"known: {', '.join(METRICS)}"
    if kind not in _KINDS:
        raise ValueError(f"{show(name)} is not known{nearest(kind, _KINDS)}; {listed}")
    rule = _KINDS[kind].one_class
    if len(given) > 1 and given[0] == given[-1] and given[0] in "\"'":
        given = given[1:-1]
    if rule == "never" and colon:
        raise ValueError(f"{show(name)}: {kind} is of all classes; write {show(kind)}")
    if (rule == "must" or colon) and not given:
        raise ValueError(f'{show(name)} names no class; write "{kind}:CLASS", such as "{kind}:cat"')
    return Metric(kind, given if colon else None)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(show, names[:SHOWN_CLASSES]))
    return f"{'the class' if len(names) == 1 else 'the classes'} {shown}{', …' if len(names) > SHOWN_CLASSES else ''}"
