"""Pruners that work out once what stays the same."""

from __future__ import annotations

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner

from hpo.pruning import BracketPruner, RunningMedianPruner

pytestmark = pytest.mark.unit


def decisions(pruner, storage=None):
    """States and reports of trials whose scores depend on what is suggested."""
    sampler = optuna.samplers.TPESampler(seed=1)
    study = optuna.create_study(
        study_name="same", direction="maximize", sampler=sampler, pruner=pruner, storage=storage
    )

    def objective(trial):
        rate, share = trial.suggest_float("rate", 1e-3, 1, log=True), trial.suggest_float("share", 0, 1)
        for epoch in range(1, 10):
            trial.report(rate * share * (1 - 0.8**epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return rate * share

    study.optimize(objective, n_trials=40)
    return [(trial.state, trial.params, trial.intermediate_values, trial.system_attrs) for trial in study.trials]


def test_brackets_that_are_worked_out_once_decide_like_optunas():
    """Every trial of a search is sampled and pruned as with Optuna's Hyperband."""
    ours = decisions(BracketPruner(min_resource=1, max_resource=9, reduction_factor=3))
    assert ours == decisions(HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}


def test_the_median_of_trials_that_are_looked_at_once_decides_like_optunas(tmp_path):
    """Every trial of a search is pruned as with Optuna's median rule, before and after its start-up and warm-up."""
    ours = decisions(RunningMedianPruner(5, 3), f"sqlite:///{tmp_path / 'study.db'}")
    assert ours == decisions(MedianPruner(5, 3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}
    assert min(len(reports) for _, _, reports, _ in ours) == 3
