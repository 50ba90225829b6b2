"""Pruners that work out once what stays the same."""

from __future__ import annotations

import random

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner
from optuna.trial import TrialState, create_trial

from hpo.study.pruners import BracketPruner, RunningMedianPruner
from storage.keys import FIRST_RUN_KEY, REPEATS_KEY

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


def test_brackets_that_are_worked_out_once_decide_like_optunas(tmp_path):
    """Every trial of a search is sampled and pruned as with Optuna's Hyperband."""
    pruner = BracketPruner(min_resource=1, max_resource=9, reduction_factor=3)
    ours = decisions(pruner, f"sqlite:///{tmp_path / 'study.db'}")
    assert ours == decisions(HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}


def test_the_median_of_trials_that_are_looked_at_once_decides_like_optunas(tmp_path):
    """Every trial of a search is pruned as with Optuna's median rule, before and after its start-up and warm-up."""
    ours = decisions(RunningMedianPruner(5, 3), f"sqlite:///{tmp_path / 'study.db'}")
    assert ours == decisions(MedianPruner(5, 3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}
    assert min(len(reports) for _, _, reports, _ in ours) == 3


def answers_beside_a_trial(name, interruptions):
    """What the pruner answers a trial that is interrupted so often, and those that run meanwhile; and its bracket."""
    pruner, scores = BracketPruner(min_resource=1, max_resource=9, reduction_factor=3), random.Random(name)
    study = optuna.create_study(study_name=name, direction="maximize", storage="sqlite://", pruner=pruner)
    answers, asked = [], study.ask()

    def report(trial, value, epoch):
        trial.report(value, epoch)
        answers.append(trial.should_prune())

    for epoch in (1, 2, 3):
        report(asked, epoch / 20, epoch)
    trial, first = asked, asked.number
    for number in range(2):
        if number >= interruptions:
            study.add_trial(create_trial(state=TrialState.FAIL))  # the others have the same numbers either way
            continue
        notes = study.trials[trial.number].system_attrs
        study.tell(trial, state=TrialState.FAIL)
        about = {REPEATS_KEY: trial.number, FIRST_RUN_KEY: first}
        study.add_trial(create_trial(state=TrialState.WAITING, user_attrs=about, system_attrs=notes))
        trial = study.ask()
        for epoch in (1, 2, 3):
            trial.report(epoch / 20, epoch)
    for _ in range(12):
        other, best = study.ask(), scores.random()
        for epoch in range(1, 10):
            report(other, best * epoch / 9, epoch)
        study.tell(other, best)
    for epoch in range(4, 10):
        report(trial, 0.3 + epoch / 200, epoch)
    return answers, pruner._get_bracket_id(study, study.trials[first])


def test_an_interrupted_trial_is_pruned_as_if_it_had_not_been():
    """Hyperband asks the same of a trial that goes on as another one, which counts once among its rivals."""
    brackets = set()
    for name in ("a", "h"):
        answers, bracket = answers_beside_a_trial(name, 0)
        assert {True, False} == set(answers)
        assert answers_beside_a_trial(name, 2) == (answers, bracket)
        brackets.add(bracket)
    assert len(brackets) == 2
