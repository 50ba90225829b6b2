"""`hpo report`: one page that tells what a search has found and how sure that is, complete in itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from optuna.trial import FixedTrial
from plotly.offline import get_plotlyjs

from hpo.errors import HpoError
from hpo.report import charts
from hpo.report.comparisons import FEWEST_TRIALS, by_value, importances, searched_choices
from hpo.report.costs import SECONDS_AN_HOUR, backbone_times, hours_by_state, saved_hours
from hpo.report.labels import read_doubts
from hpo.report.outcomes import complete_values, failures
from hpo.report.parallel_coordinates import MOST_LINES, RANKS, parallel
from hpo.report.results import read_results
from hpo.report.score_axis import focus
from hpo.report.speed import speed_chart
from hpo.study.confirmed_table import HEADINGS, confirmed_rows, verdict
from hpo.study.status import TIME_HEADINGS
from hpo.units import duration
from hpo.whole_file import whole_file
from storage.artifacts.artifacts import fetch_file
from storage.errors import FileGoneError, StorageError
from storage.keys import CONFUSION_MATRIX, LEARNING_CURVES, METRICS_KEY, MOST_WRONG
from trainer.objective_metric import MACRO_F1
from trainer.quality.checks import TOO_FEW
from trainer.recipe import used_fields
from trainer.space import suggest
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from hpo.report.charts import Chart
    from hpo.report.results import Results
    from hpo.study.open_study import OpenStudy

TITLES = {
    LEARNING_CURVES: "Learning curves",
    CONFUSION_MATRIX: "Confusion matrix",
    MOST_WRONG: "Most wrong images",
}
MAIN_FIELDS = ("backbone", "loss", "schedule", "augment")  # shown at once; the other searched lists fold away
MOST_AXES = 7  # of the parallel coordinates
SURE_TRIALS = 50  # complete ones, from which on a tenth of them is as many as an importance needs
FEW_IMAGES = 10  # to validate a class by
SHOWN_TRIALS = 10  # numbers beside a reason for failing
SCRIPT = """\
"use strict";
const options = {responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]]};
async function draw(inside) {
  for (const place of inside.querySelectorAll(".chart:empty")) {
    if (place.closest("details:not([open])")) continue;  // drawn when it is opened
    const chart = JSON.parse(document.getElementById(place.id + "-data").textContent);
    await Plotly.newPlot(place, chart.data, chart.layout, options);
    await new Promise(resolve => setTimeout(resolve));  // the page can be read and scrolled meanwhile
  }
}
for (const fold of document.querySelectorAll("details")) fold.addEventListener("toggle", () => draw(fold));
for (const button of document.querySelectorAll("button[data-copies]")) {
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copies));
    button.textContent = document.execCommand("copy") ? "copied" : "press Ctrl-C";
  });
}
draw(document);
"""


@dataclass(frozen=True)
class Report:
    """A page, and what it says in a line or two."""

    html: str
    headline: Sequence[str]


def make_report(opened: OpenStudy, now: datetime, gpu_hour_price: float | None = None) -> Report:
    """Tell what a study has found, from its storage alone: the images need not be here.

    The same study at the same moment gives the same page.

    Args:
        opened: the study.
        now: the time of making, with a zone.
        gpu_hour_price: what an hour of a GPU costs, in any currency; None leaves costs out.

    Raises:
        HpoError: the study was deleted.
        RecipeError: it names functions of one's own that are not here.
    """
    results = read_results(opened, now)
    drawn = draw_charts(results, opened)
    script, plotly = Markup(SCRIPT), Markup(get_plotlyjs())  # noqa: S704 - ours, and plotly's
    html = _template().render(
        made=f"{now:%Y-%m-%d %H:%M %Z}",
        results=results,
        verdict=verdict(results.confirmed) if results.confirmed else None,
        confirmed=confirmed_rows(results.confirmed) if results.confirmed else [],
        confirmed_headings=HEADINGS,
        snapshot=results.snapshot,
        metric=results.snapshot.metric,
        charts=drawn,
        choices=[name for name in searched_choices(results.space) if f"field-{name}" in drawn],
        main_fields=MAIN_FIELDS,
        sure=_sure(results),
        recipe=_recipe(results),
        pictures=_pictures(results, opened),
        spent=_spent(results, gpu_hour_price),
        data=_data(results),
        doubts=read_doubts(opened),
        failures=failures(results.outcomes),
        shown_trials=SHOWN_TRIALS,
        fewest_trials=FEWEST_TRIALS,
        sure_trials=SURE_TRIALS,
        cut_short_after=charts.cut_short_after(results.outcomes),
        most_curves=charts.MOST_CURVES,
        most_lines=MOST_LINES * len(RANKS),
        study_file=opened.file.path.name,
        too_few=_code(f"{TOO_FEW[0].upper()}{TOO_FEW[1:]}.".replace("STUDY", opened.file.path.name)),
        script=script,
        plotly=plotly,
        hashes=[_hash(script), _hash(plotly)],
    )
    return Report(html, _headline(results))


def write_report(report: Report, path: Path) -> None:
    """Write a page, whole or not at all; one that is there is written over.

    Raises:
        HpoError: it cannot be written.
    """
    whole = path.resolve()  # a link stays one
    try:
        with whole_file(whole) as half:
            half.write(report.html.encode(errors="backslashreplace"))  # a folder's name may be of any bytes
    except OSError as error:
        raise HpoError(f"report: {path} cannot be written: {error.strerror}") from None


def _code(text: str) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("hpo.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = lambda hours: duration(hours * SECONDS_AN_HOUR)
    environment.filters["embedded"] = embedded
    return environment.get_template("page.html")


def embedded(chart: Chart) -> Markup:
    """A chart as JSON within a script element, which no text in it can end."""
    text = json.dumps(chart, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - escaped here


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _headline(results: Results) -> list[str]:
    snapshot = results.snapshot
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count) or "none has begun"
    lines = [f"{counted(snapshot.used.trials, 'trial')}: {counts}"]
    if snapshot.best:
        line = f"best validation {snapshot.metric.title} {snapshot.best.text} (trial {snapshot.best.number})"
        if results.default and results.default.number != snapshot.best.number:
            line += f"; the default recipe reached {snapshot.metric.text(results.default.value or 0.0)}"
        lines.append(line)
    return lines


def draw_charts(results: Results, opened: OpenStudy) -> dict[str, Chart]:
    """All charts by name; those for which there is nothing to show are left out."""
    metric, outcomes, best = results.snapshot.metric, results.outcomes, results.snapshot.best
    shares = importances(outcomes, opened.study.get_trials(deepcopy=False))
    drawn = {
        "over-time": charts.progress(outcomes, "ended", "since the first trial began", metric),
        "over-gpu-hours": charts.progress(outcomes, "gpu_hours", "of all trials together", metric),
        "curves": charts.curves(outcomes, best.number if best else None, metric),
    }
    scores = complete_values(outcomes)
    if shares:
        drawn["importance"] = charts.importance(shares)
    if names := (list(shares) or _varied(results))[:MOST_AXES]:
        drawn["parallel"] = parallel(outcomes, names, results.space, metric)
    if scores:
        axis = focus(scores, metric)
        for name in searched_choices(results.space):
            values = by_value(outcomes, name)
            if len(values) > 1:
                drawn[f"field-{name}"] = charts.field(values, axis, metric)
    if speeds := results.snapshot.speeds:
        drawn["speed"] = speed_chart(outcomes, speeds, results.snapshot.front, metric)
    hours = hours_by_state(results.snapshot.places)
    if any(hours.values()):
        drawn["hours-by-state"] = charts.hours(hours)
        by_backbone = backbone_times(outcomes)
        notes = {name: f"{times.epoch_seconds:.3g} s an epoch" for name, times in by_backbone.items() if times.epochs}
        backbone_hours = {name: times.hours for name, times in by_backbone.items()}
        drawn["hours-by-backbone"] = charts.hours(backbone_hours, notes)
    worker_hours = {
        text: sum(worker.seconds.get(heading, 0.0) for worker in results.snapshot.workers) / SECONDS_AN_HOUR
        for heading, text in TIME_HEADINGS.items()
    }
    if any(worker_hours.values()):
        drawn["workers"] = charts.hours(worker_hours)
    if per_class := _metrics_by_class(results):
        drawn["classes"] = charts.classes({name: metrics["f1"] for name, metrics in per_class.items()})
    return {name: chart for name, chart in drawn.items() if chart}


def _varied(results: Results) -> list[str]:
    """The fields in which complete trials differ, in the order of a recipe."""
    used = [outcome.fields for outcome in results.complete]
    return [name for name in results.space.fields if len({fields.get(name) for fields in used}) > 1]


def _metrics_by_class(results: Results) -> Mapping[str, Mapping[str, Any]]:
    """The winner's metrics by class; empty where there is no winner."""
    metrics = results.winner.user_attrs.get(METRICS_KEY, {}) if results.winner else {}
    found: Mapping[str, Mapping[str, Any]] = metrics.get("per_class", {})
    return found


def _sure(results: Results) -> dict[str, Any] | None:
    """How sure the winner is: the standard error of its score, and how many others are within one of it."""
    per_class, best = _metrics_by_class(results), results.snapshot.best
    if not per_class or best is None:
        return None
    error = best.metric.standard_error(best.metrics)
    if error is None:
        return {"error": None, "within": 0, "images": sum(metrics["images"] for metrics in per_class.values())}
    within = sum(value >= best.score - error for value in complete_values(results.outcomes)) - 1
    images = sum(metrics["images"] for metrics in per_class.values())
    return {"error": error, "within": within, "images": images}


def _recipe(results: Results) -> str | None:
    """The winner's recipe for a study file: fields that it does not use are left out."""
    winner, metric = results.winner, results.snapshot.metric
    if winner is None:
        return None
    score = "" if winner.value is None else f", validation {' '.join(metric.title.split())} {metric.text(winner.value)}"
    recipe = suggest(FixedTrial(winner.params), results.space)
    return f"[recipe]    # trial {winner.number}{score}\n{tomli_w.dumps(used_fields(recipe))}"


def _pictures(results: Results, opened: OpenStudy) -> list[tuple[str, str]]:
    """The pictures of the winner that this computer can reach: title and `data:` URL of each."""
    found = list[tuple[str, str]]()
    if results.winner is None:
        return found
    # A store that does not answer is asked once, which may take a minute.
    with TemporaryDirectory(prefix="hpo-") as folder, suppress(StorageError):
        for name, title in TITLES.items():
            picture = Path(folder) / name
            with suppress(FileGoneError):
                fetch_file(opened.artifacts, opened.storage, results.winner, name, picture)
                encoded = base64.b64encode(picture.read_bytes()).decode()
                found.append((title, f"data:image/png;base64,{encoded}"))
    return found


def _spent(results: Results, gpu_hour_price: float | None) -> dict[str, Any]:
    """Hours and their cost."""
    used = results.snapshot.used
    return {
        "hours": used.hours,
        "gpu_hours": used.gpu_hours,
        "saved": sum(saved_hours(outcome) for outcome in results.outcomes),
        "price": gpu_hour_price,
        "cost": None if gpu_hour_price is None else gpu_hour_price * used.gpu_hours,
    }


def _data(results: Results) -> dict[str, Any]:
    """What the study knows of its images, and what of that can mislead."""
    per_class, kept = _metrics_by_class(results), results.settings
    rows = sorted(per_class.items(), key=lambda item: (item[1]["f1"], item[0]))
    images = [metrics["images"] for metrics in per_class.values()]
    few = [name for name, metrics in rows if metrics["images"] < FEW_IMAGES]
    notes = []
    by_macro_f1 = results.snapshot.metric == MACRO_F1
    weight = " Macro-F1 gives each class the same weight, so that the small ones decide." if by_macro_f1 else ""
    if images and max(images) >= 2 * max(1, min(images)):
        notes.append(
            f"The classes are imbalanced: the largest has {counted(max(images), 'image')} to validate, the smallest"
            f" {min(images):,}.{weight}"
        )
    if few:
        listed = ", ".join(few[:SHOWN_TRIALS]) + (", …" if len(few) > SHOWN_TRIALS else "")
        notes.append(
            f"Classes with fewer than {FEW_IMAGES} images to validate: {len(few)} ({listed}). One image more or less"
            " that is recognised moves their F1 by several hundredths."
        )
    if never := [name for name, metrics in rows if metrics["images"] and not metrics["recall"]]:
        listed = ", ".join(never[:SHOWN_TRIALS]) + (", …" if len(never) > SHOWN_TRIALS else "")
        notes.append(f"Classes of which the winner recognises no image: {len(never)} ({listed}).")
    return {
        "images": kept["images"]["count"],
        "division": division(kept),
        "split": kept["data"],
        "rows": rows,
        "notes": notes,
    }


def division(kept: Mapping[str, Any]) -> str:
    """How the images of a study with these settings are divided, in words."""
    given, shares = kept["images"].get("given_sides"), kept["data"]
    valid, test = (f"{100 * shares[side]:g} %" for side in ("valid", "test"))
    if fold := shares.get("test_fold"):
        return f"fold {fold[0]} of {fold[1]} held out, {valid} of the rest to validate; split by seed {shares['seed']}"
    if not given:
        return f"{valid} to validate, {test} held out, the rest to train; split by seed {shares['seed']}"
    words = [f"the sides {', '.join(given)} as the data give them"]
    words += [f"{valid} of train to validate"] if "valid" not in given else []
    words += [f"{test} of train held out"] if "test" not in given else []
    return ", ".join(words)
