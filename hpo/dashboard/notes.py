"""The notes of a study and of its trials, in Markdown: made when they are shown, and never stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import tomli_w
from optuna.trial import FixedTrial

from hpo.study.confirmed_table import HEADINGS, confirmed_rows, verdict
from hpo.study.interruptions import beginning_of
from hpo.units import duration
from storage.keys import DEVICE_KEY, HOST_KEY, METRICS_KEY, QUEUED_KEY, WAY_KEY
from trainer.errors import TrainerError
from trainer.objective_metric import MACRO_F1
from trainer.recipe import used_fields
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna.trial import FrozenTrial

    from hpo.study.confirmed import Confirmed
    from hpo.study.interruptions import FailedTrial
    from hpo.study.status import Snapshot
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe
    from trainer.space import Space

MARK = "*Write above this line: what is below it hpo makes anew each time.*"
LONGEST_REASON = 500  # characters
WEAKEST_CLASSES = 20  # that are listed
HALTS = {"pause": "Paused", "stop": "Stopped"}


def with_ours(theirs: str, ours: str) -> str:
    """The note that is shown: first what somebody has written, then what hpo writes."""
    return "\n\n".join(part for part in (theirs, MARK, ours) if part)


def without_ours(shown: str) -> str:
    """The part of a note that somebody has written, which is stored; `shown` is all of it, as somebody has saved it."""
    return shown.partition(MARK)[0].rstrip()


def trial_note(
    trial: FrozenTrial,
    space: Space,
    failed: FailedTrial | None = None,
    paused: str | None = None,
    metric: Metric = MACRO_F1,
) -> str:
    """Where a trial ran and how it ended, its recipe, and F1 by class with the weakest first.

    Args:
        trial: in any state.
        space: what its study searches.
        failed: how it ended, where it has failed for Optuna.
        paused: what has become of it, where it is or was paused.
        metric: by which its study compares trials.
    """
    attributes = trial.user_attrs
    lines = []
    if host := attributes.get(HOST_KEY):
        lines.append(f"Ran on {_code(host)}, {_code(attributes.get(DEVICE_KEY, '?'))}.")
    if queued_by := attributes.get(QUEUED_KEY):
        lines.append(f"Its recipe was queued by {_code(queued_by)}.")
    if way := attributes.get(WAY_KEY):
        lines.append(f"Its recipe was drawn {_code(way)}.")
    if began := beginning_of(trial):
        lines.append(f"{began.capitalize()}.")
    if paused:
        lines.append(f"{paused.capitalize()}.")
    if failed:
        how, then = ("Interrupted", f"; {failed.continuation}") if failed.interrupted else ("Failed", "")
        lines.append(f"{how}: {_code(failed.reason[:LONGEST_REASON])}{then}")
    if values := trial.intermediate_values:
        first = min(values)
        since = "" if first == 1 else f", from epoch {first}"
        shown = ", ".join(metric.text(values[epoch]) for epoch in sorted(values))
        lines.append(f"{_named(metric, metric.heading)} by epoch{since}: {shown}")
    parts = ["\n".join(f"- {line}" for line in lines)]
    try:
        parts += ["#### Recipe", _toml(suggest(FixedTrial(trial.params), space))]
    except (ValueError, TrainerError):
        # The trial was added from outside, ended before it had all fields, or has not got them yet.
        is_over = trial.state.is_finished()
        parts.append("Its parameters are no recipe of this study." if is_over else "Its recipe is not chosen yet.")
    metrics = attributes.get(METRICS_KEY)
    if isinstance(metrics, dict) and metrics.get("per_class"):
        try:
            parts += ["#### F1 by class, the weakest first", _by_class(metrics["per_class"])]
        except (AttributeError, KeyError, TypeError, ValueError):
            parts.append("Its metrics are none of hpo's.")
    return "\n\n".join(part for part in parts if part)


def study_note(snapshot: Snapshot, study_id: int, confirmed: Confirmed | None = None) -> str:
    """How far a search has come, which workers are at work on it, what is confirmed, and the best recipe so far."""
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count)
    lines = [f"Trials: {counts or 'none yet'}"]
    lines += [f"Budget: {spent} {spent.name}" for spent in snapshot.spent]
    if snapshot.reason_to_end:
        lines.append(f"**No further trial begins**: {snapshot.reason_to_end}")
    lines += [_code(line) for line in snapshot.earlier]
    if snapshot.halt:
        lines.append(f"**{HALTS[snapshot.halt]}**: `hpo resume` lets it go on")
    lines += [f"**Paused**: {_code(host)}; `hpo resume --host` lets it go on" for host in snapshot.paused_hosts]
    if interrupted := sum(each.interrupted for each in snapshot.failed.values()):
        lines.append(f"Interrupted: {interrupted}; shown as Fail, but no failures: each is continued as another trial")
    if snapshot.from_outside:
        numbers = ", ".join(_link(study_id, number) for number in snapshot.from_outside[:5])
        more = ", …" if len(snapshot.from_outside) > 5 else ""
        lines.append(f"Told or added from outside, and without a part in this: {numbers}{more}")
    parts = ["\n".join(f"- {line}" for line in lines), "#### Workers", _workers(snapshot, study_id)]
    if confirmed:
        rows = [list(row) for row in confirmed_rows(confirmed)]
        parts += ["#### Confirmed on fresh folds", verdict(confirmed), _table([*HEADINGS[:-1], "remark"], rows)]
    if best := snapshot.best:
        title = (
            f"#### Best so far: {_named(best.metric, best.metric.title)} {best.text}, {_link(study_id, best.number)}"
        )
        parts += [title, _toml(best.recipe)]
    return "\n\n".join(parts)


def _workers(snapshot: Snapshot, study_id: int) -> str:
    rows = []
    for worker in snapshot.present:
        place = snapshot.place_of(worker)
        cells = ["", "", "", ""]
        if place:
            cells = [
                "" if place.trial is None else _link(study_id, place.trial),
                f"{place.epoch} of {place.epochs}" if place.epochs else "",
                "" if place.best is None else snapshot.metric.text(place.best),
                duration(place.seconds),
            ]
        rows.append([_code(f"{worker.host}:{worker.pid}"), _code(worker.device), *cells, _ago(worker.beat_seconds_ago)])
    for worker in snapshot.dead:
        gone = f"died, {_ago(worker.beat_seconds_ago)}"
        rows.append([_code(f"{worker.host}:{worker.pid}"), _code(worker.device), *[""] * 4, gone])
    if not rows:
        return "None is at work."
    return _table(["worker", "device", "trial", "epoch", "best", "time", "last beat"], rows)


def _ago(seconds: float) -> str:
    return f"{duration(max(0.0, seconds))} ago"


def _link(study_id: int, number: int) -> str:
    return f"[trial {number}](/dashboard/studies/{study_id}/trials?numbers={number})"


def _by_class(per_class: Mapping[str, Mapping[str, Any]]) -> str:
    weakest = sorted(per_class.items(), key=lambda item: item[1]["f1"])[:WEAKEST_CLASSES]
    rows = [
        [_code(name), *(f"{metrics[key]:.4f}" for key in ("f1", "precision", "recall")), f"{metrics['images']:d}"]
        for name, metrics in weakest
    ]
    more = f"\n\n… and {len(per_class) - len(rows)} more" if len(rows) < len(per_class) else ""
    return _table(["class", "F1", "precision", "recall", "images"], rows) + more


def _table(heading: list[str], rows: list[list[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _toml(recipe: Recipe) -> str:
    """A recipe as a study file has it."""
    toml = tomli_w.dumps({"recipe": used_fields(recipe)}).strip()
    fence = _backticks(toml, 3)
    return f"{fence}toml\n{toml}\n{fence}"


def _code(value: object) -> str:
    """A text that somebody else has chosen, shown as it is: as code, not as Markdown or a link."""
    plain = " ".join(str(value).split()) or "(empty)"
    fence = _backticks(plain, 1)
    return f"{fence} {plain} {fence}"


def _named(metric: Metric, title: str) -> str:
    """The title of a metric; with the name of a class in it as it is."""
    return title if metric.of_class is None else _code(title)


def _backticks(text: str, least: int) -> str:
    """A run of backticks that is longer than any in the text."""
    return "`" * max(least, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
