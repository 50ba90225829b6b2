"""Pruners that work out once what stays the same."""

from __future__ import annotations

import math
import random

import optuna
import pytest
from optuna.pruners import HyperbandPruner, MedianPruner
from optuna.trial import TrialState, create_trial

from hpo.study.pruners import BracketPruner, RungPruner, RunningMedianPruner, rung_epochs
from storage.keys import DEFAULT_KEY, FIRST_RUN_KEY, REPEATS_KEY
from storage.rungs import RungCount, has_room, rungs_with_room

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
    pruner = BracketPruner(min_resource=1, max_resource=9, reduction_factor=3)
    ours = decisions(pruner, "sqlite://")
    assert ours == decisions(HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}


def test_the_median_of_trials_that_are_looked_at_once_decides_like_optunas():
    """Every trial of a search is pruned as with Optuna's median rule, before and after its start-up and warm-up."""
    ours = decisions(RunningMedianPruner(5, 3), "sqlite://")
    assert ours == decisions(MedianPruner(5, 3))
    assert {state.name for state, *_ in ours} == {"COMPLETE", "PRUNED"}
    assert min(len(reports) for _, _, reports, _ in ours) == 3


CURVES = {  # of macro-F1 by epoch; the first three are complete before any is judged
    "low": [0.1, 0.2, 0.3, 0.4],
    "middle": [0.2, 0.3, 0.4, 0.5],
    "high": [0.3, 0.4, 0.5, math.nan],
    "dips": [0.2, 0.6, 0.1, 0.1],
    "was never a number": [math.nan, math.nan, 0.9, 0.9],
    "was a number once": [0.6, math.nan, math.nan, math.nan],
    "falls behind": [0.25, 0.3, 0.3, 0.3],
}


def pruned_at(pruner):
    """The epoch at which each of the curves is pruned; None where it is not."""
    study = optuna.create_study(direction="maximize", storage="sqlite://", pruner=pruner)
    ends = {}
    for name, curve in CURVES.items():
        trial, ends[name] = study.ask(), None
        for epoch, score in enumerate(curve, start=1):
            trial.report(score, epoch)
            if ends[name] is None and trial.should_prune():
                ends[name] = epoch
        study.tell(
            trial, state=TrialState.PRUNED if ends[name] else TrialState.COMPLETE, values=None if ends[name] else [0.5]
        )
    return ends


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # Optuna's, of a trial without a number
def test_the_median_rule_judges_a_trial_by_its_best_report():
    """A curve that dips, or has a NaN, after a good epoch goes on; one that never was as good as the median ends."""
    ends = pruned_at(RunningMedianPruner(3, 0))
    assert ends == pruned_at(MedianPruner(3, 0))
    expected = dict.fromkeys(CURVES) | {"was never a number": 1, "falls behind": 2}
    assert ends == expected


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


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, ()), (2, (1,)), (3, (1,)), (5, (1, 2)), (10, (2, 4)), (14, (3, 6)), (20, (3, 6, 12)), (51, (3, 6, 12, 24))],
)
def test_rungs_fit_the_epochs(epochs, rungs):
    """The first rung is after a fifth of the epochs or 3, each further one after twice as many, none late."""
    assert rung_epochs(epochs) == rungs


def test_trials_are_compared_at_rungs_by_their_best_epoch():
    """Only a trial that comes to a rung is compared, by its best score so far, and the default recipe never is."""
    reached = []
    pruner = RungPruner(10, lambda *told: reached.append(told) or False)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for marks in ({}, {DEFAULT_KEY: True}):
        trial = study.ask()
        for key, value in marks.items():
            trial.set_user_attr(key, value)
        pruned = []
        for epoch, score in enumerate([0.5, 0.3, 0.6, 0.1, 0.9], start=1):
            trial.report(score, epoch)
            pruned.append(trial.should_prune())
        assert pruned == [epoch in (2, 4) and not marks for epoch in range(1, 6)]
    assert reached == [(0, 2, 0.5), (0, 4, 0.6)]


def test_a_trial_of_fewer_epochs_is_not_paused_at_its_end():
    """Where epochs are searched, a trial that has done all of its own is compared with nobody, also at a rung."""
    pruner = RungPruner(10, lambda *_: False)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for epochs, compared in ((4, [2]), (10, [2, 4])):
        study.enqueue_trial({"epochs": epochs})
        trial = study.ask()
        trial.suggest_categorical("epochs", [4, 10])
        assert [epoch for epoch in range(1, 11) if pruner.compares(trial, epoch)] == compared


@pytest.mark.parametrize(
    ("reached", "paused", "best_is_paused", "while_trials_come", "closing"),
    [
        (0, 0, False, False, False),
        (1, 1, True, False, True),
        (2, 2, True, True, True),
        (3, 2, False, False, True),
        (5, 3, False, False, True),
        (4, 2, False, False, False),
        (4, 2, True, False, True),
        (5, 2, False, False, False),
        (3, 0, False, False, False),
    ],
)
def test_the_best_half_of_a_rung_has_room(reached, paused, best_is_paused, while_trials_come, closing):
    """Half of those that have come to a rung may go on; once no new trial comes rounded up, and the best anyway."""
    rung = RungCount(3, reached, paused, best_is_paused)
    assert (has_room(rung, closing=False), has_room(rung, closing=True)) == (while_trials_come, closing)


def test_the_highest_rung_comes_first():
    """Where several rungs have room, the trial that is nearest to its end goes on."""
    rungs = [RungCount(3, 8, 6, False), RungCount(6, 2, 2, True), RungCount(12, 1, 1, True)]
    assert [rung.epoch for rung in rungs_with_room(rungs, closing=False)] == [6, 3]
