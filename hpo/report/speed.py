"""The metric against milliseconds an image: all complete trials, and the front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.report.charts import COLOURS, INK, MOST_POINTS, SYMBOLS, Chart, chart, label, rounded, thinned
from hpo.report.score_axis import focus, score_axis
from trainer.objective_metric import MACRO_F1

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.report.outcomes import Outcome
    from hpo.study.speed_front import FrontTrial, Speeds
    from trainer.objective_metric import Metric


def speed_chart(
    outcomes: Sequence[Outcome], speeds: Speeds, front: Sequence[FrontTrial], metric: Metric = MACRO_F1
) -> Chart:
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
    axis = focus([score for _, score, _ in points], metric)
    names = [
        [f"trial {each.number}, {label(each.recipe.backbone)}", metric.text(score)]
        for _, score, each in points
        if each.recipe
    ]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"complete ({len(known)})",
            "x": rounded(taken for taken, _, _ in points),
            "y": rounded(metric.value(max(axis[0], score)) for _, score, _ in points),
            "customdata": names,
            "marker": {"color": COLOURS["complete"], "symbol": SYMBOLS["complete"]},
            "hovertemplate": "%{customdata[0]}: %{customdata[1]}, %{x:.3g} ms an image<extra></extra>",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "name": "none is better and faster",
            "x": rounded(each.milliseconds for each in front),
            "y": rounded(metric.value(max(axis[0], each.score)) for each in front),
            "line": {"shape": "vh", "color": INK, "width": 2},
            "hoverinfo": "skip",
        },
    ]
    return chart(
        data,
        height=380,
        xaxis={"title": {"text": "milliseconds an image"}, "type": "log"},
        yaxis=score_axis(metric, axis),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
