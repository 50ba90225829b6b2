"""What `hpo search` shows while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.worker.stopwatch import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.console import Console, RenderableType

    from hpo.study.status import Snapshot


class Progress:
    """Shows one snapshot after another; `with` brackets the time in which it owns the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told: set[int] | None = None  # places whose end has been told, as plain lines

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """In a terminal, show how many of how many are done, for as long as the block lasts; nothing before the first.

        Yields a function that takes both numbers.
        """
        status = self._console.status(what)

        def count(done: int, of: int) -> None:
            if self._live:  # only there for a terminal
                status.update(f"{what}: {done:,} of {of:,}")
                status.start()

        try:
            yield count
        finally:
            status.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show how things stand."""
        if self._live:
            self._live.update(render(snapshot), refresh=True)
        else:
            self._tell_ends(snapshot)

    def _tell_ends(self, snapshot: Snapshot) -> None:
        ended = {place.number: place for place in snapshot.places if place.state in ("complete", "pruned", "failed")}
        if self._told is None:
            self._told = set(ended)  # of earlier searches
        for number in sorted(ended.keys() - self._told):
            place = ended[number]
            score = "" if place.best is None else f", macro-F1 {place.best:.4f}"
            best = f"; best {snapshot.best.macro_f1:.4f} (trial {snapshot.best.number})" if snapshot.best else ""
            why = f": {place.reason}" if place.reason else ""
            self.say(f"trial {place.trial} {place.state}{score}, {duration(place.seconds)}{best}{why}")
        self._told |= set(ended)


def render(snapshot: Snapshot) -> RenderableType:
    """A row for each worker that is there, and how much of the budget is used."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("worker", "device", "trial", "epoch", "macro-F1", "best", "time"):
        table.add_column(heading, justify="left" if heading in ("worker", "device") else "right")
    for worker in snapshot.present:
        place = snapshot.place_of(worker)
        cells = ["-"] * 5
        if place:
            cells = [
                "-" if place.trial is None else str(place.trial),
                f"{place.epoch}/{place.epochs}" if place.epochs else "-",
                "-" if place.macro_f1 is None else f"{place.macro_f1:.4f}",
                "-" if place.best is None else f"{place.best:.4f}",
                duration(place.seconds),
            ]
        late = f" (no beat for {duration(worker.beat_seconds_ago)})" if worker.beat_seconds_ago > 30 else ""
        table.add_row(f"{worker.host}:{worker.pid}{late}", worker.device, *cells)
    for worker in snapshot.dead:
        since = f"died, last beat {duration(worker.beat_seconds_ago)} ago"
        table.add_row(f"{worker.host}:{worker.pid}", worker.device, *["-"] * 4, since)
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count)
    best = (
        f"best macro-F1 {snapshot.best.macro_f1:.4f} (trial {snapshot.best.number})"
        if snapshot.best
        else "no trial is complete yet"
    )
    halts = {"pause": "paused; `hpo resume` lets it go on", "stop": "stopped; `hpo resume` lets workers begin again"}
    halted = [Text(halts[snapshot.halt])] if snapshot.halt else []
    outside = ", ".join(map(str, snapshot.strangers[:5])) + (", …" if len(snapshot.strangers) > 5 else "")
    strangers = [Text(f"told or added from outside, and without a part in this: trial {outside}")] if outside else []
    return Group(table, _budget(snapshot), Text(f"{counts or 'no trials yet'}; {best}"), *strangers, *halted)


def _budget(snapshot: Snapshot) -> Table:
    """A bar for each limit of the budget."""
    table = Table.grid(padding=(0, 2, 0, 0))
    limits, used = snapshot.limits, snapshot.used
    for name, limit, spent in (
        ("trials", limits.trials, used.trials),
        ("hours", limits.hours, used.hours),
        ("GPU hours", limits.gpu_hours, used.gpu_hours),
    ):
        if limit is not None:
            amount = f"{spent} of {limit}" if name == "trials" else f"{spent:.2f} of {limit:g}"
            table.add_row(name, ProgressBar(total=limit, completed=min(spent, limit), width=40), amount)
    return table


def show_bytes(count: float) -> str:
    """A number of bytes for people, in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 100 * size else f"{count / size:,.0f} {unit}"
    return f"{count:.0f} bytes"
