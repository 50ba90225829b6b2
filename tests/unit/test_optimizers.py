"""Which weights learn, and how fast."""

from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.optim import param_groups_layer_decay
from torch import nn

from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.model.backbones import build_model
from trainer.model.optimizers import make_optimizer
from trainer.recipe import Recipe
from trainer.schedules import make_schedule

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

BACKBONES = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


@pytest.fixture
def built(tmp_path):
    """Builds a pretrained model by a recipe, from weights of its own."""

    def build(backbone, **changes):
        if not (tmp_path / f"{backbone}.safetensors").exists():
            torch.manual_seed(3)
            save_file(timm.create_model(backbone).state_dict(), tmp_path / f"{backbone}.safetensors")
        recipe = Recipe(backbone=backbone, image_size=32, **changes)
        return recipe, build_model(recipe, 5, Extensions(), pretrained=True, weights=tmp_path)

    return build


def _step(recipe, model):
    """One step of training; the weights and buffers before and after."""
    optimizer = make_optimizer(recipe, model)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    model.train()
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    nn.functional.cross_entropy(model(images), torch.arange(8) % 5).backward()
    optimizer.step()
    return before, model.backbone.state_dict()


def _head(model):
    head = model.backbone.get_classifier()
    return {name for name, module in model.backbone.named_modules() if module is head}.pop()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_linear_probing(backbone, built):
    """With everything frozen the head alone learns; not even the statistics of batch norm move."""
    recipe, model = built(backbone, freeze=1.0)
    before, after = _step(recipe, model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{_head(model)}.weight", f"{_head(model)}.bias"}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_layers_freeze_from_the_image_on(backbone, built):
    """The larger the share, the more layers are frozen, each share those of the smaller one and more, stem first."""
    frozen = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        _, model = built(backbone, freeze=share)
        frozen.append({name for name, weight in model.backbone.named_parameters() if not weight.requires_grad})
    assert frozen[0] == set()
    assert all(less < more for less, more in pairwise(frozen))
    first = next(name for name, _ in model.backbone.named_parameters() if name not in ("cls_token", "pos_embed"))
    assert first in frozen[1]
    recipe, model = built(backbone, freeze=0.5)
    before, after = _step(recipe, model)
    assert all(torch.equal(before[name], after[name]) for name in frozen[2])
    moved = [
        name for name, weight in model.backbone.named_parameters() if name not in frozen[2] and weight.grad is None
    ]
    assert moved == []


def test_frozen_modules_stay_in_eval_mode(built):
    """Frozen modules are in eval mode while the model trains, so that no dropout and no batch statistics act there."""
    _, model = built("test_resnet", freeze=0.5)
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    states = [norm.training for norm in norms]
    assert {True, False} == set(states)
    assert states == sorted(states)
    assert not model.eval().training


@pytest.mark.parametrize("backbone", BACKBONES)
def test_layer_decay(backbone, built):
    """Each layer's learning rate is that of the next one times the decay, as in timm; the head has the full one."""
    recipe, model = built(backbone, layer_decay=0.5, learning_rate=0.01)
    optimizer = make_optimizer(recipe, model)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    reference = param_groups_layer_decay(model.backbone, layer_decay=0.5)
    for group in reference:
        for weight in group["params"]:
            assert rates[id(weight)] == pytest.approx(0.01 * group["lr_scale"])
    assert rates[id(model.backbone.get_classifier().weight)] == 0.01
    assert min(rates.values()) < 0.01 / 4


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "plateau", "one_cycle"])
def test_schedules_keep_the_ratios_of_layers(schedule, built):
    """Whatever the schedule, the layers' learning rates keep their ratios."""
    recipe, model = built("test_resnet", layer_decay=0.5, learning_rate=0.01, schedule=schedule, warmup=0.2)
    optimizer = make_optimizer(recipe, model)
    ratios = [group["lr"] / optimizer.param_groups[-1]["lr"] for group in optimizer.param_groups]
    moving, seen = make_schedule(recipe, optimizer, steps=20), set()
    for _ in range(20):
        seen.add(optimizer.param_groups[-1]["lr"])
        assert [g["lr"] / optimizer.param_groups[-1]["lr"] for g in optimizer.param_groups] == pytest.approx(ratios)
        optimizer.step()
        moving.after_step()
        moving.after_epoch(0.5)
    assert len(seen) > 1
    if schedule == "one_cycle":
        assert max(seen) == pytest.approx(0.01, rel=0.05)


def test_decay_spares_biases_and_norms(built):
    """Weight decay, with layer decay and without, spares biases and norms, as timm does."""
    for decay in (1.0, 0.7):
        recipe, model = built("test_resnet", layer_decay=decay, weight_decay=0.3)
        groups = make_optimizer(recipe, model).param_groups
        assert {group["weight_decay"] for group in groups} == {0.0, 0.3}
        for group in groups:
            assert {group["weight_decay"]} == {0.3 if weight.ndim > 1 else 0.0 for weight in group["params"]}


def test_a_training_from_scratch_freezes_nothing():
    """Random weights are not worth keeping: without pretrained weights there is no freezing and no layer decay."""
    recipe = Recipe(backbone="test_resnet", image_size=32, pretrained=False, freeze=0.5, layer_decay=0.5)
    model = build_model(recipe, 5, Extensions(), pretrained=False)
    assert all(weight.requires_grad for weight in model.parameters())
    assert {group["lr"] for group in make_optimizer(recipe, model).param_groups} == {recipe.learning_rate}


@pytest.mark.parametrize("changes", [{"freeze": 0.5}, {"layer_decay": 0.7}])
def test_a_model_that_does_not_tell_its_layers(changes):
    """A model without layers that can be told apart is refused where some are to be treated differently."""
    own = Extensions(
        backbones={"mine": lambda classes, side: nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, classes))}
    )
    with pytest.raises(RecipeError, match=r'^freeze: "mine" does not tell its layers .*write freeze = 0\.0'):
        build_model(Recipe(backbone="mine", image_size=32, **changes), 5, own, pretrained=False)
