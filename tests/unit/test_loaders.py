"""The batches of an epoch: which images, in which order, whoever prepares them."""

import numpy as np
import pytest
import torch

from trainer.augment import image_seed, make_augment
from trainer.loaders import EpochBatches, train_batches
from trainer.parts import Parts
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


def _recipe(**changes):
    return Recipe(**({"image_size": 8, "batch_size": 4, "augment": "none"} | changes))


def _numbered(count):
    """Images that show their number in each pixel, uint8 [count, 8, 8, 3], and labels of three classes."""
    numbers = np.arange(count, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)).copy()
    pixels.flags.writeable = False
    return pixels, np.arange(count, dtype=np.int64) % 3


def _epoch(recipe, epoch, count=24, images=None, augment=None, loaders=0):
    """The batches of one epoch."""
    pixels, labels = _numbered(count)
    images = np.arange(count) if images is None else images
    batches = train_batches(recipe, pixels, labels, images, augment, CPU, loaders)
    batches.start_epoch(epoch)
    return list(batches)


def _order(batches):
    return [int(image[0, 0, 0]) for images, _ in batches for image in images]


def test_shape():
    """A batch is uint8 [batch, side, side, 3] with int64 [batch] labels, each that of its image."""
    pixels, labels = _numbered(24)
    batches = train_batches(_recipe(), pixels, labels, np.arange(24), None, CPU, 0)
    assert len(batches) == len(list(batches)) == 6
    for images, truth in batches:
        assert (images.shape, images.dtype) == ((4, 8, 8, 3), torch.uint8)
        assert (truth.shape, truth.dtype) == ((4,), torch.int64)
        np.testing.assert_array_equal(truth.numpy(), images.numpy()[:, 0, 0, 0] % 3)


def test_each_epoch_is_a_permutation():
    """Each epoch has each training image once and no other, in an order of its own."""
    images = np.arange(4, 24)
    orders = [_order(_epoch(_recipe(), epoch, images=images)) for epoch in range(1, 6)]
    assert all(sorted(order) == images.tolist() for order in orders)
    assert len(set(map(tuple, orders))) == 5


def test_order_belongs_to_seed_and_epoch():
    """The order depends on seed and epoch alone, not on epochs before or on anyone's random numbers."""
    pixels, labels = _numbered(24)
    batches = train_batches(_recipe(seed=3), pixels, labels, np.arange(24), None, CPU, 0)
    orders = []
    for epoch in (1, 2, 3):
        batches.start_epoch(epoch)
        orders.append(_order(batches))
    torch.manual_seed(99)
    assert _order(_epoch(_recipe(seed=3), 3)) == orders[2]
    assert _order(_epoch(_recipe(seed=3), 1)) == orders[0]
    assert _order(_epoch(_recipe(seed=4), 1)) != orders[0]


def test_batches_are_of_equal_size():
    """Every image is seen once an epoch, in as few batches as the size allows, of equal size but for one image."""
    for count, sizes in ((23, [5, 5, 5, 4, 4]), (20, [5, 5, 5, 5]), (6, [3, 3])):
        batches = _epoch(_recipe(batch_size=5), 1, count=count)
        assert len(batches) == len(sizes)
        assert [len(truth) for _, truth in batches] == sizes
        assert sorted(_order(batches)) == list(range(count))


def test_fewer_images_than_a_batch():
    """Where there are fewer images than a batch wants, all of them are one batch."""
    batches = _epoch(_recipe(batch_size=64), 1, count=3)
    assert len(batches) == 1
    assert sorted(_order(batches)) == [0, 1, 2]


def test_balanced_sampler():
    """The balanced sampler draws every class equally often, however rare it is, and each of its images."""
    labels = np.repeat([0, 1, 2], [85, 12, 3])
    images = np.arange(100)
    sampler = EpochBatches(images, labels, _recipe(sampler="balanced", batch_size=10))
    drawn = []
    for epoch in range(1, 61):
        sampler.epoch = epoch
        keys = [key for batch in sampler for key in batch]
        assert len(keys) == 100
        assert {epoch for epoch, _ in keys} == {epoch}
        drawn += [image for _, image in keys]
    shares = np.bincount(labels[drawn]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    assert set(drawn) == set(images.tolist())


def test_balanced_sampler_repeats():
    """The balanced sampler draws the same images for the same seed and epoch, and others in the next."""
    recipe = _recipe(sampler="balanced")
    assert _order(_epoch(recipe, 2)) == _order(_epoch(recipe, 2)) != _order(_epoch(recipe, 1))


def test_balanced_sampler_of_some_classes():
    """The balanced sampler also works where a class has no training image."""
    images = np.flatnonzero(np.arange(24) % 3 != 1)
    order = _order(_epoch(_recipe(sampler="balanced"), 1, images=images))
    assert set(order) <= set(images.tolist())
    assert len(order) == 16


def test_augmentation_of_each_image():
    """Each image is augmented with the seed of its number and epoch, and the pixels that all share stay as they are."""
    pixels, labels = _numbered(12)
    before = pixels.copy()

    def augment(image, seed):
        image[0, 0] = np.frombuffer(np.uint32(seed).tobytes(), np.uint8)[:3]
        return image

    batches = train_batches(_recipe(seed=5), pixels, labels, np.arange(12), augment, CPU, 0)
    for epoch in (1, 2):
        batches.start_epoch(epoch)
        for images, _ in batches:
            for image in images.numpy():
                seed = image_seed(5, epoch, int(image[4, 4, 0]))
                assert image[0, 0].tobytes() == np.uint32(seed).tobytes()[:3]
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on a machine with one core
@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_processes_make_the_same_batches(sampler):
    """Two loader processes give the batches that this process gives, bit by bit, epoch after epoch."""
    recipe = _recipe(augment="heavy", sampler=sampler, image_size=16)
    random = np.random.default_rng(2)
    pixels = random.integers(0, 256, (18, 16, 16, 3), dtype=np.uint8)
    labels = random.integers(0, 3, 18)
    augment = make_augment(recipe, Parts())
    here, there = (train_batches(recipe, pixels, labels, np.arange(18), augment, CPU, loaders) for loaders in (0, 2))
    for epoch in (1, 2):
        here.start_epoch(epoch)
        there.start_epoch(epoch)
        pairs = list(zip(here, there, strict=True))
        assert len(pairs) == 5
        for (images, truth), (other_images, other_truth) in pairs:
            assert torch.equal(images, other_images)
            assert torch.equal(truth, other_truth)
