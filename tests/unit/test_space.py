"""The search space: values, lists and ranges, and what is asked of a trial."""

import json
import math
from dataclasses import asdict

import optuna
import pytest

from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.recipe import DEFAULTS, RULES, Recipe, used_fields
from trainer.space import DEFAULT_SPACE, Choice, Range, Space, misfits, parameters_of, recipe_near_default, suggest

pytestmark = pytest.mark.unit

FIXED = dict(DEFAULTS)  # a space in which nothing varies


def _study(seed=0):
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))


def _asked(space, trials=200):
    """(parameters, recipe) of many trials."""
    study = _study()
    pairs = []
    for _ in range(trials):
        trial = study.ask()
        recipe = suggest(trial, space)
        pairs.append((trial.params, recipe))
    return pairs


def test_fixed_values():
    """A space of values alone asks the trial for nothing and gives the recipe of these values."""
    space = Space(FIXED | {"epochs": 7, "learning_rate": 1, "ema": True})
    for parameters, recipe in _asked(space, trials=3):
        assert parameters == {}
        assert recipe == Recipe(epochs=7, learning_rate=1.0, ema=True)


def test_list_chooses():
    """A list lets the trial choose, and each of its values is chosen sooner or later."""
    space = Space(FIXED | {"batch_size": [8, 16, 64], "warmup": [0, 0.1], "ema": [False, True]})
    pairs = _asked(space)
    assert {(p["batch_size"], p["warmup"], p["ema"]) for p, _ in pairs} == {
        (size, warmup, ema) for size in (8, 16, 64) for warmup in (0.0, 0.1) for ema in (False, True)
    }
    assert all(asdict(recipe) == FIXED | parameters for parameters, recipe in pairs)


def test_range_of_fractions():
    """A range of fractions searches all between its ends evenly, or evenly in the logarithm."""
    space = Space(
        FIXED | {"weight_decay": {"low": 0, "high": 0.5}, "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}
    )
    recipes = [recipe for _, recipe in _asked(space, trials=400)]
    assert all(0 <= recipe.weight_decay <= 0.5 and 1e-5 <= recipe.learning_rate <= 1e-1 for recipe in recipes)
    assert 0.4 < sum(recipe.weight_decay < 0.25 for recipe in recipes) / 400 < 0.6
    assert 0.4 < sum(recipe.learning_rate < 1e-3 for recipe in recipes) / 400 < 0.6


def test_range_of_whole_numbers():
    """A range of a whole-number field gives whole numbers, both ends included."""
    space = Space(FIXED | {"epochs": {"low": 3, "high": 5}, "batch_size": {"low": 1, "high": 1024, "log": True}})
    recipes = [recipe for _, recipe in _asked(space, trials=400)]
    assert {recipe.epochs for recipe in recipes} == {3, 4, 5}
    assert all(type(recipe.batch_size) is int and 1 <= recipe.batch_size <= 1024 for recipe in recipes)
    assert 0.35 < sum(recipe.batch_size < 32 for recipe in recipes) / 400 < 0.65


def test_range_of_one_value():
    """A range whose ends are equal gives this value."""
    space = Space(FIXED | {"epochs": {"low": 3, "high": 3}, "weight_decay": {"low": 0.5, "high": 0.5}})
    _, recipe = _asked(space, trials=1)[0]
    assert (recipe.epochs, recipe.weight_decay) == (3, 0.5)


def test_default_space():
    """Without a word about a field it is searched as the default space says, or has the recipe's default."""
    space = Space({})
    assert space.as_dict() == DEFAULTS | {
        name: entry | {"log": entry.get("log", False)} if isinstance(entry, dict) else entry
        for name, entry in DEFAULT_SPACE.items()
    }
    assert Space({"loss": "focal"}).fields == space.fields | {"loss": "focal"}


def test_conditional_fields():
    """A trial is asked for a conditional field if and only if its recipe uses it."""
    searched = DEFAULT_SPACE | {"warmup": {"low": 0.0, "high": 0.5}}
    pairs = _asked(Space(searched), trials=300)
    for name, rule in RULES.items():
        if name not in searched:
            assert not any(name in parameters for parameters, _ in pairs)
        elif rule.only_if is None:
            assert all(name in parameters for parameters, _ in pairs)
        else:
            asked = [name in parameters for parameters, _ in pairs]
            assert asked == [name in used_fields(recipe) for _, recipe in pairs]
            assert set(asked) == ({True, False} if rule.only_if[0] in searched else {True})
    assert {"focal_gamma" in p for p, recipe in pairs if recipe.loss == "focal"} == {True}


def test_conditional_field_that_is_not_used():
    """A conditional field that the recipe does not use keeps the recipe's default, or its fixed value."""
    for _, recipe in _asked(Space({"focal_gamma": {"low": 3.0, "high": 4.0}, "label_smoothing": 0.25}), trials=50):
        assert 3 <= recipe.focal_gamma <= 4 if recipe.loss == "focal" else recipe.focal_gamma == 2.0
        assert recipe.label_smoothing == 0.25


def test_fixed_trial_repeats_a_trial():
    """The parameters of a trial give its recipe again."""
    space = Space({"epochs": {"low": 1, "high": 50}})
    for parameters, recipe in _asked(space, trials=100):
        assert suggest(optuna.trial.FixedTrial(parameters), space) == recipe


def test_first_trial_of_the_default_space():
    """A study over the default space can begin with the default recipe."""
    study, space = _study(), Space({})
    study.enqueue_trial(space.default_parameters())
    assert suggest(study.ask(), space) == Recipe()


def test_default_parameters():
    """The first trial has the recipe's defaults, or the nearest end of a range, number of a list, or first name."""
    space = Space(
        FIXED
        | {
            "epochs": {"low": 30, "high": 50},
            "image_size": [96, 128],
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "batch_size": [64, 32],
            "loss": ["soft_f1", "focal"],
            "weight_decay": [1e-3, 0.05, 0.0],  # the default, 0.01, is nearer to 1e-3, and by the ratio to 0.05
            "warmup": [0.0, 0.2, 0.1],  # the default is 0.05
            "ema": [True],
        }
    )
    expected = {"epochs": 30, "image_size": 128, "learning_rate": 1e-3, "batch_size": 32, "loss": "soft_f1"}
    expected |= {"weight_decay": 0.05, "warmup": 0.0, "ema": True}
    assert space.default_parameters() == expected
    study = _study()
    study.enqueue_trial(space.default_parameters())
    assert suggest(study.ask(), space) == Recipe(**expected)


def test_misfits_are_the_used_fields_that_the_space_could_not_suggest():
    """A recipe fits a space that could suggest it; fields that it does not use do not count."""
    space = Space(
        {name: default for name, default in DEFAULTS.items() if name != "ema"}
        | {
            "epochs": {"low": 5, "high": 20},
            "loss": ["focal", "cross_entropy"],
            "focal_gamma": 3.0,
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "augment": "flip",
            "ema": [True],
        }
    )
    assert misfits(Recipe(augment="flip", ema=True), space) == []
    assert misfits(Recipe(augment="flip", ema=True, epochs=5, learning_rate=1e-2), space) == []
    assert misfits(Recipe(augment="flip", ema=True, epochs=4, learning_rate=0.011), space) == [
        "epochs",
        "learning_rate",
    ]
    assert misfits(Recipe(augment="flip", ema=True, loss="focal"), space) == ["focal_gamma"]
    assert misfits(Recipe(loss="bce", batch_size=16), space) == ["batch_size", "loss", "augment", "ema"]


def test_what_a_space_suggests_fits_it():
    """Every recipe that a space suggests fits it."""
    space = Space({"epochs": {"low": 1, "high": 50}})
    assert all(misfits(recipe, space) == [] for _, recipe in _asked(space, trials=100))


def test_values():
    """The values of a field are its one value, those of its list, or the two ends of its range."""
    space = Space({"epochs": 3, "image_size": [32, 64], "batch_size": {"low": 8, "high": 32}})
    assert space.values("epochs") == (3,)
    assert space.values("image_size") == (32, 64)
    assert space.values("batch_size") == (8, 32)
    assert (space.fields["image_size"], space.fields["batch_size"]) == (Choice((32, 64)), Range(8, 32))


def test_round_trip():
    """A space written as a dictionary goes through JSON and makes an equal space."""
    space = Space({"epochs": {"low": 3, "high": 9, "log": True}, "warmup": [0, 0.2], "seed": 4, "ema": [True]})
    written = json.loads(json.dumps(space.as_dict(), allow_nan=False))
    assert written.keys() == DEFAULTS.keys()
    assert Space(written).fields == space.fields
    assert Space(written).as_dict() == space.as_dict()


def test_ten_mistakes():
    """All mistakes of a space are named at once, each beginning with its key."""
    mistakes = {
        "epoch": 3,
        "image_size": {"low": 8, "high": 32},
        "epochs": {"low": 5, "high": 3},
        "optimizer": ["adamw", "adam"],
        "learning_rate": {"low": 0.0, "high": 1.0, "log": True},
        "weight_decay": {"low": 0.0, "hihg": 1.0},
        "schedule": {"low": 0, "high": 1},
        "loss": "focl",
        "label_smoothing": [],
        "seed": [1, 1, 2],
    }
    with pytest.raises(RecipeError) as error:
        Space(mistakes)
    assert sorted(error.value.problems) == [
        'epoch: there is no such key; did you mean "epochs"?',
        "epochs: low = 5 is above high = 3",
        "image_size: takes a value or a list, no range",
        "label_smoothing: an empty list leaves nothing to choose",
        "learning_rate: a logarithmic range starts above 0, not at low = 0.0",
        'loss: "focl" is not known; did you mean "focal"?',
        'optimizer: "adam" is not known; did you mean "adamw"?',
        "schedule: takes a value or a list, no range",
        "seed: 1 is listed more than once",
        'weight_decay.hihg: there is no such key; did you mean "high"?',
        "weight_decay: a range needs high",
    ]


@pytest.mark.parametrize(
    ("name", "entry", "problem"),
    [
        ("epochs", {"low": 0, "high": 3}, "epochs: 0 is outside 1 to 10000"),
        ("epochs", {"low": 1, "high": True}, "epochs.high: true is not a whole number"),
        ("epochs", {}, "epochs: a range needs low"),
        ("learning_rate", {"min": 1e-5, "max": 1e-2}, "learning_rate.min: there is no such key"),
        ("learning_rate", {"low": 1e-5, "high": math.inf}, "learning_rate.high: inf is not a finite number"),
        ("learning_rate", {"low": "1e-5", "high": 1}, 'learning_rate.low: "1e-5" is not a finite number'),
        ("learning_rate", {"low": 1e-5, "high": 1, "log": 1}, "learning_rate.log: 1 is not true or false"),
        ("learning_rate", {"low": 1e-5, "high": 100.0}, "learning_rate: 100.0 is outside 1e-08 to 10"),
        ("ema", {"low": False, "high": True}, "ema: takes a value or a list, no range"),
        ("ema", [True, "maybe"], 'ema: "maybe" is not true or false'),
        ("warmup", [0, 0.0], "warmup: 0.0 is listed more than once"),
        ("batch_size", [8, [16, 32]], "batch_size: [16, 32] is not a whole number"),
        ("batch_size", None, "batch_size: None is not a whole number"),
    ],
)
def test_wrong_entry(name, entry, problem):
    """What a field cannot be is refused with the reason."""
    with pytest.raises(RecipeError) as error:
        Space({name: entry})
    assert error.value.problems[0] == problem


def test_own_names():
    """A loss or policy of one's own becomes a name that the space accepts, beside the built-in ones."""
    own = Extensions(losses={"tversky": lambda *_: None}, augments={"rain": lambda image, _: image})
    space = Space({"loss": ["tversky", "focal"], "augment": "rain", "backbone": "anything"}, own)
    pairs = _asked(space, trials=30)
    assert {recipe.loss for _, recipe in pairs} == {"tversky", "focal"}
    assert {recipe.augment for _, recipe in pairs} == {"rain"}
    assert not any("class_weights" in parameters for parameters, recipe in pairs if recipe.loss == "tversky")


@pytest.mark.parametrize(
    ("given", "useless"),
    [
        ({"freeze": [0.0, 0.5], "pretrained": False}, ["freeze: no trial can use it, which takes pretrained = true"]),
        ({"freeze": 0.5, "pretrained": False}, ["freeze: no trial can use it, which takes pretrained = true"]),
        (
            {"mixup_alpha": {"low": 0.1, "high": 1.0}, "mixing": ["none", "cutmix"]},
            ['mixup_alpha: no trial can use it, which takes mixing = "mixup" or "both"'],
        ),
        ({"freeze": 0.0, "pretrained": False}, []),
        ({"freeze": [0.0, 0.5], "pretrained": [True, False]}, []),
        ({"freeze": [0.0, 0.5]}, []),
        ({"pretrained": False}, []),
        ({"focal_gamma": 1.0, "loss": ["bce", "focal"]}, []),
    ],
)
def test_a_field_that_is_given_in_vain_is_told(given, useless):
    """What no trial can use beside the other fields is told, searched or fixed, unless it says what holds anyway."""
    assert Space(given).useless_fields() == useless


def test_own_names_need_their_functions():
    """A name of one's own is a mistake where its function is not given."""
    with pytest.raises(RecipeError) as error:
        Space({"loss": "tversky", "augment": ["none", "rain"]})
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["loss", "augment"]


def test_default_space_is_within_the_rules():
    """The default space searches real fields only and every default lies in it."""
    space = Space({})
    for name, entry in DEFAULT_SPACE.items():
        if isinstance(entry, dict):
            assert entry["low"] <= DEFAULTS[name] <= entry["high"]
        else:
            assert DEFAULTS[name] in space.values(name)


def test_beside_a_model_of_ones_own_nobody_asks_for_its_layers():
    """With a model of one's own the default space leaves out what only timm's models can be told."""
    own = Extensions(backbones={"mine": lambda *_: None})
    for backbones in ("mine", ["test_resnet", "mine"]):
        space = Space({"backbone": backbones}, own)
        for name in ("pooling", "dropout", "drop_path", "freeze", "layer_decay"):
            assert space.fields[name] == DEFAULTS[name]
        assert "arcface" not in space.values("loss")
        assert "focal" in space.values("loss")
    assert "arcface" in Space({"backbone": "test_resnet"}, own).values("loss")
    assert Space({"backbone": "mine", "freeze": 0.5}, own).fields["freeze"] == 0.5


def test_a_recipe_near_the_default_has_the_parameters_that_its_trial_would_be_asked():
    """The given fields differ, the others are those of the search's first trial, unused ones have their defaults."""
    space = Space({"epochs": 7, "batch_size": [8, 16], "focal_gamma": {"low": 3.0, "high": 4.0}})
    for fields in ({}, {"learning_rate": 3e-3}, {"loss": "focal"}, {"loss": "focal", "focal_gamma": 4}):
        recipe = recipe_near_default(fields, space)
        fixed = optuna.trial.FixedTrial({**space.default_parameters(), **fields})
        assert recipe == suggest(fixed, space)
        assert parameters_of(recipe, space) == fixed.params
    assert (recipe.epochs, recipe.batch_size, recipe.focal_gamma) == (7, 16, 4.0)
    assert recipe_near_default(asdict(recipe), space) == recipe, "a complete recipe is one, too"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"learning_rat": 1e-3}, 'learning_rat: there is no such key; did you mean "learning_rate"?'),
        ({"learning_rate": [1e-3]}, "learning_rate: [0.001] is not a number"),
        ({"learning_rate": 0.5}, "learning_rate: 0.5 is not in the search space, which has { low = 1e-05, high ="),
        ({"epochs": 3}, "epochs: 3 is not in the search space, which has 20; give [recipe] epochs room for it"),
        ({"loss": "mine"}, 'loss: "mine" is not in the search space, which has ["cross_entropy", '),
        ({"focal_gamma": 3}, 'focal_gamma: means nothing in this recipe, as loss is "cross_entropy" and not "focal"'),
        (
            {"loss": "bce", "effective_beta": 0.9},
            'effective_beta: means nothing in this recipe, as class_weights is "none" and not "effective_number" and ',
        ),
    ],
)
def test_a_recipe_that_the_space_cannot_suggest_is_refused(fields, problem):
    """What keeps a recipe from being tried is one line, with what the space holds in its place."""
    with pytest.raises(RecipeError) as error:
        recipe_near_default(fields, Space({}))
    assert len(error.value.problems) == 1
    assert error.value.problems[0].startswith(problem)
