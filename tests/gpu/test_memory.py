"""What happens where the memory of the GPU runs out, and that none is lost from trial to trial."""

import gc
import math
from contextlib import contextmanager

import optuna
import psutil
import pytest
import torch

from tests.gpu.conftest import REHEARSAL, float32
from trainer.device import device_name, memory_format
from trainer.extensions import Extensions
from trainer.loaders import loaders_for
from trainer.losses import make_loss
from trainer.model.backbones import Classifier, build_model
from trainer.objective import objective
from trainer.recipe import Recipe
from trainer.resources import Resources
from trainer.session import Session
from trainer.space import Space
from trainer.step import MicroBatch

pytestmark = pytest.mark.gpu

BATCH = 16 if REHEARSAL else 128
SIDE = 32 if REHEARSAL else 224
SCARCE = 0.45  # of what the whole batch needs
LAYER_NORM, BATCH_NORM = ("test_convnext", "test_resnet") if REHEARSAL else ("convnext_atto", "resnet18")


@contextmanager
def scarce_memory(device, need):
    """Leave free too little for a whole batch: fill the GPU with ballast; a CPU runs out at a third of a batch."""
    if device.type == "cuda":
        release()
        free, _ = torch.cuda.mem_get_info()
        ballast = torch.empty(free - int(SCARCE * need), dtype=torch.uint8, device=device)
        try:
            yield
        finally:
            del ballast
            release()
    else:
        forward = Classifier.forward

        def limited(model, images):
            if len(images) > BATCH / 3:
                raise torch.OutOfMemoryError("as if out of memory")
            return forward(model, images)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Classifier, "forward", limited)
            yield


def release():
    """Give back what torch holds in reserve."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def peak(device):
    """A list that holds, afterwards, the most bytes that torch has held in this time."""
    found = []
    release()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    yield found
    found.append(torch.cuda.max_memory_reserved() if device.type == "cuda" else 0)


def gradient(backbone, device, micro_batch, steps=1):
    """The gradient of the last of some steps over one batch of noise, float32 on the CPU."""
    recipe = Recipe(
        backbone=backbone, pretrained=False, image_size=SIDE, batch_size=BATCH, learning_rate=1e-4, loss="soft_f1"
    )
    torch.manual_seed(0)
    model = build_model(recipe, 3, Extensions(), pretrained=False).to(device)
    model = model.to(memory_format=memory_format(device)).train()
    images = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8)
    labels = torch.arange(BATCH) % 3
    loss = make_loss(recipe, labels.to(device), 3, Extensions())
    session = Session(recipe, model, loss, micro_batch=micro_batch, device=device, steps_an_epoch=steps)
    for _ in range(steps):
        session.step(images, labels)
    return torch.cat([weight.grad.flatten().cpu() for weight in model.parameters()])


def apart(one, other):
    """The length of the difference, as a share of the other's."""
    return ((one - other).norm() / other.norm()).item()


def test_the_gradient_is_that_of_the_whole_batch(device, record):
    """Where a batch does not fit it goes through in halves until it does, with the gradient of the whole to 1e-3."""
    halved = []
    with float32():
        with peak(device) as need:
            whole = gradient(LAYER_NORM, device, MicroBatch(BATCH))
        with scarce_memory(device, *need):
            chunked = gradient(LAYER_NORM, device, MicroBatch(BATCH, halved.append))
    off = apart(chunked, whole)
    record(f"{LAYER_NORM} in float32, batch {BATCH}", f"needs {need[0] / 1e9:.2f} GB; with {SCARCE:.0%} of it {halved}")
    record("gradient of the chunks against that of the whole batch", off)
    assert halved
    assert halved[0] == BATCH / 2
    assert off <= 1e-3


def test_what_is_learned_of_the_memory_holds_for_the_next_steps(device):
    """After the first step that did not fit, the steps that follow take no further attempts."""
    halved = []
    with float32():
        with peak(device) as need:
            gradient(LAYER_NORM, device, MicroBatch(BATCH))
        with scarce_memory(device, *need):
            gradient(LAYER_NORM, device, MicroBatch(BATCH, halved.append))
            size = halved[-1]
            gradient(LAYER_NORM, device, MicroBatch(size, halved.append), steps=4)
    assert halved[-1] == size


def test_a_failed_attempt_leaves_nothing_in_the_gradient(device, record):
    """With batch norm the gradient after attempts that failed is that of the same chunks with memory for all, to 1e-3.

    Batch norm sees the chunks alone, so that it is another one than that of the whole batch.
    """
    halved = []
    with float32():
        with peak(device) as need:
            whole = gradient(BATCH_NORM, device, MicroBatch(BATCH))
        with scarce_memory(device, *need):
            chunked = gradient(BATCH_NORM, device, MicroBatch(BATCH, halved.append))
        easy = gradient(BATCH_NORM, device, MicroBatch(halved[-1]))
    off = apart(chunked, easy)
    record(f"{BATCH_NORM} in float32, batch {BATCH}", f"needs {need[0] / 1e9:.2f} GB; with {SCARCE:.0%} of it {halved}")
    record("gradient after failed attempts against that of the same chunks", off)
    record("that against the whole batch's, which batch norm sees as one", apart(easy, whole))
    assert off <= 1e-3


def trial_of(space, data, device, **more):
    """One trial in a study of its own."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    return objective(study.ask(), space, data, resources=Resources(device, **more))


def test_the_next_trial_starts_at_the_size_that_fits(device, noise, record, caplog):
    """The size that fitted is remembered by backbone, image size and card, and the next trial begins with it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = Space(
        {
            "backbone": BATCH_NORM,
            "pretrained": False,
            "image_size": SIDE,
            "batch_size": BATCH,
            "epochs": 1,
            "augment": "none",
            "optimizer": "adamw",
        },
        Extensions(),
    )
    known = {}
    with peak(device) as need:
        trial_of(space, noise, device, micro_batches=known)
    assert known == {}
    with scarce_memory(device, *need):
        trial_of(space, noise, device, micro_batches=known)
        [(key, size)] = known.items()
        said = caplog.text.count("memory ran out")
        score = trial_of(space, noise, device, micro_batches=known)
    record(f"{BATCH_NORM} in a trial, batch {BATCH}", f"needs {need[0] / 1e9:.2f} GB; with {SCARCE:.0%} of it {known}")
    assert key == f"{BATCH_NORM}, {SIDE} px, {device_name(device)}"
    assert size <= BATCH / 2
    assert said == math.log2(BATCH / size)
    assert caplog.text.count("memory ran out") == said
    assert known == {key: size}
    assert 0 <= score <= 1


KINDS = (
    {"backbone": "test_resnet", "optimizer": "adamw", "ema": True},
    {"backbone": "test_vit", "optimizer": "sgd", "mixing": "both"},
    {"backbone": "test_convnext", "optimizer": "adamw", "loss": "arcface", "class_weights": "balanced"},
    {"backbone": "test_efficientnet", "optimizer": "sgd", "loss": "soft_f1", "sampler": "balanced"},
    {"backbone": "test_resnet", "optimizer": "adamw", "image_size": 48, "pooling": "gem", "clip_norm": 1.0},
)


def test_thirty_trials_leave_nothing_behind(device, noise, record):
    """The memory of the GPU that is in use after 30 trials is that after 10, and so but for 64 MB is the process's.

    Trials of five kinds in turn: after ten, all that is kept for good is there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    loaders, seen = loaders_for(device, cores=4), []
    for number in range(1, 31):
        plain = {"pretrained": False, "image_size": 32, "batch_size": 32, "epochs": 1, "augment": "light"}
        space = Space({**plain, **KINDS[number % len(KINDS)], "seed": number}, Extensions())
        trial_of(space, noise, device, loaders=loaders)
        if number in (10, 30):
            gc.collect()
            on_gpu = device.type == "cuda"
            in_use = torch.cuda.memory_allocated() if on_gpu else 0
            reserved = torch.cuda.memory_reserved() if on_gpu else 0
            seen.append((in_use, reserved, psutil.Process().memory_info().rss))
    loaders.close()
    (in_use, reserved, resident), (in_use_after, reserved_after, resident_after) = seen
    record(
        "after 10 and after 30 trials",
        f"in use {in_use / 1e6:.1f} and {in_use_after / 1e6:.1f} MB, reserved {reserved / 1e6:.0f} and "
        f"{reserved_after / 1e6:.0f} MB, resident {resident / 1e6:.0f} and {resident_after / 1e6:.0f} MB",
    )
    assert in_use_after <= in_use + 1e6
    assert reserved_after <= reserved + 64e6
    assert resident_after <= resident + 64e6
