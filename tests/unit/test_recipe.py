"""The recipe: its defaults, its mistakes, its file, and names that all mean something."""

import dataclasses
import math
import random
import tomllib

import pytest

from trainer import augment, recipe
from trainer.errors import RecipeError
from trainer.recipe import DEFAULTS, RULES, Recipe, read_recipe, recipe_from, toml_of, used_fields

pytestmark = pytest.mark.unit

WRONG = {
    "backbone": ["", 3],
    "pretrained": ["yes", 1],
    "image_size": [7, 2049, 32.0],
    "epochs": [0, 10_001, True],
    "batch_size": [0, 65_537, "8"],
    "optimizer": ["lion", 1],
    "learning_rate": ["1e-3", math.nan, math.inf, 0.0, 10.1],
    "weight_decay": [-0.01, 1.01, None],
    "schedule": ["exponential", ""],
    "warmup": [-0.1, 0.91],
    "loss": ["", 0],
    "focal_gamma": [-1.0, 11, True],
    "label_smoothing": [-0.1, 0.95],
    "class_weights": ["sqrt", False],
    "sampler": ["random", 1.5],
    "augment": ["", []],
    "ema": [0, "true"],
    "seed": [-1, 2**31, 0.0],
}
MESSAGES = {
    ("backbone", ""): "backbone: is empty",
    ("backbone", 3): "backbone: 3 is not a text",
    ("pretrained", "yes"): 'pretrained: "yes" is not true or false',
    ("image_size", 7): "image_size: 7 is outside 8 to 2048",
    ("image_size", 32.0): "image_size: 32.0 is not a whole number",
    ("epochs", True): "epochs: true is not a whole number",
    ("optimizer", "lion"): 'optimizer: "lion" is not known; known: adamw, sgd',
    ("optimizer", "adam"): 'optimizer: "adam" is not known; did you mean "adamw"?',
    ("schedule", "cosin"): 'schedule: "cosin" is not known; did you mean "cosine"?',
    ("learning_rate", "1e-3"): 'learning_rate: "1e-3" is not a number',
    ("learning_rate", math.inf): "learning_rate: inf is not a finite number",
    ("learning_rate", 0.0): "learning_rate: 0.0 is outside 1e-08 to 10",
}


def test_defaults():
    """A recipe without any value given is valid, and each of its fields has a rule with a meaning."""
    assert dataclasses.asdict(Recipe()) == DEFAULTS
    assert all(RULES[name].meaning for name in DEFAULTS)


def test_each_field_has_wrong_values():
    """No field of the recipe takes just anything."""
    assert WRONG.keys() == DEFAULTS.keys()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_value(name, value):
    """A wrong value is refused in one line that begins with the field and shows the value."""
    with pytest.raises(RecipeError) as error:
        Recipe(**{name: value})
    [problem] = error.value.problems
    assert problem.startswith(f"{name}: ")
    assert (str(value).lower() if isinstance(value, bool) else str(value)) in problem
    assert str(error.value) == problem


@pytest.mark.parametrize(("name", "value"), MESSAGES)
def test_message(name, value):
    """The line says what the field wants instead: a kind, a range, the nearest name or all names."""
    with pytest.raises(RecipeError) as error:
        Recipe(**{name: value})
    assert error.value.problems == [MESSAGES[name, value]]


def test_limits_belong_to_the_range():
    """The lowest and the highest value that a message names are allowed."""
    for name, rule in RULES.items():
        for limit in (rule.low, rule.high):
            if limit is not None:
                assert dataclasses.asdict(Recipe(**{name: limit}))[name] == limit


def test_all_mistakes_at_once():
    """A recipe that is wrong in every field has all of them named, in the order of the fields."""
    with pytest.raises(RecipeError) as error:
        Recipe(**{name: values[0] for name, values in WRONG.items()})
    assert [problem.partition(":")[0] for problem in error.value.problems] == list(DEFAULTS)


def test_unknown_keys_beside_wrong_values():
    """Unknown keys and wrong values of one recipe are named together."""
    with pytest.raises(RecipeError) as error:
        recipe_from({"learning_rat": 0.1, "epochs": 0, "zzz": 1, "seed": -1})
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["learning_rat", "zzz", "epochs", "seed"]
    assert error.value.problems[:2] == [
        'learning_rat: there is no such key; did you mean "learning_rate"?',
        "zzz: there is no such key",
    ]


def test_frozen():
    """A recipe never changes."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 3


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 1e-05, "weight_decay": 5e-324},
        {"learning_rate": 0.1 + 0.2, "warmup": 1 / 3},
        {"backbone": 'a "quoted"\\ name', "loss": "größer\n日本", "pretrained": False, "ema": True},
        {"seed": 2**31 - 1, "epochs": 10_000, "focal_gamma": 0.0},
    ],
)
def test_toml_round_trip(tmp_path, changes):
    """A recipe's file reads back as an equal recipe, each value of the same type and each float to the last bit."""
    written = Recipe(**changes)
    written.write(tmp_path / "recipe.toml")
    read = read_recipe(tmp_path / "recipe.toml")
    assert repr(read) == repr(written)


def test_toml_round_trip_of_any_float():
    """Floats of any size survive the way through TOML."""
    draw = random.Random(3)
    for _ in range(200):
        rate = 10 ** draw.uniform(-7.99, 0.99)
        assert recipe_from(tomllib.loads(toml_of(Recipe(learning_rate=rate)))).learning_rate == rate


def test_bad_file(tmp_path):
    """A recipe's file with mistakes is refused with all of them."""
    (tmp_path / "recipe.toml").write_text('epochs = 0\nloss = ""\n', encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        read_recipe(tmp_path / "recipe.toml")
    assert error.value.problems == ["epochs: 0 is outside 1 to 10000", "loss: is empty"]


def test_whole_numbers_for_fractions():
    """A whole number will do where a field takes fractions, and becomes one."""
    made = recipe_from({"learning_rate": 1, "weight_decay": 0, "focal_gamma": 2})
    assert repr((made.learning_rate, made.weight_decay, made.focal_gamma)) == "(1.0, 0.0, 2.0)"
    assert Recipe(learning_rate=1) == Recipe(learning_rate=1.0)


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, {"focal_gamma", "label_smoothing"}),
        ({"loss": "focal"}, {"label_smoothing"}),
        ({"loss": "label_smoothing", "schedule": "one_cycle"}, {"focal_gamma", "warmup"}),
        ({"loss": "soft_f1"}, {"focal_gamma", "label_smoothing", "class_weights"}),
        ({"loss": "my_own"}, {"focal_gamma", "label_smoothing", "class_weights"}),
    ],
)
def test_used_fields(changes, unused):
    """The used fields of a recipe are all but those whose condition it does not meet."""
    made = Recipe(**changes)
    assert used_fields(made) == {k: v for k, v in dataclasses.asdict(made).items() if k not in unused}


def test_conditions_can_be_met():
    """A conditional field depends on a field before it, by values that this one can have."""
    order = list(DEFAULTS)
    conditions = {name: rule.only_if for name, rule in RULES.items() if rule.only_if}
    assert conditions.keys() == {"warmup", "focal_gamma", "label_smoothing", "class_weights"}
    for name, (other, values) in conditions.items():
        assert order.index(other) < order.index(name)
        assert set(values) <= set(RULES[other].choices)


NAMES = {
    "optimizer": recipe.OPTIMIZERS,
    "schedule": recipe.SCHEDULES,
    "loss": recipe.LOSSES,
    "class_weights": recipe.CLASS_WEIGHTS,
    "sampler": recipe.SAMPLERS,
    "augment": recipe.AUGMENTS,
}


def test_names_are_the_rules():
    """The names listed for a field are those that its rule knows, and no other field has names."""
    assert {name: rule.choices for name, rule in RULES.items() if rule.choices} == NAMES


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in NAMES.items() for name in names])
def test_each_name_trains(field, name, colours, parts, make_recipe):
    """Every name that a recipe may have for an optimiser, schedule, loss, weighting, sampler or policy trains."""
    import torch

    from trainer.fit import fit

    made = make_recipe(**{field: name, "epochs": 1})
    split = colours.split
    [epoch] = fit(made, colours, train=split.train, valid=split.valid, parts=parts, device=torch.device("cpu"))
    assert math.isfinite(epoch.train_loss)
    assert 0 < epoch.macro_f1 <= 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("field", ["optimizer", "loss", "class_weights", "sampler", "augment"])
def test_each_name_means_something_else(field, colours, parts, make_recipe):
    """No two names of a field train the same weights."""
    import torch

    from trainer.fit import fit

    results = set()
    for name in NAMES[field]:
        made = make_recipe(**{field: name, "epochs": 1})
        uneven = colours.split.train[6:]  # the classes have 6, 12 and 12 images
        [epoch] = fit(made, colours, train=uneven, valid=None, parts=parts, device=torch.device("cpu"))
        results.add(epoch.model.backbone[1].weight.detach().numpy().tobytes())
    assert len(results) == len(NAMES[field])


def test_no_policy_is_hidden():
    """Each augmentation policy that exists can be named in a recipe, and each named one exists."""
    assert {"none", *augment._policies()} == set(recipe.AUGMENTS)
