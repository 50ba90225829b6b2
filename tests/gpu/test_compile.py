"""What `compile = true` changes, costs and gains."""

import time

import numpy as np
import pytest
import torch

from tests.gpu.conftest import REHEARSAL
from trainer.fit import Subsets, fit
from trainer.loaders import loaders_for
from trainer.recipe import Recipe
from trainer.resources import Resources

pytestmark = pytest.mark.gpu

BATCH, STEPS = (16, 4) if REHEARSAL else (128, 24)
SIDE = 32 if REHEARSAL else 64
COMPARED = 3  # steps


def trained(recipe, data, train, device):
    """The losses of the first steps, the names of the weights, the probabilities, and the seconds of each batch."""
    captured, times = [], []
    loaders, asked = loaders_for(device, cores=4), time.perf_counter()

    def on_step(capture):
        nonlocal asked
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - asked)
        if len(captured) < COMPARED:
            captured.append(capture())
        asked = time.perf_counter()

    subsets = Subsets(train, data.split.valid[:BATCH])
    *_, epoch = fit(recipe, data, subsets, resources=Resources(device, loaders), on_step=on_step)
    loaders.close()
    sums = [0.0, *(checkpoint.tensors["loss"].item() for checkpoint in captured)]
    return np.diff(sums).tolist(), captured[0].tensors.keys(), epoch.validation.probabilities, times


@pytest.mark.parametrize(
    ("backbone", "lacking", "ema"),
    [("resnet18", 0, False), ("test_vit", 3, True)],
    ids=["resnet18, batches of one size", "test_vit, batches of two sizes, ema"],
)
def test_compiled(backbone, lacking, ema, device, noise, record):
    """A compiled training has the losses of a plain one to 2 % and weights of the same names.

    In bf16, where a compiled model rounds less often; the probabilities after the training are recorded alone.
    """
    if REHEARSAL and backbone == "resnet18":
        pytest.skip("minutes on a CPU: the small model rehearses it")
    train = np.tile(noise.split.train, STEPS)[: STEPS * BATCH - lacking]
    ends = {}
    for compiled in (False, True):
        recipe = Recipe(
            backbone=backbone,
            pretrained=False,
            image_size=SIDE,
            batch_size=BATCH,
            epochs=2,
            learning_rate=1e-4,
            augment="none",
            compile=compiled,
            ema=ema,
        )
        ends[compiled] = losses, _, _, times = trained(recipe, noise, train, device)
        slow = [f"{number}: {seconds:.1f} s" for number, seconds in enumerate(times, start=1) if seconds > 0.5]
        last = times[-STEPS - 1 : -1]  # before the batch of validation
        record(
            f"{backbone}, {'compiled' if compiled else 'plain'}",
            f"first step {times[0]:.2f} s, all {sum(times):.1f} s, slow batches {slow}, then "
            f"{len(train) / sum(last):,.0f} images a second, a step {1000 * float(np.median(last)):.2f} ms; "
            f"losses {losses}",
        )
    (losses, names, plain, _), (compiled_losses, compiled_names, compiled, _) = ends[False], ends[True]
    record(f"{backbone}, compiled against plain, probabilities", (plain - compiled).abs().max().item())
    assert compiled_names == names
    assert compiled_losses == pytest.approx(losses, rel=0.02)
    assert torch.isfinite(compiled).all()
