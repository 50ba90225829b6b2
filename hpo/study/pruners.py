"""What ends or pauses trials: Optuna's pruners with less work, and rungs; an object is for one study and process."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner
from optuna.trial import TrialState

from storage.keys import CONTROL_KEY, DEFAULT_KEY, FIRST_RUN_KEY, REPEATS_KEY
from storage.optuna_internals import StudyView, latest_trials, share_cached_trials
from storage.rungs import ETA

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna
    from optuna.trial import FrozenTrial

FIRST_EPOCHS = 3  # before the first rung of a training that is long enough: earlier ranks say little
HYPERBAND_RUNG = "completed_rung_0"  # system attribute by which Optuna's Hyperband marks who has come to it


def rung_epochs(epochs: int) -> tuple[int, ...]:
    """After which epochs of a training trials are compared: 3, 6, 12 of 20; none of its last third, and none of one.

    The first rung is a fifth of the epochs, or 3 where that is more; each further one is at twice the epochs.
    """
    rung = min(FIRST_EPOCHS, math.ceil(epochs / 5))
    rungs = []
    while rung < epochs / 1.5:
        rungs.append(rung)
        rung *= ETA
    return tuple(rungs)


class RungPruner(BasePruner):
    """Asynchronous successive halving (Li et al. 2020): what it prunes is paused, and goes on if its rung says so.

    The default recipe is never paused: it is what the winner is compared with. Nor are the trials that show what
    pausing costs (`hpo.study.early_ranks`); at the rungs neither counts.

    Args:
        epochs: of the longest training.
        reach: notes that the trial of a number has come to an epoch with this best score; whether it goes on.
    """

    def __init__(self, epochs: int, reach: Callable[[int, int, float], bool]) -> None:
        self._epochs, self._rungs, self._reach = epochs, rung_epochs(epochs), reach

    def compares(self, trial: optuna.Trial | FrozenTrial, epoch: int) -> bool:
        """Whether a trial is compared with others after an epoch, and may be paused then; never after its last."""
        last = trial.params.get("epochs", self._epochs)
        return epoch in self._rungs and epoch < last and trial.user_attrs.keys().isdisjoint((DEFAULT_KEY, CONTROL_KEY))

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:  # noqa: ARG002 - Optuna's signature
        """Whether the trial has come to a rung and does not go on."""
        epoch = trial.last_step
        if epoch is None or not self.compares(trial, epoch):
            return False
        return not self._reach(trial.number, epoch, max(trial.intermediate_values.values()))


def may_pause(study: optuna.Study, trial: optuna.Trial, epoch: int) -> bool:
    """Whether a trial of a study may be paused after an epoch."""
    return isinstance(study.pruner, RungPruner) and study.pruner.compares(trial, epoch)


class BracketPruner(HyperbandPruner):
    """Hyperband for one study; Optuna's own asks the database and every trial of the study again at each report.

    A trial that goes on as another one competes as if it had never been interrupted: once, and in the same bracket.
    """

    def __init__(self, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._bracket_of: dict[int, int] = {}  # number of a trial -> its bracket
        self._study_of: dict[int, optuna.Study] = {}  # bracket -> the study with the trials of that bracket
        self._finished_of: defaultdict[int, dict[int, FrozenTrial]] = defaultdict(
            dict
        )  # bracket -> finished trials that have come to a rung
        self._progress = TrialProgress()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is not among the best of its bracket that have come to its rung."""
        if not self._pruners:
            self._try_initialization(study)
        bracket = self._get_bracket_id(study, trial)
        seen: Any = StudyView(study, lambda: self._rivals(study, bracket))
        return self._pruners[bracket].prune(seen, trial)

    def _rivals(self, study: optuna.Study, bracket: int) -> list[FrozenTrial]:
        """The trials of a bracket that can have come to a rung; read only where the trial itself has."""
        finished, unfinished = self._progress.read(study)
        for each in finished:
            if HYPERBAND_RUNG in each.system_attrs:
                self._finished_of[self._get_bracket_id(study, each)][each.number] = each
        for each in (*finished, *unfinished):
            if (repeated := each.user_attrs.get(REPEATS_KEY)) is not None:
                self._finished_of[self._get_bracket_id(study, each)].pop(repeated, None)
        at_work = [each for each in unfinished if self._get_bracket_id(study, each) == bracket]
        return [*self._finished_of[bracket].values(), *at_work]

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        bracket = self._bracket_of.get(trial.number)
        if bracket is None:
            first: Any = SimpleNamespace(number=trial.user_attrs.get(FIRST_RUN_KEY, trial.number))
            bracket = super()._get_bracket_id(study, first)
            if self._pruners:  # before the first answer every trial seems to be in the first bracket
                self._bracket_of[trial.number] = bracket
        return bracket

    def _create_bracket_study(self, study: optuna.Study, bracket_id: int) -> optuna.Study:
        if bracket_id not in self._study_of:
            made = self._study_of[bracket_id] = super()._create_bracket_study(study, bracket_id)
            share_cached_trials(study, made)  # the trials are read once for each trial, not once for each bracket
        return self._study_of[bracket_id]


class RunningMedianPruner(MedianPruner):
    """The median rule for a study that maximizes; Optuna's own goes through all its trials at each report."""

    def __init__(self, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(n_startup_trials, n_warmup_steps)
        self._startup_trials, self._warmup_steps = n_startup_trials, n_warmup_steps
        self._complete = 0  # number of complete trials
        # By step, the reports of complete trials.
        self._reports: defaultdict[int, array[float]] = defaultdict(lambda: array("d"))
        self._progress = TrialProgress()

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's best report is worse than the median of the complete trials at its last step."""
        step = trial.last_step
        if step is None or step < self._warmup_steps:
            return False
        for each in self._progress.read(study)[0]:
            if each.state is TrialState.COMPLETE:
                self._complete += 1
                for at, value in each.intermediate_values.items():
                    self._reports[at].append(value)
        if self._complete < max(1, self._startup_trials):
            return False
        reports = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
        if not reports:
            return True
        others = np.array(self._reports[step])
        # Where none of them has reported a number at this step there is no median.
        return bool(not np.isnan(others).all() and max(reports) < np.nanpercentile(others, 50))


class TrialProgress:
    """Reads the trials of a study again and again, and gives out each finished one once."""

    def __init__(self) -> None:
        self._unfinished: set[int] = set()  # numbers of trials that had not finished at the last reading
        self._next = 0  # the first number that was not read yet

    def read(self, study: optuna.Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The trials that have finished since the last reading, and all unfinished ones."""
        trials = latest_trials(study)
        while self._next in trials:
            self._unfinished.add(self._next)
            self._next += 1
        finished = {number for number in self._unfinished if trials[number].state.is_finished()}
        self._unfinished -= finished
        return [trials[number] for number in finished], [trials[number] for number in self._unfinished]
