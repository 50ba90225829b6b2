"""`hpo list`: the studies of a storage, whoever has made them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna

from hpo.study.interruptions import count_trials
from hpo.study.metric_settings import metric_of_study
from hpo.study.ranking import find_best
from hpo.study.settings import space_of
from hpo.study.study_name import CONFIRM_SUFFIX
from storage.database import connect
from storage.keys import CONFIRMATION_KEY, SETTINGS_KEY
from storage.study_rows import StudyRows
from trainer.errors import RecipeError
from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from storage.halts import Halt
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
    storage, listed = connect(url), list[ListedStudy]()
    names = set(optuna.get_all_study_names(storage))
    for name in sorted(names):
        with suppress(KeyError):  # it has been deleted since
            study = optuna.load_study(study_name=name, storage=storage)
            confirms = CONFIRMATION_KEY in study.user_attrs and name.removesuffix(CONFIRM_SUFFIX) in names
            if not confirms:  # which belongs to the study that it confirms
                state = StudyRows(storage, storage.get_study_id_from_name(name)).read()
                at_work = sum(not worker.gone for worker in state.workers)
                listed.append(replace(_listed(study, extensions), workers=at_work, halt=state.halt))
    return listed


def _listed(study: optuna.Study, extensions: Extensions) -> ListedStudy:
    name, trials = study.study_name, study.get_trials(deepcopy=False)
    count = count_trials(trials)
    if SETTINGS_KEY not in study.user_attrs:
        return ListedStudy(name, count, unknown="not made by hpo, or not to the end")
    metric = metric_of_study(study.user_attrs)
    try:
        best, _ = find_best(trials, space_of(study, extensions))
    except RecipeError as error:
        unknown = f"best unknown: its recipes name functions that are not here: {error}"
        return ListedStudy(name, count, unknown=unknown, metric=metric)
    return ListedStudy(name, count, best.value if best else None, metric=metric)
