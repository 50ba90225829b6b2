"""The charts of a report, as plotly.js draws them: each a dict of `data` and `layout` that JSON can hold."""

from __future__ import annotations

import math
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from hpo.report.comparisons import spread
from hpo.report.outcomes import CUT_SHORT, best_so_far, complete_values
from hpo.report.score_axis import focus, placed, score_axis, score_text
from trainer.objective_metric import MACRO_F1
from trainer.recipe import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpo.report.outcomes import Outcome
    from trainer.objective_metric import Metric
T = TypeVar("T")
Chart = dict[str, Any]

# Colours that colour-blind people can tell apart (Okabe & Ito 2008); each state has its own symbol, too.
INK, GREY, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = {
    "complete": "#0072b2",
    "pruned": "#e69f00",
    "paused": "#cc79a7",
    "failed": "#d55e00",
    "running": "#009e73",
    "waiting": GREY,
}
SYMBOLS = {
    "complete": "circle",
    "pruned": "diamond-open",
    "paused": "diamond-tall-open",
    "failed": "x",
    "running": "triangle-right-open",
}
BARS = "#56a0cc"
MOST_POINTS = 2000  # of a chart; a browser draws all of them again at every move
MOST_OF_FIELD = 600
MOST_CURVES = 1000
MOST_BARS = 30
LONGEST = 40  # characters of a label
DECIMALS = 5


def label(value: Any, longest: int = LONGEST) -> str:
    """A value as a label: plotly.js shows tags in it as text, and a long one is cut."""
    shown = value if isinstance(value, str) else show(value)
    return escape(shown if len(shown) <= longest else f"{shown[: longest - 1]}…", quote=False)


def thinned(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly chosen, so that a chart of ten thousand is drawn at once."""
    return list(items[:: max(1, math.ceil(len(items) / most))])


def progress(outcomes: Sequence[Outcome], clock: str, unit: str, metric: Metric = MACRO_F1) -> Chart:
    """The best score so far, and each trial at its end.

    Args:
        outcomes: of a search.
        clock: the attribute that tells the hours of the horizontal axis.
        unit: what that is called.
        metric: that gives the scores.
    """
    own = [outcome for outcome in outcomes if not outcome.taken_over and outcome.ended is not None]
    last = max((_hours(outcome, clock) for outcome in own), default=0.0)
    per_hour, name = (1.0, "hours") if last >= 2 else (60.0, "minutes")
    steps = best_so_far(outcomes, clock)
    values = [outcome.value for outcome in own if outcome.value is not None] + [value for _, value, _ in steps]
    if not values:
        return {}
    axis = focus(values, metric)
    data = []
    for state in ("complete", "pruned", "paused", "failed"):
        shown = [outcome for outcome in own if outcome.state == state]
        if points := thinned(shown, MOST_POINTS):
            times = rounded(_hours(outcome, clock) * per_hour for outcome in points)
            data.append({"name": f"{state} ({len(shown)})", "x": times, **_points(points, state, axis, "y", metric)})
    if steps:
        ends = [*steps, (max(last, steps[-1][0]), steps[-1][1], steps[-1][2])]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "best so far",
                "x": rounded(at * per_hour for at, _, _ in ends),
                "y": rounded(metric.value(score) for _, score, _ in ends),
                "customdata": [number for _, _, number in ends],
                "line": {"shape": "hv", "color": INK, "width": 2},
                "hovertemplate": "best so far %{y:.4f}, trial %{customdata}<extra></extra>",
            }
        )
    return chart(
        data,
        height=380,
        xaxis={"title": {"text": f"{name} {unit}"}, "rangemode": "tozero"},
        yaxis=score_axis(metric, axis),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def importance(shares: Mapping[str, float]) -> Chart:
    """A bar a field, the longest at the top."""
    names, values = list(shares), list(shares.values())
    return _bars(names, values, [_percent(value) for value in values], "share of the importance", tickformat=".0%")


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "&lt;1%"


def field(values: Mapping[Any, Sequence[Outcome]], axis: Sequence[float], metric: Metric = MACRO_F1) -> Chart:
    """The metric by the values of one field: a box of the complete trials' quartiles, and each trial as a point.

    Args:
        values: value -> its trials, the best first.
        axis: the range of scores.
        metric: that gives the scores.
    """
    rows = list(values.items())[::-1]  # the last row is drawn at the top
    boxes = [(row, spread(scores)) for row, (_, trials) in enumerate(rows) if (scores := complete_values(trials))]
    data: list[dict[str, Any]] = [
        {
            "type": "box",
            "orientation": "h",
            "name": "complete: quartiles and median",
            "y": [row for row, _ in boxes],
            **{
                key: rounded(sorted(map(metric.value, box.quartiles))[position] for _, box in boxes)
                for position, key in enumerate(("lowerfence", "q1", "median", "q3", "upperfence"))
            },
            "width": 0.5,
            "marker": {"color": COLOURS["complete"]},
            "fillcolor": "rgba(0, 114, 178, 0.12)",
            "line": {"width": 1.5},
            "hoverinfo": "x",
            "showlegend": False,
        }
    ]
    for state in ("complete", *CUT_SHORT):
        shown = [(row, trial) for row, (_, trials) in enumerate(rows) for trial in trials if trial.state == state]
        if points := thinned(shown, MOST_OF_FIELD):
            rows_of = rounded(row + jitter(trial.number) * 0.44 for row, trial in points)
            data.append(
                {"name": state, "y": rows_of, **_points([trial for _, trial in points], state, axis, "x", metric)}
            )
    return chart(
        data,
        height=90 + 44 * len(rows),
        xaxis=score_axis(metric, axis, room=0.02 * (axis[1] - axis[0])),
        yaxis=_rows([_noted(value, _counted(trials), "<br>") for value, trials in rows]),
        showlegend=False,
    )


def _noted(name: Any, note: str, between: str = "  ") -> str:
    """A name with a note in grey."""
    return f"{label(name)}{between}<span style='color:{GREY}'>{note}</span>" if note else label(name)


def _counted(outcomes: Sequence[Outcome]) -> str:
    shares = [
        f", {count / len(outcomes):.0%} {state}"
        for state in CUT_SHORT
        if (count := sum(outcome.state == state for outcome in outcomes))
    ]
    return f"{len(outcomes)}{''.join(shares)}"


def _points(
    outcomes: Sequence[Outcome], state: str, axis: Sequence[float], direction: str, metric: Metric
) -> dict[str, Any]:
    """Trials as points; one below the range of scores stands at its edge, and so does one without a score.

    Args:
        outcomes: of one state.
        state: of all of them.
        axis: the range of scores.
        direction: the axis of the scores, "x" or "y".
        metric: that gives the scores.
    """
    return {
        "type": "scatter",
        "mode": "markers",
        direction: rounded(placed(outcome.value, axis[0], metric) for outcome in outcomes),
        "customdata": [[outcome.number, score_text(outcome.value, metric)] for outcome in outcomes],
        "marker": {"color": COLOURS[state], "symbol": SYMBOLS[state], "size": 7, "opacity": 0.7},
        "cliponaxis": False,
        "hovertemplate": f"trial %{{customdata[0]}}, {state}: %{{customdata[1]}}<extra></extra>",
    }


def jitter(number: int) -> float:
    """A place from -0.5 to 0.5, the same for a trial in every chart: the golden ratio spreads them evenly."""
    return number * 0.6180339887 % 1 - 0.5


def curves(outcomes: Sequence[Outcome], best: int | None, metric: Metric = MACRO_F1) -> Chart:
    """The metric by epoch of the trials, and where each was pruned or paused.

    Args:
        outcomes: of a search, at most `MOST_CURVES` of which are drawn.
        best: number of the trial that is drawn over the others.
        metric: that gives the scores.
    """
    trained = [outcome for outcome in outcomes if outcome.curve]
    data = []
    for state in ("complete", "failed", "running", *CUT_SHORT):
        same_state = [outcome for outcome in trained if outcome.state == state and outcome.number != best]
        drawn = thinned(same_state, max(1, MOST_CURVES * len(same_state) // max(1, len(trained))))
        if drawn:
            data.append(
                {
                    **_lines(drawn, metric),
                    "name": f"{state} ({len([each for each in trained if each.state == state])})",
                    "line": {"color": COLOURS[state], "width": 1},
                    "opacity": 0.45,
                }
            )
        if drawn and state in CUT_SHORT:
            ends = [max(outcome.curve.items()) for outcome in drawn]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"{state} here",
                    "x": [epoch for epoch, _ in ends],
                    "y": rounded(metric.value(score) for _, score in ends),
                    "customdata": [outcome.number for outcome in drawn],
                    "marker": {"color": COLOURS[state], "symbol": "diamond", "size": 6, "opacity": 0.8},
                    "hovertemplate": f"trial %{{customdata}}, {state} after epoch %{{x}}: %{{y:.4f}}<extra></extra>",
                }
            )
    if over := [outcome for outcome in trained if outcome.number == best]:
        data.append({**_lines(over, metric), "name": f"trial {best}, the best", "line": {"color": INK, "width": 3}})
    if not data:
        return {}
    last = max(epoch for outcome in trained for epoch in outcome.curve)
    return chart(
        data,
        height=460,
        xaxis={"title": {"text": "epoch"}, "range": [0.5, last + 0.5], "dtick": math.ceil(last / 20)},
        yaxis=score_axis(metric),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def _lines(outcomes: Sequence[Outcome], metric: Metric) -> dict[str, Any]:
    """The curves as one trace, with gaps between them: a browser draws one long line faster than many short ones."""
    epochs, values, numbers = list[int | None](), list[float | None](), list[int]()
    for outcome in outcomes:
        points = sorted(outcome.curve.items())
        epochs += [*(epoch for epoch, _ in points), None]
        values += [*rounded(metric.value(score) for _, score in points), None]
        numbers += [outcome.number] * (len(points) + 1)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": epochs,
        "y": values,
        "customdata": numbers,
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
    }


def cut_short_after(outcomes: Sequence[Outcome]) -> float | None:
    """The median of the epochs after which trials were pruned or paused; None where none was."""
    ends = [max(outcome.curve) for outcome in outcomes if outcome.state in CUT_SHORT and outcome.curve]
    return median(ends) if ends else None


def hours(by_name: Mapping[str, float], notes: Mapping[str, str] | None = None) -> Chart:
    """A bar for each name, with its share of all hours.

    Args:
        by_name: name -> hours.
        notes: name -> a text that is shown beside it.
    """
    total = sum(by_name.values())
    texts = [f"{100 * value / (total or 1):.1f} %" for value in by_name.values()]
    per_hour, unit = (1.0, "hours") if total >= 2 else (60.0, "minutes")
    values = [value * per_hour for value in by_name.values()]
    return _bars([_noted(name, (notes or {}).get(name, "")) for name in by_name], values, texts, unit)


def classes(f1: Mapping[str, float]) -> Chart:
    """F1 of the classes, the weakest at the top, at most `MOST_BARS` of them."""
    weakest = sorted(f1.items(), key=lambda item: item[1])[:MOST_BARS]
    names, values = [label(name) for name, _ in weakest], [value for _, value in weakest]
    title = "F1 on the validation images"
    return _bars(names, values, [f"{value:.3f}" for value in values], title, range=[0, 1.1], dtick=0.2)


def _bars(names: Sequence[str], values: Sequence[float], texts: Sequence[str], title: str, **axis: Any) -> Chart:
    """Horizontal bars with their texts, the first at the top; the names are labels."""
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": rounded(values)[::-1],
        "y": list(range(len(names))),
        "text": list(texts)[::-1],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": BARS},
        "hoverinfo": "skip",
    }
    return chart(
        [trace],
        height=80 + 26 * len(names),
        # Beside the longest bar is room for its text.
        xaxis={"title": {"text": title}, "range": [0, 1.2 * max([*values, 1e-9])], **axis},
        yaxis=_rows(list(names)[::-1]),
    )


def _rows(texts: Sequence[str]) -> dict[str, Any]:
    """An axis of names: by position, since plotly.js would take "1" or "2024-01" for a number or a date."""
    return {
        "tickvals": list(range(len(texts))),
        "ticktext": list(texts),
        "range": [-0.6, len(texts) - 0.4],
        "showgrid": False,
        "fixedrange": True,
        "ticks": "",
    }


def chart(data: Sequence[dict[str, Any]], *, height: int, **layout: Any) -> Chart:
    """A chart in the report's looks."""
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "linecolor": GREY, "ticks": "outside"}
    margin = {"t": 30, "b": 50, "l": 60, "r": 20} | layout.pop("margin", {})
    axes = {name: axis | layout.pop(name) for name in ("xaxis", "yaxis") if name in layout}
    font = {"family": "system-ui, sans-serif", "size": 13, "color": INK}
    looks = {"height": height, "margin": margin, "font": font, "hovermode": "closest", "plot_bgcolor": "white"}
    return {"data": list(data), "layout": {**looks, **axes, **layout}}


def _hours(outcome: Outcome, clock: str) -> float:
    return float(getattr(outcome, clock) or 0.0)


def rounded(values: Any) -> list[float]:
    """Numbers as a chart needs them; a page of ten thousand trials is half as large with short ones."""
    return [round(float(value), DECIMALS) for value in values]
