"""Random resized crops: a part of a picture, of random area and proportions, as one image; half of them mirrored."""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING

import cv2

from trainer.image_size import shape_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from trainer.extensions import Extensions
    from trainer.image_size import ImageSize
    from trainer.recipe import Recipe

    Image = NDArray[np.uint8]  # [height, width, 3]
    # (whole picture, its width divided by its height, seed in 0 … 2^64 - 1) -> image
    Crop = Callable[[Image, float, int], Image]

# How much larger than the image the picture is kept from which crops are cut, in each direction. From 0.44 of its area
# on they are shrunk, smaller ones enlarged; the mean crop of an ImageNet recipe has 0.54.
MARGIN = 1.5
NAME = "random_resized_crop"  # of the policy
RATIOS = (3 / 4, 4 / 3)  # the lowest and highest proportions of a crop, against those of the image
ATTEMPTS = 10


def takes_random_crops(recipe: Recipe, extensions: Extensions) -> bool:
    """Whether a recipe's augmentation is this one, and not a function of one's own by its name."""
    return recipe.augment == NAME and NAME not in extensions.augments


def make_crop(size: ImageSize, smallest: float) -> Crop:
    """Crops of `smallest` … 1 of the picture's area that become images of this size (Szegedy et al. 2015, section 6).

    As torchvision draws them: where ten attempts do not lie in the picture, the largest part of its middle is taken
    that has proportions that are allowed.
    """
    height, width = shape_of(size)
    cv2.setNumThreads(0)  # the trainings share the cores already

    def crop(picture: Image, aspect: float, seed: int) -> Image:
        random = Random(seed)  # noqa: S311
        left, top, right, bottom = _box(random, smallest, aspect * height / width)
        rows, columns = picture.shape[:2]
        first_row, first_column = round(top * rows), round(left * columns)
        last_row = max(first_row + 1, round(bottom * rows))
        last_column = max(first_column + 1, round(right * columns))
        part = picture[first_row:last_row, first_column:last_column]
        shrinks = part.shape[0] > height and part.shape[1] > width
        image: Image = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return cv2.flip(image, 1) if random.random() < 0.5 else image

    return crop


def _box(random: Random, smallest: float, elongation: float) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a crop, in [0, 1] of a picture's width and height.

    elongation: the picture's width by its height, against those of the image.
    """
    across = down = 2.0
    for _ in range(ATTEMPTS):
        area = random.uniform(smallest, 1)
        ratio = math.exp(random.uniform(*map(math.log, RATIOS))) / elongation
        across, down = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if across <= 1 and down <= 1:
            left, top = random.uniform(0, 1 - across), random.uniform(0, 1 - down)
            return left, top, left + across, top + down
    low, high = RATIOS
    across, down = min(1.0, high / elongation), min(1.0, elongation / low)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2
