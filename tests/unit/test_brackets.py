"""Hyperband, computed once."""

from __future__ import annotations

import optuna
import pytest
from optuna.pruners import HyperbandPruner

from hpo.brackets import BracketPruner

pytestmark = pytest.mark.unit


def decisions(pruner):
    """States and reports of trials whose scores depend on what is suggested."""
    sampler = optuna.samplers.TPESampler(seed=1)
    study = optuna.create_study(study_name="same", direction="maximize", sampler=sampler, pruner=pruner)

    def objective(trial):
        rate, share = trial.suggest_float("rate", 1e-3, 1, log=True), trial.suggest_float("share", 0, 1)
        for epoch in range(1, 10):
            trial.report(rate * share * (1 - 0.8**epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return rate * share

    study.optimize(objective, n_trials=60)
    return [(trial.state, trial.params, trial.intermediate_values, trial.system_attrs) for trial in study.trials]


def test_brackets_that_are_worked_out_once_decide_like_optunas():
    """Every trial of a search is sampled and pruned as with Optuna's Hyperband."""
    ours = decisions(BracketPruner(min_resource=1, max_resource=9, reduction_factor=3))
    assert ours == decisions(HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}
