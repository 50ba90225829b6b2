"""The scores of a test: metrics with their intervals and the confusion matrix, as JSON and as lines."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from rich.cells import cell_len, set_cell_size

from trainer.calibration import expected_calibration_error
from trainer.objective_metric import MACRO_F1, Metric
from trainer.quality.checks import TOO_FEW
from trainer.scoring import Classified, metrics_of, value_interval
from trainer.uncertainty import score_intervals, tells_little
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from trainer.data import Data

ACCURACY = Metric("accuracy")
WIDEST_MATRIX = 12  # classes; of more the most frequent mistakes are listed
NAME_WIDTH = 12  # characters of a class name in the matrix
SHOWN_MISTAKES = 10


def scores(classified: Classified, groups: NDArray[np.int64], metric: Metric = MACRO_F1) -> dict[str, Any]:
    """The metrics of `trainer.scoring` with `interval`, `confusion_matrix` and `expected_calibration_error`.

    `interval` has the intervals of 95 % of `macro_f1` and `accuracy` as `trainer.uncertainty.score_intervals` finds
    them, that of the metric of the study, None where it is not defined, and by how many `groups`; None where all images
    are of one group. Each class has that of its F1 as `f1_interval`, None without an image. `confusion_matrix` has the
    predicted classes of each true class with the number of images, without zeros. JSON can hold all of it.

    Args:
        classified: the images.
        groups: images with the same number belong together, int64 [images].
        metric: of the study.
    """
    metrics, classes = metrics_of(metric, classified), classified.classes
    labels, predicted = classified.labels.numpy(), classified.predicted.numpy()
    found = score_intervals(labels, predicted, groups, len(classes))
    for row, ends in zip(
        metrics["per_class"].values(), found.class_f1 if found else [None] * len(classes), strict=True
    ):
        row["f1_interval"] = ends and list(ends)
    interval: dict[str, Any] | None = None
    if found:
        interval = {"macro_f1": list(found.macro_f1), "accuracy": list(found.accuracy)}
        if metric.name not in interval:
            one = metric.position(classes) if metric.kind == "f1" else None
            own = value_interval(metric, classified, groups) if one is None else found.class_f1[one]
            interval[metric.name] = own and list(own)
        interval["groups"] = found.groups
    rows = {
        true: {name: count for name, count in zip(classes, row, strict=True) if count}
        for true, row in zip(classes, classified.confusion.tolist(), strict=True)
    }
    return {
        **metrics,
        "interval": interval,
        "expected_calibration_error": expected_calibration_error(labels, classified.probabilities.numpy()),
        "confusion_matrix": rows,
    }


def scores_on(
    data: Data, images: NDArray[np.int64], predicted: NDArray[np.int64], shown: NDArray[np.float32], metric: Metric
) -> dict[str, Any]:
    """The scores on images of a study, whose groups and copies belong together.

    Args:
        data: of the study.
        images: positions, int64 [n], n >= 1.
        predicted: their classes, int64 [n].
        shown: their probabilities, float32 [n, classes].
        metric: of the study.
    """
    index = data.index
    labels, classes = torch.from_numpy(index.labels[images]), torch.from_numpy(predicted)
    classified = Classified(labels, classes, torch.from_numpy(shown), index.classes)
    return scores(classified, index.groups_with_copies[images], metric)


def headline(found: Mapping[str, Any], metric: Metric = MACRO_F1) -> str:
    """The metric of the study, macro-F1 and accuracy with their intervals, and the groups that these are by."""
    interval, parts, level = found["interval"], [], " in 95 %"
    for each in dict.fromkeys((metric, MACRO_F1, ACCURACY)):
        if (value := found[each.name]) is None:
            parts.append(f"{each.title} not defined")
            continue
        ends = interval and _shown(interval[each.name], level)
        parts.append(f"{each.title} {value:.4f}{ends or ''}")
        level = "" if ends else level
    line = ", ".join(parts)
    if interval is None:
        return f"{line} (no intervals: all are of one group)"
    return f"{line}, by {interval['groups']} groups" if interval["groups"] < found["images"] else line


def doubt(found: Mapping[str, Any]) -> str | None:
    """That the images of a test are too few, and what to do; None where they are enough."""
    return TOO_FEW if tells_little(found["interval"] and found["interval"]["macro_f1"]) else None


def details(found: Mapping[str, Any]) -> list[str]:
    """Lines: F1 of each class that occurs among the true or the predicted ones, and what was taken for what."""
    confusions: Mapping[str, Mapping[str, int]] = found["confusion_matrix"]
    predicted = set(chain.from_iterable(confusions.values()))
    occurring = [name for name in confusions if confusions[name] or name in predicted]
    lines = [
        f"  {name}: F1 {row['f1']:.4f}{_shown(row['f1_interval'])}, {counted(row['images'], 'image')}"
        for name in occurring
        for row in [found["per_class"][name]]
    ]
    if alone := [name for name in occurring if not confusions[name]]:
        more = ", …" if len(alone) > SHOWN_MISTAKES else ""
        lines.append(
            f"predicted classes without an image count 0 in macro-F1: {', '.join(alone[:SHOWN_MISTAKES])}{more}"
        )
    if len(occurring) <= WIDEST_MATRIX:
        return [*lines, "confusion matrix: a row for each true class, a column for each predicted one"] + [
            f"  {line}" for line in _table(confusions, occurring)
        ]
    mistakes = [(count, true, name) for true in occurring for name, count in confusions[true].items() if name != true]
    most = sorted(mistakes, key=lambda mistake: -mistake[0])[:SHOWN_MISTAKES]
    shown = [f"  {true} taken for {name}: {count}" for count, true, name in most]
    return [*lines, f"images of a wrong class: {sum(count for count, _, _ in mistakes)}, the most often:", *shown]


def _shown(interval: Sequence[float] | None, level: str = "") -> str:
    """An interval in brackets behind its score; nothing without one."""
    return "" if interval is None else f" ({interval[0]:.4f} to {interval[1]:.4f}{level})"


def _table(confusions: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> Iterable[str]:
    """The matrix of these classes as lines; long names are cut short."""
    shown = [name if cell_len(name) <= NAME_WIDTH else f"{set_cell_size(name, NAME_WIDTH - 1)}…" for name in names]
    rows = [["", *shown]]
    rows += [
        [title, *(str(confusions[true].get(name, 0)) for name in names)]
        for title, true in zip(shown, names, strict=True)
    ]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(" " * (width - cell_len(cell)) + cell for width, cell in zip(widths, row, strict=True))
