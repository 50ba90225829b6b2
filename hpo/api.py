"""What a notebook or a script calls: `search`, and `open_study` for what a study has found."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hpo.cli import given_storage, parse
from hpo.errors import HpoError
from hpo.study.from_options import open_study_from

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    import optuna
    from pandas import DataFrame
    from plotly.graph_objects import Figure

    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot
    from trainer.recipe import Recipe

COLUMNS = ("number", "value", "state", "datetime_start", "datetime_complete", "duration", "params")


@dataclass(frozen=True)
class Study:
    """A study whose storage is open: how it stands, and what it has found so far."""

    _opened: OpenStudy

    @property
    def optuna(self) -> optuna.Study:
        """Optuna's study, with all that Optuna can do: `optuna.visualization`, `get_trials` and so on."""
        return self._opened.study

    @property
    def best_recipe(self) -> Recipe | None:
        """The recipe of the best complete trial; None before there is one."""
        best = self.status().best
        return best.recipe if best else None

    def status(self) -> Snapshot:
        """How the search stands now: trials by state, the budget and what is used of it, workers, the best trial."""
        from hpo.study.status import take_snapshot

        return take_snapshot(self._opened)

    def trials_dataframe(self) -> DataFrame:
        """A row a trial, as Optuna makes it: number, value of the metric, state, times, what was searched.

        A trial that was run again, or went on after a pause, has a row for each run; `status().places` has one for each
        place of the budget.

        Raises:
            HpoError: pandas is not installed.
        """
        try:
            frame = self._opened.study.trials_dataframe(attrs=COLUMNS)
        except ImportError as error:
            raise HpoError(
                f"trials_dataframe: needs the package {error.name}; pip install 'hpo-images[notebook]'"
            ) from None
        metric = self._opened.metric
        frame = frame.rename(columns={f"value_{metric.score_title}": "value"})
        if "value" in frame and not metric.maximised:
            frame["value"] = -frame["value"]
        return frame

    def plot(self, chart: str = "over-time") -> Figure:
        """A chart of the report, which a notebook shows.

        Args:
            chart: one of the report's: "over-time", "curves", "importance", "parallel", "field-backbone" and others.

        Raises:
            HpoError: there is no such chart, or nothing to show in it yet.
        """
        from plotly.graph_objects import Figure

        from hpo.report.page import draw_charts
        from hpo.report.results import read_results

        drawn = draw_charts(read_results(self._opened, datetime.now(UTC)), self._opened)
        if chart not in drawn:
            there = ", ".join(drawn) or "none, before a trial has ended"
            raise HpoError(f'plot: there is no chart "{chart}"; there are: {there}')
        return Figure(drawn[chart])


@contextmanager
def open_study(study: str | Path) -> Iterator[Study]:
    """Open the study of a study file, which must have begun; its storage is open as long as the block lasts.

    As for the commands the storage is that of HPO_STORAGE, else the study file's, else the Postgres beside it.

    Raises:
        StudyFileError: the study file cannot be read, or has mistakes.
        StorageError: the database cannot be used.
        HpoError: nothing was begun, or hpo has not made it.
    """
    with open_study_from(_options("status", study)) as opened:
        yield Study(opened)


def search(study: str | Path, *, workers: int | None = None) -> Snapshot:
    """Do what `hpo search` does, to the end of the budget; call it in the main thread. It prints how it goes.

    An interrupted kernel stops it as Ctrl-C does: each trial goes back to the queue, and the same call resumes.

    Args:
        study: a study file.
        workers: processes; one a GPU where not given, on a CPU one a core, at most four.

    Returns:
        how the search stands at its end.

    Raises:
        HpoError, StorageError, DataError, RecipeError, WeightsError: as the command's messages.
        KeyboardInterrupt: it was interrupted.
    """
    from hpo.supervision.commands import run_search

    if workers is not None and workers < 1:
        raise HpoError(f"search: workers = {workers} is not positive; leave it out, or give 1 or more")
    options = _options("search", study)
    options.workers = workers
    if run_search(options):
        raise KeyboardInterrupt
    with open_study(study) as opened:
        return opened.status()


def _options(command: str, study: str | Path) -> argparse.Namespace:
    options = parse([command, "--", str(study)])
    options.url = given_storage(options)
    return options
