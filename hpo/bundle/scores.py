"""The scores of a test: metrics with their standard errors and the confusion matrix, as JSON and as lines."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size

from trainer.calibration import expected_calibration_error
from trainer.metrics import confusion_matrix, summary
from trainer.uncertainty import standard_error
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

WIDEST_MATRIX = 12  # classes; of more the most frequent mistakes are listed
NAME_WIDTH = 12  # characters of a class name in the matrix
SHOWN_MISTAKES = 10


def scores(labels: Tensor, predicted: Tensor, probabilities: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    """The metrics of `trainer.metrics.summary` with `standard_error`, `confusion_matrix`, `expected_calibration_error`.

    `standard_error` has that of `macro_f1` and of `accuracy`, as `trainer.uncertainty.standard_error` estimates them.
    `confusion_matrix` has the predicted classes of each true class with the number of images, without zeros. JSON can
    hold all of it.

    Args:
        labels: the true classes, int64 [images], at least one.
        predicted: int64 [images].
        probabilities: float32 [images, classes].
        classes: their names.
    """
    matrix = confusion_matrix(labels, predicted, len(classes))
    metrics: dict[str, Any] = summary(matrix, classes, labels, probabilities)
    all_images = {"recall": metrics["accuracy"], "images": metrics["images"]}
    errors = {"macro_f1": standard_error(metrics["per_class"]), "accuracy": standard_error({"all": all_images})}
    rows = {
        true: {name: count for name, count in zip(classes, row, strict=True) if count}
        for true, row in zip(classes, matrix.tolist(), strict=True)
    }
    calibration = expected_calibration_error(labels.numpy(), probabilities.numpy())
    return {
        **metrics,
        "standard_error": errors,
        "expected_calibration_error": calibration,
        "confusion_matrix": rows,
    }


def headline(found: Mapping[str, Any]) -> str:
    """Macro-F1 and accuracy with their standard errors."""
    errors = found["standard_error"]
    return (
        f"macro-F1 {found['macro_f1']:.4f} ± {errors['macro_f1']:.4f},"
        f" accuracy {found['accuracy']:.4f} ± {errors['accuracy']:.4f}"
    )


def details(found: Mapping[str, Any]) -> list[str]:
    """Lines: F1 of each class that occurs among the true or the predicted ones, and what was taken for what."""
    confusions: Mapping[str, Mapping[str, int]] = found["confusion_matrix"]
    predicted = set(chain.from_iterable(confusions.values()))
    occurring = [name for name in confusions if confusions[name] or name in predicted]
    lines = [
        f"  {name}: F1 {found['per_class'][name]['f1']:.4f}, {counted(found['per_class'][name]['images'], 'image')}"
        for name in occurring
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
