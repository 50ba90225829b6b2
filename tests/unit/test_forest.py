"""The forest that proposes recipes: what it sees of them, what it learns, and how long it thinks."""

from __future__ import annotations

import math
import statistics
import time

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial, TrialState, create_trial

from hpo.study.encoding import UNUSED, Encoding
from hpo.study.forest import FIRST_RECIPES, Forest
from hpo.study.forest_sampler import ForestSampler, TrialForest
from storage.keys import FIRST_RUN_KEY, REPEATS_KEY
from tests.support.waiting import limit
from trainer.recipe import used_fields
from trainer.space import Choice, Range, Space, suggest

pytestmark = pytest.mark.unit

SPACE = Space({"epochs": 20})
TOY = Encoding({"rate": Range(1e-4, 1.0, log=True), "kind": Choice(("a", "b", "c")), "share": Range(0.0, 1.0)})


def toy_score(params):
    """The best recipe is of kind b, at a rate of 0.01 and a share of 0.3."""
    return -abs(math.log10(params["rate"]) + 2) - (params["kind"] != "b") - abs(params["share"] - 0.3)


def searched(forest, recipes, seed, score=toy_score):
    """Recipes that a forest proposes one after the other, each of which it is told at both of its rungs."""
    found = []
    for key in range(recipes):
        found.append(forest.encoding.params(forest.propose(1000 * seed + key)))
        for rung in (0, 1):
            forest.observe(key, found[-1], rung, score(found[-1]) - (rung == 0))
    return found


def test_random_recipes_are_such_as_the_space_suggests():
    """Each random recipe has the very parameters that the space asks for, within its ranges, and all values occur."""
    encoding, seen = Encoding.of(SPACE), {}
    for row in encoding.random(np.random.default_rng(0), 500):
        params = encoding.params(row)
        used = used_fields(suggest(FixedTrial(params), SPACE))
        assert params == {name: value for name, value in used.items() if name in encoding.names}
        for name, value in params.items():
            seen.setdefault(name, set()).add(value)
    for name in encoding.names:
        if isinstance(SPACE.fields[name], Choice):
            assert seen[name] == set(SPACE.fields[name].values)


def test_a_recipe_comes_back_from_its_coordinates():
    """Parameters become coordinates and these the same parameters; what the space does not hold is refused."""
    encoding = Encoding.of(Space({"batch_size": {"low": 8, "high": 64, "log": True}}))
    for row in encoding.random(np.random.default_rng(1), 100):
        params = encoding.params(row)
        again = encoding.params(encoding.coordinates(params))
        assert again == pytest.approx(params)
        assert type(params["batch_size"]) is int
    with pytest.raises(ValueError, match="no searched fields: colour"):
        encoding.coordinates({"colour": 1})
    with pytest.raises(ValueError, match="learning_rate: 7 is outside"):
        encoding.coordinates({"learning_rate": 7})
    with pytest.raises(ValueError, match="not in tuple"):
        encoding.coordinates({"optimizer": "adam"})


def test_the_model_sees_numbers_in_order_and_names_apart():
    """A range stays, a list of numbers becomes ranks, a name a feature of its own, and an unused field is marked."""
    space = {"rate": Range(1.0, 100.0, log=True), "share": Choice((0.9, 0.0, 0.1)), "kind": Choice(("a", "b"))}
    encoding = Encoding({**space, "more": Range(0.0, 2.0)}, {"more": ("kind", ("b",))})
    rows = [
        encoding.coordinates(params)
        for params in (
            {"rate": 10.0, "share": 0.9, "kind": "a"},
            {"rate": 100.0, "share": 0.1, "kind": "b", "more": 1.0},
        )
    ]
    assert encoding.features(np.stack(rows)).tolist() == [[0.5, 1.0, 1.0, 0.0, UNUSED], [1.0, 0.5, 0.0, 1.0, 0.5]]


def test_the_forest_finds_more_than_chance():
    """The best of forty proposals is better than the best of forty random recipes, on average over five seeds."""
    forests = [max(map(toy_score, searched(Forest(TOY, 1), 40, seed))) for seed in range(5)]
    random = [
        max(toy_score(TOY.params(row)) for row in TOY.random(np.random.default_rng(seed), 40)) for seed in range(5)
    ]
    assert statistics.mean(forests) > statistics.mean(random) / 2


def test_proposals_depend_on_results_and_no_clock():
    """The same results in the same order give the same proposals; before ten results they are random ones."""
    one, other = (searched(Forest(TOY, 1), 30, seed=1) for _ in range(2))
    assert one == other
    unlike = searched(Forest(TOY, 1), 30, seed=1, score=lambda params: -toy_score(params))
    assert unlike[: FIRST_RECIPES + 1] == one[: FIRST_RECIPES + 1]
    assert unlike[FIRST_RECIPES + 1 :] != one[FIRST_RECIPES + 1 :]


def test_a_decision_is_quick_at_ten_thousand_trials():
    """With the results of 10,000 trials a proposal takes less than a tenth of a second, new trees not waited for."""
    encoding = Encoding.of(SPACE)
    forest = Forest(encoding, 3)
    recipes = [encoding.params(row) for row in encoding.random(np.random.default_rng(0), 500)]
    for key in range(10_000):
        for rung in range(4):
            if key % 2**rung == 0:
                forest.observe(key, recipes[key % 500], rung, key * 0.618 % 1)
    forest.propose(0)
    time.sleep(limit(1))  # while its trial trains
    begun = time.perf_counter()
    forest.propose(1)
    assert time.perf_counter() - begun < limit(0.1)


def trial(number, state, reports, **more):
    """A trial with a recipe of the space and these reports."""
    params = Encoding.of(SPACE).params(Encoding.of(SPACE).random(np.random.default_rng(number), 1)[0])
    distributions = {name: each for name, each in Encoding.of(SPACE).distributions().items() if name in params}
    return create_trial(
        state=state,
        params=params,
        distributions=distributions,
        intermediate_values=dict(enumerate(reports, start=1)),
        value=max(reports) if state is TrialState.COMPLETE else None,
        user_attrs=more,
    )


def test_the_forest_learns_from_all_that_trials_have_reported(monkeypatch):
    """It takes the best score up to each rung and the value at the end; a run that goes on is no new recipe."""
    study = optuna.create_study(direction="maximize", storage="sqlite://")
    study.add_trials(
        [
            trial(0, TrialState.COMPLETE, [0.1, 0.3, 0.2, 0.2, 0.2, 0.25, *[0.4] * 14]),
            trial(1, TrialState.PRUNED, [0.1, 0.2, 0.15]),
            trial(1, TrialState.PRUNED, [0.1, 0.2, 0.15, 0.3, 0.2, 0.2], **{REPEATS_KEY: 1, FIRST_RUN_KEY: 1}),
            trial(3, TrialState.FAIL, [0.5, 0.6]),
        ]
    )
    seen = {}
    monkeypatch.setattr(Forest, "observe", lambda _, key, __, rung, score: seen.update({(key, rung): score}))
    TrialForest(SPACE).propose(study, seed=0)
    assert seen == {(0, 0): 0.3, (0, 1): 0.3, (0, 2): 0.4, (0, 3): 0.4, (1, 0): 0.2, (1, 1): 0.3}


def test_a_trial_gets_the_whole_recipe_that_the_forest_proposes():
    """Through Optuna a trial is suggested just what the forest proposes; a recipe that is enqueued stays."""
    study = optuna.create_study(direction="maximize", storage="sqlite://", sampler=ForestSampler(TrialForest(SPACE), 5))
    asked = study.ask()
    suggest(asked, SPACE)
    expected = TrialForest(SPACE).propose(optuna.create_study(storage="sqlite://"), 5)
    assert asked.params == expected
    study.enqueue_trial(SPACE.default_parameters())
    enqueued = study.ask()
    suggest(enqueued, SPACE)
    assert enqueued.params.items() <= SPACE.default_parameters().items()
