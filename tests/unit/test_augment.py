"""The augmentation policies: what happens to an image depends on its seed alone."""

import multiprocessing
import random as global_random
from collections import Counter, defaultdict
from random import Random

import albumentations as A  # noqa: N812
import numpy as np
import pytest

from trainer.augmentation.augment import MEAN_COLOUR, _move, image_seed, make_augment
from trainer.augmentation.image_ops import RANDAUGMENT, TRIVIALAUGMENT, make_image_ops
from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.recipe import AUGMENTS, Recipe

pytestmark = pytest.mark.unit

POLICIES = [name for name in AUGMENTS if name not in ("none", "random_resized_crop")]
SEEDS = range(40)


def _make(policy):
    return make_augment(Recipe(augment=policy), Extensions())


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
def test_forked_process(policy):
    """A forked process does to an image what this one does, whatever either has done before."""
    augment, image = _make(policy), _image()
    expected = [augment(image, seed) for seed in SEEDS]
    augment(image, 12345)
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    process = fork.Process(target=lambda: results.put([augment(image, seed) for seed in reversed(SEEDS)]))
    process.start()
    made = results.get()
    process.join()
    np.testing.assert_array_equal(made[::-1], expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_global_generators(policy):
    """No policy draws from the global generators, or seeds them."""
    augment, image = _make(policy), _image()
    results = []
    for seed in (1, 2):
        global_random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        state = global_random.getstate(), str(np.random.get_state())  # noqa: NPY002
        results.append([augment(image, seed) for seed in SEEDS])
        assert (global_random.getstate(), str(np.random.get_state())) == state  # noqa: NPY002
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_rectangle_keeps_its_shape(policy):
    """Each policy takes images that are no squares, and gives such of the same height and width."""
    image, augment = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8), _make(policy)
    assert {augment(image, seed).shape for seed in SEEDS} == {(24, 40, 3)}


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


@pytest.mark.parametrize("seed", range(30))
def test_move(seed):
    """The moves of the policies are those that albumentations' Affine makes of the same random numbers."""
    image, random = _image(40), Random(seed)
    shift, (across, down) = [random.uniform(-0.1, 0.1) for _ in "xy"], [random.uniform(0.7, 1.3) for _ in "xy"]
    degrees = random.uniform(-25, 25)
    affine = A.Affine(
        translate_percent={axis: (by, by) for axis, by in zip("xy", shift, strict=True)},
        scale={"x": (across, across), "y": (down, down)},
        rotate=(degrees, degrees),
        p=1.0,
    )
    move = _move(Random(seed), shift=0.1, scale=0.3, degrees=25, p=1.0)
    np.testing.assert_array_equal(move(image=image)["image"], affine(image=image)["image"])


@pytest.mark.parametrize("side", [8, 9, 32, 50])
def test_cutout(side):
    """Cutout covers a square of half the side with the mean colour; its centre may be any pixel, so parts may hide."""
    augment = _make("cutout")
    image = np.full((side, side, 3), 255, np.uint8)
    half = side // 4
    centres = set()
    for seed in range(300):
        hidden = (augment(image, seed) == MEAN_COLOUR).all(axis=2)
        (top, *_, bottom), (left, *_, right) = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert hidden[top : bottom + 1, left : right + 1].all()
        assert hidden.sum() <= (2 * half) ** 2
        if min(top, left) > 0 and max(bottom, right) < side - 1:
            assert hidden.sum() == (2 * half) ** 2
            centres.add((top + half, left + half))
        else:
            assert bottom - top + 1 >= half
            assert right - left + 1 >= half
    assert len(centres) > 5


def _by_result(image, transforms):
    """Number of each transform by what it makes of the image and of its mirror image."""
    return {t(image=x)["image"].tobytes(): n for n, t in enumerate(transforms) for x in (image, image[:, ::-1].copy())}


def test_randaugment_draws_evenly():
    """RandAugment with one operation gives each of the 14 equally often, and both signs of one."""
    image = _image(64) // 2 + 30  # else AutoContrast changes nothing
    made = _by_result(image, make_image_ops(17, RANDAUGMENT))
    augment = make_augment(Recipe(augment="randaugment", randaugment_ops=1, randaugment_magnitude=17), Extensions())
    counts = Counter(made[augment(image, seed).tobytes()] for seed in range(2800))
    assert len(counts) == 14 + 9
    for place, count in counts.items():
        assert abs(count - (100 if place >= 10 else 200)) < 60


@pytest.mark.parametrize("ops", [2, 3])
def test_randaugment_number_of_operations(ops):
    """RandAugment chains as many operations as the recipe says, in any order and with repetition."""
    image = _image(16) // 2 + 30
    operations = make_image_ops(9, RANDAUGMENT)[5:]
    chains = {x.tobytes(): {()} for x in (image, image[:, ::-1])}
    for _ in range(ops):
        longer = defaultdict(set)
        for x, before in chains.items():
            for n, operation in enumerate(operations):
                changed = operation(image=np.frombuffer(x, np.uint8).reshape(image.shape))["image"]
                longer[changed.tobytes()] |= {(*chain, n) for chain in before}
        chains = longer
    augment = make_augment(Recipe(augment="randaugment", randaugment_ops=ops, randaugment_magnitude=9), Extensions())
    drawn = [chains[augment(image, seed).tobytes()] for seed in range(200)]
    assert all(drawn)
    # Those without a sign come twice in the list of operations, so their places say little about the order.
    signed = [chain for (chain,) in (possible for possible in drawn if len(possible) == 1) if min(chain) >= 5]
    first_two = [chain[:2] for chain in signed]
    assert any(first < second for first, second in first_two)
    assert any(first > second for first, second in first_two)
    assert any(first == second for first, second in first_two)


def test_randaugment_magnitude():
    """A higher magnitude of RandAugment leaves less of an image as it was."""
    image = np.add.outer(np.arange(64), np.arange(64))[..., None].repeat(3, axis=2).astype(np.uint8)

    def change(magnitude):
        augment = make_augment(Recipe(augment="randaugment", randaugment_magnitude=magnitude), Extensions())
        results = [augment(image, seed).astype(int) for seed in range(200)]
        return np.mean([min(abs(r - image).mean(), abs(r - image[:, ::-1]).mean()) for r in results])

    assert change(0) < change(9) < change(30)


def test_trivialaugment():
    """TrivialAugment gives each of the 14 operations equally often, at magnitudes from the lowest to the highest."""
    image = _image(64)
    made = _by_result(image, [t for magnitude in range(31) for t in make_image_ops(magnitude, TRIVIALAUGMENT)])
    augment = _make("trivialaugment")
    places = [made[augment(image, seed).tobytes()] for seed in range(1400)]
    rotated = [place // 28 for place in places if place % 28 in {14, 23}]
    assert 60 < len(rotated) < 140
    assert len(set(rotated)) > 20
    assert min(rotated) < 5
    assert max(rotated) > 25
    assert {place % 28 for place in places} >= set(range(10, 28))


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

    augment = make_augment(Recipe(augment="rain"), Extensions(augments={"rain": rain}))
    image = _image()
    for seed in (0, 5, 2**32 - 1):
        np.testing.assert_array_equal(augment(image, seed), rain(image, np.random.default_rng(seed)))
    assert not np.array_equal(augment(image, 1), augment(image, 2))


def test_unknown_policy():
    """A policy that nobody has given is refused by name."""
    with pytest.raises(RecipeError, match=r'^augment: nothing is called "rain"; give your own function in Extensions'):
        make_augment(Recipe(augment="rain"), Extensions())
