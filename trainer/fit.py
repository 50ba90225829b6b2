"""One training, as a generator of its epochs: the loop itself, readable from top to bottom."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from trainer.augmentation.random_resized_crop import takes_random_crops
from trainer.extensions import Extensions
from trainer.loaders import AugmentedImages, epoch_orders
from trainer.model.backbones import training_reading
from trainer.objective_metric import MACRO_F1
from trainer.resources import Resources
from trainer.session import begin

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from trainer.checkpoint import Capture, Checkpoint
    from trainer.data import Data
    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe
    from trainer.validation import Validation


@dataclass(frozen=True, eq=False)
class Subsets:
    """Which images of the data a training uses, and how.

    Attributes:
        train: indices of the images to learn from, int64 [n].
        valid: indices of the images to validate on, int64 [m]; None to validate on none.
        plateau: score of each epoch of another training, the first first: the plateau schedule follows these where
            there is no validation.
        metric: that gives the scores of the validation.
    """

    train: NDArray[np.int64]
    valid: NDArray[np.int64] | None = None
    plateau: Sequence[float] = ()
    metric: Metric = MACRO_F1


@dataclass(frozen=True, eq=False)
class Epoch:
    """What one epoch gave.

    Attributes:
        number: 1 for the first.
        epochs: number of the last one, if nothing ends the training before.
        train_loss: mean over the epoch's steps.
        learning_rate: that of the epoch's last step.
        validation: how well the model classifies the validation images; None where there are none.
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
    validation: Validation | None
    model: Classifier
    seconds: float
    data_seconds: float
    capture: Capture


def fit(
    recipe: Recipe,
    data: Data,
    subsets: Subsets,
    *,
    extensions: Extensions | None = None,
    resources: Resources | None = None,
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
        subsets: which of them to learn from, and which to validate on.
        extensions: losses, augmentations and models of one's own.
        resources: what the training may use: device, processes that augment, pretrained weights. Where memory runs
            out, fewer images go through the model at once, and the training goes on from the same step.
        resume: where an earlier training by this recipe, on these images, stood when it ended: go on from there, with
            the epoch that had not ended. Pretrained weights are not looked for then.
        on_step: called after each batch, of training and of validation, with a function that gives the checkpoint of a
            training that stops there: nothing is copied before it is called. What `on_step` raises ends the training.

    Raises:
        CheckpointError: `resume` is of another recipe, or does not fit the model.
        NonFiniteLossError: the loss is NaN or infinite.
        OutOfDeviceMemoryError: the device has not even memory for one image.
        UndefinedMetricError: the validation images, or probabilities that are no numbers, do not define the metric.
        RecipeError, WeightsError, DataError: the recipe cannot be followed.
    """
    if resume:
        resume.refuse_other_recipe(recipe)
    extensions, resources = extensions or Extensions(), resources or Resources()
    pixels, aspects = data.pixels(training_reading(recipe, extensions)), None
    if takes_random_crops(recipe, extensions) and recipe.resize != "stretch":
        aspects = data.aspects()
    session = begin(recipe, data, subsets.train, extensions, resources, resume)
    numbers = range(session.epochs_done + 1, recipe.epochs + 1)
    orders = chain.from_iterable(epoch_orders(recipe, data.index.labels, subsets.train, number) for number in numbers)
    still_to_do = islice(orders, session.steps_done, None)
    images = AugmentedImages(pixels, data.index.labels, extensions, aspects)
    with closing(resources.loaders.batches(images, still_to_do)) as batches:
        for number in numbers:
            started, waited = time.perf_counter(), 0.0
            session.model.train()
            asked = time.perf_counter()
            for batch, labels in islice(batches, session.steps_left):
                waited += time.perf_counter() - asked
                session.step(batch, labels)
                if on_step:
                    on_step(session.capture)
                asked = time.perf_counter()
            train_loss = session.train_loss()

            session.evaluated.eval()
            validation = None
            if subsets.valid is not None:
                validation = session.validate(data, subsets.valid, subsets.metric, on_step)
            session.end_epoch(train_loss, validation.score if validation else None, subsets.plateau)
            yield Epoch(
                number=number,
                epochs=recipe.epochs,
                train_loss=train_loss,
                learning_rate=session.learning_rate,
                validation=validation,
                model=session.evaluated,
                seconds=time.perf_counter() - started,
                data_seconds=waited,
                capture=session.capture,
            )
