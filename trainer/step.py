"""The gradient of a batch, in as many chunks as the memory of the device needs; what happens where it runs out."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.device import autocast
from trainer.errors import NonFiniteLossError, OutOfDeviceMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

# Texts of CUDA's libraries for a lack of memory; torch raises a plain RuntimeError with them.
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
            # Here, outside of the except block, the failed attempt holds no memory any more.
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


def backward(
    model: nn.Module, images: Tensor, loss: Callable[[Tensor], Tensor], size: int, seed: Callable[[int], None]
) -> Tensor:
    """Add the gradient of a batch's loss to the weights; returns the loss, float32 [].

    A batch of more than `size` images goes through the model twice: without gradients for the logits of the whole
    batch, whose loss says how each logit should move, then chunk by chunk to carry that back into the weights
    (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"). So the gradient is
    that of the whole batch for any loss, one over the batch as a whole (soft F1, class weights, one's own) included.
    What differs: batch norm sees each chunk alone, and dropout draws anew for each chunk.

    Args:
        model: images -> logits, in train mode, on the device of the images.
        images: uint8 or float32 [batch, side, side, 3].
        loss: of the logits, float32 [batch, classes].
        size: the most images that go through the model at once.
        seed: seeds torch's generators for the chunk with this number, 1 for the first. It is called before each pass
            of a chunk, so that the second pass draws what the first one drew; not where the batch is whole.
    """
    if len(images) <= size:
        total = loss(_forward(model, images))
        total.backward()  # type: ignore[no-untyped-call]
        return total
    chunks = images.tensor_split(math.ceil(len(images) / size))
    with torch.no_grad(), _statistics_kept(model):
        logits_of_chunks = []
        for number, chunk in enumerate(chunks, start=1):
            seed(number)
            logits_of_chunks.append(_forward(model, chunk))
        logits = torch.cat(logits_of_chunks)
    logits.requires_grad_()
    total = loss(logits)
    total.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None, "a loss is a function of the logits"
    gradients = logits.grad.tensor_split(len(chunks))
    for number, (chunk, gradient) in enumerate(zip(chunks, gradients, strict=True), start=1):
        seed(number)
        _forward(model, chunk).backward(gradient)  # type: ignore[no-untyped-call]
    return total


def seed_generators(seed: int, step: int, device: torch.device, chunk: int) -> None:
    """Seed torch's global generators for a chunk of a step's batch, 1 for the first; 0 for the batch as a whole.

    As `torch.manual_seed` does, but for devices that the training does not use: looking for those takes a third of a
    millisecond, about 1 % of a step on a fast GPU.
    """
    state = np.random.SeedSequence((seed, step, chunk)).generate_state(1, np.uint64)
    number = int(state[0] >> 1)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def _forward(model: nn.Module, images: Tensor) -> Tensor:
    with autocast(images.device):
        logits = model(images)
    return cast("Tensor", logits.float())


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


class FiniteLoss:
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
                return  # once a loss is NaN all later ones are, so a later check finds it
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
