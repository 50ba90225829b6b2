"""Batches come from the loaders' memory to the GPU as they were made, however far behind the GPU is."""

from contextlib import closing
from itertools import chain

import pytest
import torch

from trainer.extensions import Extensions
from trainer.loaders import AugmentedImages, Loaders, epoch_orders
from trainer.model.backbones import training_reading
from trainer.recipe import Recipe

pytestmark = pytest.mark.gpu

EPOCHS, BATCH, PROCESSES = 12, 8, 2  # 192 batches, so that each slot is written over many times


@pytest.fixture
def recipe():
    """A recipe whose augmentation makes each batch another one."""
    return Recipe(backbone="test_resnet", pretrained=False, image_size=32, batch_size=BATCH, augment="flip")


def test_no_batch_is_written_over_before_the_gpu_has_copied_it(device, noise, recipe):
    """A GPU that is many steps behind still gets every batch as the loaders made it, in this pass and in the next."""
    pixels = noise.pixels(training_reading(recipe, Extensions()))
    orders = [
        list(epoch_orders(recipe, noise.index.labels, noise.split.train, number)) for number in range(1, EPOCHS + 1)
    ]
    images = AugmentedImages(pixels, noise.index.labels, Extensions())
    side = 64 if device.type == "cpu" else 2048
    busy = torch.randn(side, side, device=device)
    with closing(Loaders(PROCESSES, pin_memory=device.type == "cuda")) as loaders:
        for wanted in (list(chain.from_iterable(orders)), orders[0]):
            sums = []
            for batch, truth in loaders.batches(images, iter(wanted)):
                for _ in range(20):
                    busy = (busy @ busy).tanh()
                there = batch.to(device, non_blocking=True), truth.to(device, non_blocking=True)
                sums.append(torch.cat([there[0].flatten(), there[1].to(torch.uint8)]))
            for order, received in zip(wanted, sums, strict=True):
                made = torch.from_numpy(images.make(order)).flatten()
                assert received.cpu().equal(torch.cat([made, images.truth(order).to(torch.uint8)]))
            assert loaders._pinned is (device.type == "cuda")
