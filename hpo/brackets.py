"""Optuna's Hyperband, which decides the same and works out once what stays the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.pruners import HyperbandPruner

if TYPE_CHECKING:
    import optuna


class BracketPruner(HyperbandPruner):
    """Hyperband for one study; Optuna's own asks the database and every trial of the study again at each report."""

    def __init__(self, min_resource: int, max_resource: int, reduction_factor: int) -> None:
        super().__init__(min_resource, max_resource, reduction_factor)
        self._bracket_of: dict[int, int] = {}  # number of a trial -> its bracket
        self._study_of: dict[int, optuna.Study] = {}  # bracket -> the study as it sees it

    def _get_bracket_id(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> int:
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
