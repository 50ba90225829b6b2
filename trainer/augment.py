"""Augmentation policies by name. What happens to an image is a pure function of (seed, epoch, image).

Images come here already resized to the recipe's size, so that no transform works on more pixels than the model sees.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from trainer.parts import Parts
    from trainer.recipe import Recipe

    # (image uint8 [side, side, 3], seed of this image in this epoch) -> uint8 [side, side, 3]
    SeededAugment = Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]


def image_seed(seed: int, epoch: int, image: int) -> int:
    """The seed of one image in one epoch, in 0 … 2^32 - 1; unrelated for neighbouring epochs and images."""
    return int(np.random.SeedSequence((seed, epoch, image)).generate_state(1)[0])


def make_augment(recipe: Recipe, parts: Parts) -> SeededAugment | None:
    """Build the recipe's policy; None where nothing is to be done.

    Raises:
        RecipeError: nothing has the name that the recipe gives.
    """
    name = recipe.augment
    if name in parts.augments:
        own = parts.augments[name]
        return lambda image, seed: own(image, np.random.default_rng(seed))
    if name == "none":
        return None
    transforms = _policies().get(name)
    if transforms is None:
        raise RecipeError([f'augment: nothing is called "{name}"; give your own function in Parts(augments=…)'])
    import albumentations as A  # noqa: N812

    compose = A.Compose(transforms)

    def augment(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        compose.set_random_seed(seed)  # global seeds do not reach albumentations 2
        changed: NDArray[np.uint8] = compose(image=image)["image"]
        return changed

    return augment


def _policies() -> dict[str, list[Any]]:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import asks the network for a newer release
    import albumentations as A  # noqa: N812
    import cv2

    cv2.setNumThreads(0)  # the trainings share the cores already
    flip = A.HorizontalFlip(p=0.5)

    def move(shift: float, scale: float, degrees: float, p: float) -> Any:
        return A.Affine(
            translate_percent=(-shift, shift), scale=(1 - scale, 1 + scale), rotate=(-degrees, degrees), p=p
        )

    def hide(share: float, p: float) -> Any:
        """Cutout (DeVries & Taylor 2017): one rectangle of at most this share of each side."""
        sides = (share / 2, share)
        return A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=sides, hole_width_range=sides, p=p)

    colours = [
        A.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.25),
        A.RandomGamma(gamma_limit=(75, 130)),
        A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=25, val_shift_limit=15),
        A.ToGray(),
    ]
    damage = [
        A.GaussianBlur(blur_limit=(3, 5)),
        A.GaussNoise(std_range=(0.02, 0.08)),
        A.ImageCompression(quality_range=(40, 90)),
        A.Downscale(scale_range=(0.5, 0.8)),
    ]
    return {
        "flip": [flip],
        "light": [flip, move(0.06, 0.1, 10, p=0.7), A.RandomBrightnessContrast(0.15, 0.15, p=0.3)],
        "medium": [flip, move(0.1, 0.2, 15, p=0.8), A.OneOf(colours, p=0.5), hide(0.3, p=0.3)],
        "heavy": [
            flip,
            A.OneOf([move(0.15, 0.3, 25, p=1.0), A.Perspective(scale=(0.05, 0.12))], p=0.9),
            A.OneOf(colours, p=0.7),
            A.OneOf(damage, p=0.4),
            hide(0.4, p=0.5),
        ],
    }
