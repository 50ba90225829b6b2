"""Parallel coordinates of a search's recipes, as lines of an ordinary chart.

plotly.js's own parallel coordinates need WebGL, which remote desktops lack. Those of Optuna have one trace for each
trial, too many for a browser.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo.report.charts import GREY, chart, jitter, label, rounded, thinned
from hpo.report.score_axis import focus
from trainer.objective_metric import MACRO_F1
from trainer.space import Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpo.report.charts import Chart
    from hpo.report.outcomes import Outcome
    from trainer.objective_metric import Metric
    from trainer.space import Space

RANKS = (  # of complete trials: up to which share, what they are called, colour and opacity
    (0.1, "best tenth", "#440154", 0.9),
    (0.25, "to the best quarter", "#21918c", 0.7),
    (0.5, "to the better half", "#7ad151", 0.6),
    (1.0, "the others", "#b8c0c8", 0.5),
)
MOST_LINES = 120  # of a group
LONGEST = 22  # characters of a text, so that it stays on this side of the next axis
TICKS = 5  # of an axis of numbers
FOOT = 0.12  # of an axis, which is kept for recipes that do not use its field


def parallel(outcomes: Sequence[Outcome], names: Sequence[str], space: Space, metric: Metric = MACRO_F1) -> Chart:
    """The complete trials, at least one, as lines through the values of these fields, in groups by score."""
    complete = [outcome for outcome in outcomes if outcome.state == "complete" and outcome.value is not None]
    ranked = sorted(complete, key=lambda outcome: -_score(outcome))
    axes = [_axis(name, space, used=all(name in outcome.fields for outcome in ranked)) for name in names]
    axes.append(_score_axis([_score(outcome) for outcome in ranked], metric))
    ends = [0, *(math.ceil(len(ranked) * share) for share, _, _, _ in RANKS)]
    data = []
    for (_, name, colour, opacity), first, last in zip(RANKS, ends[:-1], ends[1:], strict=True):
        if first < last:
            lines = _lines(thinned(ranked[first:last], MOST_LINES), axes, metric)
            looks = {"name": f"{name} ({last - first})", "line": {"color": colour, "width": 1.5}, "opacity": opacity}
            data.append({**lines, **looks})
    positions = list(range(len(axes)))
    return chart(
        data[::-1],  # the best are drawn over the others
        height=480,
        xaxis={
            "tickvals": positions,
            "ticktext": [axis.name for axis in axes],
            "range": [-0.1, len(axes) - 0.4],
            "side": "top",
            "showgrid": False,
            "ticks": "",
            "fixedrange": True,
        },
        yaxis={"visible": False, "range": [-0.06, 1.06], "fixedrange": True},
        annotations=[note for position, axis in enumerate(axes) for note in _notes(position, axis)],
        shapes=[{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": GREY}} for at in positions],
        legend={"orientation": "h", "y": -0.02, "yanchor": "top", "x": 0, "traceorder": "reversed"},
        margin={"l": 30, "t": 40},
    )


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        name: of the field.
        ticks: value -> text; the value None is that of recipes that do not use the field.
        low: the value at the foot; of a list a position in it, of a logarithmic axis an exponent of 10.
        high: the value at the head, likewise.
        log: whether equal ratios are equally far apart.
        listed: the values of a list, in its order.
    """

    name: str
    ticks: Mapping[Any, str]
    low: float
    high: float
    log: bool = False
    listed: Sequence[Any] = ()

    def place(self, value: Any, apart: float = 0.0) -> float:
        """Where a value is, from 0 to 1; `apart`, from -0.5 to 0.5, moves lines that meet in it a little."""
        if value is None:
            return FOOT / 4 * (apart + 0.5)
        number = self.listed.index(value) if self.listed else math.log10(value) if self.log else float(value)
        share = max(0.0, number - self.low) / ((self.high - self.low) or 1)
        if self.listed:
            share += 0.2 * apart / len(self.listed)
        return FOOT + (1 - FOOT) * share if None in self.ticks else share


def _axis(name: str, space: Space, *, used: bool) -> Axis:
    """The axis of a field; `used` says that all recipes use it."""
    entry = space.fields[name]
    none = {} if used else {None: "not used"}
    if not isinstance(entry, Range):
        listed = space.values(name)
        return Axis(
            name, {value: label(value, LONGEST) for value in listed} | none, 0.0, len(listed) - 1, listed=listed
        )
    low, high = (math.log10(end) if entry.log else float(end) for end in (entry.low, entry.high))
    values = [10**at if entry.log else at for at in _steps(low, high)]
    return Axis(name, {value: f"{value:.2g}" for value in values} | none, low, high, log=entry.log)


def _score(outcome: Outcome) -> float:
    assert outcome.value is not None, "it is complete"
    return outcome.value


def _score_axis(scores: Sequence[float], metric: Metric) -> Axis:
    """The last axis: the metric, the best value at the head; the trials of the worst quarter meet at its foot."""
    low, high = max(min(scores), focus(scores, metric)[0]), max(scores)
    ticks = {at: f"{metric.value(at):.3f}" for at in _steps(low, high)}
    worse = f"{'≤' if metric.maximised else '≥'} {ticks[low]}"
    return Axis(label(metric.title, LONGEST), ticks | ({low: worse} if min(scores) < low else {}), low, high)


def _steps(low: float, high: float) -> list[float]:
    return [low + (high - low) * step / (TICKS - 1) for step in range(TICKS)]


def _lines(outcomes: Sequence[Outcome], axes: Sequence[Axis], metric: Metric) -> dict[str, Any]:
    """Trials as one trace, with gaps between them."""
    x, y, about = list[int | None](), list[float | None](), list[list[Any]]()
    for outcome in outcomes:
        fields = {**outcome.fields, axes[-1].name: outcome.value}
        for position, axis in enumerate(axes):
            value = fields.get(axis.name)
            x.append(position)
            y += rounded([axis.place(value, jitter(outcome.number))])
            value = metric.value(_score(outcome)) if axis is axes[-1] else value
            shown = "not used" if value is None else f"{value:.4g}" if isinstance(value, float) else label(value)
            about.append([outcome.number, axis.name, shown])
        x.append(None)
        y.append(None)
        about.append([])
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "customdata": about,
        "hovertemplate": "trial %{customdata[0]}: %{customdata[1]} %{customdata[2]}<extra></extra>",
    }


def _notes(position: int, axis: Axis) -> list[dict[str, Any]]:
    """The texts of an axis, beside it."""
    looks = {"showarrow": False, "xanchor": "left", "xshift": 5, "borderpad": 1, "font": {"size": 11}}
    return [
        {"x": position, "y": round(axis.place(value), 5), "text": text, "bgcolor": "rgba(255, 255, 255, 0.75)", **looks}
        for value, text in axis.ticks.items()
    ]
