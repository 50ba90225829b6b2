"""How a study stands, as a table for a terminal: its workers, its budget, the best trial so far."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.units import duration, show_bytes
from trainer.wording import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hpo.study.status import Snapshot
    from trainer.objective_metric import Metric


def render(snapshot: Snapshot) -> RenderableType:
    """A row for each worker that is there, and how much of the budget is used."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    metric = snapshot.metric
    for heading in ("worker", "device", "trial", "epoch", metric.title, "best", "time"):
        table.add_column(Text(heading), justify="left" if heading in ("worker", "device") else "right")
    for worker in snapshot.present:
        place = snapshot.place_of(worker)
        cells = ["-"] * 5
        if place:
            cells = [
                "-" if place.trial is None else str(place.trial),
                f"{place.epoch}/{place.epochs}" if place.epochs else "-",
                "-" if place.score is None else metric.text(place.score),
                "-" if place.best is None else metric.text(place.best),
                duration(place.seconds),
            ]
        late = f" (no beat for {duration(worker.beat_seconds_ago)})" if worker.beat_seconds_ago > 30 else ""
        table.add_row(f"{worker.host}:{worker.pid}{late}", worker.device, *cells)
    for worker in snapshot.dead:
        since = f"died, last beat {duration(worker.beat_seconds_ago)} ago"
        table.add_row(f"{worker.host}:{worker.pid}", worker.device, *["-"] * 4, since)
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count)
    best = (
        f"best {metric.title} {snapshot.best.text} (trial {snapshot.best.number})"
        if snapshot.best
        else "no trial is complete yet"
    )
    halts = {"pause": "paused; `hpo resume` lets it go on", "stop": "stopped; `hpo resume` lets workers begin again"}
    halted = [Text(halts[snapshot.halt])] if snapshot.halt else []
    halted += [
        Text(f"{host} is paused; `hpo resume --host {shlex.quote(host)}` lets it go on")
        for host in snapshot.paused_hosts
    ]
    outside = ", ".join(map(str, snapshot.from_outside[:5])) + (", …" if len(snapshot.from_outside) > 5 else "")
    paused = (
        [Text(f"paused trials go on if they come among the best half: {_rungs(snapshot)}")] if snapshot.rungs else []
    )
    told = [Text(f"told or added from outside, and without a part in this: trial {outside}")] if outside else []
    how_far = f"{counts or 'no trials yet'}; {best}" if counts or snapshot.best else "no trials yet"
    expected = [Text(snapshot.expected.line())] if snapshot.expected else []
    warning = snapshot.early.warning() if snapshot.early else None
    expected += [Text(f"warning: {warning}")] if warning else []
    used_up = [Text(f"the search space is used up: {left}")] if (left := snapshot.recipes_used_up) else []
    ends = [Text(f"no further trial begins: {snapshot.reason_to_end}")] if snapshot.reason_to_end else []
    earlier = [Text(line) for line in snapshot.earlier]
    more = (*paused, *expected, *told, *earlier, *used_up, *ends, *halted)
    return Group(table, _budget(snapshot), Text(how_far), *more)


def _rungs(snapshot: Snapshot) -> str:
    """How many trials have come to each rung, how many are paused there, and how much their checkpoints take."""
    rungs = ", ".join(f"{rung.paused} of {rung.reached} after epoch {rung.epoch}" for rung in snapshot.rungs)
    if not (sizes := snapshot.paused_checkpoints):
        return rungs
    most = "" if snapshot.checkpoints_gb is None else f" of at most {snapshot.checkpoints_gb:g} GB"
    return f"{rungs}; {counted(len(sizes), 'checkpoint is', 'checkpoints are')} kept, {show_bytes(sum(sizes))}{most}"


def _budget(snapshot: Snapshot) -> Table:
    """A bar for each limit of the budget."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for spent in snapshot.spent:
        bar = ProgressBar(total=spent.limit, completed=min(spent.amount, spent.limit), width=40)
        table.add_row(spent.name, bar, str(spent))
    if (target := snapshot.stop_rules.target) is not None:
        metric, best = snapshot.metric, snapshot.best
        value = metric.value(best.score) if best else None
        bar = ProgressBar(total=1.0, completed=_share_of_target(metric, value, target), width=40)
        shown = f"{value or 0.0:.4f}" if best or metric.maximised else "none yet"
        table.add_row(Text(metric.title), bar, f"{shown}, the target is {target:g}")
    return table


def _share_of_target(metric: Metric, value: float | None, target: float) -> float:
    """How near a value is to a target, 1 where it has reached it."""
    if value is None or value <= 0:
        return 0.0 if value is None or metric.maximised else 1.0
    return min(1.0, value / target if metric.maximised else target / value)
