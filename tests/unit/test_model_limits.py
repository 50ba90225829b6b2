"""How large and how slow a model may be, and the trials that are both good and fast."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from optuna.trial import FixedTrial, create_trial

from hpo.errors import HpoError, StudyFileError
from hpo.report.speed import speed_chart
from hpo.study.model_limits import ModelCheck, ModelLimits, check_of
from hpo.study.speed_front import Speeds, front_of, speeds_of
from hpo.study.study_file import read_study_file
from hpo.supervision.search import refuse_tries
from storage.keys import BEST_EPOCH_KEY
from tests.unit.test_results import outcome
from trainer.extensions import Extensions
from trainer.model.backbones import build_model, save_weights
from trainer.model.size import image_milliseconds, model_size
from trainer.recipe import recipe_from
from trainer.space import Space, suggest

pytestmark = pytest.mark.unit

NONE = Extensions()
SIZES = {"test_resnet": 373_658, "test_vit": 300_746}  # parameters for ten classes
SPACE = Space({"backbone": list(SIZES), "image_size": [32, 64], "pretrained": False})


def read(tmp_path, limits, more=""):
    """The study file with this table [limits]."""
    (tmp_path / "study.toml").write_text(f'{more}\n[data]\npath = "photos"\n[limits]\n{limits}\n')
    return read_study_file(tmp_path / "study.toml")


def test_the_size_of_a_model_is_that_of_its_file(tmp_path):
    """Parameters and bytes are those of the model that is built, though none was built to count them."""
    for fields in ({"backbone": "test_vit", "image_size": 32}, {"backbone": "test_resnet", "pooling": "catavgmax"}):
        recipe = recipe_from({"image_size": 64, **fields})
        state = torch.random.get_rng_state()
        size = model_size(recipe, 10, NONE)
        assert torch.equal(torch.random.get_rng_state(), state)
        model = build_model(recipe, 10, NONE, pretrained=False)
        assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
        save_weights(model, tmp_path / "weights")
        header = 8 + int.from_bytes((tmp_path / "weights").read_bytes()[:8], "little")
        assert size.weights_bytes + header == (tmp_path / "weights").stat().st_size


def test_the_time_of_an_image_is_that_of_the_fastest_pass(monkeypatch):
    """One image by itself goes through the model again and again, and what disturbs a pass does not count."""
    seen, clock = [], iter(range(10**6))
    slow = torch.nn.Module()

    def forward(images):
        seen.append(images.shape)
        for _ in range(50 if len(seen) % 2 else 4):
            next(clock)
        return images.new_zeros(1, 2)

    slow.forward = forward
    monkeypatch.setattr("trainer.model.size.time", SimpleNamespace(perf_counter=lambda: next(clock) / 1000))
    monkeypatch.setattr("trainer.model.size.PASSES_SECONDS", 0.3)
    own = Extensions(backbones={"own": lambda _classes, _size: slow})
    taken = image_milliseconds(recipe_from({"backbone": "own", "image_size": 16}), 2, own, torch.device("cpu"))
    assert taken == pytest.approx(5)
    assert set(seen) == {(1, 3, 16, 16)}
    assert 5 < len(seen) < 15  # it took its time


def test_models_beyond_the_limits_are_told_with_their_figures():
    """Each limit is held by itself; what a recipe fixes and what it searches count alike."""
    check = check_of(ModelLimits(parameters=350_000), SPACE, 10)
    assert check.excess({"backbone": "test_vit", "image_size": 32}) is None
    assert (
        check.excess({"backbone": "test_resnet", "image_size": 64})
        == "test_resnet at 64 px has 373,658 parameters, and [limits] parameters is 350,000"
    )
    assert list(check.within({})) == [{"backbone": "test_vit", "image_size": size} for size in (32, 64)]
    assert list(check.within({"image_size": 64})) == [{"backbone": "test_vit", "image_size": 64}]
    assert list(check.within({"backbone": "test_resnet"})) == []
    heavy = check_of(ModelLimits(megabytes=1.4), SPACE, 10).excess({"backbone": "test_resnet", "image_size": 32})
    assert heavy == "test_resnet at 32 px has weights of 1.5 MB, and [limits] megabytes is 1.4"
    timed = ModelCheck(ModelLimits(milliseconds=2.5), SPACE, 10, lambda recipe: recipe.image_size / 16)
    assert [model["image_size"] for model in timed.within({})] == [32, 32]
    assert timed.excess({"backbone": "test_vit", "image_size": 64}).endswith(
        "has 4 milliseconds an image, and [limits] milliseconds is 2.5"
    )
    mixed = Space({"backbone": "test_resnet", "image_size": [32, "32x64"], "pretrained": False})
    with pytest.raises(HpoError, match="the smallest, test_resnet at 32 px, has 373,658 parameters"):
        check_of(ModelLimits(parameters=1), mixed, 10)
    one = Space({"backbone": "test_vit", "image_size": 32, "pretrained": False})
    assert list(check_of(ModelLimits(parameters=350_000), one, 10).within({})) == [{}]
    assert check_of(ModelLimits(), SPACE, 10) is None


def test_limits_that_leave_nothing_are_refused_with_the_smallest_model():
    """A space without a model within the limits is refused in one line, with the smallest for each limit."""
    with pytest.raises(HpoError) as refused:
        check_of(ModelLimits(parameters=1000, milliseconds=1.0), SPACE, 10, lambda recipe: recipe.image_size / 16)
    assert str(refused.value) == (
        "limits: no model of the search space is within [limits]: parameters is 1,000, and the smallest, test_vit at 32"
        " px, has 300,746 parameters; milliseconds is 1.0, and the smallest, test_resnet at 32 px, has 2 milliseconds"
        " an image; raise the limit, or give [recipe] a smaller backbone or image_size"
    )


@pytest.mark.parametrize(
    ("written", "limits"),
    [
        ("parameters = 30_000_000", ModelLimits(parameters=30_000_000)),
        ('parameters = "30M"\nmegabytes = 20', ModelLimits(parameters=30_000_000, megabytes=20)),
        ('parameters = "1.5k"\nmilliseconds = 0.5', ModelLimits(parameters=1500, milliseconds=0.5)),
        ("", ModelLimits()),
    ],
)
def test_limits_are_written_as_numbers_or_with_a_letter(tmp_path, written, limits):
    """30_000_000 and "30M" are the same."""
    assert read(tmp_path, written).model_limits == limits


@pytest.mark.parametrize("written", ['"30x"', '"M"', "1.5", "true", "0", '"0.5"', '"-3M"', '"1e3"', "[3]", '"2000G"'])
def test_limits_that_are_no_counts_are_refused(tmp_path, written):
    """One line says how a count is written, or between what it lies."""
    with pytest.raises(StudyFileError, match=r"^study.toml: limits\.parameters: .*(write 30_000_000 or|outside 1 to)"):
        read(tmp_path, f"parameters = {written}")


def test_own_recipes_beyond_the_limits_are_refused_before_the_search(tmp_path):
    """A [[try]] whose model is beyond [limits] is named with its figures."""
    tries = '[[try]]\nbackbone = "test_resnet"\n[[try]]\nbackbone = "test_vit"\n'
    space = '[recipe]\nbackbone = ["test_resnet", "test_vit"]\nimage_size = 32\npretrained = false\n'
    study_file = read(tmp_path, 'parameters = "0.35M"', tries + space)
    check = check_of(study_file.model_limits, study_file.space, 10)
    with pytest.raises(HpoError, match=r"^study.toml: try 1: test_resnet at 32 px has 373,658 parameters, and .*$"):
        refuse_tries(study_file, check)


def parameters_with(backbone):
    """Parameters and distributions of a recipe with this backbone."""
    fixed = FixedTrial({**SPACE.default_parameters(), "backbone": backbone, "image_size": 32})
    suggest(fixed, SPACE)
    return {"params": fixed.params, "distributions": fixed.distributions}


def test_the_front_holds_what_nothing_else_beats_at_both():
    """Of equally fast trials the best is on it, of slower ones none that is worse, and none that does not count."""
    speeds = Speeds("cpu", {("test_resnet", 32): 5.0, ("test_vit", 32): 2.0})
    resnet, vit = (parameters_with(name) for name in SIZES)

    def trial(value, recipe, **attributes):
        return create_trial(value=value, user_attrs={BEST_EPOCH_KEY: 1, **attributes}, **recipe)

    outside = create_trial(value=0.99, **vit)
    trials = [trial(0.8, vit), trial(0.9, resnet), trial(0.85, vit), trial(0.7, resnet), outside]
    front = front_of(trials, SPACE, speeds)
    assert [(each.score, each.milliseconds, each.backbone) for each in front] == [
        (0.9, 5.0, "test_resnet"),
        (0.85, 2.0, "test_vit"),
    ]
    best = front_of([*trials, trial(0.95, vit)], SPACE, speeds)
    assert [each.score for each in best] == [0.95]
    assert front_of(trials, SPACE, None) == []


def test_speeds_are_those_of_the_device_that_has_measured_most():
    """Speeds of several kinds of devices are not mixed."""
    kept = {
        "hpo:speed: a": {"backbone": "a", "image_size": 32, "device": "cpu", "milliseconds": 9.0},
        "hpo:speed: b": {"backbone": "a", "image_size": 32, "device": "L4", "milliseconds": 1.0},
        "hpo:speed: c": {"backbone": "b", "image_size": 32, "device": "L4", "milliseconds": 2.0},
    }
    assert speeds_of({**kept, "hpo:id": "x"}) == Speeds("L4", {("a", 32): 1.0, ("b", 32): 2.0})
    assert speeds_of({"hpo:id": "x"}) is None


def test_the_chart_of_speeds_shows_complete_trials_and_the_front():
    """Trials whose model nobody has measured, or that are not complete, are left out."""
    speeds = Speeds("cpu", {("test_resnet", 32): 5.0, ("test_vit", 32): 2.0})
    model = {"image_size": 32, "backbone": "test_resnet"}
    outcomes = [
        outcome(0, value=0.9, **model),
        outcome(1, value=0.8, **{**model, "backbone": "test_vit"}),
        outcome(2, "pruned", 0.7, **model),
        outcome(3, value=0.6, backbone="test_resnet", image_size=64),
    ]
    front = front_of([], SPACE, speeds)
    points = speed_chart(outcomes, speeds, front)["data"][0]
    assert (points["x"], points["y"]) == ([5.0, 2.0], [0.9, 0.8025])  # at the edge of the range
    assert points["customdata"][0] == ["trial 0, test_resnet", "0.9000"]
    assert speed_chart(outcomes[2:], speeds, front) == {}
