"""Batches of augmented training images, the same ones in the same order whoever prepares them."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import threading
import time
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from mmap import mmap
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.augmentation.augment import image_seed, make_augment
from trainer.augmentation.random_resized_crop import make_crop, takes_random_crops
from trainer.device import loader_processes, pin, recorded_event, unpin
from trainer.image_size import shape_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from numpy.typing import NDArray

    from trainer.augmentation.augment import SeededAugment
    from trainer.augmentation.random_resized_crop import Crop
    from trainer.extensions import Extensions
    from trainer.recipe import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]  # images uint8 [batch, height, width, 3], labels int64 [batch]
BATCHES_AHEAD = 3  # for each process
PARENT_SECONDS = 2.0  # how often a process checks whether its parent still runs
DEATH = (
    "a process that loads images has died: it was killed, most likely because memory ran out (of the machine, or of "
    "the container: docker's --memory); fewer workers or loaders (--threads) need less; going on with %s"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Order:
    """A batch to be made: these images, augmented as the recipe has it in this epoch."""

    recipe: Recipe
    epoch: int
    images: NDArray[np.int64]
    draws: NDArray[np.int64]  # how often each of them was drawn before in this epoch


class AugmentedImages:
    """Batches by their orders: any process that has the pixels makes the same batch of the same order.

    Args:
        pixels: uint8 [N, height, width, 3].
        labels: int64 [N].
        extensions: augmentations of one's own.
        aspects: width divided by height of each picture, float32 [N], where random crops keep the proportions of what
            is in the picture; None where they are deformed as the pixels are.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        extensions: Extensions,
        aspects: NDArray[np.float32] | None = None,
    ) -> None:
        self.pixels, self.labels, self.extensions, self.aspects = pixels, labels, extensions, aspects
        self._recipe: Recipe | None = None
        self._augment: SeededAugment | None = None
        self._crop: Crop | None = None

    def makes_the_same_as(self, other: AugmentedImages) -> bool:
        """Whether the other one makes the same images of the same orders."""
        same_pictures = self.pixels is other.pixels and self.aspects is other.aspects
        return same_pictures and self.extensions == other.extensions

    def shape(self, recipe: Recipe) -> tuple[int, ...]:
        """The shape of an image that is made by this recipe: [height, width, 3]."""
        crops = takes_random_crops(recipe, self.extensions)
        return (*shape_of(recipe.image_size), 3) if crops else self.pixels.shape[1:]

    def make(self, order: Order) -> NDArray[np.uint8]:
        """The images of this order, uint8 [batch, height, width, 3]."""
        if order.recipe != self._recipe:
            self._recipe, self._augment, self._crop = order.recipe, None, None
            if takes_random_crops(order.recipe, self.extensions):
                self._crop = make_crop(order.recipe.image_size, order.recipe.crop_scale)
            else:
                self._augment = make_augment(order.recipe, self.extensions)
        if self._crop:
            return self._crops(order, self._crop)
        images = self.pixels[order.images]
        if self._augment:
            for row, (image, draw) in enumerate(zip(order.images.tolist(), order.draws.tolist(), strict=True)):
                images[row] = self._augment(images[row], image_seed(order.recipe.seed, order.epoch, image, draw))
        return images

    def _crops(self, order: Order, crop: Crop) -> NDArray[np.uint8]:
        made = np.empty((len(order.images), *self.shape(order.recipe)), np.uint8)
        height, width = made.shape[1:3]
        for row, (image, draw) in enumerate(zip(order.images.tolist(), order.draws.tolist(), strict=True)):
            aspect = width / height if self.aspects is None else float(self.aspects[image])
            made[row] = crop(self.pixels[image], aspect, image_seed(order.recipe.seed, order.epoch, image, draw))
        return made

    def truth(self, order: Order) -> torch.Tensor:
        """The labels of this order, int64 [batch]."""
        return torch.from_numpy(self.labels[order.images])


def epoch_orders(recipe: Recipe, labels: NDArray[np.int64], images: NDArray[np.int64], epoch: int) -> list[Order]:
    """The batches of an epoch, drawn by (seed, epoch) alone.

    As few batches as the recipe's size allows, of equal size but for one image: a small last batch would make batch
    norm noisy, and without it some images would be left out. Where batches of two leave one image over, with which
    alone batch norm may not work, the last batch is of three.

    Args:
        recipe: its batch size, sampler and seed count.
        labels: int64 [N], of all images.
        images: numbers of those to learn from, int64 [n].
        epoch: 1 for the first.
    """
    random = np.random.Generator(np.random.PCG64((recipe.seed, epoch)))
    if recipe.sampler == "balanced":
        weights = 1 / np.bincount(labels[images])[labels[images]]
        drawn = random.choice(images, size=len(images), p=weights / weights.sum())
    else:
        drawn = random.permutation(images)
    ends = np.cumsum([len(part) for part in np.array_split(drawn, math.ceil(len(images) / recipe.batch_size))])
    inner = ends[: batches_an_epoch(recipe, len(images)) - 1]
    split = zip(np.split(drawn, inner), np.split(_earlier(drawn), inner), strict=True)
    return [Order(recipe, epoch, batch, draws) for batch, draws in split]


def _earlier(drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value occurs before its place, int64 [n]."""
    order = np.argsort(drawn, kind="stable")
    _, starts, counts = np.unique(drawn[order], return_index=True, return_counts=True)
    earlier = np.empty_like(drawn)
    earlier[order] = np.arange(len(drawn)) - np.repeat(starts, counts)
    return earlier


def batches_an_epoch(recipe: Recipe, images: int) -> int:
    """How many steps an epoch over this many images has."""
    return math.ceil(images / recipe.batch_size) - _leaves_one(recipe, images)


def largest_batch(recipe: Recipe, images: int) -> int:
    """The most images that a batch of an epoch over this many may have: the recipe's size, or 3 where one was left."""
    return recipe.batch_size + _leaves_one(recipe, images)


def _leaves_one(recipe: Recipe, images: int) -> bool:
    """Whether batches of two would leave one image over, which joins the last of them."""
    return recipe.batch_size == 2 and images > 1 and images % 2 == 1


class Loaders:
    """Processes that augment, kept from one training to the next as long as they have the pixels that it needs.

    Images come back through memory that is shared since the processes began, and not by `/dev/shm`, whose size is
    limited in containers. (torch's DataLoader uses that, and its locks are held for good by a process that is killed.)

    Args:
        processes: how many; 0 augments in the calling process.
        pin_memory: let a GPU copy each batch out of that memory by itself. A batch then holds only until the next one
            is asked for: whoever uses it has to copy it to the GPU, on the current stream, before.
    """

    def __init__(self, processes: int, *, pin_memory: bool = False) -> None:
        self.processes = processes
        self._pin_memory = pin_memory
        self._images: AugmentedImages | None = None
        self._executor: ProcessPoolExecutor | None = None
        self._slots = np.empty((0, 0), np.uint8)  # [slot, bytes]
        self._pinned = False  # the memory of the slots

    def batches(self, images: AugmentedImages, orders: Iterator[Order]) -> Generator[Batch]:
        """Make these batches, in this order, some steps ahead of the one that is asked for.

        Where a process dies, this is said in the log with its remedy, and half as many go on from the same batch.
        """
        undelivered: deque[Order] = deque()

        def drawn() -> Iterator[Order]:
            for order in orders:
                undelivered.append(order)
                yield order

        while self.processes:
            try:
                for batch in self._pass(images, chain(tuple(undelivered), drawn())):
                    undelivered.popleft()
                    yield batch
                return
            except BrokenProcessPool:
                self.close()
                self.processes //= 2
                logger.warning(DEATH, self.processes or "none, in the training process itself")
        for order in chain(undelivered, orders):
            yield torch.from_numpy(images.make(order)), images.truth(order)

    def close(self) -> None:
        """End the processes."""
        if self._executor:
            self._executor.shutdown(cancel_futures=True)
        if self._pinned:
            unpin(self._slots)
        self._executor, self._images, self._pinned = None, None, False

    def _pass(self, images: AugmentedImages, orders: Iterator[Order]) -> Iterator[Batch]:
        first = next(orders, None)
        if first is None:
            return
        shape = images.shape(first.recipe)
        executor = self._started(images, max(first.recipe.batch_size, 3) * math.prod(shape))
        orders = chain([first], orders)
        coming: deque[tuple[Order, int, Future[None]]] = deque()
        being_copied: deque[tuple[int, torch.cuda.Event]] = deque()  # slots, and when the GPU has copied from them

        def send(slot: int) -> None:
            if (order := next(orders, None)) is not None:
                coming.append((order, slot, executor.submit(_make, slot, order)))

        try:
            for slot in range(len(self._slots)):
                send(slot)
            while coming:
                order, slot, made = coming[0]
                made.result()
                batch, truth = self._batch(slot, (len(order.images), *shape)), images.truth(order)
                coming.popleft()
                truth = truth.pin_memory() if self._pin_memory else truth
                if self._pinned:
                    yield batch, truth
                    being_copied.append((slot, recorded_event()))
                    if not coming:
                        being_copied[0][1].synchronize()
                    while being_copied and being_copied[0][1].query():  # type: ignore[no-untyped-call]
                        send(being_copied.popleft()[0])
                else:
                    send(slot)
                    yield batch, truth
        finally:
            # When the next pass begins, no process may write into a slot any more, nor may a GPU read from one. (The
            # batches are not cancelled: if a process died then, the executor would never mark them as done.)
            wait([made for _, _, made in coming])
            if self._pinned:
                torch.cuda.current_stream().synchronize()

    def _started(self, images: AugmentedImages, batch_bytes: int) -> ProcessPoolExecutor:
        fit = self._images is not None and images.makes_the_same_as(self._images)
        if self._executor is None or not fit or batch_bytes > self._slots.shape[1]:
            self.close()
            slots = BATCHES_AHEAD * self.processes
            self._slots = np.frombuffer(mmap(-1, slots * batch_bytes), np.uint8).reshape(slots, batch_bytes)
            self._images = images
            self._executor = ProcessPoolExecutor(
                self.processes,
                mp_context=get_context("fork"),  # policies and functions of one's own need no pickling
                initializer=_begin,
                initargs=(images, self._slots, os.getpid()),
            )
            if self._pin_memory:
                self._executor.submit(os.getpid).result()  # all processes begin now, before the memory is pinned
                self._pinned = pin(self._slots)
        return self._executor

    def _batch(self, slot: int, shape: tuple[int, ...]) -> torch.Tensor:
        there = torch.from_numpy(self._slots[slot, : math.prod(shape)].reshape(shape))
        return (
            there if self._pinned else torch.empty(shape, dtype=there.dtype, pin_memory=self._pin_memory).copy_(there)
        )


def loaders_for(device: torch.device, cores: int) -> Loaders:
    """As many loaders as fit beside this device, with this many cores to share."""
    return Loaders(loader_processes(device, cores), pin_memory=device.type == "cuda")


_in_this_process: tuple[AugmentedImages, NDArray[np.uint8]]  # of a process that augments


def _begin(images: AugmentedImages, slots: NDArray[np.uint8], parent: int) -> None:
    """Make this process, a new one, one that augments for its parent."""
    global _in_this_process  # noqa: PLW0603 - what an executor offers for this
    _in_this_process = (images, slots)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def _make(slot: int, order: Order) -> None:
    images, slots = _in_this_process
    try:
        made = images.make(order)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - whatever it is, the executor would take it for the death of this process
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise
    slots[slot, : made.size] = made.reshape(-1)
