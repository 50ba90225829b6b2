"""The numbers of a report: what was found, when, and at which cost."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hpo.report.comparisons import FEWEST_TRIALS, by_value, importances, searched_choices, spread
from hpo.report.costs import backbone_times, hours_by_state, saved_hours, total_hours_by_end
from hpo.report.outcomes import Outcome, best_so_far, failures
from storage.study_rows import PlaceRow
from trainer.recipe import Recipe
from trainer.space import Space

pytestmark = pytest.mark.unit


def outcome(
    number, state="complete", value=None, *, curve=None, hours=0.0, ended=None, gpu=None, reason=None, **fields
):
    """What a trial of these fields has come to."""
    recipe = Recipe(**fields)
    return Outcome(number, state, value, curve or {}, recipe, hours, ended, gpu, reason)


def test_the_best_so_far_changes_only_where_a_complete_trial_is_better():
    """The series holds each new best in the order of the ends; pruned trials and equal scores change nothing."""
    outcomes = [
        outcome(0, value=0.7, ended=1.0, gpu=1.0),
        outcome(1, value=0.9, ended=4.0, gpu=7.0),
        outcome(2, "pruned", 0.95, ended=2.0, gpu=3.0),
        outcome(3, value=0.8, ended=3.0, gpu=5.0),
        outcome(4, value=0.9, ended=5.0, gpu=8.0),
        outcome(5, "failed", ended=0.5, gpu=0.5),
    ]
    assert best_so_far(outcomes, "ended") == [(1.0, 0.7, 0), (3.0, 0.8, 3), (4.0, 0.9, 1)]
    assert best_so_far(outcomes, "gpu_hours") == [(1.0, 0.7, 0), (5.0, 0.8, 3), (7.0, 0.9, 1)]
    assert best_so_far([outcomes[2], outcomes[5]], "ended") == []


def test_what_was_taken_over_is_the_best_from_the_start():
    """A search that took over a good trial begins with that as its best."""
    old = Outcome(0, "complete", 0.85, {}, Recipe(), taken_over=True)
    outcomes = [outcome(1, value=0.8, ended=1.0), outcome(2, value=0.9, ended=2.0), old]
    assert best_so_far(outcomes, "ended") == [(0.0, 0.85, 0), (2.0, 0.9, 2)]


def test_gpu_hours_count_what_all_trials_have_run_by_the_end_of_each():
    """Two GPUs at once count twice, a pause counts nothing, and the last end has the sum of all."""
    # One runs from 0 to 2, another from 1 to 4, a third after a pause from 10 to 11.
    assert total_hours_by_end([2.0, 4.0, 11.0], [2.0, 3.0, 1.0]) == pytest.approx([3.0, 5.0, 6.0])
    assert total_hours_by_end([11.0, 2.0, 4.0], [1.0, 2.0, 3.0]) == pytest.approx([6.0, 3.0, 5.0])
    assert total_hours_by_end([], []) == []
    random = np.random.default_rng(0)
    ends, hours = random.random(50), random.random(50)
    for end, by_then in zip(ends, total_hours_by_end(list(ends), list(hours)), strict=True):
        assert by_then == pytest.approx(np.clip(end - (ends - hours), 0, hours).sum())


def test_a_spread_has_the_quartiles_of_numpy():
    """The median of 1, 2, 3, 10 is 2.5, between the lowest and the highest."""
    assert spread([3, 1, 10, 2]).quartiles == pytest.approx((1, 1.75, 2.5, 4.75, 10))
    assert (spread([0.5]).count, spread([0.5]).median) == (1, 0.5)


def test_values_of_a_field_are_ordered_by_the_median_of_the_complete_trials():
    """Pruned trials are beside the complete ones but move no median; a field counts only where a recipe uses it."""
    outcomes = [
        outcome(0, value=0.8, loss="cross_entropy"),
        outcome(1, value=0.9, loss="focal"),
        outcome(2, "pruned", 0.1, loss="focal"),
        outcome(3, "pruned", 0.99, loss="bce"),
        outcome(4, "failed", 0.5, loss="focal"),
        outcome(5, "running", 0.5, loss="focal"),
    ]
    by_loss = by_value(outcomes, "loss")
    assert list(by_loss) == ["focal", "cross_entropy", "bce"]
    assert [each.number for each in by_loss["focal"]] == [1, 2]
    assert [each.number for each in by_value(outcomes, "focal_gamma")[Recipe().focal_gamma]] == [1, 2]


def test_only_lists_that_were_searched_are_compared():
    """A fixed field, a list of one value and a range are no choices to compare."""
    space = Space({name: [value] for name, value in {"loss": "focal", "epochs": 3}.items()} | {"augment": "none"})
    compared = searched_choices(space)
    assert "backbone" in compared
    assert not {"loss", "epochs", "augment", "learning_rate"} & set(compared)


def test_pruning_saves_the_epochs_that_were_not_trained():
    """A trial pruned after 5 of 20 epochs in half an hour has saved one and a half; others save nothing."""
    curve = dict.fromkeys(range(1, 6), 0.5)
    assert saved_hours(outcome(0, "pruned", 0.5, curve=curve, hours=0.5, epochs=20)) == pytest.approx(1.5)
    assert saved_hours(outcome(0, "failed", 0.5, curve=curve, hours=0.5, epochs=20)) == 0
    assert saved_hours(outcome(0, "pruned", hours=0.5, epochs=20)) == 0


def place(number, state, seconds):
    """A place that trials have run in for some seconds."""
    return PlaceRow(number, state, None, number, None, 1, 2, None, None, seconds)


def test_hours_by_state_add_up_to_the_budget_used():
    """Each place counts for the state that it has come to."""
    places = [place(0, "complete", 3600), place(1, "pruned", 900), place(2, "complete", 1800), place(3, "running", 360)]
    assert hours_by_state(places) == pytest.approx({"complete": 1.5, "pruned": 0.25, "running": 0.1})


def test_the_time_of_a_backbone_counts_all_of_its_own_trials():
    """Hours and epochs are those of the search, complete or not, without what was taken over."""
    outcomes = [
        outcome(0, value=0.5, curve={1: 0.4, 2: 0.5}, hours=1.0, backbone="a"),
        outcome(1, "pruned", 0.5, curve={1: 0.5}, hours=0.5, backbone="a"),
        outcome(2, "failed", hours=4.0, backbone="b"),
        Outcome(3, "complete", 0.9, {1: 0.9}, Recipe(backbone="a"), hours=7.0, taken_over=True),
        Outcome(4, "failed", None, {}, None, 0.25),
    ]
    times = backbone_times(outcomes)
    assert list(times) == ["b", "a", "not known"]
    assert (times["a"].hours, times["a"].epochs, times["a"].epoch_seconds) == (1.5, 3, 1800)


def test_failures_that_differ_in_numbers_alone_are_one():
    """The most frequent reason comes first, in the words of its first trial."""
    reasons = ["out of memory: 5 GB", "the loss is nan in step 3", None, "the loss is nan in step 77"]
    found = failures([outcome(number, "failed", reason=reason) for number, reason in enumerate(reasons)])
    assert [(failure.reason, list(failure.trials)) for failure in found] == [
        ("the loss is nan in step 3", [1, 3]),
        ("out of memory: 5 GB", [0]),
        ("no reason was kept", [2]),
    ]
    assert failures([outcome(0, value=0.5)]) == []


def searched(count, score):
    """A study of so many random trials, half of which ask for one field more."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(count):
        trial = study.ask()
        loss = trial.suggest_categorical("loss", ["cross_entropy", "focal"])
        fields = {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True), "loss": loss}
        if loss == "focal":
            fields["focal_gamma"] = trial.suggest_float("focal_gamma", 0.5, 5.0)
        trial.suggest_float("dropout", 0.0, 0.5)
        study.tell(trial, score(fields))
    return [outcome(trial.number, value=trial.value) for trial in study.trials], study.trials


def test_the_field_that_decides_is_the_most_important():
    """Importances are shares of 1, the largest first, of conditional fields too."""
    outcomes, trials = searched(120, lambda fields: -abs(math.log10(fields["learning_rate"]) + 3.5))
    shares = importances(outcomes, trials)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.6
    assert set(shares) == {"learning_rate", "loss", "focal_gamma", "dropout"}


def test_a_field_that_one_recipe_alone_uses_is_none_of_the_users_worries():
    """Where a single trial uses a field there are importances, without a warning of Optuna's for each such field."""
    outcomes, trials = searched(40, lambda fields: fields["learning_rate"])
    others = [one for one in outcomes if "focal_gamma" not in trials[one.number].params]
    focal = next(one for one in outcomes if "focal_gamma" in trials[one.number].params)
    assert "learning_rate" in importances([*others, focal], trials)


def test_only_trials_that_count_are_evidence():
    """A trial that is no outcome, told from outside, changes no importance."""
    outcomes, trials = searched(40, lambda fields: -abs(math.log10(fields["learning_rate"]) + 3.5))
    told = create_trial(state=TrialState.COMPLETE, value=1e9)
    told.number = len(trials)
    assert importances(outcomes, [*trials, told]) == importances(outcomes, trials)


def test_there_is_no_importance_where_there_is_nothing_to_learn():
    """Too few complete trials, or all of one score, have none; that many share the best score is no hindrance."""
    assert importances(*searched(FEWEST_TRIALS - 1, lambda fields: fields["learning_rate"])) == {}
    assert importances(*searched(20, lambda _: 0.5)) == {}
    shares = importances(*searched(20, len))
    assert sum(shares.values()) == pytest.approx(1)
