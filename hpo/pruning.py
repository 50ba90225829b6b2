"""Optuna's pruners, which decide the same and work out once what stays the same. One is for one study and process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.pruners import HyperbandPruner, MedianPruner
from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Container

    import optuna
    from optuna.trial import FrozenTrial


class BracketPruner(HyperbandPruner):
    """Hyperband for one study; Optuna's own asks the database and every trial of the study again at each report."""

    def __init__(self, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._bracket_of: dict[int, int] = {}  # number of a trial -> its bracket
        self._study_of: dict[int, optuna.Study] = {}  # bracket -> the study as it sees it

    def _get_bracket_id(self, study: optuna.Study, trial: FrozenTrial) -> int:
        bracket = self._bracket_of.get(trial.number)
        if bracket is None:
            bracket = super()._get_bracket_id(study, trial)
            if self._pruners:  # before the first answer every trial seems to be in the first bracket
                self._bracket_of[trial.number] = bracket
        return bracket

    def _create_bracket_study(self, study: optuna.Study, bracket_id: int) -> optuna.Study:
        if bracket_id not in self._study_of:
            made = self._study_of[bracket_id] = super()._create_bracket_study(study, bracket_id)
            made._thread_local = study._thread_local  # noqa: SLF001 - one look at all trials serves a whole trial
        return self._study_of[bracket_id]


class RunningMedianPruner(MedianPruner):
    """The median rule; Optuna's own goes through all trials of the study at each report, this one through new ones."""

    def __init__(self, n_startup_trials: int, n_warmup_steps: int) -> None:
        super().__init__(n_startup_trials, n_warmup_steps)
        self._complete: list[FrozenTrial] = []
        self._unfinished: set[int] = set()  # numbers of trials that were not finished at the last look
        self._next = 0  # the first number that was not looked at

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial's best report is worse than the median of the complete trials at its last step."""
        step = trial.last_step
        if step is None or step < self._n_warmup_steps:
            return False
        self._look(study)
        return super().prune(_Complete(study, self._complete), trial)  # type: ignore[arg-type]  # all that it asks

    def _look(self, study: optuna.Study) -> None:
        """Take in which trials have become complete."""
        cache: Any = study._storage  # noqa: SLF001 - Optuna's cache, around any storage with a database
        cache._read_trials_from_remote_storage(study._study_id)  # noqa: SLF001 - what its get_all_trials does first
        trials: dict[int, FrozenTrial] = cache._studies[study._study_id].trials  # noqa: SLF001
        while self._next in trials:
            self._unfinished.add(self._next)
            self._next += 1
        for number in [number for number in self._unfinished if trials[number].state.is_finished()]:
            self._unfinished.remove(number)
            if trials[number].state is TrialState.COMPLETE:
                self._complete.append(trials[number])


class _Complete:
    """What Optuna's rule asks of a study."""

    def __init__(self, study: optuna.Study, complete: list[FrozenTrial]) -> None:
        self.direction = study.direction
        self._trials = complete

    def get_trials(self, *, deepcopy: bool, states: Container[TrialState]) -> list[FrozenTrial]:
        assert not deepcopy
        assert states == (TrialState.COMPLETE,)
        return self._trials
