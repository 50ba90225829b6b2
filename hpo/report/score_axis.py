"""The axis of a chart that shows the metric: which part of it, and what it says."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from hpo.report.comparisons import spread
from trainer.objective_metric import MACRO_F1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainer.objective_metric import Metric


def focus(scores: Sequence[float], metric: Metric = MACRO_F1) -> list[float]:
    """The range of scores that a chart shows: from the first quartile on, below which trials are just bad."""
    low, high = spread(scores).quartiles[1], max(scores)
    room = max(0.01, (high - low) * 0.15)
    least = -math.inf if metric.lowest is None else metric.lowest
    return [max(least, low - 2 * room), min(metric.highest, high + room) + 0.002]


def score_axis(metric: Metric, scores: Sequence[float] | None = None, room: float = 0.0) -> dict[str, Any]:
    """The axis of a metric: its title, and its values over this range of scores; of losses the lowest is the best.

    Args:
        metric: of the study.
        scores: the lowest and the highest; None: all, from 0 on where the metric has no values below.
        room: that is added to the worse end.
    """
    title = {"title": {"text": f"validation {escape(metric.title, quote=False)}"}}
    if scores is None:
        return title | ({} if metric.lowest is not None and metric.lowest < 0 else {"rangemode": "tozero"})
    return title | {"range": sorted((metric.value(scores[0] - room), metric.value(scores[1])))}


def placed(score: float | None, worst: float, metric: Metric) -> float:
    """Where a score stands whose axis begins at the worst one; a worse one stands there, too, and so does none."""
    return metric.value(worst if score is None else max(worst, score))


def score_text(score: float | None, metric: Metric) -> str:
    """What is said of a trial that has come to a score, or to none."""
    return "no score" if score is None else metric.text(score)
