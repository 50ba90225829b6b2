"""Batches of augmented training images, the same ones in the same order whoever prepares them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.augment import image_seed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from trainer.augment import SeededAugment
    from trainer.recipe import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]  # images uint8 [batch, side, side, 3], labels int64 [batch]


class AugmentedImages(Dataset[Batch]):
    """Whole batches of augmented images by their numbers; an epoch belongs to the number of an image."""

    def __init__(
        self, pixels: NDArray[np.uint8], labels: NDArray[np.int64], augment: SeededAugment | None, seed: int
    ) -> None:
        self.pixels, self.labels, self.augment, self.seed = pixels, labels, augment, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        """Make the batch of these (epoch, image) pairs."""
        numbers = np.array([image for _, image in keys])
        images = self.pixels[numbers]
        if self.augment:
            for row, (epoch, image) in enumerate(keys):
                images[row] = self.augment(images[row], image_seed(self.seed, epoch, image))
        return torch.from_numpy(images), torch.from_numpy(self.labels[numbers])

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.__getitems__([key])


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The (epoch, image) pairs of each batch of an epoch, drawn by (seed, epoch) alone.

    As few batches as the recipe's size allows, of equal size but for one image: a small last batch would make batch
    norm noisy, and without it some images would be left out.
    """

    def __init__(self, images: NDArray[np.int64], labels: NDArray[np.int64], recipe: Recipe) -> None:
        self.images, self.recipe, self.epoch = images, recipe, 1
        self.weights = None
        if recipe.sampler == "balanced":
            counts = np.bincount(labels[images])
            self.weights = 1 / counts[labels[images]]
            self.weights /= self.weights.sum()

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.recipe.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = np.random.Generator(np.random.PCG64((self.recipe.seed, self.epoch)))
        if self.weights is None:
            order = random.permutation(self.images)
        else:
            order = random.choice(self.images, size=len(self.images), p=self.weights)
        for rows in np.array_split(order, len(self)):
            yield [(self.epoch, int(image)) for image in rows]


class TrainBatches:
    """The batches of one epoch after another; `start_epoch` says which."""

    def __init__(self, loader: DataLoader[Batch], sampler: EpochBatches) -> None:
        self._loader, self._sampler = loader, sampler

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)

    def start_epoch(self, number: int) -> None:
        """Say which epoch the next pass over the batches is."""
        self._sampler.epoch = number


def train_batches(
    recipe: Recipe,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    images: NDArray[np.int64],
    augment: SeededAugment | None,
    device: torch.device,
    loaders: int,
) -> TrainBatches:
    """Batches of these images (int64 [n], rows of pixels and labels), prepared by `loaders` processes or in here."""
    sampler = EpochBatches(images, labels, recipe)
    loader: DataLoader[Batch] = DataLoader(
        AugmentedImages(pixels, labels, augment, recipe.seed),
        batch_sampler=sampler,
        collate_fn=_as_it_is,
        num_workers=loaders,
        persistent_workers=loaders > 0,
        multiprocessing_context="fork" if loaders else None,  # policies and functions of one's own need no pickling
        pin_memory=device.type == "cuda",
    )
    return TrainBatches(loader, sampler)


def _as_it_is(batch: Any) -> Any:
    return batch
