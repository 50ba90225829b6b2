"""`hpo list`: the studies of a storage, whoever has made them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna

from hpo.study.metric_settings import kept_metric
from hpo.study.ranking import counts, find_best
from hpo.study.settings import kept_space
from hpo.study.study_name import CONFIRM_SUFFIX
from storage.database import connect
from storage.study_summaries import study_summaries
from trainer.errors import RecipeError
from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

    from storage.halts import Halt
    from storage.study_summaries import StudySummary
    from trainer.extensions import Extensions
    from trainer.objective_metric import Metric


@dataclass(frozen=True)
class ListedStudy:
    """A study of a storage.

    Attributes:
        name: of the study.
        trials: how many have begun; what continues an interrupted one counts with it.
        best: score of its best trial; None where there is none, or it is unknown.
        unknown: why its best trial is unknown; None where it is known.
        metric: that gives the score.
        workers: how many are there.
        halt: whether it is paused or stopped; None where it is neither.
    """

    name: str
    trials: int
    best: float | None = None
    unknown: str | None = None
    metric: Metric = MACRO_F1
    workers: int = 0
    halt: Halt | None = None

    def line(self) -> str:
        """The study as `hpo list` prints it."""
        best = "none complete" if self.best is None else f"best {self.metric.title} {self.metric.text(self.best)}"
        stands = [f"{counted(self.workers, 'worker')} at work"] if self.workers else []
        if self.halt:
            stands = ["paused" if self.halt == "pause" else "stopped"]
        return ", ".join([f"{self.name}: {counted(self.trials, 'trial')}", self.unknown or best, *stands])

    def as_json(self) -> dict[str, Any]:
        """The study as `hpo list --json` prints it."""
        best = None if self.best is None else self.metric.value(self.best)
        listed = {"name": self.name, "trials": self.trials, f"best_{self.metric.name}": best}
        return {**listed, "workers": self.workers, "halt": self.halt}


def list_studies(url: str, extensions: Extensions) -> list[ListedStudy]:
    """All studies of a storage, by name.

    Args:
        url: of the storage.
        extensions: functions of one's own, which recipes may name.

    Raises:
        StorageError: the database cannot be used or is not initialised.
    """
    storage = connect(url)
    summaries = study_summaries(storage.engine)
    names = {summary.name for summary in summaries}
    return [
        _listed(summary, storage, extensions)
        for summary in summaries  # without those that belong to the study that they confirm
        if not (summary.confirms and summary.name.removesuffix(CONFIRM_SUFFIX) in names)
    ]


def _listed(summary: StudySummary, storage: RDBStorage, extensions: Extensions) -> ListedStudy:
    listed = ListedStudy(summary.name, summary.trials, workers=summary.workers, halt=summary.halt)
    if summary.settings is None:
        return replace(listed, unknown="not made by hpo, or not to the end")
    listed, best = replace(listed, metric=kept_metric(summary.settings.get("study", {}))), summary.best
    try:
        space = kept_space(summary.settings, extensions)
    except RecipeError as error:
        return replace(listed, unknown=f"best unknown: its recipes name functions that are not here: {error}")
    if best and not counts(best, space):  # somebody else has told it
        with suppress(KeyError):  # the study has been deleted since
            trials = optuna.load_study(study_name=summary.name, storage=storage).get_trials(deepcopy=False)
            best = find_best(trials, space)[0]
    return replace(listed, best=best.value if best else None)
