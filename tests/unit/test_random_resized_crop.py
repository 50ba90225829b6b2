"""Random resized crops: which part of a picture becomes the image."""

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from trainer.augmentation.random_resized_crop import make_crop

pytestmark = pytest.mark.unit

SIDE = 200  # of the picture, in pixels
PICTURE = np.stack(np.broadcast_arrays(np.arange(SIDE)[None], np.arange(SIDE)[:, None], 0), 2).astype(np.uint8)
"""Each pixel shows its column and its row."""


def boxes(crop, aspect, count=400):
    """Left, top, right and bottom of crops as shares of the picture, float64 [count, 4]; and which are mirrored."""
    made = np.stack([crop(PICTURE, aspect, seed) for seed in range(count)]).astype(float)
    columns, rows = made[:, 0, :, 0], made[:, :, 0, 1]
    mirrored = columns[:, 0] > columns[:, -1]
    sides = [columns.min(axis=1), rows.min(axis=1), columns.max(axis=1) + 1, rows.max(axis=1) + 1]
    return np.stack(sides, axis=1) / SIDE, mirrored


@pytest.mark.parametrize(("size", "aspect"), [(300, 1.0), (300, 1.6), (300, 0.5), ("300x450", 1.5), ("300x450", 0.8)])
@pytest.mark.parametrize("smallest", [0.08, 0.5])
def test_area_and_proportions_are_drawn_as_by_torchvision(size, aspect, smallest):
    """Crops of a picture have the areas and proportions that torchvision draws on one of that shape, in its limits."""
    height, width = (size, size) if isinstance(size, int) else map(int, size.split("x"))
    found, mirrored = boxes(make_crop(size, smallest), aspect)
    areas = np.prod(found[:, 2:] - found[:, :2], axis=1)
    ratios = (found[:, 2] - found[:, 0]) / (found[:, 3] - found[:, 1]) * aspect
    target = width / height
    assert areas.min() > smallest * 0.93
    assert ratios.min() > 0.72 * target
    assert ratios.max() < 1.40 * target
    torch.manual_seed(0)
    picture = torch.empty(3, 1000, round(1000 * aspect))
    limits = [3 / 4 * target, 4 / 3 * target]
    drawn = np.array([RandomResizedCrop.get_params(picture, [smallest, 1], limits) for _ in range(400)])
    theirs = drawn[:, 2] * drawn[:, 3] / picture[0].numel()
    assert areas.mean() == pytest.approx(theirs.mean(), abs=0.05)
    assert ratios.mean() == pytest.approx((drawn[:, 3] / drawn[:, 2]).mean(), rel=0.03)
    tops = drawn[:, 0] / 1000
    assert found[:, 1].mean() == pytest.approx(tops.mean(), abs=0.04)
    assert 0.4 < mirrored.mean() < 0.6


def test_a_picture_that_has_no_such_part_gives_its_middle():
    """Of a picture ten times as wide as high the middle is taken, as wide as is allowed."""
    found, _ = boxes(make_crop(100, 0.9), 10.0, count=20)
    np.testing.assert_allclose(found, np.broadcast_to([1 / 2 - 1 / 15, 0, 1 / 2 + 1 / 15, 1], found.shape), atol=0.02)


def test_function_of_the_seed():
    """The same picture and seed give the same image, in any order; other seeds give others."""
    crop, again = make_crop(32, 0.08), make_crop(32, 0.08)
    first = {seed: crop(PICTURE, 1.5, seed) for seed in range(30)}
    for seed in reversed(range(30)):
        np.testing.assert_array_equal(again(PICTURE, 1.5, seed), first[seed])
    assert len({image.tobytes() for image in first.values()}) == 30
    assert {image.shape for image in first.values()} == {(32, 32, 3)}


def test_tiny_pictures():
    """A picture of few pixels gives crops of one pixel at least."""
    for seed in range(30):
        assert make_crop("8x16", 0.01)(np.full((2, 3, 3), 7, np.uint8), 1.5, seed).tolist() == [[[7] * 3] * 16] * 8
