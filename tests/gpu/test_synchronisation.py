"""The training loop never makes the CPU wait for the GPU."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from trainer.device import device_name
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.loaders import Loaders
from trainer.recipe import CLASS_WEIGHTS, LOSSES, MIXINGS, OPTIMIZERS, POOLINGS, SCHEDULES, Recipe
from trainer.resources import Resources

pytestmark = pytest.mark.gpu

BATCH, STEPS = 8, 12
QUIET_FROM = 3  # step: the first makes the state of the optimiser, and copies the weights

CHANGES = [
    *({"loss": loss} for loss in LOSSES),
    *({"loss": loss, "mixing": "both"} for loss in LOSSES),
    *({"mixing": mixing} for mixing in MIXINGS),
    *({"optimizer": optimizer, "clip_norm": 1.0, "ema": True} for optimizer in OPTIMIZERS),
    *({"class_weights": weights, "loss": loss} for weights in CLASS_WEIGHTS[1:] for loss in ("cross_entropy", "focal")),
    *({"schedule": schedule} for schedule in SCHEDULES),
    *({"pooling": pooling} for pooling in POOLINGS),
    *({"backbone": backbone} for backbone in ("test_vit", "test_convnext", "test_efficientnet")),
    {"sampler": "balanced", "augment": "light"},
    {"dropout": 0.2, "drop_path": 0.2},
]


@pytest.fixture(scope="module")
def loaders(device):
    """Two loaders for all trainings."""
    loaders = Loaders(2, pin_memory=device.type == "cuda")
    yield loaders
    loaders.close()


@pytest.fixture
def steps(noise, loaders, device):
    """A function that trains for twelve steps; where the CPU waits for the GPU after the first three, CUDA raises."""

    def train(changes, extensions=None, size=BATCH):
        plain = {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "augment": "none"}
        recipe = Recipe(**(plain | {"batch_size": BATCH, "epochs": 1} | changes))
        taken = 0

        def on_step(_):
            nonlocal taken
            taken += 1
            if device.type == "cuda" and taken in (QUIET_FROM, STEPS):
                torch.cuda.set_sync_debug_mode("error" if taken == QUIET_FROM else "default")

        known = {f"{recipe.backbone}, {recipe.image_size} px, {device_name(device)}": size}
        resources = Resources(device, loaders, micro_batches=known)
        subsets = Subsets(noise.split.train[: BATCH * STEPS])
        try:
            list(fit(recipe, noise, subsets, extensions=extensions, resources=resources, on_step=on_step))
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        return taken

    return train


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: ", ".join(f"{k} {v}" for k, v in changes.items()))
def test_no_step_waits(changes, steps):
    """No step of a training waits for the GPU, whatever the loss, the mixing, the optimiser and all the rest."""
    assert steps(changes) == STEPS


def test_no_chunk_of_a_step_waits(steps):
    """A batch that goes through the model in chunks waits no more than a whole one."""
    assert steps({"loss": "soft_f1", "mixing": "both"}, size=3) == STEPS


def test_waiting_is_found(steps, gpu):
    """A loss of one's own that waits for the GPU raises in this mode, so that the tests above could fail."""

    def waiting(logits, labels):
        return cross_entropy(logits, labels) * (2 if logits.sum().item() > 0 else 1)

    with pytest.raises(RuntimeError, match="synchroniz"):
        steps({"loss": "waiting"}, Extensions(losses={"waiting": waiting}))
