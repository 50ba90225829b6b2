"""One training, as a generator of its epochs: the loop itself, readable from top to bottom."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

from trainer.augment import make_augment
from trainer.backbones import build_model
from trainer.device import autocast, choose_device, memory_format
from trainer.errors import NonFiniteLossError
from trainer.loaders import train_batches
from trainer.losses import make_loss
from trainer.metrics import accuracy, confusion_matrix, macro_f1
from trainer.parts import Parts
from trainer.schedules import make_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.backbones import Classifier
    from trainer.data import Data
    from trainer.recipe import Recipe

EMA_DECAY = 0.999  # reached slowly: a warm-up keeps a short training's average from staying near its start


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: 1 for the first.
        epochs: number of the last one, if nothing ends the training before.
        train_loss: mean over the epoch's steps.
        learning_rate: that of the epoch's last step.
        macro_f1: of the validation images, in [0, 1]; None where there are none.
        accuracy: likewise.
        confusion: int64 [true class, predicted class] on the CPU; likewise.
        model: the model that was validated (the moving average where the recipe wants one), in eval mode. It goes on
            learning when the next epoch is asked for: save it before.
        seconds: wall-clock time of the epoch, with validation.
        data_seconds: the part of it that was spent waiting for batches.
    """

    number: int
    epochs: int
    train_loss: float
    learning_rate: float
    macro_f1: float | None
    accuracy: float | None
    confusion: torch.Tensor | None
    model: Classifier
    seconds: float
    data_seconds: float


def fit(
    recipe: Recipe,
    data: Data,
    *,
    train: NDArray[np.int64],
    valid: NDArray[np.int64] | None,
    parts: Parts | None = None,
    device: torch.device | None = None,
    weights: Path | None = None,
    loaders: int = 0,
    plateau: Sequence[float] = (),
    on_step: Callable[[], None] | None = None,
) -> Generator[Epoch]:
    """Train by the recipe and yield each epoch as it ends.

    Everything random comes from `recipe.seed`: the same recipe, data, device and number of torch threads give the
    same weights bit for bit on a CPU. torch's global generators are seeded anew at each step.

    Args:
        recipe: what to do.
        data: the images.
        train: indices of the images to learn from, int64 [n].
        valid: indices of the images to validate on, int64 [m]; None to validate on none.
        parts: losses, augmentations and models of one's own.
        device: where to train; the first GPU or the CPU where not given.
        weights: folder with pretrained weights, in place of the hub.
        loaders: processes that augment; 0 does it in this one.
        plateau: macro-F1 of each epoch that the plateau schedule is to follow where there is no validation.
        on_step: called after each batch, of training and of validation; what it raises ends the training.

    Raises:
        NonFiniteLossError: the loss of an epoch is NaN or infinite.
        RecipeError, WeightsError, DataError: the recipe cannot be followed.
    """
    parts = parts or Parts()
    device = device or choose_device()
    classes = len(data.index.classes)
    pixels = data.pixels(recipe.image_size)
    labels = torch.from_numpy(data.index.labels)

    torch.manual_seed(recipe.seed)
    model = build_model(recipe, classes, parts, pretrained=recipe.pretrained, weights=weights)
    model = model.to(device).to(memory_format=memory_format(device))
    average = ModelEmaV3(model, decay=EMA_DECAY, use_warmup=True) if recipe.ema else None
    judged: Classifier = average.module if average else model
    optimizer = create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay, momentum=0.9
    )
    loss_of = make_loss(recipe, labels[train].to(device), classes, parts)
    batches = train_batches(recipe, pixels, data.index.labels, train, make_augment(recipe, parts), device, loaders)
    schedule = make_schedule(recipe, optimizer, steps=recipe.epochs * len(batches))

    step = 0
    for number in range(1, recipe.epochs + 1):
        started, waited = time.perf_counter(), 0.0
        model.train()
        total_loss = torch.zeros((), device=device)
        batches.start_epoch(number)
        asked = time.perf_counter()
        for images, truth in batches:
            waited += time.perf_counter() - asked
            torch.manual_seed(_step_seed(recipe.seed, step))
            with autocast(device):
                logits = model(images.to(device, non_blocking=True))
            loss = loss_of(logits.float(), truth.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            learning_rate = optimizer.param_groups[0]["lr"]
            optimizer.step()
            schedule.after_step()
            if average:
                average.update(model, step)
            total_loss += loss.detach()
            step += 1
            if on_step:
                on_step()
            asked = time.perf_counter()
        train_loss = (total_loss / len(batches)).item()
        if not np.isfinite(train_loss):
            raise NonFiniteLossError(f"the loss is {train_loss} in epoch {number}: a lower learning_rate may help")

        judged.eval()
        matrix = None
        if valid is not None:
            matrix = confusion_of(judged, pixels, labels, valid, recipe.batch_size, device, on_step)
        score = None if matrix is None else macro_f1(matrix)
        if score is not None:
            schedule.after_epoch(score)
        elif plateau:
            schedule.after_epoch(plateau[number - 1])
        yield Epoch(
            number=number,
            epochs=recipe.epochs,
            train_loss=train_loss,
            learning_rate=learning_rate,
            macro_f1=score,
            accuracy=None if matrix is None else accuracy(matrix),
            confusion=matrix,
            model=judged,
            seconds=time.perf_counter() - started,
            data_seconds=waited,
        )


def confusion_of(
    model: Classifier,
    pixels: NDArray[np.uint8],
    labels: torch.Tensor,
    images: NDArray[np.int64],
    batch_size: int,
    device: torch.device,
    on_step: Callable[[], None] | None = None,
) -> torch.Tensor:
    """The confusion matrix of these images, int64 [classes, classes] on the CPU, added up on the device.

    `on_step` is called after each batch.
    """
    matrix: torch.Tensor | int = 0
    with torch.inference_mode(), autocast(device):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            logits = model(torch.from_numpy(pixels[batch]).to(device))
            matrix = matrix + confusion_matrix(labels[batch].to(device), logits.argmax(dim=1), logits.shape[1])
            if on_step:
                on_step()
    assert isinstance(matrix, torch.Tensor), "there is at least one image"
    return matrix.cpu()


def _step_seed(seed: int, step: int) -> int:
    """Seed of what is random inside a step (dropout, drop path): a function of the step alone, with no hidden state."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)
