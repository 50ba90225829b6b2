"""Recipes of the user's own: those of the study file, and those of `hpo try`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpo.study.open_study import create_study, load_study, recipe_of
from hpo.study.queued import queue_recipe
from hpo.study.study_file import read_study_file
from hpo.study.takeover import take_over
from storage.keys import DEFAULT_KEY, QUEUED_KEY
from storage.optuna_internals import given_parameters
from tests.integration.conftest import ScriptedLoss, lines_of
from trainer.space import Space, recipe_near_default

pytestmark = pytest.mark.integration

SEARCHED = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "mixing": "none", "loss": "own"}


def with_tries(study, *tries):
    """The study's file with these tables [[try]]."""
    path, extensions = study.file.path, study.file.space.extensions
    text = path.read_text().partition("[[try]]")[0]
    path.write_text(text + "".join(f"[[try]]\n{line}\n" for line in tries))
    return read_study_file(path, extensions)


def rates(study):
    """The learning rates of all trials, by number."""
    return [trial.params["learning_rate"] for trial in study.trials]


def begun_with(harness, *tries, trials=4):
    """A study whose file had these tables [[try]] when it was begun."""
    study = harness(trials=trials, recipe=SEARCHED, name="first")
    study.file = replace(with_tries(study, *tries), name="tries")
    create_study(study.file, study.url, study.data)
    study.opened = load_study(study.file, study.url)
    return study


def test_the_recipes_of_the_study_file_are_tried_first_and_then_the_default_one(harness):
    """Workers take the recipes of [[try]] in their order, then the default recipe, then what the sampler proposes."""
    study = begun_with(harness, "learning_rate = 0.02", "learning_rate = 0.003")
    study.work()
    assert rates(study)[:3] == [0.02, 0.003, 0.001]
    assert len(set(rates(study))) == 4
    assert [trial.user_attrs.get(QUEUED_KEY) for trial in study.trials] == ["the study file"] * 2 + [None] * 2
    assert [DEFAULT_KEY in trial.user_attrs for trial in study.trials] == [False, False, True, False]
    assert [place.state for place in study.places] == ["complete"] * 4


def test_a_recipe_that_comes_to_the_study_file_later_is_queued_once(harness):
    """A study that lives takes new tables [[try]] in, and none that it has had."""
    study = begun_with(harness, "learning_rate = 0.02", trials=2)
    study.work()
    tables = "learning_rate = 0.02", "learning_rate = 0.03"
    more = replace(with_tries(study, *tables), name="tries")
    assert create_study(more, study.url, study.data) == ["recipes of the study file that are tried first: 1"]
    assert create_study(more, study.url, study.data) == []
    study.file = replace(more, limits=replace(more.limits, trials=3))
    study.work("later")
    assert rates(study) == [0.02, 0.001, 0.03]


def test_the_default_recipe_among_the_recipes_of_the_study_file_is_tried_once(harness):
    """A table [[try]] that changes nothing takes no second place in the budget."""
    study = begun_with(harness, "learning_rate = 0.001", "learning_rate = 0.02", trials=2)
    study.work()
    assert rates(study) == [0.02, 0.001]
    assert DEFAULT_KEY in study.trials[1].user_attrs


def test_a_recipe_that_another_study_has_tried_is_not_tried_again(harness):
    """What was taken over from an old study with a result is not trained anew for [[try]]."""
    study = begun_with(harness, "learning_rate = 0.02", trials=2)
    study.work()
    new = replace(with_tries(study, "learning_rate = 0.02", "learning_rate = 0.03"), name="new")
    take_over(new, study.url, study.data, "tries")
    opened = load_study(new, study.url)
    waiting = [
        trial.system_attrs["fixed_params"]["learning_rate"]
        for trial in opened.study.trials
        if not trial.state.is_finished()
    ]
    opened.storage.engine.dispose()
    assert waiting == [0.03]


def test_a_queued_recipe_goes_on_after_the_death_of_its_worker(harness):
    """The run that repeats a queued recipe has its values, also where its worker died before it asked for any."""
    study = begun_with(harness, "learning_rate = 0.02", trials=1)
    study.dead_worker()
    study.opened.rows.requeue("dead")
    study.work()
    ran = study.trials[-1]
    assert (ran.params["learning_rate"], ran.user_attrs[QUEUED_KEY]) == (0.02, "the study file")
    assert [place.state for place in study.places] == ["complete"]


def test_a_recipe_is_queued_while_the_search_runs(harness):
    """`hpo try` comes before all that the sampler proposes, and does not repeat a recipe unless it has failed."""
    queued = []

    def queue():
        recipe = recipe_near_default({"learning_rate": 0.05}, study.file.space)
        queued.append(queue_recipe(study.opened.study, recipe, study.file.space, "hpo try mine.toml"))

    study = harness(ScriptedLoss({1: queue, 4: queue}), trials=3, recipe=SEARCHED)
    study.work()
    queue()
    assert rates(study)[:2] == [0.001, 0.05]
    assert [(trial.number, is_new) for trial, is_new in queued] == [(1, True), (1, False), (1, False)]
    assert recipe_of(study.trials[1], study.opened.study, study.file.space.extensions).learning_rate == 0.05
    assert lines_of(study, 1)


def test_a_recipe_that_failed_is_queued_again(harness):
    """A recipe that could not be trained may be tried once more."""
    study = harness(ScriptedLoss({1: lambda: 1 / 0}), trials=1, recipe=SEARCHED)
    study.work()
    recipe = recipe_near_default({}, study.file.space)
    trial, is_new = queue_recipe(study.opened.study, recipe, study.file.space, "hpo try mine.toml")
    assert (trial.number, is_new) == (1, True)


def test_a_new_study_tries_the_portfolio_after_the_default_recipe(harness):
    """Published recipes for the backbone wait behind the default one, with their source, unless the file wants none."""
    study = harness()
    recipe = {"backbone": "resnet18", "pretrained": True, "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}

    def waiting(name, *, wanted, trials=8):
        """Who has queued the recipes of a new study, and their learning rates."""
        space = Space({**recipe, "epochs": 20})
        limits = replace(study.file.limits, trials=trials)
        file = replace(study.file, name=name, space=space, limits=limits, portfolio=wanted)
        for _ in range(2):  # the second time there is nothing to queue
            lines = create_study(file, study.url, study.data)
        assert lines == []
        trials = load_study(file, study.url).study.get_trials()
        return [(trial.user_attrs.get(QUEUED_KEY), given_parameters(trial)["learning_rate"]) for trial in trials]

    queued = waiting("wanted", wanted=True)
    assert [rate for _, rate in queued] == [0.001, 0.003, 0.0006]
    assert queued[0][0] is None
    assert queued[1][0] == "the portfolio: BiT-HyperRule (Kolesnikov et al. 2020)"
    assert waiting("small", wanted=True, trials=3) == waiting("unwanted", wanted=False) == [(None, 0.001)]
