"""The augmentation policies: what happens to an image depends on its seed alone."""

import random as global_random

import numpy as np
import pytest

from trainer.augment import image_seed, make_augment
from trainer.errors import RecipeError
from trainer.parts import Parts
from trainer.recipe import AUGMENTS, Recipe

pytestmark = pytest.mark.unit

POLICIES = [name for name in AUGMENTS if name != "none"]
SEEDS = range(40)


def _make(policy):
    return make_augment(Recipe(augment=policy), Parts())


def _image(side=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("policy", POLICIES)
def test_function_of_the_seed(policy):
    """The same image and seed give the same result, in any order, after other calls and in another instance."""
    image = _image()
    augment = _make(policy)
    first = {seed: augment(image, seed) for seed in SEEDS}
    global_random.seed(1)
    other = _make(policy)
    for seed in reversed(SEEDS):
        augment(_image(seed=9), seed + 1000)
        global_random.random()
        np.testing.assert_array_equal(augment(image, seed), first[seed])
        np.testing.assert_array_equal(other(image, seed), first[seed])


@pytest.mark.parametrize("policy", POLICIES)
def test_seeds_differ(policy):
    """Each policy changes images, and one image in several ways."""
    image = _image()
    augment = _make(policy)
    results = {augment(image, seed).tobytes() for seed in SEEDS}
    assert results != {image.tobytes()}
    assert len(results) == 2 if policy == "flip" else len(results) > len(SEEDS) / 2


def test_flip():
    """The policy `flip` mirrors about half of the images from left to right and does nothing else."""
    image = _image()
    augment = _make("flip")
    mirrored = [np.array_equal(augment(image, seed), image[:, ::-1]) for seed in range(200)]
    kept = [np.array_equal(augment(image, seed), image) for seed in range(200)]
    assert 70 < sum(mirrored) < 130
    assert sum(mirrored) + sum(kept) == 200


def test_policies_get_stronger():
    """From flip over light and medium to heavy, fewer images keep their pixels."""
    image = _image()

    def untouched(policy):
        augment = _make(policy)
        results = [augment(image, seed) for seed in range(100)]
        return sum(np.array_equal(r, image) or np.array_equal(r, image[:, ::-1]) for r in results)

    counts = [untouched(policy) for policy in ("flip", "light", "medium", "heavy")]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 100
    assert counts[-1] < 20


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("side", [8, 9, 17, 64])
@pytest.mark.parametrize("kind", ["colour", "grey", "black", "white"])
def test_shape_and_type(policy, side, kind):
    """Every policy keeps shape and type of any image, as small as 8 pixels and without colour, and writes a new one."""
    image = {
        "colour": _image(side),
        "grey": np.repeat(_image(side)[..., :1], 3, axis=2),
        "black": np.zeros((side, side, 3), np.uint8),
        "white": np.full((side, side, 3), 255, np.uint8),
    }[kind]
    before = image.copy()
    image.flags.writeable = False
    augment = _make(policy)
    for seed in SEEDS:
        changed = augment(image, seed)
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)


def test_none():
    """The policy `none` is no function at all, so that nothing is spent on it."""
    assert _make("none") is None


def test_image_seeds_are_distinct():
    """Each image has a seed of its own in each epoch of each training."""
    seeds = [
        image_seed(seed, epoch, image) for seed in (0, 1, 2**31 - 1) for epoch in range(1, 11) for image in range(100)
    ]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**32
    assert image_seed(1, 2, 3) == image_seed(1, 2, 3)


def test_image_seeds_are_unrelated():
    """The seeds of neighbouring images have no order and no common bits."""
    seeds = np.array([image_seed(0, 1, image) for image in range(1000)], np.uint32)
    bits = np.unpackbits(seeds.view(np.uint8)).reshape(1000, 32)
    assert (abs(bits.mean(axis=0) - 0.5) < 0.1).all()
    assert abs(np.corrcoef(seeds[:-1], seeds[1:])[0, 1]) < 0.1


def test_own_augment():
    """A policy of one's own gets the image and a random generator seeded for this image and epoch."""

    def rain(image, random):
        drops = random.random(image.shape[:2]) < 0.1
        return np.where(drops[..., None], np.uint8(255), image)

    augment = make_augment(Recipe(augment="rain"), Parts(augments={"rain": rain}))
    image = _image()
    for seed in (0, 5, 2**32 - 1):
        np.testing.assert_array_equal(augment(image, seed), rain(image, np.random.default_rng(seed)))
    assert not np.array_equal(augment(image, 1), augment(image, 2))


def test_unknown_policy():
    """A policy that nobody has given is refused by name."""
    with pytest.raises(RecipeError, match=r'^augment: nothing is called "rain"; give your own function in Parts'):
        make_augment(Recipe(augment="rain"), Parts())
