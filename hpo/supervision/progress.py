"""What `hpo search` shows while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from rich.live import Live

from hpo.study.status_table import render
from hpo.units import duration
from storage.keys import END_STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from rich.console import Console

    from hpo.study.status import Snapshot


class Progress:
    """Shows one snapshot after another; `with` brackets the time in which it owns the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._told: set[tuple[int, int | None]] | None = None  # places whose end or pause was told, as plain lines

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
        metric = snapshot.metric
        # A place is told again when its trial, having gone on, is paused at a later epoch or ends.
        ended = {
            (place.number, place.paused_after): place
            for place in snapshot.places
            if place.state in END_STATES or place.state == "paused"
        }
        if self._told is None:
            self._told = set(ended)  # of earlier searches
        for key in sorted(ended.keys() - self._told, key=lambda key: key[0]):
            place = ended[key]
            how = place.state if place.paused_after is None else f"paused after epoch {place.paused_after}"
            score = "" if place.best is None else f", {metric.title} {metric.text(place.best)}"
            best = f"; best {snapshot.best.text} (trial {snapshot.best.number})" if snapshot.best else ""
            why = f": {place.reason}" if place.reason else ""
            self.say(f"trial {place.trial} {how}{score}, {duration(place.seconds)}{best}{why}")
        self._told |= set(ended)
