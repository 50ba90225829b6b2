"""No recipe is trained twice in a study, whoever draws it and whenever."""

from __future__ import annotations

import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from optuna.trial import TrialState, create_trial
from sqlalchemy import text

from hpo.errors import HpoError
from hpo.study.model_limits import ModelLimits
from hpo.study.open_study import load_study
from hpo.study.ranking import best_trial, default_trial
from hpo.study.status import take_snapshot
from hpo.worker.recipes import Recipes
from hpo.worker.runs import Runs
from storage.budget import Limits
from storage.requeue import requeue
from tests.integration.conftest import lines_of
from tests.support.waiting import limit, wait_until
from trainer.enumeration import digest_of
from trainer.model.size import model_size
from trainer.recipe import DEFAULTS, recipe_from

pytestmark = pytest.mark.integration

# Nothing but what a test lets vary.
FIXED = {name: value for name, value in DEFAULTS.items() if name not in ("backbone", "image_size", "epochs", "augment")}
FIXED |= {"pretrained": False, "batch_size": 8}
FOUR = {"batch_size": [4, 8], "loss": ["cross_entropy", "own"]}


def recipes_of(trials):
    """The parameters of those trials that were trained, as sorted texts."""
    return sorted(str(sorted(trial.params.items())) for trial in trials if "best_epoch" in trial.user_attrs)


def test_a_small_space_is_trained_once_and_its_budget_stays(harness):
    """Of 10 trials on a space of 4 recipes each recipe is trained once, and the other 6 are not spent."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    study.work()
    trials = recipes_of(study.trials)
    assert len(trials) == len(set(trials)) == 4
    assert [place.state for place in study.places] == ["complete"] * 4
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    snapshot = take_snapshot(study.opened)
    assert (snapshot.used.trials, snapshot.finished, snapshot.space_used_up) == (4, True, True)
    study.work("later")
    assert len(study.trials) == 4


def test_a_grid_tries_every_recipe_once(harness):
    """A grid without a limit has the budget of its recipes, each of which is trained once."""
    study = harness(more='sampler = "grid"', trials=None, recipe=FIXED | FOUR)
    assert study.file.limits == Limits(trials=4)
    study.work()
    trials = recipes_of(study.trials)
    assert (len(trials), len(set(trials))) == (4, 4)
    assert (take_snapshot(study.opened).finished, [place.state for place in study.places]) == (True, ["complete"] * 4)


def test_a_fixed_recipe_is_trained_once(harness):
    """A study whose recipe is fixed trains one trial, whatever its budget is."""
    study = harness(trials=6, recipe=FIXED | {"loss": "own"})
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE]


def test_workers_at_the_same_time_train_no_recipe_twice(harness):
    """Four workers that draw from one small space at the same moment draw different recipes, in each of its trials."""
    study = harness(trials=30, recipe=FIXED | FOUR | {"warmup": [0.0, 0.1, 0.2]})

    def begin_all(name):
        opened = load_study(study.file, study.url)  # as each worker has its own
        lease, presence = opened.rows.for_worker(name)
        presence.join("host", 1, "cpu")
        runs, found = Runs(opened, lease, {}), []
        run = runs.begin()
        while run:
            found.append(run.trial.params)
            run.trial.set_user_attr("best_epoch", 1)
            runs.complete(run, 0.5)
            run = runs.begin()
        opened.storage.engine.dispose()
        return found

    with ThreadPoolExecutor(4) as pool:
        found = [parameters for each in pool.map(begin_all, "abcd") for parameters in each]
    assert len(found) == len({str(sorted(parameters.items())) for parameters in found}) == 12
    assert len(study.places) == 12


def test_a_recipe_that_another_worker_trains_now_is_left_to_it(harness):
    """The last recipe of a space, while another worker trains it, is no trial for this one, which waits."""
    study = harness(trials=10, recipe=FIXED | {"loss": "own"})
    runs, run = study.dead_worker("first")
    others, nothing = study.dead_worker("second")
    assert nothing is None
    runs.hand_back(run, "interrupted")
    again = others.begin()
    assert again.place.number == run.place.number
    assert again.earlier[0].number == run.trial.number
    assert len(study.places) == 1


def test_a_failed_recipe_may_run_again_but_not_for_ever(harness):
    """A recipe that fails is not tried again and again by the workers of one search; those of the next one try it."""
    more = 'sampler = "forest"\n'  # which draws them again
    study = harness(lambda logits, _: logits.sum() * float("nan"), more=more, trials=10, recipe=FIXED | FOUR)
    study.work()
    assert sorted(place.state for place in study.places) == ["complete", "complete", "failed", "failed"]
    snapshot = take_snapshot(study.opened)
    assert (snapshot.finished, snapshot.needs_no_worker, snapshot.space_used_up) == (True, False, False)
    study.dead_worker("joins")[0].begin()
    assert not take_snapshot(study.opened).finished
    requeue(study.opened.storage.engine, "joins")
    study.work("later")
    assert take_snapshot(study.opened).finished
    assert [place.state for place in study.places].count("failed") == 4
    assert [place.state for place in study.places].count("complete") == 2


def test_a_trial_that_asks_for_a_trained_recipe_is_given_its_result(harness):
    """A trial in the queue whose recipe was trained is told what that gave, takes no place and does not win."""
    study = harness(trials=3, recipe=FIXED | FOUR)
    study.work()
    trained = study.trials[0]
    study.opened.study.enqueue_trial(trained.params)
    study.opened.study.enqueue_trial({"loss": trained.params["loss"], "focal_gamma": 3.0})  # one of both is left
    _, run = study.dead_worker()
    assert run is None  # the budget is used up, and it is given all the same
    given = study.trials[3]
    assert (given.state, given.values) == (TrialState.COMPLETE, trained.values)
    assert (given.params, given.distributions) == (trained.params, trained.distributions)
    assert given.intermediate_values == trained.intermediate_values
    assert given.user_attrs == {"same_recipe_as": 0}
    assert len(study.places) == 3
    best = max(study.trials[:3], key=lambda trial: trial.value)
    assert best_trial(study.opened).number == best.number
    assert take_snapshot(study.opened).from_outside == []


def test_a_trial_that_asks_for_a_recipe_in_training_waits_for_its_result(harness):
    """A trial in the queue whose recipe another worker trains waits, and others go on; then it is given the result."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    runs, run = study.dead_worker("first")
    study.opened.study.enqueue_trial(run.trial.params)
    _, other = study.dead_worker("second")
    assert other.trial.number == 2
    assert other.trial.params != run.trial.params
    assert study.trials[1].state is TrialState.WAITING
    run.trial.set_user_attr("best_epoch", 1)
    runs.complete(run, 0.75)
    runs.begin()
    assert (study.trials[1].state, study.trials[1].value) == (TrialState.COMPLETE, 0.75)


def test_a_trial_that_asks_for_a_recipe_whose_training_failed_is_trained(harness):
    """A trial in the queue that waited for another one with its recipe is trained where that one has failed."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    runs, run = study.dead_worker("first")
    study.opened.study.enqueue_trial(run.trial.params)
    runs.fail(run, "the loss is nan")
    again = runs.begin()
    assert (again.trial.number, again.trial.params) == (1, run.trial.params)


def test_results_of_earlier_versions_and_of_other_studies_count(harness):
    """What was trained before places had recipes, or by a study that was taken over, is not trained again."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    study.work()
    four = study.trials
    study.opened.storage.delete_study(study.opened.study_id)
    old = harness(trials=10, recipe=FIXED | FOUR)
    old.opened.study.tell(old.opened.study.ask(), state=TrialState.FAIL)
    for trial in four[:3]:
        old.opened.study.add_trial(trial)
    old.work()
    assert len(recipes_of(old.trials)) == len(set(recipes_of(old.trials))) == 4
    assert [place.state for place in old.places] == ["complete"]


def test_a_result_from_outside_is_no_training(harness):
    """A recipe whose value somebody has told, or added, is trained all the same: such a trial cannot win."""
    study = harness(trials=10, recipe=FIXED | {"loss": ["cross_entropy", "own"]})
    _, run = study.dead_worker()
    study.opened.study.tell(run.trial.number, 0.1)
    requeue(study.opened.storage.engine, "dead")
    study.opened.study.add_trial(
        create_trial(params=run.trial.params, distributions=run.trial.distributions, value=0.2)
    )
    study.work()
    assert len(recipes_of(study.trials)) == len(set(recipes_of(study.trials))) == 2


def test_a_run_that_was_broken_off_before_its_recipe_was_written_gets_one(harness):
    """A worker that died while it wrote a recipe leaves a place whose next run draws one that nobody else has."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    study.dead_worker()
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("DELETE FROM trial_params"))
    requeue(study.opened.storage.engine, "dead")
    study.work()
    assert len(recipes_of(study.trials)) == len(set(recipes_of(study.trials))) == 4
    assert [place.state for place in study.places] == ["complete"] * 4


def test_a_run_that_was_broken_off_while_its_recipe_was_written_keeps_what_is_there(harness, monkeypatch):
    """Where a space is nearly used up, what a run that goes on has of its recipe already is part of the one it gets."""
    monkeypatch.setattr("hpo.worker.recipes.DRAWS", 0)  # as if the sampler drew nothing but what was tried
    study = harness(trials=3, recipe=FIXED | FOUR | {"warmup": [n / 20 for n in range(16)]})
    _, (_, run), _ = [study.dead_worker(name) for name in ("first", "second", "another")]
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("DELETE FROM trial_params WHERE param_name <> 'warmup'"))
    requeue(study.opened.storage.engine, "second")
    _, again = study.dead_worker("third")
    assert again.trial.user_attrs["repeats"] == run.trial.number
    assert again.trial.params["warmup"] == run.trial.params["warmup"]
    with study.opened.storage.engine.connect() as connection:
        kept = connection.execute(text("SELECT recipe FROM hpo.place WHERE number = 1")).scalar_one()
    assert kept == digest_of(again.trial.params, study.file.space)


def test_a_trial_that_was_named_but_had_no_recipe_reserved_is_not_trained_a_second_time(harness, monkeypatch):
    """A worker that died between the two leaves a place whose next run leaves a recipe in training to who trains it."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    _, run = study.dead_worker("first")
    study.opened.study.enqueue_trial(run.trial.params)
    with monkeypatch.context() as patch:
        patch.setattr(Recipes, "reserve", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            study.dead_worker("second")
    requeue(study.opened.storage.engine, "second")
    _, other = study.dead_worker("third")
    assert (other.place.number, other.trial.number) == (1, 2)
    assert other.trial.params != run.trial.params
    assert study.trials[1].state is TrialState.WAITING


def test_values_that_no_recipe_can_have_fail_their_trial_alone(harness):
    """A trial in the queue with values that the space does not know fails with the reason; the worker goes on."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    study.opened.study.enqueue_trial({"loss": "focl", "batch_size": "many"})
    study.work()
    assert study.trials[1].state is TrialState.FAIL
    assert study.trials[1].user_attrs["reason"] == "ValueError: 'many' not in (4, 8)."
    assert len(recipes_of(study.trials)) == len(set(recipes_of(study.trials))) == 4


@pytest.mark.parametrize("values", [{"loss": "focl"}, {"batch_size": "many"}, {}])
def test_a_search_ends_though_a_trial_waits_that_asks_for_no_recipe_of_its_space(harness, values):
    """Where every recipe is trained, a trial in the queue that asks for none of them does not keep the search open."""
    study = harness(trials=10, recipe=FIXED | FOUR)
    study.work()
    study.opened.study.enqueue_trial(values)
    study.work("later")
    snapshot = take_snapshot(study.opened)
    assert (snapshot.used.trials, snapshot.finished, snapshot.space_used_up) == (4, True, True)


def test_an_endless_space_repeats_nothing_either(harness):
    """Where one branch of a space is a single recipe and another is endless, the single one is trained once."""
    space = {"loss": ["cross_entropy", "focal"], "focal_gamma": {"low": 0.5, "high": 5.0}}
    study = harness(trials=12, recipe=FIXED | space)
    study.work()
    losses = [trial.params["loss"] for trial in study.trials]
    assert (losses.count("cross_entropy"), losses.count("focal")) == (1, 11)
    assert len(study.trials) == 12


def test_models_beyond_the_limits_are_never_trained(harness):
    """What is drawn or queued beyond [limits] takes no place; the default recipe gives way, and the log says so."""
    study = harness(trials=8, recipe={"image_size": [16, 8], "loss": "own", "mixing": "none", "sampler": "shuffle"})
    study.opened.study.enqueue_trial({"image_size": 16})
    small = model_size(recipe_from({"backbone": "linear", "image_size": 8}), 3, study.file.space.extensions).parameters
    study.file = replace(study.file, model_limits=ModelLimits(parameters=small))
    study.work()
    assert [place.state for place in study.places] == ["complete"] * 8
    trained = [trial for trial in study.trials if "best_epoch" in trial.user_attrs]
    assert {trial.params["image_size"] for trial in trained} == {8}
    reason = "limits: linear at 16 px has 2,307 parameters, and [limits] parameters is 579"
    refused = [trial for trial in study.trials if trial.user_attrs.get("reason") == reason]
    assert [(trial.state, trial.number) for trial in refused] == [(TrialState.FAIL, 0), (TrialState.FAIL, 1)]
    assert default_trial(study.opened).params["image_size"] == 8
    log = [line for trial in trained for line in lines_of(study, trial.number) if "proposal" in line]
    assert log
    assert all(
        re.fullmatch(r"\d+ proposals? w\w+ not taken, the last since linear at 16 px has .*", line) for line in log
    )
    front = take_snapshot(study.opened).as_json()["front"]
    assert front["device"] == "cpu"
    assert [each["trial"] for each in front["trials"]] == [best_trial(study.opened).number]


def test_a_small_space_is_used_up_where_the_rest_is_beyond_the_limits(harness):
    """Each recipe within the limits is trained once, and then the search ends."""
    study = harness(trials=10, recipe=FIXED | {"loss": ["cross_entropy", "own"], "image_size": [8, 16]})
    study.file = replace(study.file, model_limits=ModelLimits(megabytes=0.003))
    study.work()
    trained = [trial.params for trial in study.trials if "best_epoch" in trial.user_attrs]
    assert sorted(params["loss"] for params in trained) == ["cross_entropy", "own"]
    assert {params["image_size"] for params in trained} == {8}
    assert take_snapshot(study.opened).finished


@pytest.mark.parametrize("rest", ["failed", "beyond the limits"])
def test_a_worker_of_a_paused_host_ends_with_the_search(harness, monkeypatch, rest):
    """Where others have tried every recipe, the worker that waits ends, though some failed or are beyond [limits]."""
    monkeypatch.setattr("hpo.worker.worker.IDLE_SECONDS", 0.02)
    fails = rest == "failed"
    study = harness(
        (lambda logits, _: logits.sum() * float("nan")) if fails else torch.nn.functional.cross_entropy,
        trials=10,
        recipe=FIXED | {"loss": ["cross_entropy", "own"], "image_size": 8 if fails else [8, 16]},
    )
    if not fails:
        study.file = replace(study.file, model_limits=ModelLimits(megabytes=0.003))
    study.opened.rows.pause_host("here")
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    waits = threading.Thread(target=study.work, args=("waits",), daemon=True)
    waits.start()
    wait_until(lambda: take_snapshot(study.opened).present, every=0.01)
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    study.work("elsewhere")
    waits.join(limit(10))
    assert not waits.is_alive()
    assert sorted(place.state for place in study.places) == ["complete", "failed" if fails else "complete"]
    assert {place.worker for place in study.places} == {"elsewhere"}


def test_a_worker_without_a_model_within_the_limits_begins_nothing(harness):
    """A worker whose device is too slow for every model says so in one line."""
    study = harness(trials=1, recipe=FIXED)
    study.file = replace(study.file, model_limits=ModelLimits(milliseconds=1e-6))
    with pytest.raises(
        HpoError, match=r"^limits: no model .*: milliseconds is 1e-06, and the smallest, linear at 8 px"
    ):
        study.work()
    assert study.places == []
