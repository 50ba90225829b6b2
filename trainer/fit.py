"""One training, as a generator of its epochs: the loop itself, readable from top to bottom."""

from __future__ import annotations

import json
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING

import torch
from timm.utils import ModelEmaV3

from trainer.augmentation.mixing import make_mixing
from trainer.checkpoint import Checkpoint, copies, in_part, part_of
from trainer.device import autocast, choose_device, memory_format
from trainer.errors import CheckpointError, OutOfDeviceMemoryError
from trainer.extensions import Extensions
from trainer.loaders import AugmentedImages, Loaders, batches_an_epoch, epoch_orders
from trainer.losses import make_loss
from trainer.metrics import accuracy, confusion_matrix, macro_f1
from trainer.model.backbones import build_model, interpolation_of
from trainer.model.optimizers import make_optimizer
from trainer.schedules import make_schedule
from trainer.step import MicroBatch, Steps, refuse_non_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from trainer.checkpoint import Capture
    from trainer.data import Data
    from trainer.model.backbones import Classifier
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
        probabilities: of the classes, float32 [validation images, classes] on the CPU; likewise.
        model: the model that was validated (the moving average where the recipe wants one), in eval mode. It goes on
            learning when the next epoch is asked for: save it before.
        seconds: wall-clock time of the epoch, with validation; of one that was resumed, since then.
        data_seconds: the part of it that was spent waiting for batches.
        capture: gives the checkpoint of a training that stops after this epoch, until the next one is asked for.
    """

    number: int
    epochs: int
    train_loss: float
    learning_rate: float
    macro_f1: float | None
    accuracy: float | None
    confusion: torch.Tensor | None
    probabilities: torch.Tensor | None
    model: Classifier
    seconds: float
    data_seconds: float
    capture: Capture


def fit(
    recipe: Recipe,
    data: Data,
    *,
    train: NDArray[np.int64],
    valid: NDArray[np.int64] | None,
    extensions: Extensions | None = None,
    device: torch.device | None = None,
    weights: Path | None = None,
    loaders: Loaders | None = None,
    micro_batch: MicroBatch | None = None,
    plateau: Sequence[float] = (),
    resume: Checkpoint | None = None,
    on_step: Callable[[Capture], None] | None = None,
) -> Generator[Epoch]:
    """Train by the recipe and yield each epoch as it ends.

    Everything random comes from `recipe.seed`: the same recipe, data, device and number of torch threads give the
    same weights bit for bit on a CPU, and so they do with any number of interruptions. torch's global generators are
    seeded anew at each step.

    Args:
        recipe: what to do.
        data: the images.
        train: indices of the images to learn from, int64 [n].
        valid: indices of the images to validate on, int64 [m]; None to validate on none.
        extensions: losses, augmentations and models of one's own.
        device: where to train; the first GPU or the CPU where not given.
        weights: folder with pretrained weights, in place of the hub.
        loaders: processes that augment; None does it in this one.
        micro_batch: how many images go through the model at once; the recipe's batch size where not given. It is
            halved where memory runs out, and the training goes on from the same step.
        plateau: macro-F1 of each epoch that the plateau schedule is to follow where there is no validation.
        resume: where an earlier training by this recipe, on these images, stood when it ended: go on from there, with
            the epoch that had not ended. Pretrained weights are not looked for then.
        on_step: called after each batch, of training and of validation, with a function that gives the checkpoint of a
            training that stops there: nothing is copied before it is called. What `on_step` raises ends the training.

    Raises:
        CheckpointError: `resume` is of another recipe, or does not fit the model.
        NonFiniteLossError: the loss is NaN or infinite.
        OutOfDeviceMemoryError: the device has not even memory for one image.
        RecipeError, WeightsError, DataError: the recipe cannot be followed.
    """
    if resume:
        resume.refuse_other_recipe(recipe)
    extensions, device, loaders = extensions or Extensions(), device or choose_device(), loaders or Loaders(0)
    micro_batch = micro_batch or MicroBatch(recipe.batch_size)
    classes = len(data.index.classes)
    pixels = data.pixels(recipe.image_size, interpolation_of(recipe.backbone, extensions))
    labels = torch.from_numpy(data.index.labels)

    torch.manual_seed(recipe.seed)
    model = build_model(recipe, classes, extensions, pretrained=recipe.pretrained and not resume, weights=weights)
    try:
        model = model.to(device).to(memory_format=memory_format(device))
        average = ModelEmaV3(model, decay=EMA_DECAY, use_warmup=True) if recipe.ema else None
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemoryError(f"the device has no memory for {recipe.backbone} alone: {error}") from error
    judged: Classifier = average.module if average else model
    if recipe.compile:
        model.backbone.compile()
    optimizer = make_optimizer(recipe, model)
    loss_of = make_loss(recipe, labels[train].to(device), classes, extensions)
    steps = Steps(recipe, model, optimizer, loss_of, make_mixing(recipe), micro_batch, device)
    steps_an_epoch = batches_an_epoch(recipe, len(train))
    schedule = make_schedule(recipe, optimizer, steps=recipe.epochs * steps_an_epoch)

    history: list[float] = []  # macro-F1 of the epochs that have ended
    train_losses: list[float] = []  # likewise
    epochs_done, steps_done, learning_rate = 0, 0, 0.0
    total_loss = torch.zeros((), device=device)  # of the steps that are done of the epoch after those
    if resume:
        try:
            steps.restore(resume.values["steps"], resume.tensors)
            schedule.restore(resume.values["schedule"])
            if average:
                average.module.load_state_dict(part_of("average", resume.tensors))
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemoryError(f"the device has no memory to resume {recipe.backbone}: {error}") from error
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit the model {recipe.backbone}, which is another one now, or has other "
                "classes: begin this training anew"
            ) from error
        history += resume.history
        train_losses += resume.train_losses
        epochs_done, steps_done = resume.epochs_done, resume.steps_done
        learning_rate = resume.values["learning_rate"]
        total_loss += resume.tensors["loss"].to(device)

    def capture() -> Checkpoint:
        values, tensors = steps.state()
        tensors["loss"] = total_loss
        if average:
            tensors |= in_part("average", average.module.state_dict())
        state = {
            "recipe": asdict(recipe),
            "steps": values,
            "schedule": schedule.state(),
            "learning_rate": learning_rate,
            "train_losses": train_losses,
        }
        return Checkpoint(
            epochs_done=epochs_done,
            steps_done=steps_done,
            threads=torch.get_num_threads(),
            history=list(history),
            values=json.loads(json.dumps(state)),  # a copy, and as a file would give it
            tensors=copies(tensors),
        )

    orders = chain.from_iterable(
        epoch_orders(recipe, data.index.labels, train, number) for number in range(epochs_done + 1, recipe.epochs + 1)
    )
    coming = islice(orders, steps_done, None)
    with closing(loaders.batches(AugmentedImages(pixels, data.index.labels, extensions), coming)) as batches:
        for number in range(epochs_done + 1, recipe.epochs + 1):
            started, waited = time.perf_counter(), 0.0
            model.train()
            asked = time.perf_counter()
            for images, truth in islice(batches, steps_an_epoch - steps_done):
                waited += time.perf_counter() - asked
                learning_rate = optimizer.param_groups[-1]["lr"]
                total_loss += steps.take(images, truth)
                schedule.after_step()
                if average:
                    average.update(model, step=steps.taken)
                steps_done += 1
                if on_step:
                    on_step(capture)
                asked = time.perf_counter()
            train_loss = (total_loss / steps_an_epoch).item()
            refuse_non_finite(train_loss)

            judged.eval()
            probabilities = matrix = None
            if valid is not None:
                each_batch = partial(on_step, capture) if on_step else None
                probabilities = probabilities_of(judged, pixels, valid, device, micro_batch, each_batch)
                matrix = confusion_matrix(labels[valid], probabilities.argmax(dim=1), classes)
            score = None if matrix is None else macro_f1(matrix)
            if score is not None:
                history.append(score)
                schedule.after_epoch(score)
            elif plateau:
                schedule.after_epoch(plateau[number - 1])
            train_losses.append(train_loss)
            epochs_done, steps_done, total_loss = number, 0, torch.zeros((), device=device)
            yield Epoch(
                number=number,
                epochs=recipe.epochs,
                train_loss=train_loss,
                learning_rate=learning_rate,
                macro_f1=score,
                accuracy=None if matrix is None else accuracy(matrix),
                confusion=matrix,
                probabilities=probabilities,
                model=judged,
                seconds=time.perf_counter() - started,
                data_seconds=waited,
                capture=capture,
            )


def probabilities_of(
    model: Classifier,
    pixels: NDArray[np.uint8],
    images: NDArray[np.int64],
    device: torch.device,
    micro_batch: MicroBatch,
    on_step: Callable[[], None] | None = None,
) -> torch.Tensor:
    """The probability of each class for these images, float32 [images, classes] on the CPU.

    Args:
        model: in eval mode, on the device.
        pixels: uint8 [N, side, side, 3].
        images: rows of the pixels, int64 [n].
        device: that of the model.
        micro_batch: how many images go through the model at once.
        on_step: called after each of these batches.

    Raises:
        OutOfDeviceMemoryError: the device has not even memory for one image.
    """

    def classify(size: int) -> torch.Tensor:
        logits = []
        with torch.inference_mode(), autocast(device):
            for start in range(0, len(images), size):
                batch = torch.from_numpy(pixels[images[start : start + size]])
                if device.type == "cuda":
                    batch = batch.pin_memory()  # so that the copy does not wait for the batch before it
                logits.append(model(batch.to(device, non_blocking=True)))
                if on_step:
                    on_step()
        return torch.cat(logits).float().softmax(dim=1).cpu()

    return micro_batch.run(classify, len(images))
