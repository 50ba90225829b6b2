"""The recipes of a search space, and what tells two of them apart."""

import random
from itertools import islice

import optuna
import pytest

from trainer.enumeration import count_recipes, digest_of, is_finite, recipes
from trainer.recipe import DEFAULTS
from trainer.space import Space, suggest

pytestmark = pytest.mark.unit


def space_of(**fields):
    """A space in which these fields vary and no others."""
    return Space(DEFAULTS | fields)


def asked(space, trials):
    """Parameters of many trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = []
    for _ in range(trials):
        trial = study.ask()
        suggest(trial, space)
        found.append(trial.params)
    return found


CONDITIONAL = {
    "image_size": [32, "32x48"],
    "loss": ["cross_entropy", "label_smoothing", "bce"],
    "label_smoothing": [0.05, 0.1],
    "class_weights": ["none", "effective_number"],
    "effective_beta": [0.9, 0.99],
    "epochs": {"low": 2, "high": 4},
}


def test_each_recipe_comes_once_and_none_is_missing():
    """All recipes of a finite space are found, each once: those that a sampler draws sooner or later, and no others."""
    space = space_of(**CONDITIONAL)
    assert is_finite(space)
    found = [digest_of(recipe, space) for recipe in recipes(space, random.Random(1))]
    # Sizes, times epochs, times: weights and their beta; the same with two smoothings; bce, which has no weights.
    assert len(found) == 2 * 3 * (3 + 2 * 3 + 1)
    assert len(set(found)) == len(found)
    assert {digest_of(parameters, space) for parameters in asked(space, 2000)} == set(found)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        CONDITIONAL,
        {"pretrained": [True, False], "freeze": [0.0, 0.5], "warmup": [0.0, 0.1], "schedule": ["cosine", "one_cycle"]},
        {"augment": ["flip", "randaugment"], "randaugment_ops": {"low": 1, "high": 3}, "mixing": ["none", "both"]},
        {"learning_rate": {"low": 1, "high": 1}, "loss": "focal", "focal_gamma": [1.0, 2.0], "ema": [True, False]},
    ],
)
def test_recipes_are_counted_without_a_look_at_each(fields):
    """The number of recipes of a finite space is that of those that are found one by one."""
    space = space_of(**fields)
    assert count_recipes(space) == len(list(recipes(space, random.Random(0))))


def test_fields_that_a_recipe_does_not_use_make_no_other_recipe():
    """Values of fields without a meaning beside the others, or written 1 in place of 1.0, make no other recipe."""
    space = space_of(loss=["cross_entropy", "focal"], focal_gamma={"low": 0.5, "high": 5}, warmup=[0, 0.1])
    plain = digest_of({"loss": "cross_entropy", "warmup": 0.0}, space)
    assert digest_of({"warmup": 0, "focal_gamma": 2.0, "loss": "cross_entropy"}, space) == plain
    assert digest_of({"loss": "cross_entropy", "warmup": 0.1}, space) != plain
    focal = [digest_of({"loss": "focal", "focal_gamma": gamma, "warmup": 0.0}, space) for gamma in (2.0, 2.5)]
    assert len({plain, *focal}) == 3


def test_a_searched_seed_makes_another_recipe():
    """Two recipes that differ in a searched seed are two."""
    space = space_of(seed={"low": 0, "high": 2**31 - 1})
    assert is_finite(space)
    found = list(islice(recipes(space, random.Random(0)), 1000))  # without making a list of all of them
    assert len({digest_of(recipe, space) for recipe in found}) == 1000


def test_fractions_that_no_recipe_can_use_leave_a_space_finite():
    """A range of fractions makes a space endless where a recipe can use it, and only there."""
    gamma = {"low": 0.5, "high": 5.0}
    beta = {"low": 0.9, "high": 0.99}
    assert is_finite(space_of(loss="bce", focal_gamma=gamma))
    assert not is_finite(space_of(loss=["bce", "focal"], focal_gamma=gamma))
    assert is_finite(
        space_of(loss="bce", class_weights=["effective_number"], effective_beta=beta)
    )  # bce has no weights
    assert not is_finite(space_of(loss="focal", class_weights=["effective_number"], effective_beta=beta))
    assert is_finite(space_of(learning_rate={"low": 1, "high": 1}))
    assert len(list(recipes(space_of(learning_rate={"low": 1, "high": 1}), random.Random(0)))) == 1


def test_given_values_stay():
    """Recipes with given values are all that the others allow, and endless where a range of fractions is open."""
    space = space_of(**CONDITIONAL)
    given = {"loss": "label_smoothing", "epochs": 3}
    found = list(recipes(space, random.Random(0), given))
    assert len(found) == 2 * 2 * 3
    assert all(recipe | given == recipe for recipe in found)
    rates = space_of(learning_rate={"low": 1e-5, "high": 1e-2, "log": True}, batch_size=[8, 16])
    found = list(islice(recipes(rates, random.Random(0), {"batch_size": 8}), 100))
    assert len({recipe["learning_rate"] for recipe in found}) == 100
    assert all(1e-5 <= recipe["learning_rate"] <= 1e-2 for recipe in found)
