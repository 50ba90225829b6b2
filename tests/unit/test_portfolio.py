"""The recipes by which models of a family are known to learn well, and which of them a study tries."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from torch import nn

from hpo.study.portfolio import LONG, MOST, portfolio
from trainer.extensions import Extensions
from trainer.recipe import recipe_from
from trainer.space import DEFAULT_SPACE, Space, misfits

pytestmark = pytest.mark.unit

RESNET, VIT = DEFAULT_SPACE["backbone"][0], DEFAULT_SPACE["backbone"][-1]


def found_in(trials=None, **fields):
    """The portfolio's recipes in a space that has these fields."""
    return list(portfolio(Space(fields), trials))


def test_each_backbone_of_the_default_space_has_a_recipe_that_the_space_holds():
    """Where a study file says nothing every backbone is tried by a recipe of its family, which a trial can have."""
    space = Space({})
    found = portfolio(space, None)
    assert {recipe.backbone for recipe in found} == set(DEFAULT_SPACE["backbone"])
    assert len(found) <= MOST
    assert all(not misfits(recipe, space) for recipe in found)
    assert all(source for source in found.values())
    default = recipe_from({**space.fields, **space.default_parameters()})
    assert default not in found


def test_the_recipes_of_fast_models_come_first():
    """Whatever the order of the backbones in the study file, those come first that train fastest."""
    names = [recipe.backbone for recipe in found_in(backbone=list(reversed(DEFAULT_SPACE["backbone"])))]
    assert list(dict.fromkeys(names)) == [VIT, RESNET, *DEFAULT_SPACE["backbone"][1:4]]


@pytest.mark.parametrize(("trials", "most"), [(3, 0), (4, 1), (20, 5), (None, MOST)])
def test_one_trial_in_four_tries_a_recipe_of_the_portfolio_at_most(trials, most):
    """A small budget is not spent on the portfolio, and each family has one recipe before another has two."""
    backbones = [f"resnet{depth}" for depth in (18, 26, 34, 50, 101)] + [VIT]
    names = [recipe.backbone for recipe in found_in(trials, backbone=backbones)]
    assert len(names) == most
    assert VIT in names or most < 2


def test_strong_regularisation_is_for_long_trainings():
    """Mixed images are tried where a training is long enough to learn from them."""
    assert any(recipe.mixing != "none" for recipe in found_in(epochs=LONG))
    short = found_in(epochs=5)
    assert short
    assert all(recipe.mixing == "none" for recipe in short)


def test_short_trainings_of_efficientnets_have_the_recipe_that_was_measured_for_them():
    """A published recipe that learns too slowly for a few epochs is tried in long trainings alone."""
    rates = {
        epochs: {
            (recipe.optimizer, recipe.learning_rate) for recipe in found_in(backbone="efficientnet_b0", epochs=epochs)
        }
        for epochs in (5, LONG)
    }
    assert rates == {5: {("adamw", 3e-3)}, LONG: {("adamw", 3e-3), ("sgd", 1e-2)}}


def test_what_the_study_file_fixes_wins():
    """A fixed field stays, a number is moved to the nearest that is allowed, and an unknown name is the default's."""
    fields = {
        "backbone": [RESNET, VIT],
        "image_size": [96, "100x200"],
        "batch_size": 8,
        "augment": ["medium", "heavy"],
        "weight_decay": {"low": 1e-3, "high": 1e-1, "log": True},
        "learning_rate": [2e-4, 1e-3, 2e-3],
    }
    found = found_in(**fields)
    assert {recipe.batch_size for recipe in found} == {8}
    assert {recipe.augment for recipe in found} == {"medium"}
    assert {recipe.image_size for recipe in found} == {96}
    by_rate = {recipe.learning_rate: recipe for recipe in found}
    assert by_rate.keys() == {2e-4, 1e-3, 2e-3}
    assert {by_rate[2e-3].optimizer, by_rate[2e-3].weight_decay} == {"sgd", 1e-3}
    assert all(not misfits(recipe, Space(fields)) for recipe in found)


def test_a_learning_rate_goes_with_its_optimiser():
    """Where a study has one optimiser alone no recipe of another one is tried with it."""
    for optimizer in ("adamw", "sgd"):
        found = found_in(optimizer=optimizer)
        assert found
        every = [recipe for recipe in found_in() if recipe.optimizer == optimizer]
        assert {recipe.learning_rate for recipe in found} == {recipe.learning_rate for recipe in every}


@pytest.mark.parametrize(
    ("backbone", "like"),
    [
        ("resnet18.a1_in1k", RESNET),
        ("wide_resnet50_2", RESNET),
        ("resnetv2_50x1_bit.goog_in21k", RESNET),
        ("deit_tiny_patch16_224", VIT),
        ("tf_efficientnet_lite0", "efficientnet_b0.ra_in1k"),
        ("convnextv2_atto", "convnext_tiny.in12k_ft_in1k"),
    ],
)
def test_other_models_of_a_family_have_its_recipes(backbone, like):
    """A backbone that is not in the default space is tried as the one of its family there."""
    found, as_like = found_in(backbone=backbone), found_in(backbone=like)
    assert found
    assert [asdict(recipe) | {"backbone": like} for recipe in found] == [asdict(recipe) for recipe in as_like]


@pytest.mark.parametrize("backbone", ["mobilevit_s", "mobilenetv3_small_100", "levit_128s", "regnety_002"])
def test_a_model_of_no_family_has_no_recipe(backbone):
    """A name that only looks like that of a family brings no recipe."""
    assert found_in(backbone=backbone) == []


def test_a_model_of_ones_own_has_no_recipe():
    """Nothing is known of a model of one's own, whatever it is called."""
    own = Extensions(backbones={"resnet": lambda classes: nn.Linear(1, classes)})
    assert portfolio(Space({"backbone": "resnet"}, own), None) == {}


def test_models_without_weights_learn_at_a_rate_of_their_own():
    """Where nothing is pretrained each family is tried by the recipes for that, first without augmentation."""
    found = found_in(backbone=["test_resnet", "test_vit"], pretrained=False)
    assert [(recipe.backbone, recipe.augment) for recipe in found] == [
        ("test_vit", "none"),
        ("test_vit", "light"),
        ("test_resnet", "none"),
        ("test_resnet", "light"),
    ]
    assert {(recipe.optimizer, recipe.learning_rate) for recipe in found} == {("adamw", 3e-3)}
    assert [recipe.augment for recipe in found_in(4, backbone="test_vit", pretrained=False)] == ["none"]
