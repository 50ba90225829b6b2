"""Pictures that are nearly the same are found, and different ones are not."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from sklearn.datasets import load_digits

from tests.support.waiting import limit
from trainer.quality.near_duplicates import MAX_BITS, SIDE, _hashes, find_pairs

pytestmark = pytest.mark.unit


def picture(seed: int, side: int = 96) -> Image.Image:
    """A picture of large and small shapes in large patches of colour, as photographs are; another one for each seed."""
    random = np.random.default_rng(seed)

    def layer(cells: int, channels: int, height: float) -> np.ndarray:
        values = random.integers(0, 256, (cells, cells, channels), np.uint8).repeat(3 // channels, axis=2)
        return (np.asarray(Image.fromarray(values).resize((side, side), Image.BICUBIC), float) - 128) * height

    pixels = 115 + layer(3, 1, 0.5) + layer(5, 1, 0.3) + layer(9, 1, 0.2) + layer(2, 3, 0.25)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The picture after JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def thumbnails(*images: Image.Image) -> np.ndarray:
    """As a survey makes them."""
    return np.stack([np.array(image.convert("RGB").resize((SIDE, SIDE), Image.BICUBIC)) for image in images])


def pairs(*images: Image.Image, labels: list[int] | None = None) -> list[tuple[int, int, bool]]:
    """The pairs as plain tuples."""
    found = find_pairs(thumbnails(*images), np.array(labels or [0] * len(images)))
    return [(pair.first, pair.second, pair.mirrored) for pair in found]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: compressed(image, 30),
        lambda image: image.resize((48, 48), Image.BICUBIC),
        lambda image: image.resize((200, 150), Image.BICUBIC),
        lambda image: ImageEnhance.Brightness(image).enhance(1.25),
        lambda image: ImageEnhance.Brightness(image).enhance(0.6),
        lambda image: ImageEnhance.Contrast(image).enhance(0.7),
        lambda image: image.convert("L"),
    ],
    ids=["same", "compressed", "smaller", "stretched", "brighter", "darker", "paler", "grey"],
)
def test_changed_copies_are_near(change):
    """A copy that was compressed, resized, brightened, darkened, paled or greyed is found among other pictures."""
    for seed in range(10):
        original = picture(seed)
        assert pairs(picture(100 + seed), original, picture(200 + seed), change(original)) == [(1, 3, False)]


def test_different_pictures_are_not_near():
    """Of 300 different pictures no two are near, nor is one whose colours are exchanged, or with its border cut off."""
    assert pairs(*(picture(seed) for seed in range(300))) == []
    original = picture(0)
    red, green, blue = original.split()
    assert pairs(original, Image.merge("RGB", (blue, red, green))) == []
    assert pairs(original, original.crop((10, 10, 86, 86))) == []


def test_mirror_images_are_near_within_their_class():
    """A mirrored copy is near where both have one label; in two classes it may be what tells left from right."""
    original = picture(1)
    mirrored = compressed(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 50)
    assert pairs(original, picture(2), mirrored) == [(0, 2, True)]
    assert pairs(original, picture(2), mirrored, labels=[0, 0, 1]) == []
    assert pairs(original, compressed(original, 50), labels=[0, 1]) == [(0, 1, False)]


def test_a_symmetrical_picture_is_not_near_itself():
    """A picture that is its own mirror image makes no pair with itself."""
    pixels = np.array(picture(3))
    pixels[:, 48:] = pixels[:, :48][:, ::-1]
    assert pairs(Image.fromarray(pixels), picture(4)) == []


def test_empty_pictures_are_not_near():
    """Pictures that show nothing have nothing to be compared, whatever their noise is."""
    random = np.random.default_rng(0)
    blank = [Image.fromarray(random.integers(200, 203, (64, 64, 3), np.uint8)) for _ in range(10)]
    assert pairs(*blank) == []


def test_a_set_has_one_pair_less_than_members():
    """Pairs join sets: five copies of one picture have four."""
    original = picture(5)
    copies = [compressed(original, quality) for quality in (40, 50, 60, 70, 80)]
    found = pairs(*copies, picture(6))
    assert len(found) == 4
    assert {number for first, second, _ in found for number in (first, second)} == {0, 1, 2, 3, 4}


def test_of_real_digits_no_two_are_near():
    """1,797 small scans of ten digits, alike within a class, hold no near copies; the comparing is counted."""
    digits = load_digits()
    images = (digits.images * 255 / 16).astype(np.uint8)
    counted = []
    found = find_pairs(
        thumbnails(*map(Image.fromarray, images)), digits.target, lambda done, of: counted.append((done, of))
    )
    assert found == []
    assert counted[-1] == (1797, 1797)


def test_hashes_are_those_of_the_cosine_transform():
    """A hash has the bits of the 8 x 8 lowest frequencies of OpenCV's transform that are above their median."""
    import cv2

    images = thumbnails(*(picture(seed) for seed in range(20)))
    for image, value in zip(images, _hashes(images), strict=True):
        grey = (image @ np.array([0.299, 0.587, 0.114])).astype(np.float32)
        low = cv2.dct(grey)[:8, :8].ravel()
        bits = np.packbits(low > np.median(low[1:]))
        assert np.bitwise_count(bits.view(np.uint64)[0] ^ value) <= 1  # of rounding
    far = np.bitwise_count(_hashes(images)[:, None] ^ _hashes(images)[None])
    assert np.median(far) > 2 * MAX_BITS


def test_ten_thousand_pictures_are_compared_in_seconds():
    """10,000 pictures take less than ten seconds of one core."""
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (10_000, 8, 8, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    start = time.process_time()
    assert find_pairs(images, np.zeros(10_000, np.int64)) == []
    assert time.process_time() - start < limit(10)
