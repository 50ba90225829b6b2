"""The forest that proposes recipes: what it sees of them, what it learns, and how long it thinks."""

from __future__ import annotations

import math
import statistics
import threading
import time

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial, TrialState, create_trial

from hpo.study.candidates import WAYS, draw, shares
from hpo.study.encoding import MOST_CHANGES, UNUSED, Encoding
from hpo.study.forest import FIRST_RECIPES, Forest, _fit
from hpo.study.forest_sampler import ForestSampler, TrialForest
from storage.keys import FIRST_RUN_KEY, QUEUED_KEY, REPEATS_KEY
from tests.support.waiting import limit, wait_until
from trainer.objective_metric import metric_of
from trainer.recipe import used_fields
from trainer.space import Choice, Range, Space, parameters_of, recipe_near_default, suggest

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
        proposal = forest.propose(1000 * seed + key)
        found.append(forest.encoding.params(proposal.coordinates))
        for rung in (0, 1):
            forest.observe(key, found[-1], rung, score(found[-1]) - (rung == 0), proposal.way)
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
    written = {"learning_rate": 3e-3, "weight_decay": 0.05, "focal_gamma": 0.7, "batch_size": 24}
    assert encoding.params(encoding.coordinates(written)) == written
    with pytest.raises(ValueError, match="no searched fields: colour"):
        encoding.coordinates({"colour": 1})
    with pytest.raises(ValueError, match="learning_rate: 7 is outside"):
        encoding.coordinates({"learning_rate": 7})
    with pytest.raises(ValueError, match="not in tuple"):
        encoding.coordinates({"optimizer": "adam"})


def test_a_neighbour_changes_one_to_four_fields_by_a_small_step():
    """One to four fields of a recipe change: numbers a little; what comes into use with them is drawn."""
    encoding = Encoding.of(Space({"batch_size": {"low": 8, "high": 64, "log": True}, "warmup": [0.2, 0.0, 0.1, 0.05]}))
    default = encoding.coordinates(parameters_of(recipe_near_default({}, SPACE), SPACE) | {"batch_size": 32})
    near = encoding.neighbours(np.random.default_rng(0), np.stack([default] * 500))
    changed = (near != default) & ~np.isnan(default) & ~np.isnan(near)
    assert set(changed.sum(axis=1)) == set(range(1, MOST_CHANGES + 1))
    assert changed.any(axis=0).sum() == (~np.isnan(default)).sum()
    rate = encoding.names.index("learning_rate")
    assert 0.1 < np.abs(near - default)[changed[:, rate], rate].mean() < 0.15
    values = {encoding.params(row).get("warmup") for row in near}
    assert values == {0.0, 0.05, 0.1, None}  # 0.05 is the default; None where the schedule has none
    for row in near:
        params = encoding.params(row)
        assert params.keys() == parameters_of(suggest(FixedTrial(params), SPACE), SPACE).keys() | {"batch_size"}


def test_ways_that_bring_good_results_get_more_recipes():
    """Each way to draw begins with the same share; one with results among the best quarter gains, and none is lost."""
    assert shares([], WAYS).tolist() == pytest.approx([1 / 3] * 3)
    results = [("at random", 0.1)] * 6 + [("near a starting recipe", 0.9)] * 4 + [(None, 0.9), (None, 0.2)]
    found = dict(zip(WAYS, shares(results, WAYS), strict=True))
    assert found["at random"] < found["near the best"] < found["near a starting recipe"]
    assert sum(found.values()) == pytest.approx(1)
    assert min(shares([("at random", 0.1)] * 10_000 + [("near the best", 1.0)] * 5_000, WAYS)) > 0.09


def test_neighbours_that_are_no_better_than_chance_are_few():
    """Where scores are noise, neighbours of a lucky recipe get few recipes, and random ones the others."""
    scores = np.random.default_rng(0).random(2000)
    results = [("at random" if at % 2 else "near the best", float(score)) for at, score in enumerate(scores)]
    random, near = shares(results, ["at random", "near the best"])
    assert near < 0.2
    assert random == pytest.approx(1 - near)


def test_the_model_chooses_among_recipes_of_one_way(monkeypatch):
    """How a recipe is drawn goes by the shares alone, though the model likes neighbours of the best most."""
    forest = Forest(TOY, 1)
    searched(forest, 30, seed=0)
    monkeypatch.setattr("hpo.study.forest.shares", lambda _, possible: np.full(len(possible), 1 / len(possible)))
    ways = [forest.propose(seed).way for seed in range(40)]
    assert 12 < ways.count("at random") < 28


def test_recipes_are_drawn_near_what_is_given():
    """At random a recipe is like no other; near recipes it shares most of its fields with one of them."""
    encoding, rng = Encoding.of(SPACE), np.random.default_rng(0)
    two = encoding.random(rng, 2)
    drawn = np.concatenate([draw(encoding, rng, 50, near) for near in (two[:0], two)])
    unlike = [min((~np.isclose(row, one, equal_nan=True)).sum() for one in two) for row in drawn]
    assert max(unlike[50:]) < 10 < min(unlike[:50])
    assert all(any(np.isclose(row, one).sum() >= 10 for row in drawn[50:]) for one in two)


def test_the_first_recipes_are_near_the_default_one_and_near_those_of_the_user():
    """Before there is a model most recipes are near those that somebody holds for good, as random ones are hopeless."""
    own = Encoding.of(SPACE).params(Encoding.of(SPACE).random(np.random.default_rng(9), 1)[0])
    study = optuna.create_study(direction="maximize", storage="sqlite://")
    study.enqueue_trial(own, user_attrs={QUEUED_KEY: "somebody"})
    forest, default = TrialForest(SPACE), parameters_of(recipe_near_default({}, SPACE), SPACE)
    near = {"default": 0, "own": 0}
    for seed in range(40):
        params = forest.encoding.params(forest.propose(study, seed).coordinates)
        for name, recipe in (("default", default), ("own", own)):
            near[name] += sum(params.get(field) == value for field, value in recipe.items()) > 0.7 * len(recipe)
    assert near["default"] >= 5
    assert near["own"] >= 5
    assert near["default"] + near["own"] < 40


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
    """The same results in the same order give the same proposals, and other results others."""
    one, other = (searched(Forest(TOY, 1), 30, seed=1) for _ in range(2))
    assert one == other
    unlike = searched(Forest(TOY, 1), 30, seed=1, score=lambda params: -toy_score(params))
    assert unlike[0] == one[0]
    assert unlike[FIRST_RECIPES + 1 :] != one[FIRST_RECIPES + 1 :]


def test_a_decision_is_quick_at_ten_thousand_trials(monkeypatch):
    """With the results of 10,000 trials a proposal takes less than a tenth of a second, new trees not waited for."""
    decided = threading.Event()

    def fit_later(*learned):
        assert decided.wait(limit(30))
        return _fit(*learned)

    monkeypatch.setattr("hpo.study.forest._fit", fit_later)
    encoding = Encoding.of(SPACE)
    forest = Forest(encoding, 3)
    recipes = [encoding.params(row) for row in encoding.random(np.random.default_rng(0), 500)]
    for key in range(10_000):
        for rung in range(4):
            if key % 2**rung == 0:
                forest.observe(key, recipes[key % 500], rung, key * 0.618 % 1)
    forest.propose(0)
    decided.set()
    wait_until(forest._fitting.done)  # while its trial trains
    begun = time.thread_time()
    forest.propose(1)
    assert time.thread_time() - begun < limit(0.1)
    assert forest._trees


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
    monkeypatch.setattr(Forest, "observe", lambda _, key, __, rung, score, _way: seen.update({(key, rung): score}))
    TrialForest(SPACE).propose(study, seed=0)
    assert seen == {(0, 0): 0.3, (0, 1): 0.3, (0, 2): 0.4, (0, 3): 0.4, (1, 0): 0.2, (1, 1): 0.3}


def test_a_trial_gets_the_whole_recipe_that_the_forest_proposes():
    """Through Optuna a trial is suggested just what the forest proposes; a recipe that is enqueued stays."""
    study = optuna.create_study(direction="maximize", storage="sqlite://", sampler=ForestSampler(TrialForest(SPACE), 5))
    asked = study.ask()
    suggest(asked, SPACE)
    expected = TrialForest(SPACE).propose(optuna.create_study(storage="sqlite://"), 5)
    assert asked.params == TrialForest(SPACE).encoding.params(expected.coordinates)
    assert study.sampler.way == expected.way
    study.enqueue_trial(SPACE.default_parameters())
    enqueued = study.ask()
    suggest(enqueued, SPACE)
    assert enqueued.params.items() <= SPACE.default_parameters().items()
    assert study.sampler.way is None


def test_a_loss_teaches_as_a_share():
    """The trees learn from exp(-log-loss), beside which one training of a very high loss does not drown the others."""
    study = optuna.create_study(direction="maximize", storage="sqlite://")
    distributions = Encoding.of(SPACE).distributions()
    random = np.random.default_rng(3)
    for value in (-0.1, -50.0):
        params = Encoding.of(SPACE).params(Encoding.of(SPACE).random(random, 1)[0])
        used = {name: distributions[name] for name in params}
        study.add_trial(optuna.trial.create_trial(value=value, params=params, distributions=used))
    forest, seen = TrialForest(SPACE, metric=metric_of("log_loss")), []
    forest._forest.observe = lambda *given: seen.append(given[3])
    forest.propose(study, 0)
    assert seen == [pytest.approx(np.exp(-0.1)), pytest.approx(0.0, abs=1e-9)]
