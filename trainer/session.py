"""What a training is between two of its steps: it takes steps, validates, and is captured and restored."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import torch
from timm.utils import ModelEmaV3
from torch.nn.utils import clip_grad_norm_

from trainer.augmentation.mixing import make_mixing
from trainer.checkpoint import Checkpoint, copies, with_prefix, without_prefix
from trainer.device import memory_format
from trainer.errors import CheckpointError, OutOfDeviceMemoryError, UndefinedMetricError
from trainer.loaders import batches_an_epoch
from trainer.losses import make_loss
from trainer.model.backbones import build_model
from trainer.model.optimizers import make_optimizer, optimizer_state, restore_optimizer
from trainer.schedules import make_schedule
from trainer.scoring import Classified, score_of
from trainer.step import FiniteLoss, backward, refuse_non_finite, seed_generators
from trainer.validation import Validation, probabilities_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from trainer.checkpoint import Capture
    from trainer.data import Data
    from trainer.extensions import Extensions
    from trainer.losses import TrainingLoss
    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe
    from trainer.resources import Resources
    from trainer.step import MicroBatch

EMA_DECAY = 0.999  # in the end; it begins lower, or the average of a short training would stay near the first weights


class Session:
    """One training: its model, optimiser, learning-rate schedule and loss, and how far it has come.

    Everything random in a step is drawn from torch's global generators, which are seeded by (seed, step, chunk) before
    it: no state is hidden, and what the next step depends on beside the recipe is what `capture` gives.

    Args:
        recipe: of the training.
        model: that learns, on the device.
        loss: of a batch.
        micro_batch: how many images go through the model at once.
        device: of the model.
        steps_an_epoch: how many batches an epoch has.

    Attributes:
        evaluated: the model that is validated and kept: the moving average of the weights where the recipe wants one.
        learning_rate: of the last step; 0 before the first.
        history: validation score of each ended epoch, the first first; the higher the better.
        train_losses: mean train loss of each ended epoch, likewise.
        epochs_done: epochs that have ended.
        steps_done: steps of the epoch after those.
        steps_taken: steps of all epochs.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Classifier,
        loss: TrainingLoss,
        *,
        micro_batch: MicroBatch,
        device: torch.device,
        steps_an_epoch: int,
    ) -> None:
        self.recipe, self.model, self.micro_batch, self.device = recipe, model, micro_batch, device
        self._average = ModelEmaV3(model, decay=EMA_DECAY, use_warmup=True) if recipe.ema else None
        self.evaluated: Classifier = self._average.module if self._average else model
        if recipe.compile:
            torch.compiler.reset()  # torch keeps what it compiled by class: after eight it would compile no other model
            model.backbone.compile()
        self.optimizer = make_optimizer(recipe, model)
        self._schedule = make_schedule(recipe, self.optimizer, steps=recipe.epochs * steps_an_epoch)
        self._loss, self._mix, self._finite = loss, make_mixing(recipe), FiniteLoss(device)
        self._steps_an_epoch = steps_an_epoch
        self.learning_rate = 0.0
        self.history: list[float] = []
        self.train_losses: list[float] = []
        self.epochs_done = self.steps_done = self.steps_taken = 0
        self._total_loss = torch.zeros((), device=device)  # of the steps that are done of the epoch under way

    @property
    def steps_left(self) -> int:
        """How many steps of the epoch under way are still to be taken."""
        return self._steps_an_epoch - self.steps_done

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take the next step: a forward and backward pass over a batch, and an update of the weights.

        Where memory runs out, in the forward or backward pass or in the update, the same step is taken again with half
        the micro-batch. (Of the updates only the first asks for memory when it has moved some weights already; that one
        is undone. What a failed attempt has added to the running statistics of batch norm stays there.)

        Args:
            images: uint8 [batch, height, width, 3].
            labels: int64 [batch].

        Returns:
            the loss, float32 [], on the device.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; on a GPU found some steps later, as nothing waits for it.
            OutOfDeviceMemoryError: there is not even memory for one image.
        """
        self.learning_rate = self.optimizer.param_groups[-1]["lr"]
        undo = self._undo_of_first_step() if self.steps_taken == 0 else None
        loss = self.micro_batch.run(partial(self._attempt, images, labels), len(labels), undo)
        self.steps_taken += 1
        self._finite.check(loss)
        self._total_loss += loss
        self._schedule.after_step()
        if self._average:
            self._average.update(self.model, step=self.steps_taken)
        self.steps_done += 1
        return loss

    def validate(
        self,
        data: Data,
        images: NDArray[np.int64],
        metric: Metric,
        on_step: Callable[[Capture], None] | None = None,
    ) -> Validation:
        """Classify these images with the model that is kept, in eval mode.

        Args:
            data: the images, with which the training began.
            images: indices of those to validate on, int64 [n].
            metric: that gives the score.
            on_step: called after each batch with a function that gives the checkpoint of a training that stops there.

        Raises:
            OutOfDeviceMemoryError: the device has not even memory for one image.
            UndefinedMetricError: these images, or probabilities that are no numbers, do not define the metric.
        """
        pixels = data.pixels(self.evaluated.reading)
        on_batch = partial(on_step, self.capture) if on_step else None
        probabilities = probabilities_of(self.evaluated, pixels, images, self.device, self.micro_batch, on_batch)
        labels = torch.from_numpy(data.index.labels[images])
        classified = Classified(labels, probabilities.argmax(dim=1), probabilities, data.index.classes)
        score = score_of(metric, classified)
        if not math.isfinite(score):
            raise UndefinedMetricError(f"validation: {metric.title} is not defined for these images and probabilities")
        return Validation(score, classified.confusion, probabilities, metric)

    def train_loss(self) -> float:
        """The mean loss of the epoch's steps, once all of them are taken.

        Raises:
            NonFiniteLossError: it is NaN or infinite.
        """
        loss = (self._total_loss / self._steps_an_epoch).item()
        refuse_non_finite(loss)
        return loss

    def end_epoch(self, train_loss: float, score: float | None, plateau: Sequence[float]) -> None:
        """End the epoch, and let the plateau schedule follow its score.

        Args:
            train_loss: its mean loss.
            score: of its validation, the higher the better; None where there is none.
            plateau: score of each epoch, the first first, to follow where there is no validation; may be empty.
        """
        if score is not None:
            self.history.append(score)
            self._schedule.after_epoch(score)
        elif plateau:
            self._schedule.after_epoch(plateau[self.epochs_done])
        self.train_losses.append(train_loss)
        self.epochs_done, self.steps_done = self.epochs_done + 1, 0
        self._total_loss = torch.zeros((), device=self.device)

    def capture(self) -> Checkpoint:
        """The checkpoint of a training that stops here; all that it holds is a copy."""
        optimizer, moments = optimizer_state(self.optimizer)
        tensors = with_prefix("model", self.model.state_dict()) | moments | {"loss": self._total_loss}
        if self._average:
            tensors |= with_prefix("average", self._average.module.state_dict())
        values = {
            "recipe": asdict(self.recipe),
            "steps": {"taken": self.steps_taken, "micro_batch": self.micro_batch.size, **optimizer},
            "schedule": self._schedule.state(),
            "learning_rate": self.learning_rate,
            "train_losses": self.train_losses,
        }
        return Checkpoint(
            epochs_done=self.epochs_done,
            steps_done=self.steps_done,
            threads=torch.get_num_threads(),
            history=list(self.history),
            values=json.loads(json.dumps(values)),  # a copy, and as a file would give it
            tensors=copies(tensors),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from where another training by the same recipe stood when it was captured.

        Raises:
            CheckpointError: the checkpoint does not fit the model.
            OutOfDeviceMemoryError: the device has no memory for it.
        """
        values, tensors = checkpoint.values, checkpoint.tensors
        try:
            steps = values["steps"]
            self.steps_taken = steps["taken"]
            # Earlier versions had a batch of one where batches of two left one over, and none of three.
            if not steps["micro_batch"] == self.recipe.batch_size < self.micro_batch.size:
                self.micro_batch.size = steps["micro_batch"]
            self.model.load_state_dict(without_prefix("model", tensors))
            restore_optimizer(self.optimizer, steps, tensors)
            self._schedule.restore(values["schedule"])
            if self._average:
                self._average.module.load_state_dict(without_prefix("average", tensors))
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemoryError(
                f"the device has no memory to resume {self.recipe.backbone}: {error}"
            ) from error
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint does not fit the model {self.recipe.backbone}, which is another one now, or has other "
                "classes: begin this training anew"
            ) from error
        self.history += checkpoint.history
        self.train_losses += checkpoint.train_losses
        self.epochs_done, self.steps_done = checkpoint.epochs_done, min(checkpoint.steps_done, self._steps_an_epoch)
        self.learning_rate = values["learning_rate"]
        self._total_loss += tensors["loss"].to(self.device)

    def _attempt(self, images: Tensor, labels: Tensor, size: int) -> Tensor:
        """Take a step with at most `size` images in the model at once; MixUp and CutMix mix the whole batch before."""
        seed = partial(seed_generators, self.recipe.seed, self.steps_taken, self.device)
        seed(0)
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        images, partners = self._mix(images, labels) if self._mix else (images, None)
        self.optimizer.zero_grad()
        loss = backward(self.model, images, lambda logits: self._loss(logits, labels, partners), size, seed)
        if self.recipe.clip_norm:
            clip_grad_norm_(self._weights(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _weights(self) -> list[nn.Parameter]:
        return [weight for group in self.optimizer.param_groups for weight in group["params"]]

    def _undo_of_first_step(self) -> Callable[[], None]:
        """The first update makes the optimiser's state; memory may run out there when some weights have moved."""
        kept = [weight.detach().to("cpu", copy=True) for weight in self._weights()]

        def undo() -> None:
            with torch.no_grad():
                for weight, value in zip(self._weights(), kept, strict=True):
                    weight.copy_(value)
            self.optimizer.state.clear()

        return undo


def begin(
    recipe: Recipe,
    data: Data,
    train: NDArray[np.int64],
    extensions: Extensions,
    resources: Resources,
    resume: Checkpoint | None = None,
) -> Session:
    """Build what a training by this recipe needs, everything random from the recipe's seed.

    Args:
        recipe: what to do.
        data: the images.
        train: indices of the images to learn from, int64 [n].
        extensions: losses and models of one's own.
        resources: what the training may use.
        resume: where to go on; pretrained weights are not looked for then.

    Raises:
        CheckpointError: `resume` does not fit the model.
        OutOfDeviceMemoryError: the device has no memory for the model.
        RecipeError, WeightsError: the recipe cannot be followed.
    """
    device, classes = resources.device, len(data.index.classes)
    torch.manual_seed(recipe.seed)
    pretrained = recipe.pretrained and not resume
    model = build_model(recipe, classes, extensions, pretrained=pretrained, weights=resources.weights)
    try:
        model = model.to(device).to(memory_format=memory_format(device))
        loss = make_loss(recipe, torch.from_numpy(data.index.labels[train]).to(device), classes, extensions)
        session = Session(
            recipe,
            model,
            loss,
            micro_batch=resources.micro_batch(recipe, len(train)),
            device=device,
            steps_an_epoch=batches_an_epoch(recipe, len(train)),
        )
    except torch.OutOfMemoryError as error:
        raise OutOfDeviceMemoryError(f"the device has no memory for {recipe.backbone} alone: {error}") from error
    if resume:
        session.restore(resume)
    return session
