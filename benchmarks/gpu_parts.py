"""The parts of gpu.py: what each measures, and what it tells."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty
from threading import Barrier
from typing import TYPE_CHECKING, Any

import tomli_w
import torch
from anatomy import (
    device_lines,
    flop_an_image,
    launch_seconds,
    median_seconds,
    one_epoch,
    seconds_to_first_step,
    synchronize,
)
from throughput import WARM_UP_STEPS, EnoughError, Job, Meter, fit_steps, images_a_step, train_with_timm

from trainer.device import choose_device, device_name, loader_processes
from trainer.extensions import Extensions
from trainer.loaders import Loaders
from trainer.model.backbones import reading_of
from trainer.recipe import Recipe

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Barrier as ProcessBarrier

HERE = Path(__file__).resolve().parent
GRACE_SECONDS = 10.0  # for a part that is over its time to end by itself
GOAL_OF_TIMM = 1.3
GOAL_OUTSIDE = 0.01  # of a search's wall time


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Attributes:
        goals: backbones, with the share of the limit that fit should reach.
        image_size: in pixels, and the batch size; of the backbones.
        images: that are made up, and their side in pixels.
        seconds: of a turn, and how many turns.
        shared: backbones of trainings that share the GPU, all with shared_size and shared_batch.
        together: how many of them.
        epochs: of a trial, of how many trials, in the search.
        matmul: side of the matrices, and bytes of the copy.
        memory_trials: of benchmarks/memory.py.
    """

    goals: dict[str, float]
    image_size: int
    batch_size: int
    images: int
    image_side: int
    seconds: float
    turns: int
    shared: tuple[str, ...]
    shared_size: int
    shared_batch: int
    together: tuple[int, ...]
    epochs: int
    trials: int
    matmul: int
    copied_bytes: int
    memory_trials: int


@dataclass(frozen=True)
class Bench:
    """What a part is given.

    Attributes:
        part: its name.
        sizes: of everything.
        images: the folder of images.
        work: folder for pixels and for what parts leave to later ones.
        output: file that the results are added to.
    """

    part: str
    sizes: Sizes
    images: Path
    work: Path
    output: Path | None

    def tell(self, line: str, **numbers: Any) -> None:
        """Print a result and add it to the output, with its numbers by name, at once."""
        print(f"{self.part}: {line}", flush=True)
        if self.output:
            with self.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"part": self.part, "line": line, **numbers}) + "\n")

    def job(self, backbone: str, image_size: int, batch_size: int, turns: int) -> Job:
        """A training of this backbone, its pixels decoded; torch has as many threads as a worker gives it."""
        device = choose_device()
        cores = len(os.sched_getaffinity(0)) if device.type == "cuda" else 1
        torch.set_num_threads(cores)
        recipe = Recipe(
            backbone=backbone, pretrained=False, image_size=image_size, batch_size=batch_size, epochs=10_000
        )
        loaders = loader_processes(device, cores) or 1  # also in a rehearsal on a CPU
        job = Job(self.images, self.work / "pixels", recipe, cores, loaders, self.sizes.seconds, turns)
        job.data().pixels(reading_of(job.recipe, Extensions()))
        return job

    def model_job(self, backbone: str) -> Job:
        """A training of one of the backbones that have a goal."""
        return self.job(backbone, self.sizes.image_size, self.sizes.batch_size, self.sizes.turns)

    @property
    def roof_file(self) -> Path:
        """Where the card's part leaves the matmul peak, in FLOP a second."""
        return self.work / "roof.json"


def pinning() -> bool:
    """Whether loaders should pin."""
    return choose_device().type == "cuda"


def card(bench: Bench) -> None:
    """The card and what it can do at best."""
    device, sizes = choose_device(), bench.sizes
    bench.tell(
        f"{device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"cudnn {torch.backends.cudnn.version()}, {len(os.sched_getaffinity(0))} cores, Python "
        f"{sys.version.split()[0]}, {datetime.now(UTC):%Y-%m-%d}"
    )
    if device.type == "cuda":
        query = "driver_version,memory.total,power.limit,clocks.max.sm,clocks.sm,temperature.gpu"
        with suppress(OSError, subprocess.SubprocessError):
            found = subprocess.run(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                check=True,
                timeout=20,
            )
            bench.tell(f"{query}: {found.stdout.strip()}")
    left, right = (torch.randn(sizes.matmul, sizes.matmul, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(20):
            left @ right
        synchronize()

    peak = 20 * 2 * sizes.matmul**3 / median_seconds(multiply, 5)
    source = torch.zeros(sizes.copied_bytes // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        for _ in range(20):
            target.copy_(source)
        synchronize()

    bandwidth = 20 * 2 * sizes.copied_bytes / median_seconds(copy, 5)
    bench.roof_file.write_text(json.dumps(peak))
    bench.tell(
        f"matmul in bfloat16, {sizes.matmul}^3: {peak / 1e12:.1f} TFLOP/s; copy in memory: {bandwidth / 1e9:,.0f} GB/s "
        "read and written",
        matmul_peak=peak,
        bandwidth=bandwidth,
    )


def compare(job: Job, loaders: Any) -> tuple[float, float, float, str]:
    """Images a second of fit and of the limit, the ratio, all medians of turns, and the ratio's range."""
    meter = Meter(job, Barrier(1))
    meter.images_a_step = images_a_step(job)
    fit_steps(job, loaders, meter.step)
    return _medians(meter.rates)


def _medians(rates: list[tuple[float, float]]) -> tuple[float, float, float, str]:
    ratios = [rate / limit for rate, limit in rates]
    of_way, of_limit = (statistics.median(each) for each in zip(*rates, strict=True))
    return of_way, of_limit, statistics.median(ratios), f"{min(ratios):.3f} to {max(ratios):.3f}"


def model(bench: Bench, backbone: str) -> None:
    """All about the training of one backbone."""
    sizes, job = bench.sizes, bench.model_job(backbone)
    goal = sizes.goals[backbone]
    images = len(job.data().split.train)
    with closing(Loaders(job.loaders, pin_memory=pinning())) as loaders:
        first, second = (seconds_to_first_step(job, loaders) for _ in range(2))
        bench.tell(
            f"from the call of fit to the end of the first step {first:.2f} s in a new process, {second:.2f} s for its "
            "next training",
            first_step=first,
            second_first_step=second,
        )
        seconds, waiting, allocated, reserved = one_epoch(job, loaders)
        bench.tell(
            f"an epoch of {images:,} images with validation {seconds:.2f} s, {waiting / seconds:.1%} of it waiting for "
            f"batches; peak memory {allocated / 1e9:.2f} GB, {reserved / 1e9:.2f} GB reserved",
            epoch_seconds=seconds,
            data_seconds=waiting,
            peak_bytes=allocated,
        )
        rate, limit, ratio, spread = compare(job, loaders)
        bench.tell(
            f"fit {rate:,.0f} images a second, limit {limit:,.0f}; fit / limit {ratio:.3f} ({spread}), goal {goal:.2f} "
            f"{'reached' if ratio >= goal else 'NOT reached'}",
            fit=rate,
            limit=limit,
            ratio=ratio,
        )
        (bench.work / f"{backbone}.json").write_text(json.dumps(ratio))
        launched, done = launch_seconds(job)
        bench.tell(
            f"a step of the limit: launched by the CPU after {1e3 * launched:.2f} ms, done after {1e3 * done:.2f} ms",
            launched=launched,
            done=done,
        )
        tell_roof(bench, job, rate, limit)
        if ratio < goal:
            for line in device_lines(job, loaders, 20, bench.work):
                bench.tell(line)


def tell_roof(bench: Bench, job: Job, rate: float, limit: float) -> None:
    """How near these images a second are to what the card multiplies at best."""
    flop = flop_an_image(job)
    peak = json.loads(bench.roof_file.read_text()) if bench.roof_file.exists() else None
    near = f": fit {rate * flop / peak:.1%} of the matmul peak, limit {limit * flop / peak:.1%}" if peak else ""
    bench.tell(f"{flop / 1e9:.2f} GFLOP an image, forward and backward{near}", flop_an_image=flop)


def timm(bench: Bench, backbone: str) -> None:
    """The loop of timm's training script, with as many loader processes, against the same limit."""
    job = replace(bench.model_job(backbone), turns=3)
    meter = Meter(job, Barrier(1))
    with suppress(EnoughError):
        train_with_timm(job, meter)
    rate, limit, ratio, spread = _medians(meter.rates)
    ours = bench.work / f"{backbone}.json"
    beside = ""
    if ours.exists():
        times = json.loads(ours.read_text()) / ratio
        beside = (
            f"; {backbone}: fit / timm {times:.2f}, goal {GOAL_OF_TIMM} "
            f"{'reached' if times >= GOAL_OF_TIMM else 'NOT reached'}"
        )
    bench.tell(
        f"{rate:,.0f} images a second with {job.loaders} loaders, limit {limit:,.0f}; timm / limit {ratio:.3f} "
        f"({spread}){beside}",
        timm=rate,
        limit=limit,
        ratio=ratio,
    )


def sharing(bench: Bench, backbone: str) -> None:
    """Images a second of one, two and four trainings that share the GPU, all together."""
    sizes = bench.sizes
    job = bench.job(backbone, sizes.shared_size, sizes.shared_batch, 1)
    context = multiprocessing.get_context("spawn")
    most = max(sizes.together)
    barriers = {count: context.Barrier(count) for count in sizes.together}
    results: Queue[tuple[int, float]] = context.Queue()
    processes = [
        context.Process(target=_share, args=(number, job, sizes.together, barriers, results)) for number in range(most)
    ]
    for process in processes:
        process.start()
    sums, missing = dict.fromkeys(sizes.together, 0.0), sum(sizes.together)
    try:
        while missing:
            with suppress(Empty):
                count, rate = results.get(timeout=1)
                sums[count] += rate
                missing -= 1
            if any(process.exitcode for process in processes):
                raise RuntimeError("a training that shared the GPU has failed")
        for process in processes:
            process.join(GRACE_SECONDS)
    finally:
        for process in processes:
            process.kill()
    alone = sums[sizes.together[0]]
    shown = ", ".join(f"{count}: {rate:,.0f} ({rate / alone:.2f})" for count, rate in sums.items())
    bench.tell(
        f"{sizes.shared_size} px, batch {sizes.shared_batch}, images a second of trainings that share the GPU, "
        f"together (against one): {shown}",
        **{f"of_{count}": rate for count, rate in sums.items()},
    )


def _share(
    number: int,
    job: Job,
    together: tuple[int, ...],
    barriers: dict[int, ProcessBarrier],
    results: Queue[tuple[int, float]],
) -> None:
    for count in together:
        if number < count:
            results.put((count, _rate_of(job, max(1, job.threads // count), barriers[count])))
        barriers[max(together)].wait(120)  # the others are idle meanwhile


def _rate_of(job: Job, cores: int, barrier: ProcessBarrier) -> float:
    """Images a second of a training with its share of the cores, in the time when all of them train."""
    torch.set_num_threads(cores)
    taken, began, rate = 0, 0.0, 0.0

    def on_step() -> None:
        nonlocal taken, began, rate
        taken += 1
        if taken == WARM_UP_STEPS:
            synchronize()
            barrier.wait(120)
            began = time.perf_counter()
        elif taken > WARM_UP_STEPS and time.perf_counter() - began > 2 * job.seconds:
            synchronize()
            rate = (taken - WARM_UP_STEPS) * images_a_step(job) / (time.perf_counter() - began)
            raise EnoughError

    processes = loader_processes(choose_device(), cores) or 1
    with closing(Loaders(processes, pin_memory=pinning())) as loaders:
        fit_steps(job, loaders, on_step)
    return rate


def search(bench: Bench) -> None:
    """Where the wall time of a real search goes, with its own Postgres."""
    sizes = bench.sizes
    recipe = Recipe(
        backbone=sizes.shared[0],
        pretrained=False,
        image_size=sizes.shared_size,
        batch_size=sizes.shared_batch,
        epochs=sizes.epochs,
    )
    study = {
        "study": {"name": "share of time", "seed": 0, "pruner": "none"},
        "data": {"path": str(bench.images)},
        "budget": {"trials": sizes.trials},
        "recipe": {**asdict(recipe), "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}},
    }
    folder = bench.work / "search"
    folder.mkdir()
    (folder / "study.toml").write_text(tomli_w.dumps(study), encoding="utf-8")
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "hpo", "search", str(folder / "study.toml"), "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "1000"},  # no line is folded
        check=False,
    )
    seconds = time.monotonic() - began
    lines = run.stdout.splitlines()
    if run.returncode:
        raise RuntimeError("hpo search failed:\n" + "\n".join(lines[-30:]))
    for line in lines:
        if line.startswith(("pixels:", "trial ", "time:", "on average")):
            bench.tell(line)
    shares = {
        name: float(share) / 100
        for line in lines
        if line.startswith("time:")
        for name, share in re.findall(r"[:,] ([a-z' -]+?) ([0-9.]+) %", line)
    }
    start_up = float(re.findall(r"\(([0-9.]+) s start-up a worker", run.stdout)[0])
    outside = shares["storage"] + shares["before a trial's first step"] + shares["between trials"]
    trials = 1 - shares["start-up"] - shares["waiting for the last trials"]
    share = outside / trials
    each = outside * start_up / shares["start-up"] / sizes.trials
    bench.tell(
        f"{sizes.trials} trials of {sizes.epochs} epochs in {seconds:.0f} s with checks and start; outside training "
        f"{share:.2%} of the worker's time after its start-up (storage, before a trial's first step, between trials), "
        f"or {each:.2f} s a trial; goal at most {GOAL_OUTSIDE:.0%} "
        f"{'reached' if share <= GOAL_OUTSIDE else 'NOT reached'}",
        outside=share,
        outside_seconds_a_trial=each,
        shares=shares,
        seconds=seconds,
    )


def memory(bench: Bench) -> None:
    """Whether memory grows from trial to trial."""
    trials, loaders = str(bench.sizes.memory_trials), str(min(4, len(os.sched_getaffinity(0))))
    command = [sys.executable, str(HERE / "memory.py"), "--trials", trials, "--loaders", loaders]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout, "it is a pipe"
        for line in process.stdout:
            bench.tell(line.rstrip())
    if process.returncode:
        raise RuntimeError(f"memory.py ended with {process.returncode}")
