"""One step of a training, in as many parts as the memory of the device needs; what happens where it runs out."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad_norm_

from trainer.checkpoint import in_part, part_of
from trainer.device import autocast
from trainer.errors import NonFiniteLossError, OutOfDeviceMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.optim import Optimizer

    from trainer.augmentation.mixing import Mixing
    from trainer.losses import TrainingLoss
    from trainer.recipe import Recipe

T = TypeVar("T")

# What CUDA's libraries say where they find no memory, which torch does not make an OutOfMemoryError.
NO_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")

logger = logging.getLogger(__name__)


class MicroBatch:
    """How many images go through the model at once: halved whenever that is too much for the device's memory.

    Args:
        size: to begin with.
        on_halved: called with each new size.
    """

    def __init__(self, size: int, on_halved: Callable[[int], None] | None = None) -> None:
        self.size = size
        self._on_halved = on_halved

    def run(self, function: Callable[[int], T], images: int, undo: Callable[[], None] | None = None) -> T:
        """Call the function with the size; where memory runs out, again with half of it.

        Args:
            function: works on `images` images, at most so many at once as it is told.
            images: how many there are.
            undo: called before the function is called again.

        Raises:
            OutOfDeviceMemoryError: there is not even memory for one image.
        """
        while True:
            try:
                return function(self.size)
            except RuntimeError as error:
                if not (isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in NO_MEMORY)):
                    raise
                cause = next(iter(str(error).splitlines()), "out of memory")
            # Out here the failed attempt and all that it held are gone.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size = min(self.size, images)
            if size == 1:
                raise OutOfDeviceMemoryError(
                    "the device has no memory even for one image at a time: take a smaller image_size or backbone, or "
                    f"fewer workers a GPU ({cause})"
                )
            if undo:
                undo()
            self.size = math.ceil(size / 2)
            logger.warning("the device's memory ran out: %d images go through the model at once from here", self.size)
            if self._on_halved:
                self._on_halved(self.size)


class Steps:
    """The steps of a training: each a forward and backward pass over a batch, and an update of the weights.

    A batch that is larger than the micro-batch goes through the model twice: without gradients for the logits of the
    whole batch, whose loss says how each logit should move, then part by part to carry that back into the weights
    (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). So the gradient is
    that of the whole batch for any loss, one over the batch as a whole (soft F1, class weights, one's own) included.
    What differs: batch norm sees the parts alone (and what a failed attempt has added to its running statistics stays
    there), and dropout draws anew for each part. MixUp and CutMix mix the whole batch before it is parted.

    Everything random is drawn from torch's global generators, seeded by (seed, step, part): no state is hidden, and
    what the next step depends on beside the recipe is what `state` gives.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        optimizer: Optimizer,
        loss_of: TrainingLoss,
        mix: Mixing | None,
        micro_batch: MicroBatch,
        device: torch.device,
    ) -> None:
        self._recipe, self._model, self._optimizer, self._loss_of = recipe, model, optimizer, loss_of
        self._mix, self._micro_batch, self._device = mix, micro_batch, device
        self.taken = 0
        self._finite = _FiniteLoss(device)

    def take(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take the next step; returns its loss, float32 [], on the device.

        Where memory runs out, in the forward or backward pass or in the update, the same step is taken again with half
        the micro-batch. (Of the updates only the first asks for memory when it has moved some weights already; that one
        is undone.)

        Args:
            images: uint8 [batch, side, side, 3].
            labels: int64 [batch].

        Raises:
            NonFiniteLossError: the loss is NaN or infinite; on a GPU found some steps later, as nothing waits for it.
            OutOfDeviceMemoryError: there is not even memory for one image.
        """
        undo = self._undo_of_first_step() if self.taken == 0 else None
        loss = self._micro_batch.run(lambda size: self._attempt(images, labels, size), len(labels), undo)
        self.taken += 1
        self._finite.check(loss)
        return loss

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The step count, the micro-batch, the model and the optimiser: values for JSON, tensors of the training."""
        state = self._optimizer.state_dict()
        tensors = in_part("model", self._model.state_dict())
        scalars: dict[str, dict[str, Any]] = {}
        for number, of_weight in state["state"].items():
            moments = {name: value for name, value in of_weight.items() if isinstance(value, Tensor)}
            tensors |= in_part(f"optimizer.{number}", moments)
            scalars[str(number)] = {name: value for name, value in of_weight.items() if name not in moments}
        values = {
            "taken": self.taken,
            "micro_batch": self._micro_batch.size,
            "optimizer": scalars,
            "groups": state["param_groups"],
        }
        return values, tensors

    def restore(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from where the steps of another training by the same recipe were when they gave this state."""
        self.taken, self._micro_batch.size = values["taken"], values["micro_batch"]
        self._model.load_state_dict(part_of("model", tensors))
        state = {
            int(number): {**scalars, **part_of(f"optimizer.{number}", tensors)}
            for number, scalars in values["optimizer"].items()
        }
        self._optimizer.load_state_dict({"state": state, "param_groups": values["groups"]})
        # What is loaded may be the very tensors that were given, and is laid out as on the CPU. Fused updates want the
        # moments of a weight laid out as the weight is.
        for weight, of_weight in self._optimizer.state.items():
            for name, value in of_weight.items():
                if isinstance(value, Tensor):
                    like = weight if value.shape == weight.shape else value
                    of_weight[name] = torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)

    def _attempt(self, images: Tensor, labels: Tensor, size: int) -> Tensor:
        self._seed(0)
        images = images.to(self._device, non_blocking=True)
        labels = labels.to(self._device, non_blocking=True)
        images, partners = self._mix(images, labels) if self._mix else (images, None)
        self._optimizer.zero_grad()
        if len(labels) <= size:
            loss = self._loss_of(self._forward(images), labels, partners)
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            parts = images.tensor_split(math.ceil(len(labels) / size))
            with torch.no_grad(), _statistics_kept(self._model):
                logits = torch.cat([self._forward(part, number) for number, part in enumerate(parts)])
            logits.requires_grad_()
            loss = self._loss_of(logits, labels, partners)
            loss.backward()  # type: ignore[no-untyped-call]
            assert logits.grad is not None, "a loss is a function of the logits"
            for number, (part, slope) in enumerate(zip(parts, logits.grad.tensor_split(len(parts)), strict=True)):
                self._forward(part, number).backward(slope)  # type: ignore[no-untyped-call]
        if self._recipe.clip_norm:
            clip_grad_norm_(self._weights(), self._recipe.clip_norm)
        self._optimizer.step()
        return loss.detach()

    def _forward(self, images: Tensor, part: int | None = None) -> Tensor:
        if part is not None:
            self._seed(part + 1)  # the second pass over a part has to draw what the first one drew
        with autocast(self._device):
            logits = self._model(images)
        return cast("Tensor", logits.float())

    def _seed(self, part: int) -> None:
        state = np.random.SeedSequence((self._recipe.seed, self.taken, part)).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0] >> 1))

    def _weights(self) -> list[nn.Parameter]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]

    def _undo_of_first_step(self) -> Callable[[], None]:
        """The first update makes the optimiser's state; memory may run out there when some weights have moved."""
        kept = [weight.detach().to("cpu", copy=True) for weight in self._weights()]

        def undo() -> None:
            with torch.no_grad():
                for weight, value in zip(self._weights(), kept, strict=True):
                    weight.copy_(value)
            self._optimizer.state.clear()

        return undo


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Let batch norm use a batch's statistics without adding them to the running ones."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class _FiniteLoss:
    """Finds a loss that is not finite without making the CPU wait for a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pending = False
        if self._on_gpu:
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._loss = torch.zeros((), pin_memory=True)

    def check(self, loss: Tensor) -> None:
        """Raise NonFiniteLossError if this loss, or on a GPU a recent one, is NaN or infinite."""
        if self._on_gpu:
            if self._pending and not self._copied.query():  # type: ignore[no-untyped-call]
                return  # a broken training stays broken, so any later loss will tell
            found, self._pending = (self._loss.item() if self._pending else 0.0), True
            self._loss.copy_(loss, non_blocking=True)
            self._copied.record()
        else:
            found = loss.item()
        refuse_non_finite(found)


def refuse_non_finite(loss: float) -> None:
    """Raise NonFiniteLossError unless the loss is a number."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"the loss is {loss}: a lower learning_rate, warmup or clip_norm may help")
