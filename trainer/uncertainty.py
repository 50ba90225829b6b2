"""How far a score may be off by the choice of the images alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def standard_error(per_class: Mapping[str, Mapping[str, float]]) -> float:
    """How far a macro-F1 may be off by the choice of the images alone: the standard error of the macro recall.

    Both average over the classes, so that a class of few images makes both uncertain; that of the recall is known:
    sqrt(sum over the classes of r (1 - r) / n) / classes. A class of few images that are all right is not certain: its
    r is smoothed by two images more, right as often as those of the other classes, or one of the two where there is no
    other class. Of all images taken for one class it is the standard error of the accuracy. Images that belong
    together, such as several of one person, tell less than as many independent ones: then it is too small.

    Args:
        per_class: class -> metrics with `recall` and `images`, as `trainer.metrics.summary` has them.

    Returns:
        0 where there is no image.
    """
    classes = [(row["recall"] * row["images"], row["images"]) for row in per_class.values() if row["images"]]
    all_right, all_images = sum(right for right, _ in classes), sum(images for _, images in classes)
    variance = 0.0
    for right, images in classes:
        elsewhere = (all_right - right + 1) / (all_images - images + 2)
        recall = (right + 2 * elsewhere) / (images + 2)
        variance += recall * (1 - recall) / images
    return math.sqrt(variance) / max(1, len(classes))
