"""The charts of a report."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import pytest

from hpo.report import charts
from hpo.report.outcomes import Outcome
from hpo.report.parallel_coordinates import Axis, parallel
from hpo.report.score_axis import focus
from trainer.objective_metric import metric_of
from trainer.recipe import Recipe
from trainer.space import Space

pytestmark = pytest.mark.unit

SPACE = Space({"backbone": ["a", "<b>b</b>"], "pretrained": False})


def outcome(number, state="complete", value=0.5, epochs=4, **fields):
    """A trial that has ended at this score, in as many hours as its number."""
    curve = {} if value is None else {epoch: value * epoch / epochs for epoch in range(1, epochs + 1)}
    recipe = Recipe(**({"backbone": "a", "pretrained": False} | fields))
    hours = float(number)
    return Outcome(number, state, value, curve, recipe, 1.0, hours, hours)


def search(count):
    """A search of so many trials: every third was pruned, every tenth failed."""
    found = []
    for number in range(count):
        state = "failed" if number % 10 == 9 else "pruned" if number % 3 == 2 else "complete"
        value = None if state == "failed" else 0.5 + 0.4 * number / count
        loss = "focal" if number % 2 else "cross_entropy"
        backbone = SPACE.values("backbone")[number % 2]
        found.append(outcome(number, state, value, loss=loss, backbone=backbone))
    return found


def all_charts(outcomes):
    """Each chart of these trials, by name."""
    by_loss = {loss: [each for each in outcomes if each.recipe.loss == loss] for loss in ("focal", "cross_entropy")}
    return {
        "progress": charts.progress(outcomes, "ended", "since the start"),
        "importance": charts.importance({"loss": 0.995, "backbone": 0.005}),
        "field": charts.field(by_loss, [0.4, 1.0]),
        "parallel": parallel(outcomes, ["backbone", "focal_gamma", "learning_rate", "loss"], SPACE),
        "curves": charts.curves(outcomes, 0),
        "hours": charts.hours({"a": 1.5, "b": 0.5}, {"a": "3 s an epoch"}),
        "classes": charts.classes({"1": 0.5, "<script>": 1.0}),
    }


@pytest.mark.parametrize("name", all_charts(search(4)))
def test_plotly_knows_every_word_of_a_chart(name):
    """Each chart is one that plotly accepts, and JSON can hold it."""
    chart = all_charts(search(40))[name]
    go.Figure(chart)  # raises ValueError for an attribute that does not exist, or a value that it cannot have
    assert json.loads(json.dumps(chart, allow_nan=False)) == chart


def traces(chart):
    """The traces of a chart by name, without the counts behind the names."""
    return {trace["name"].split(" (")[0]: trace for trace in chart["data"]}


def test_the_best_so_far_is_drawn_to_the_end_of_the_search():
    """The line changes at the ends of the better trials and goes on to the last trial; hours are hours or minutes."""
    outcomes = [outcome(1, value=0.6), outcome(2, value=0.5), outcome(3, value=0.8), outcome(5, "pruned", 0.7)]
    line = traces(charts.progress(outcomes, "ended", "since the start"))["best so far"]
    assert (line["x"], line["y"]) == ([1, 3, 5], [0.6, 0.8, 0.8])
    short = charts.progress([outcome(1)], "ended", "since the start")
    assert short["layout"]["xaxis"]["title"]["text"] == "minutes since the start"
    assert traces(short)["complete"]["x"] == [60]


def test_a_bad_trial_stands_at_the_edge_with_its_own_score():
    """What is below the range of the chart, or has no score, is a point at its edge that tells its score."""
    outcomes = [outcome(number, value=0.9) for number in range(10)]
    outcomes += [outcome(10, value=0.1), outcome(11, "failed", None)]
    chart = charts.progress(outcomes, "ended", "since the start")
    low = chart["layout"]["yaxis"]["range"][0]
    assert low > 0.5
    assert traces(chart)["complete"]["y"][-1] == pytest.approx(low, abs=1e-5)
    assert traces(chart)["complete"]["customdata"][-1] == [10, "0.1000"]
    assert traces(chart)["failed"]["customdata"] == [[11, "no score"]]


def test_without_a_score_there_is_no_chart():
    """A search in which no trial has reported yet has neither progress nor curves."""
    assert charts.progress([outcome(0, "failed", None)], "ended", "since the start") == {}
    assert charts.curves([outcome(0, "failed", None)], None) == {}


def test_each_curve_is_drawn_apart_and_ends_where_it_was_pruned():
    """Two curves in one trace have a gap between them; a diamond is at the last epoch of a pruned trial."""
    outcomes = [outcome(0, value=0.8), outcome(1, value=0.4, epochs=2), outcome(2, "pruned", 0.6, epochs=3)]
    of = traces(charts.curves(outcomes, 0))
    assert of["complete"]["x"] == [1, 2, None]
    assert of["complete"]["y"] == pytest.approx([0.2, 0.4, None])
    assert of["trial 0, the best"]["y"] == pytest.approx([0.2, 0.4, 0.6, 0.8, None])
    assert (of["pruned here"]["x"], of["pruned here"]["y"], of["pruned here"]["customdata"]) == ([3], [0.6], [2])
    assert charts.cut_short_after(outcomes) == 3
    assert charts.cut_short_after(outcomes[:2]) is None


def test_a_box_has_the_quartiles_of_the_complete_trials():
    """The best value is the top row, pruned trials are points and in no box."""
    trials = [outcome(number, value=value) for number, value in enumerate((0.6, 0.7, 0.8))]
    chart = charts.field({"focal": [*trials, outcome(3, "pruned", 0.1)], "bce": [outcome(4, "pruned", 0.2)]}, [0, 1])
    box = chart["data"][0]
    assert {key: box[key] for key in ("y", "lowerfence", "q1", "median", "q3", "upperfence")} == {
        "y": [1],
        "lowerfence": [0.6],
        "q1": [0.65],
        "median": [0.7],
        "q3": [0.75],
        "upperfence": [0.8],
    }
    texts = chart["layout"]["yaxis"]["ticktext"]
    assert [text.split("<")[0] for text in texts] == ["bce", "focal"]
    assert "4, 25% pruned" in texts[1]


def test_ten_thousand_trials_make_charts_that_a_browser_draws_at_once():
    """A chart holds a few thousand points or curves, however many trials there are."""
    drawn = all_charts(search(10_000))
    points = {
        name: sum(len(trace["x"]) for trace in drawn[name]["data"] if trace.get("mode") == "markers")
        for name in ("progress", "field")
    }
    assert points["progress"] <= 3 * charts.MOST_POINTS
    assert points["field"] <= 2 * charts.MOST_OF_FIELD
    curves = sum(trace["x"].count(None) for trace in drawn["curves"]["data"])
    assert 0.9 * charts.MOST_CURVES <= curves <= charts.MOST_CURVES + 1
    assert all(len(json.dumps(chart)) < 1_000_000 for chart in drawn.values())


def test_names_are_shown_as_they_are():
    """Tags in a name are text, numbers are no positions, and a long name is cut."""
    assert charts.label("<a href='javascript:x'>&") == "&lt;a href='javascript:x'&gt;&amp;"
    assert (charts.label(True), charts.label(0.1), charts.label("1")) == ("true", "0.1", "1")
    assert charts.label("x" * 100) == "x" * (charts.LONGEST - 1) + "…"
    bars = charts.classes({"10": 0.2, "2": 0.1})
    assert (bars["data"][0]["y"], bars["layout"]["yaxis"]["ticktext"]) == ([0, 1], ["10", "2"])
    twins = charts.classes({"x" * 50 + "1": 0.2, "x" * 50 + "2": 0.1})
    assert len(twins["data"][0]["x"]) == 2


def test_an_axis_places_values_from_foot_to_head():
    """Lists by position, ranges by value or its logarithm; what a recipe does not use meets below all values."""
    number = Axis("dropout", {}, 0.0, 0.5)
    assert [number.place(value) for value in (0.0, 0.25, 0.5)] == [0, 0.5, 1]
    rate = Axis("learning_rate", {}, -4.0, -2.0, log=True)
    assert [rate.place(value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    listed = Axis("loss", {}, 0.0, 2.0, listed=("a", "b", "c"))
    assert [listed.place(value) for value in "abc"] == [0, 0.5, 1]
    assert abs(listed.place("b", 0.5) - 0.5) < 0.25 / 2
    some = Axis("focal_gamma", {None: "not used"}, 0.5, 5.0)
    assert some.place(None, 0.5) < some.place(0.5) < some.place(5.0) == 1


def test_the_best_lines_are_drawn_over_the_others():
    """The last trace is the best tenth; all lines end at their macro-F1."""
    chart = parallel(search(100), ["backbone", "focal_gamma"], SPACE)
    complete = [each for each in search(100) if each.state == "complete"]
    assert chart["data"][-1]["name"] == f"best tenth ({-(-len(complete) // 10)})"
    assert chart["data"][-1]["customdata"][2] == [max(each.number for each in complete), "macro-F1", "0.888"]
    assert "not used" in [note["text"] for note in chart["layout"]["annotations"]]
    assert sum(trace["x"].count(None) for trace in chart["data"]) == len(complete)


def test_charts_of_a_loss_show_its_values():
    """By log-loss a chart shows losses and not scores, with what is too high at its upper edge."""
    loss = metric_of("log_loss")
    outcomes = [outcome(number, value=value) for number, value in enumerate([-0.5, -0.2, -0.3, -0.25, -9.0])]
    chart = charts.progress(outcomes, "ended", "since the start", loss)
    low, high = chart["layout"]["yaxis"]["range"]
    assert low < 0.2 < high < 9
    points, best = chart["data"]
    assert points["y"] == [0.5, 0.2, 0.3, 0.25, pytest.approx(high, abs=1e-4)]
    assert points["customdata"][4] == [4, "9.0000"]
    assert best["y"] == [0.5, 0.2, 0.2]
    box = charts.field({"a": outcomes}, focus([each.value for each in outcomes], loss), loss)["data"][0]
    assert box["lowerfence"] <= box["q1"] <= box["median"] == [0.3]
    ends = charts.curves(outcomes, 1, loss)["data"][-1]["y"]
    assert ends == [0.05, 0.1, 0.15, 0.2, None]
    axis = parallel(outcomes, ["backbone"], SPACE, loss)
    assert {"0.200", "≥"} <= {word for note in axis["layout"]["annotations"] for word in note["text"].split()}
