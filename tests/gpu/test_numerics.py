"""What a GPU computes is what a CPU computes."""

import math

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.gpu.conftest import float32
from trainer.checkpoint import without_prefix
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.model.backbones import build_model
from trainer.recipe import CLASS_WEIGHTS, LOSSES, MIXINGS, OPTIMIZERS, POOLINGS, SAMPLERS, SCHEDULES, Recipe
from trainer.resources import Resources

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
BATCH = 32
BACKBONES = ("test_resnet", "test_vit", "test_convnext", "test_efficientnet")

LISTS = {
    "loss": LOSSES,
    "schedule": SCHEDULES,
    "mixing": MIXINGS,
    "optimizer": OPTIMIZERS,
    "sampler": SAMPLERS,
    "class_weights": CLASS_WEIGHTS,
    "backbone": BACKBONES,
}
CHANGES = [
    *({field: name} for field, names in LISTS.items() for name in names),
    *({"pooling": pooling, "image_size": 64} for pooling in POOLINGS),  # of fewer pixels the feature map is but one
    *({"mixing": "both", "loss": loss} for loss in ("focal", "soft_f1", "bce", "arcface")),
    *({"class_weights": "balanced", "loss": loss} for loss in ("label_smoothing", "focal", "arcface")),
    *({"optimizer": "adamw", "backbone": backbone} for backbone in BACKBONES[1:]),
    {"ema": True},
    {"clip_norm": 0.1},
    {"warmup": 0.5},
    {"weight_decay": 0.5},
    {"pretrained": True, "freeze": 0.5},
    {"pretrained": True, "freeze": 1.0, "backbone": "test_vit"},
    {"pretrained": True, "layer_decay": 0.5},
    {"pretrained": True, "layer_decay": 0.5, "backbone": "test_vit", "optimizer": "adamw"},
]
# How far apart the weights may be, as a share of the way that two steps took them. SGD moves each weight by its
# gradient, which jumps where the input of a ReLU or the larger of two inputs of a maximum is so by rounding alone. The
# first step of AdamW moves each by the learning rate, up or down: where a gradient is all but zero, as
# that of the keys' biases of an attention, rounding decides which.
APART = {"sgd": 1e-2, "adamw": 0.3}


def recipe_with(changes):
    """A recipe for two steps, with these changes."""
    plain = {
        "backbone": "test_resnet",
        "pretrained": False,
        "image_size": 32,
        "epochs": 1,
        "batch_size": BATCH,
        "optimizer": "sgd",
        "learning_rate": 1e-3 if changes.get("optimizer") == "adamw" else 0.01,
        "augment": "none",
    }
    return Recipe(**(plain | changes))


@pytest.fixture(scope="session")
def weights(device, tmp_path_factory):
    """A folder with weights to start from."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(7)
    for name in ("test_resnet", "test_vit"):
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def two_steps(noise, weights):
    """A function that trains for two steps: their losses, all weights after them, the probabilities of validation."""

    def train(recipe, device):
        taken = []
        [epoch] = fit(
            recipe,
            noise,
            Subsets(noise.split.train[: 2 * BATCH], noise.split.valid),
            resources=Resources(device, weights=weights),
            on_step=lambda capture: taken.append(capture()),
        )
        first, second = (checkpoint.tensors["loss"].item() for checkpoint in taken[:2])
        names = [name for name, _ in epoch.model.named_parameters()]
        model = without_prefix("model", taken[1].tensors)
        return (
            [first, second - first],
            torch.cat([model[name].flatten() for name in names]),
            epoch.validation.probabilities,
        )

    return train


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: ", ".join(f"{k} {v}" for k, v in changes.items()))
def test_two_steps(changes, device, noise, weights, two_steps, record, request):
    """Two steps on a GPU are those on a CPU, whatever the recipe: in float32 all but for rounding, in bf16 nearly.

    In float32 each loss to a relative 1e-4, the probabilities to 1e-3 (AdamW: 2e-2), the weights as `APART` says. In
    bf16, whose numbers have 8 bits, each loss to 5 %, and all weights are finite. MixUp and CutMix draw their random
    numbers on the CPU, so that they mix the same images.
    """
    recipe = recipe_with(changes)
    torch.manual_seed(recipe.seed)
    before = build_model(recipe, 3, Extensions(), pretrained=recipe.pretrained, weights=weights)
    start = torch.cat([value.detach().flatten() for value in before.parameters()])
    with float32():
        losses, ends, probabilities = two_steps(recipe, CPU)
        gpu_losses, gpu_ends, gpu_probabilities = two_steps(recipe, device)
    bf16_losses, bf16_ends, bf16_probabilities = two_steps(recipe, device)

    off = max(abs(gpu / cpu - 1) for cpu, gpu in zip(losses, gpu_losses, strict=True))
    apart = ((gpu_ends - ends).norm() / (ends - start).norm()).item()
    doubt = (gpu_probabilities - probabilities).abs().max().item()
    bf16_off = max(abs(gpu / cpu - 1) for cpu, gpu in zip(losses, bf16_losses, strict=True))
    bf16_doubt = (bf16_probabilities - probabilities).abs().max().item()
    record(
        f"two steps, {request.node.callspec.id}",
        f"float32: losses {off:.1e}, weights {apart:.1e}, probabilities {doubt:.1e}; bf16: losses {bf16_off:.1e}, "
        f"probabilities {bf16_doubt:.1e}",
    )
    assert (ends - start).norm() > 0
    assert off <= 1e-4, (losses, gpu_losses)
    assert apart <= APART[recipe.optimizer]
    assert doubt <= (1e-3 if recipe.optimizer == "sgd" else 2e-2)
    assert torch.isfinite(bf16_ends).all()
    assert torch.isfinite(bf16_probabilities).all()
    assert bf16_off <= 0.05, (losses, bf16_losses)


@pytest.mark.parametrize("changes", [{"dropout": 0.5}, {"drop_path": 0.3}], ids=["dropout", "drop_path"])
def test_what_the_device_draws(changes, device, two_steps):
    """Dropout and stochastic depth draw on the GPU: other numbers than a CPU, the same in each training."""
    once, again = (two_steps(recipe_with(changes), device) for _ in range(2))
    assert all(map(math.isfinite, once[0]))
    assert once[0] == pytest.approx(again[0], rel=1e-2)
    assert once[0] != pytest.approx(two_steps(recipe_with({}), device)[0], rel=1e-6)
