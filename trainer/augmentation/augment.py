"""Augmentation policies by name. What happens to an image is a pure function of (seed, epoch, image).

Images come here already resized to the recipe's size, so that no transform works on more pixels than the model sees;
but for random resized crops, which are cut from larger ones and are not made here.
"""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from trainer.augmentation.image_ops import (
    RANDAUGMENT,
    STRONGEST,
    TRIVIALAUGMENT,
    make_image_ops,
    rotation,
    transform,
    warp,
)
from trainer.errors import RecipeError
from trainer.images.pixels import MEAN_COLOUR

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trainer.extensions import Extensions
    from trainer.recipe import Recipe

    Image = NDArray[np.uint8]  # [height, width, 3]
    # (image, seed of this image in this epoch, in 0 … 2^64 - 1) -> image
    SeededAugment = Callable[[Image, int], Image]


def image_seed(seed: int, epoch: int, image: int, draw: int = 0) -> int:
    """The seed of one image in one epoch, in 0 … 2^32 - 1; unrelated for neighbouring epochs, images and draws.

    draw: how often the image was drawn before in this epoch, as the balanced sampler does.
    """
    return int(np.random.SeedSequence((seed, epoch, image, draw)).generate_state(1)[0])


def make_augment(recipe: Recipe, extensions: Extensions) -> SeededAugment | None:
    """Build the recipe's policy; None where nothing is to be done.

    Raises:
        RecipeError: nothing has the name that the recipe gives.
    """
    name = recipe.augment
    if name in extensions.augments:
        own = extensions.augments[name]
        return lambda image, seed: own(image, np.random.default_rng(seed))
    if name == "none":
        return None
    if name not in _POLICIES:
        raise RecipeError([f'augment: nothing is called "{name}"; give your own function in Extensions(augments=…)'])
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the network for a newer release
    import albumentations as A  # noqa: N812

    cv2.setNumThreads(0)  # the trainings share the cores already
    python_random = Random(0)  # noqa: S311  (albumentations draws from one of each kind; both are seeded by image)
    generator = np.random.Generator(np.random.Philox(0))
    unused: Any = generator.bit_generator.state
    compose = A.Compose(_POLICIES[name](recipe, python_random), is_check_shapes=False)
    compose.set_random_state(generator, python_random)

    def augment(image: Image, seed: int) -> Image:
        # A tenth of the time of `compose.set_random_seed`, which makes two new generators for each transform.
        unused["state"]["key"][:] = seed, 0
        generator.bit_generator.state = unused
        python_random.seed(seed)
        changed: Image = compose(image=image)["image"]
        return changed

    return augment


def _flip(_recipe: Recipe, _random: Random) -> list[Any]:
    import albumentations as A  # noqa: N812

    return [A.HorizontalFlip(p=0.5)]


def _light(recipe: Recipe, random: Random) -> list[Any]:
    import albumentations as A  # noqa: N812

    return [
        *_flip(recipe, random),
        _move(random, shift=0.06, scale=0.1, degrees=10, p=0.7),
        A.RandomBrightnessContrast(0.15, 0.15, p=0.3),
    ]


def _medium(recipe: Recipe, random: Random) -> list[Any]:
    import albumentations as A  # noqa: N812

    return [
        *_flip(recipe, random),
        _move(random, shift=0.1, scale=0.2, degrees=15, p=0.8),
        A.OneOf(_colours(), p=0.5),
        _hide_rectangle(0.3, p=0.3),
    ]


def _heavy(recipe: Recipe, random: Random) -> list[Any]:
    import albumentations as A  # noqa: N812

    damage = [
        A.GaussianBlur(blur_limit=(3, 5)),
        A.GaussNoise(std_range=(0.02, 0.08)),
        A.ImageCompression(quality_range=(40, 90)),
        A.Downscale(scale_range=(0.5, 0.8)),
    ]
    # `OneOf` takes p as the weight of each.
    moves = [_move(random, shift=0.15, scale=0.3, degrees=25, p=1.0), A.Perspective(scale=(0.05, 0.12))]
    return [
        *_flip(recipe, random),
        A.OneOf(moves, p=0.9),
        A.OneOf(_colours(), p=0.7),
        A.OneOf(damage, p=0.4),
        _hide_rectangle(0.4, p=0.5),
    ]


def _cutout(recipe: Recipe, random: Random) -> list[Any]:
    """DeVries & Taylor 2017: a square of half the side, as for their CIFAR-10, whose centre may be any pixel.

    Their 0 after normalisation is the mean colour here.
    """

    def hide(image: Image) -> Image:
        height, width = image.shape[:2]
        half = min(height, width) // 4
        left, top = random.randrange(width) - half, random.randrange(height) - half
        corners = (left, top), (left + 2 * half - 1, top + 2 * half - 1)
        hidden: Image = cv2.rectangle(image.copy(), *corners, MEAN_COLOUR, cv2.FILLED)
        return hidden

    flip, move, _ = _light(recipe, random)
    return [flip, move, transform(hide)]


def _randaugment(recipe: Recipe, random: Random) -> list[Any]:
    """Cubuk et al. 2020: several operations one after another, all of one magnitude, after a flip."""
    import albumentations as A  # noqa: N812

    choices = make_image_ops(recipe.randaugment_magnitude, RANDAUGMENT)
    # `SomeOf` would sort what it drew.
    return [*_flip(recipe, random), A.RandomOrder(choices, n=recipe.randaugment_ops, replace=True)]


def _trivialaugment(recipe: Recipe, random: Random) -> list[Any]:
    """Müller & Hutter 2021: one operation of any magnitude, after a flip."""
    import albumentations as A  # noqa: N812

    choices = [choice for magnitude in range(STRONGEST + 1) for choice in make_image_ops(magnitude, TRIVIALAUGMENT)]
    return [*_flip(recipe, random), A.RandomOrder(choices, n=1)]


_POLICIES: dict[str, Callable[[Recipe, Random], list[Any]]] = {
    "flip": _flip,
    "light": _light,
    "medium": _medium,
    "heavy": _heavy,
    "cutout": _cutout,
    "randaugment": _randaugment,
    "trivialaugment": _trivialaugment,
}


def _colours() -> list[Any]:
    import albumentations as A  # noqa: N812

    return [
        A.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.25),
        A.RandomGamma(gamma_limit=(75, 130)),
        A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=25, val_shift_limit=15),
        A.ToGray(),
    ]


def _hide_rectangle(share: float, p: float) -> Any:
    """A black rectangle of at most this share of each side, all of it inside the image."""
    import albumentations as A  # noqa: N812

    sides = (share / 2, share)
    return A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=sides, hole_width_range=sides, p=p)


def _move(random: Random, *, shift: float, scale: float, degrees: float, p: float) -> Any:
    """`A.Affine` with these limits, shift as a share of the side; it spends most of its time in making matrices."""

    def move(image: Image) -> Image:
        shifts = random.uniform(-shift, shift), random.uniform(-shift, shift)
        across, down = random.uniform(1 - scale, 1 + scale), random.uniform(1 - scale, 1 + scale)
        a, b, c, d = rotation(random.uniform(-degrees, degrees))
        return warp(image, (a * across, b * down, c * across, d * down), shifts)

    return transform(move, p)
