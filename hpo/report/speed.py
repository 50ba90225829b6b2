"""Macro-F1 against milliseconds an image: all complete trials, and the front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.report.charts import COLOURS, INK, MOST_POINTS, SYMBOLS, Chart, chart, focus, label, rounded, thinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.report.outcomes import Outcome
    from hpo.study.speed_front import FrontTrial, Speeds


def speed_chart(outcomes: Sequence[Outcome], speeds: Speeds, front: Sequence[FrontTrial]) -> Chart:
    """The complete trials whose speed is known as points, and the front as a line."""
    known = [
        (taken, outcome)
        for outcome in outcomes
        if outcome.state == "complete"
        and outcome.recipe
        and (taken := speeds.milliseconds.get((outcome.recipe.backbone, outcome.recipe.image_size))) is not None
    ]
    points = [(taken, each.value, each) for taken, each in thinned(known, MOST_POINTS) if each.value is not None]
    if not points:
        return {}
    axis = focus([value for _, value, _ in points])
    names = [
        [f"trial {each.number}, {label(each.recipe.backbone)}", f"{value:.4f}"]
        for _, value, each in points
        if each.recipe
    ]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"complete ({len(known)})",
            "x": rounded(taken for taken, _, _ in points),
            "y": rounded(max(axis[0], value) for _, value, _ in points),
            "customdata": names,
            "marker": {"color": COLOURS["complete"], "symbol": SYMBOLS["complete"]},
            "hovertemplate": "%{customdata[0]}: %{customdata[1]}, %{x:.3g} ms an image<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "none is better and faster",
            "x": rounded(each.milliseconds for each in front),
            "y": rounded(max(axis[0], each.macro_f1) for each in front),
            "line": {"shape": "vh", "color": INK, "width": 2},
            "hoverinfo": "skip",
        },
    ]
    return chart(
        data,
        height=380,
        xaxis={"title": {"text": "milliseconds an image"}, "type": "log"},
        yaxis={"title": {"text": "validation macro-F1"}, "range": axis},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
