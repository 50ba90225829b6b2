"""The recipe: its defaults, its mistakes, its file, and names that all mean something."""

import dataclasses
import math
import random
import tomllib

import pytest

from trainer import recipe
from trainer.errors import RecipeError
from trainer.recipe import DEFAULTS, RULES, Recipe, read_recipe, recipe_from, toml_of, used_fields
from trainer.rules import nearest

pytestmark = pytest.mark.unit

BUDGET = ("trials", "hours", "gpu_hours", "target", "patience", "trial_minutes")

WRONG = {
    "backbone": ["", 3],
    "pretrained": ["yes", 1],
    "image_size": [7, 2049, 32.0, [200, 320], "200 x 320", "7x320", "320x2049", "200x200", "0200x320", ""],
    "resize": ["squash", True],
    "pooling": ["mean", 1],
    "dropout": [-0.1, 0.95],
    "drop_path": [-0.1, 0.95],
    "freeze": [-0.1, 1.1, True],
    "epochs": [0, 10_001, True],
    "batch_size": [0, 65_537, "8"],
    "optimizer": ["lion", 1],
    "learning_rate": ["1e-3", math.nan, math.inf, 0.0, 10.1],
    "layer_decay": [0.05, 1.1],
    "weight_decay": [-0.01, 1.01, None],
    "clip_norm": [-1.0, math.inf],
    "schedule": ["exponential", ""],
    "warmup": [-0.1, 0.91],
    "loss": ["", 0],
    "focal_gamma": [-1.0, 11, True],
    "label_smoothing": [-0.1, 0.95],
    "adjustment_tau": [-0.1, 11],
    "arcface_margin": [-0.1, 1.6],
    "arcface_scale": [0.5, 129],
    "class_weights": ["sqrt", False],
    "effective_beta": [-0.1, 1],
    "sampler": ["random", 1.5],
    "augment": ["", []],
    "crop_scale": [0.0, 1.01],
    "randaugment_ops": [0, 15, 2.0],
    "randaugment_magnitude": [-1, 31],
    "mixing": ["cutout", True],
    "mixup_alpha": [0.0, 11],
    "cutmix_alpha": [0.0, 11],
    "mix_probability": [-0.1, 1.1],
    "ema": [0, "true"],
    "compile": [1, "yes"],
    "seed": [-1, 2**31, 0.0],
}
MESSAGES = {
    ("backbone", ""): "backbone: is empty",
    ("backbone", 3): "backbone: 3 is not a text",
    ("pretrained", "yes"): 'pretrained: "yes" is not true or false',
    ("image_size", 7): "image_size: 7 is outside 8 to 2048",
    ("image_size", 32.0): 'image_size: 32.0 is not a whole number; a rectangle is a text, height x width: "200x320"',
    ("image_size", "big"): 'image_size: "big" is no size of an image; a rectangle is a text, height x width: "200x320"',
    ("image_size", "224"): 'image_size: "224" is a text: write 224',
    ("image_size", "7x320"): 'image_size: "7x320" has a side outside 8 to 2048',
    ("image_size", "200x200"): 'image_size: "200x200" is a square: write 200',
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


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("until", BUDGET, None),
        ("workers", BUDGET, None),
        ("epochs", BUDGET, None),
        ("trails", BUDGET, "trials"),
        ("odl", ("old", "new"), "old"),
        ("max_trials", BUDGET, "trials"),
        ("gpu", BUDGET, "gpu_hours"),
        ("GPU-hours", BUDGET, "gpu_hours"),
        ("minutes", BUDGET, "trial_minutes"),
        ("train", ("study", "data", "budget", "recipe", "try"), None),
        ("cutmix", ("none", "flip", "cutout"), None),
        ("size", ("image_size", "batch_size"), "image_size"),
        ("Macro-F1", ("macro_f1", "weighted_f1"), "macro_f1"),
        ("", BUDGET, None),
        ("a", (), None),
    ],
)
def test_a_hint_is_what_is_probably_meant(name, known, meant):
    """A hint differs by a typing mistake, in how it is written, or by a part; where no name does there is no hint."""
    assert nearest(name, known) == ("" if meant is None else f'; did you mean "{meant}"?')


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


OF_LOSS = {"focal_gamma", "label_smoothing", "adjustment_tau", "arcface_margin", "arcface_scale"}
OF_MIXING = {"mixup_alpha", "cutmix_alpha", "mix_probability"}
OF_RANDAUGMENT = {"randaugment_ops", "randaugment_magnitude"}


@pytest.mark.parametrize(
    ("changes", "unused"),
    [
        ({}, OF_LOSS | OF_MIXING | OF_RANDAUGMENT | {"effective_beta"}),
        ({"loss": "focal"}, OF_LOSS - {"focal_gamma"} | OF_MIXING | OF_RANDAUGMENT | {"effective_beta"}),
        (
            {"loss": "label_smoothing", "schedule": "one_cycle", "mixing": "mixup"},
            OF_LOSS - {"label_smoothing"} | {"cutmix_alpha", "warmup", "effective_beta"} | OF_RANDAUGMENT,
        ),
        (
            {"loss": "soft_f1", "class_weights": "effective_number"},  # a condition of a condition
            OF_LOSS | OF_MIXING | OF_RANDAUGMENT | {"class_weights", "effective_beta"},
        ),
        (
            {"loss": "arcface", "class_weights": "effective_number", "augment": "randaugment"},
            OF_LOSS - {"arcface_margin", "arcface_scale"} | OF_MIXING,
        ),
        (
            {"loss": "my_own", "pretrained": False, "mixing": "both"},
            OF_LOSS | OF_RANDAUGMENT | {"class_weights", "effective_beta", "freeze", "layer_decay"},
        ),
    ],
)
def test_used_fields(changes, unused):
    """The used fields of a recipe are all but those whose condition it does not meet."""
    made = Recipe(**changes)
    unused = unused | {"crop_scale"}
    assert used_fields(made) == {k: v for k, v in dataclasses.asdict(made).items() if k not in unused}


def test_conditions_can_be_met():
    """A conditional field depends on a field before it, by values that this one can have."""
    order = list(DEFAULTS)
    conditions = {name: rule.only_if for name, rule in RULES.items() if rule.only_if}
    assert len(conditions) == 16
    for name, (other, values) in conditions.items():
        assert order.index(other) < order.index(name)
        assert set(values) <= set(RULES[other].choices or (False, True))


NAMES = {
    "optimizer": recipe.OPTIMIZERS,
    "resize": recipe.RESIZES,
    "schedule": recipe.SCHEDULES,
    "loss": recipe.LOSSES,
    "class_weights": recipe.CLASS_WEIGHTS,
    "sampler": recipe.SAMPLERS,
    "augment": recipe.AUGMENTS,
    "pooling": recipe.POOLINGS,
    "mixing": recipe.MIXINGS,
}


def test_names_are_the_rules():
    """The names listed for a field are those that its rule knows, and no other field has names."""
    assert {name: rule.choices for name, rule in RULES.items() if rule.choices} == NAMES


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in NAMES.items() for name in names])
def test_each_name_trains(field, name, colours, extensions, make_recipe):
    """Every name that a recipe may have, from optimiser to pooling, trains."""
    import torch

    from trainer.fit import Subsets, fit
    from trainer.resources import Resources

    made = make_recipe(**{"backbone": "test_resnet", "image_size": 32, field: name, "epochs": 1})
    split = colours.split
    resources = Resources(device=torch.device("cpu"))
    [epoch] = fit(made, colours, Subsets(split.train, split.valid), extensions=extensions, resources=resources)
    assert math.isfinite(epoch.train_loss)
    assert 0 < epoch.validation.macro_f1 <= 1


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("field", ["optimizer", "loss", "class_weights", "sampler", "augment", "pooling", "mixing"])
def test_each_name_means_something_else(field, colours, extensions, make_recipe):
    """No two names of a field train the same weights."""
    import torch

    from trainer.fit import Subsets, fit
    from trainer.resources import Resources

    results = set()
    for name in NAMES[field]:
        made = make_recipe(**{"backbone": "test_efficientnet", "image_size": 64, field: name, "epochs": 1})
        uneven = colours.split.train[6:]  # the classes have 6, 12 and 12 images
        resources = Resources(device=torch.device("cpu"))
        [epoch] = fit(made, colours, Subsets(uneven), extensions=extensions, resources=resources)
        results.add(epoch.model.backbone.conv_stem.weight.detach().numpy().tobytes())
    # The pooling of this model is the average by default.
    assert len(results) == len(NAMES[field]) - (field == "pooling")
