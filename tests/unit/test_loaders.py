"""The batches of an epoch: which images, in which order, whoever prepares them."""

import itertools
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import closing
from itertools import islice
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from tests.support.waiting import limit, wait_until
from trainer.augmentation.augment import image_seed
from trainer.augmentation.random_resized_crop import make_crop
from trainer.extensions import Extensions
from trainer.loaders import AugmentedImages, Loaders, batches_an_epoch, epoch_orders, largest_batch
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit


def _recipe(**changes):
    return Recipe(**({"image_size": 8, "batch_size": 4, "augment": "none"} | changes))


def _numbered(count):
    """Images that show their number in each pixel, uint8 [count, 8, 8, 3], and labels of three classes."""
    numbers = np.arange(count, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)).copy()
    pixels.flags.writeable = False
    return pixels, np.arange(count, dtype=np.int64) % 3


def _epoch(recipe, epoch, count=24, images=None):
    """The batches of one epoch."""
    pixels, labels = _numbered(count)
    images = np.arange(count) if images is None else images
    orders = epoch_orders(recipe, labels, images, epoch)
    assert len(orders) == batches_an_epoch(recipe, len(images))
    return list(Loaders(0).batches(AugmentedImages(pixels, labels, Extensions()), iter(orders)))


def _order(batches):
    return [int(image[0, 0, 0]) for images, _ in batches for image in images]


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_no_batch_is_of_one_image_where_there_are_more(sampler):
    """Whatever the number of images and the size of a batch, those of an epoch differ by one image at most."""
    for size, count in itertools.product(range(1, 9), range(1, 30)):
        recipe = _recipe(batch_size=size, sampler=sampler)
        sizes = [len(truth) for _, truth in _epoch(recipe, 1, count)]
        assert sum(sizes) == count
        assert min(sizes) > 1 or size == 1 or count == 1
        assert max(sizes) <= largest_batch(recipe, count)
        assert max(sizes) <= size or (size, max(sizes), count % 2) == (2, 3, 1)
        assert max(sizes) - min(sizes) <= 1


def test_batches_of_two_stay_as_they_are_but_for_the_last():
    """The order of the images is the same with any size, and only the image that was left over joins another batch."""
    batches = _epoch(_recipe(batch_size=2), 3, 9)
    assert [len(truth) for _, truth in batches] == [2, 2, 2, 3]
    assert _order(batches) == _order(_epoch(_recipe(batch_size=4), 3, 9))
    with closing(Loaders(2)) as loaders:
        pixels, labels = _numbered(9)
        orders = epoch_orders(_recipe(batch_size=2), labels, np.arange(9), 3)
        made = list(loaders.batches(AugmentedImages(pixels, labels, Extensions()), iter(orders)))
    assert [len(truth) for _, truth in made] == [2, 2, 2, 3]


@pytest.mark.parametrize("processes", [0, 2])
def test_random_resized_crops_are_cut_from_larger_pictures(processes):
    """Crops have the recipe's size, are the same whoever makes them, and differ where proportions are to be kept."""
    random = np.random.default_rng(0)
    pixels, labels = random.integers(0, 256, (6, 24, 36, 3), np.uint8), np.zeros(6, np.int64)
    recipe = _recipe(image_size="16x24", augment="random_resized_crop", seed=5)
    orders = epoch_orders(recipe, labels, np.arange(6), 2)
    made = []
    for aspects in (None, np.full(6, 1.5, np.float32), np.full(6, 0.7, np.float32)):
        with closing(Loaders(processes)) as loaders:
            images = AugmentedImages(pixels, labels, Extensions(), aspects)
            made.append([batch.clone() for batch, _ in loaders.batches(images, iter(orders))])
    assert [batch.shape for batch in made[0]] == [(3, 16, 24, 3)] * 2
    crop = make_crop("16x24", 0.08)
    for order, batch in zip(orders, made[0], strict=True):
        for image, found in zip(order.images.tolist(), batch.numpy(), strict=True):
            np.testing.assert_array_equal(found, crop(pixels[image], 1.5, image_seed(5, 2, image)))
    assert torch.equal(torch.cat(made[0]), torch.cat(made[1]))
    assert not torch.equal(torch.cat(made[0]), torch.cat(made[2]))


def test_shape():
    """A batch is uint8 [batch, side, side, 3] with int64 [batch] labels, each that of its image."""
    batches = _epoch(_recipe(), 1)
    assert len(batches) == 6
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
    orders = [_order(_epoch(_recipe(seed=3), epoch)) for epoch in (1, 2, 3)]
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
    recipe = _recipe(sampler="balanced", batch_size=10)
    drawn = []
    for epoch in range(1, 61):
        orders = epoch_orders(recipe, labels, images, epoch)
        assert sum(len(order.images) for order in orders) == 100
        assert {order.epoch for order in orders} == {epoch}
        drawn += [image for order in orders for image in order.images.tolist()]
    shares = np.bincount(labels[drawn]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)
    assert set(drawn) == set(images.tolist())


def test_balanced_sampler_counts_the_training_images_alone():
    """Classes are drawn equally often by their training images, however many others are validated or held out."""
    labels = np.repeat([0, 1], [50, 90])
    images = np.concatenate([np.arange(50), np.arange(50, 60)])  # 80 of the second class are not to be learned from
    recipe = _recipe(sampler="balanced", batch_size=10)
    orders = [order for epoch in range(1, 61) for order in epoch_orders(recipe, labels, images, epoch)]
    drawn = labels[np.concatenate([order.images for order in orders])]
    assert len(drawn) == 60 * 60
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)


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

    def mark(image, random):
        image[0, 0] = random.integers(0, 256, 3)
        return image

    recipe = _recipe(seed=5, augment="mark")
    made = AugmentedImages(pixels, labels, Extensions(augments={"mark": mark}))
    for epoch in (1, 2):
        for images, _ in Loaders(0).batches(made, iter(epoch_orders(recipe, labels, np.arange(12), epoch))):
            for image in images.numpy():
                random = np.random.default_rng(image_seed(5, epoch, int(image[4, 4, 0])))
                assert image[0, 0].tolist() == random.integers(0, 256, 3).tolist()
    np.testing.assert_array_equal(pixels, before)


@pytest.fixture
def noise():
    """Eighteen images of noise, and labels of three classes."""
    random = np.random.default_rng(2)
    return random.integers(0, 256, (18, 16, 16, 3), dtype=np.uint8), random.integers(0, 3, 18)


@pytest.fixture
def loaders():
    """Two processes that augment."""
    made = Loaders(2)
    yield made
    made.close()


def _orders(recipe, labels, epochs=1):
    return [order for epoch in range(1, epochs + 1) for order in epoch_orders(recipe, labels, np.arange(18), epoch)]


def _assert_same(batches, others):
    for (images, truth), (other_images, other_truth) in zip(batches, others, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(truth, other_truth)


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
def test_processes_make_the_same_batches(sampler, noise, loaders):
    """Two loader processes give the batches that this process gives, bit by bit, epoch after epoch."""
    orders = _orders(_recipe(augment="heavy", sampler=sampler, image_size=16), noise[1], epochs=2)
    images = AugmentedImages(*noise, Extensions())
    _assert_same(loaders.batches(images, iter(orders)), Loaders(0).batches(images, iter(orders)))


def test_processes_are_kept_between_trainings(noise, loaders):
    """The processes of one training serve the next, with another recipe, also after one that ended in the middle."""
    first = _orders(_recipe(augment="heavy", image_size=16), noise[1], epochs=3)
    second = _orders(_recipe(augment="flip", image_size=16, batch_size=3, seed=4), noise[1], epochs=2)
    with_pids = AugmentedImages(*noise, Extensions())
    batches = loaders.batches(with_pids, iter(first))
    next(batches)
    batches.close()
    pids = _children()
    assert len(pids) == 2
    again = AugmentedImages(*noise, Extensions())
    _assert_same(loaders.batches(again, iter(second)), Loaders(0).batches(again, iter(second)))
    assert _children() == pids


def test_other_pixels_need_other_processes(noise, loaders):
    """Images of another size come from processes that know them."""
    images, labels = noise
    for pixels in (images, images[:, ::2, ::2].copy()):
        made = AugmentedImages(pixels, labels, Extensions())
        orders = _orders(_recipe(image_size=pixels.shape[1]), labels)
        _assert_same(loaders.batches(made, iter(orders)), Loaders(0).batches(made, iter(orders)))


@pytest.mark.parametrize("deaths", [1, 2])
def test_the_death_of_a_process_is_survived(deaths, noise, loaders, caplog):
    """Where a loader process is killed, the log names a remedy, and half as many make the batches that follow."""
    orders = _orders(_recipe(augment="heavy", image_size=16), noise[1], epochs=8)
    images = AugmentedImages(*noise, Extensions())
    batches, made = loaders.batches(images, iter(orders)), []
    with caplog.at_level(logging.WARNING):
        for death in range(deaths):
            made += islice(batches, 3)
            os.kill(_children()[0], signal.SIGKILL)
            wait_until(lambda: not _children(), every=0.01)  # the others are ended for it
            made += islice(batches, 8 + 4 * death)  # past those that were made ahead
        made += batches
    _assert_same(made, Loaders(0).batches(images, iter(orders)))
    assert loaders.processes == 2 // 2**deaths
    assert sum("most likely because memory ran out" in record.message for record in caplog.records) == deaths
    assert "going on with" in caplog.text


def test_a_mistake_in_an_augmentation_is_no_trouble_of_the_processes(noise, loaders):
    """What a function of one's own raises in a loader process ends the training with that error."""

    def broken(image, random):
        raise ValueError("no such colour")

    orders = _orders(_recipe(augment="broken", image_size=16), noise[1])
    with pytest.raises(ValueError, match="no such colour"):
        list(loaders.batches(AugmentedImages(*noise, Extensions(augments={"broken": broken})), iter(orders)))
    assert loaders.processes == 2


def _children():
    """The processes that this one has started and that live."""
    return sorted(child.pid for child in multiprocessing.active_children())


def test_no_process_outlives_the_one_that_it_works_for(tmp_path):
    """Loader processes end by themselves where the process that started them is killed."""
    script = """
        import os, sys
        import numpy as np
        from trainer.loaders import AugmentedImages, Loaders, epoch_orders
        from trainer.extensions import Extensions
        from trainer.recipe import Recipe
        import multiprocessing

        loaders, labels = Loaders(2), np.zeros(8, np.int64)
        images = AugmentedImages(np.zeros((8, 16, 16, 3), np.uint8), labels, Extensions())
        batches = loaders.batches(images, iter(epoch_orders(Recipe(batch_size=2), labels, np.arange(8), 1)))
        next(batches)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=limit(120),
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(_alive(pid) for pid in pids), 20)


def _alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_death_while_a_training_ends_is_survived(noise):
    """A training that ends early while a loader process dies ends all the same, and the next one works."""

    def slow(image, _random):
        time.sleep(0.05)
        return image

    loaders = Loaders(1)
    images = AugmentedImages(*noise, Extensions(augments={"slow": slow}))
    orders = _orders(_recipe(augment="slow", image_size=16), noise[1], epochs=2)
    batches = loaders.batches(images, iter(orders))
    next(batches)
    time.sleep(0.1)
    os.kill(_children()[0], signal.SIGKILL)
    batches.close()
    _assert_same(loaders.batches(images, iter(orders[:2])), Loaders(0).batches(images, iter(orders[:2])))
    loaders.close()


class TwoPartError(Exception):
    """An error that cannot be sent from process to process."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def test_a_mistake_that_cannot_be_sent_is_no_death(noise, loaders):
    """An error of one's own augmentation that Python cannot send to another process is told by its name and text."""

    def broken(image, random):
        raise TwoPartError("no such", "colour")

    orders = _orders(_recipe(augment="broken", image_size=16), noise[1])
    with pytest.raises(RuntimeError, match="TwoPartError: no such colour"):
        list(loaders.batches(AugmentedImages(*noise, Extensions(augments={"broken": broken})), iter(orders)))
    assert loaders.processes == 2


def test_each_draw_of_a_rare_image_is_augmented_in_its_own_way():
    """An image that the balanced sampler draws several times in an epoch looks different each time."""
    labels = np.repeat([0, 1], [60, 2])
    pixels = np.random.default_rng(4).integers(0, 256, (62, 16, 16, 3), dtype=np.uint8)
    orders = epoch_orders(_recipe(sampler="balanced", augment="heavy", image_size=16), labels, np.arange(62), 1)
    seen = {60: [], 61: []}
    for order, (images, _) in zip(
        orders, Loaders(0).batches(AugmentedImages(pixels, labels, Extensions()), iter(orders)), strict=True
    ):
        for image, made in zip(order.images.tolist(), images.numpy(), strict=True):
            if image in seen:
                seen[image].append(made.tobytes())
    for made in seen.values():
        assert len(made) > 5
        assert len(set(made)) == len(made)


class LaggingGpu:
    """A GPU in the place of `trainer.device`'s: it copies a batch only some steps after it was told to."""

    def __init__(self, lag):
        self.lag, self.given, self.pinned, self.waits = lag, [], [], 0  # functions that copy, in the order of a stream

    def pin(self, memory):
        """Memory that a GPU copies from by itself."""
        self.pinned.append(memory)
        return True

    def unpin(self, memory):
        """Undo it."""
        self.pinned.remove(memory)

    def recorded_event(self):
        """An event that is over when what was given before is done."""
        return LaggingEvent(self, len(self.given))

    def copy(self, batch):
        """Give a copy to the stream; a list that will hold the batch."""
        found = []
        self.given.append(lambda: found.append(batch.clone()))
        self.work(len(self.given) - self.lag)
        return found

    def work(self, upto):
        """Do what was given first, so many things of it."""
        for number, copy in enumerate(self.given[: max(0, upto)]):
            if copy:
                copy()
            self.given[number] = None


class LaggingEvent:
    """An event of that GPU."""

    def __init__(self, gpu, after):
        self.gpu, self.after = gpu, after

    def query(self):
        """Whether it is over."""
        return not any(self.gpu.given[: self.after])

    def synchronize(self):
        """Wait until it is over."""
        self.gpu.waits += 1
        self.gpu.work(self.after)


@pytest.fixture
def lagging_gpu(monkeypatch):
    """A function that puts a GPU in place which is so many steps behind."""

    def make(lag):
        gpu = LaggingGpu(lag)
        for name in ("pin", "unpin", "recorded_event"):
            monkeypatch.setattr(f"trainer.loaders.{name}", getattr(gpu, name))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        stream = SimpleNamespace(synchronize=lambda: gpu.work(len(gpu.given)))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        return gpu

    return make


@pytest.mark.parametrize("lag", [0, 1, 4, 1000], ids=["at once", "a step behind", "four behind", "as far as it can"])
def test_no_batch_is_written_over_before_the_gpu_has_copied_it(lag, lagging_gpu):
    """A GPU that copies out of the loaders' memory, however late, gets each batch as it was made, pass after pass."""
    gpu, recipe = lagging_gpu(lag), _recipe(batch_size=2)
    pixels, labels = _numbered(24)
    images, loaders = AugmentedImages(pixels, labels, Extensions()), Loaders(2, pin_memory=True)
    with closing(loaders):
        for epochs in (3, 1):
            orders = [order for n in range(epochs) for order in epoch_orders(recipe, labels, np.arange(24), n + 1)]
            copied = [gpu.copy(batch) for batch, _ in loaders.batches(images, iter(orders))]
            for order, found in zip(orders, copied, strict=True):
                np.testing.assert_array_equal(found[0].numpy(), images.make(order))
        assert len(gpu.pinned) == 1
    assert gpu.pinned == []
    assert (gpu.waits > 2) == (lag > 6)  # once at the end of each pass; else only where all six slots are full


def test_a_pass_that_ends_early_leaves_no_copy_behind(lagging_gpu):
    """A training that stops lets the GPU copy the batch that it was given before its memory is written anew."""
    gpu, recipe = lagging_gpu(1000), _recipe(batch_size=2)
    pixels, labels = _numbered(24)
    images, loaders = AugmentedImages(pixels, labels, Extensions()), Loaders(2, pin_memory=True)
    orders = epoch_orders(recipe, labels, np.arange(24), 1)
    with closing(loaders):
        with closing(loaders.batches(images, iter(orders))) as batches:
            found = [gpu.copy(batch) for batch, _ in islice(batches, 2)]
        again = [gpu.copy(batch) for batch, _ in loaders.batches(images, iter(orders[::-1]))]
    for order, copied in zip([*orders[:2], *orders[::-1]], [*found, *again], strict=True):
        np.testing.assert_array_equal(copied[0].numpy(), images.make(order))
