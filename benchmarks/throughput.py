"""How near the training loop comes to the speed of the bare model.

    python benchmarks/throughput.py [FOLDER] [--side-by-side N] [--backbone NAME --image-size PIXELS --batch-size N …]

FOLDER has one folder a class; without it scikit-learn's digits are the images. Images a second of training the same
model with the same batch size in three ways:

    limit   forward, backward and update on batches that lie on the device already: the bare model
    fit     trainer.fit.fit, from the pixel file to the end of each epoch, its loaders included
    timm    the loop of timm's training script with timm's loader, from the image files, with a crop and a flip

Each process changes to and fro between one way and the limit, a few seconds each, and all processes that run side by
side change at the same moments: a machine that is slower for a while is so for both. The median of the ratios counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from hpo.demo import write_demo
from trainer.data import Data, load_data
from trainer.device import autocast, choose_device, device_name, loader_processes, memory_format
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.image_size import shape_of
from trainer.images.cache import PixelCache
from trainer.loaders import Loaders, batches_an_epoch
from trainer.model.backbones import build_model, reading_of, training_reading
from trainer.model.optimizers import make_optimizer
from trainer.recipe import Recipe
from trainer.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier as ProcessBarrier
    from threading import Barrier

WARM_UP_STEPS = 24  # after each change, before the clock starts: caches fill, and what 8 loaders had ready is used up
LIMIT_WARM_UP_STEPS = 5  # the limit has no loaders
RESIDENT_BATCHES = 16  # that the limit goes round


@dataclass(frozen=True)
class Job:
    """What every process trains.

    Attributes:
        folder: of the images.
        cache: for their pixels.
        recipe: of the training.
        threads: of torch, in each process.
        loaders: processes that augment, of each process.
        seconds: between two changes.
        turns: of each of the two ways.
    """

    folder: Path
    cache: Path
    recipe: Recipe
    threads: int
    loaders: int
    seconds: float
    turns: int

    def data(self) -> Data:
        """The images; the same object each time, so that loaders can be kept."""
        return _images(self.folder, self.cache)


@cache
def _images(folder: Path, pixels: Path) -> Data:
    return load_data(folder, cache=PixelCache(pixels))


class EnoughError(Exception):
    """All turns are over."""


class Meter:
    """Takes turns between the way that calls `step` and the limit; `rates`: images a second of both, turn by turn."""

    def __init__(self, job: Job, barrier: Barrier | ProcessBarrier) -> None:
        self._job, self._barrier, self._device = job, barrier, choose_device()
        self._limit = make_limit(job)
        self._steps, self._began = 0, 0.0
        self.images_a_step = float(job.recipe.batch_size)
        self.rates: list[tuple[float, float]] = []

    def step(self) -> None:
        """Note that a step is done; it may then be the limit's turn. Raises EnoughError after the last."""
        self._steps += 1
        if self._steps == WARM_UP_STEPS:
            self._began = self._together()
        elif self._steps > WARM_UP_STEPS and time.perf_counter() - self._began > self._job.seconds:
            rate = (self._steps - WARM_UP_STEPS) * self.images_a_step / (self._now() - self._began)
            self.rates.append((rate, self._turn_of_limit()))
            self._steps = 0
            if len(self.rates) == self._job.turns:
                raise EnoughError

    def _turn_of_limit(self) -> float:
        for _ in range(LIMIT_WARM_UP_STEPS):
            self._limit()
        began, steps = self._together(), 0
        while time.perf_counter() - began < self._job.seconds:
            self._limit()
            steps += 1
        rate = steps * self._job.recipe.batch_size / (self._now() - began)
        self._barrier.wait()
        return rate

    def _together(self) -> float:
        """The time when all processes have come here."""
        self._now()
        self._barrier.wait()
        return time.perf_counter()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def make_limit(job: Job) -> Callable[[], None]:
    """A function that takes one step of the bare model."""
    data, device, recipe = job.data(), choose_device(), job.recipe
    pixels, labels = data.pixels(reading_of(recipe, Extensions())), data.index.labels
    model = build_model(recipe, len(data.index.classes), Extensions(), pretrained=False)
    model = model.to(device).to(memory_format=memory_format(device)).train()
    optimizer = make_optimizer(recipe, model)
    whole = min(RESIDENT_BATCHES, len(data.split.train) // recipe.batch_size)
    rows = data.split.train[: whole * recipe.batch_size].reshape(whole, recipe.batch_size)
    batches = [(torch.from_numpy(pixels[row]).to(device), torch.from_numpy(labels[row]).to(device)) for row in rows]

    def step() -> None:
        images, truth = batches[0]
        batches.append(batches.pop(0))
        with autocast(device):
            logits = model(images)
        loss = cross_entropy(logits.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def images_a_step(job: Job) -> float:
    """How many images a step of fit has on average: batches are evened out."""
    images = len(job.data().split.train)
    return images / batches_an_epoch(job.recipe, images)


def fit_steps(job: Job, loaders: Loaders, on_step: Callable[[], None]) -> None:
    """Train with our loop, without validation, and call this after each step until it raises EnoughError."""
    data = job.data()
    resources = Resources(loaders=loaders)
    with suppress(EnoughError):
        for _ in fit(
            job.recipe, data, Subsets(data.split.train), resources=resources, on_step=lambda _capture: on_step()
        ):
            pass


def train_with_fit(job: Job, meter: Meter) -> None:
    """Our loop."""
    meter.images_a_step = images_a_step(job)
    with closing(Loaders(job.loaders, pin_memory=choose_device().type == "cuda")) as loaders:
        fit_steps(job, loaders, meter.step)


def train_with_timm(job: Job, meter: Meter) -> None:
    """The loop of timm's training script: its data set, transforms, loader, optimiser, and what it does in a step."""
    from timm import create_model
    from timm.data import create_dataset, create_loader, resolve_model_data_config
    from timm.optim import create_optimizer_v2
    from timm.utils import AverageMeter

    device, recipe = choose_device(), job.recipe
    dataset = create_dataset("", root=str(job.folder))
    model = create_model(recipe.backbone, num_classes=len(job.data().index.classes)).to(device)
    model = model.to(memory_format=memory_format(device))
    config = resolve_model_data_config(model)
    loader = create_loader(
        dataset,
        input_size=(3, *shape_of(recipe.image_size)),
        batch_size=recipe.batch_size,
        is_training=True,
        scale=(0.7, 1.0),
        color_jitter=0.0,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
        num_workers=max(1, job.loaders),
        device=device,
        persistent_workers=True,
    )
    optimizer = create_optimizer_v2(
        model, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    losses, steps = AverageMeter(), 0
    while True:
        model.train()
        for images, truth in loader:
            with autocast(device):
                loss = cross_entropy(model(images), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if steps % 50 == 0:  # the script's interval of logging
                losses.update(loss.item(), len(truth))
            meter.step()


WAYS = {"fit": train_with_fit, "timm": train_with_timm}


def _measure(way: str, job: Job, barrier: ProcessBarrier, results: Queue[list[tuple[float, float]]]) -> None:
    torch.set_num_threads(job.threads)
    meter = Meter(job, barrier)
    with suppress(EnoughError):
        WAYS[way](job, meter)
    results.put(meter.rates)


def measure(way: str, job: Job, side_by_side: int) -> list[tuple[float, float]]:
    """Images a second of a way and of the limit, of all processes together, turn by turn."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(side_by_side), context.Queue()
    processes = [context.Process(target=_measure, args=(way, job, barrier, results)) for _ in range(side_by_side)]
    for process in processes:
        process.start()
    of_processes = [results.get(timeout=3600) for _ in processes]
    for process in processes:
        process.join()
    return [(sum(way for way, _ in turn), sum(limit for _, limit in turn)) for turn in zip(*of_processes, strict=True)]


def refuse_synchronisation(job: Job) -> None:
    """Take some steps on a GPU while CUDA raises an error wherever the CPU would wait for it."""
    taken = 0

    def on_step() -> None:
        nonlocal taken
        taken += 1
        if taken == WARM_UP_STEPS:
            torch.cuda.set_sync_debug_mode("error")
        elif taken == 2 * WARM_UP_STEPS:
            torch.cuda.set_sync_debug_mode("default")
            raise EnoughError

    with closing(Loaders(job.loaders, pin_memory=True)) as loaders:
        fit_steps(job, loaders, on_step)
    print(f"{WARM_UP_STEPS} steps of fit without a synchronisation")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?")
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--augment", default="light")
    parser.add_argument("--side-by-side", type=int, metavar="N", default=1, help="processes that train at once")
    parser.add_argument("--threads", type=int, default=1, help="of torch in each process; beside a GPU its loaders")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--ways", nargs="+", choices=sorted(WAYS), default=sorted(WAYS))
    options = parser.parse_args()
    recipe = Recipe(
        backbone=options.backbone,
        pretrained=False,
        image_size=options.image_size,
        batch_size=options.batch_size,
        augment=options.augment,
        epochs=10_000,
    )
    device = choose_device()
    print(
        f"{recipe.backbone}, {recipe.image_size} px, batch {recipe.batch_size}, {recipe.augment}, on "
        f"{device_name(device)}, {options.side_by_side} side by side"
    )
    with tempfile.TemporaryDirectory() as cache:
        loaders = loader_processes(device, options.threads)
        folder = options.folder or write_demo(Path(cache) / "demo").parent / "digits"
        job = Job(folder, Path(cache), recipe, options.threads, loaders, options.seconds, options.turns)
        job.data().pixels(training_reading(recipe, Extensions()))
        if device.type == "cuda":
            refuse_synchronisation(job)
        shares = {}
        for way in options.ways:
            rates = measure(way, job, options.side_by_side)
            ratios = [rate / limit for rate, limit in rates]
            shares[way] = statistics.median(ratios)
            print(
                f"{way}: {statistics.median(rate for rate, _ in rates):,.0f} images a second, limit "
                f"{statistics.median(limit for _, limit in rates):,.0f}; {way} / limit {shares[way]:.3f} "
                f"({min(ratios):.3f} to {max(ratios):.3f})",
                flush=True,
            )
    if len(shares) == len(WAYS):
        print(f"fit / timm: {shares['fit'] / shares['timm']:.2f}")


if __name__ == "__main__":
    main()
