"""What a step of the training loop is made of on a GPU, so that a log alone says what the loop waits for."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from throughput import WARM_UP_STEPS, EnoughError, fit_steps, make_limit
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.flop_counter import FlopCounterMode

from trainer.device import autocast, choose_device, memory_format
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.image_size import shape_of
from trainer.model.backbones import build_model
from trainer.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from throughput import Job

    from trainer.loaders import Loaders

ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}  # what a trace calls the events of the device
LISTED = 10  # kernels, gaps and operators that are shown
FLOP_BATCH = 8


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_to_first_step(job: Job, loaders: Loaders) -> float:
    """From the call of fit to the end of its first step on the device."""
    began, seconds = time.perf_counter(), 0.0

    def on_step() -> None:
        nonlocal seconds
        synchronize()
        seconds = time.perf_counter() - began
        raise EnoughError

    fit_steps(job, loaders, on_step)
    return seconds


def one_epoch(job: Job, loaders: Loaders) -> tuple[float, float, int, int]:
    """Seconds of one epoch with validation, those of waiting for batches, and peak bytes: allocated, reserved."""
    data = job.data()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    recipe = replace(job.recipe, epochs=1)
    subsets, resources = Subsets(data.split.train, data.split.valid), Resources(loaders=loaders)
    (epoch,) = fit(recipe, data, subsets, resources=resources)
    peak = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()) if cuda else (0, 0)
    return epoch.seconds, epoch.data_seconds, *peak


def flop_an_image(job: Job) -> float:
    """Floating-point operations of a forward and a backward pass, a multiplication and an addition counted as two.

    Three times those of the forward pass, as is usual: torch counts the backward pass of grouped convolutions as if
    they had no groups.
    """
    device, shape = choose_device(), shape_of(job.recipe.image_size)
    model = build_model(job.recipe, len(job.data().index.classes), Extensions(), pretrained=False)
    model = model.to(device).to(memory_format=memory_format(device)).train()
    images = torch.randint(0, 256, (FLOP_BATCH, *shape, 3), dtype=torch.uint8, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), autocast(device):
        model(images)
    return 3 * counter.get_total_flops() / FLOP_BATCH


def launch_seconds(job: Job, steps: int = 10) -> tuple[float, float]:
    """Of a step of the bare model: seconds until the CPU has launched all of it, and until the GPU has done it."""
    step = make_limit(job)
    launched, done = [], []
    for _ in range(steps + 3):
        synchronize()
        began = time.perf_counter()
        step()
        launched.append(time.perf_counter() - began)
        synchronize()
        done.append(time.perf_counter() - began)
    return statistics.median(launched[3:]), statistics.median(done[3:])


def median_seconds(run: Callable[[], Any], times: int = 10) -> float:
    """Seconds of a call, the median of some after three more."""
    seconds = []
    for _ in range(times + 3):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[3:])


def profiled(job: Job, loaders: Loaders, steps: int, activity: ProfilerActivity) -> tuple[profile, float]:
    """A profile of so many steps of fit, and the seconds that they took under it."""
    # Prepared from the first step on, so that loaders do not get ahead while the profiler starts.
    profiler = profile(activities=[activity], schedule=schedule(wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1))
    taken, began, seconds = 0, 0.0, 0.0

    def on_step() -> None:
        nonlocal taken, began, seconds
        taken += 1
        if taken == 1:
            profiler.start()
            return
        recorded = taken - 1 - WARM_UP_STEPS
        if recorded in {0, steps}:
            synchronize()
            seconds = time.perf_counter() - began
        profiler.step()
        if recorded == 0:
            began = time.perf_counter()
        elif recorded == steps:
            profiler.stop()
            raise EnoughError

    fit_steps(job, loaders, on_step)
    return profiler, seconds


def device_lines(job: Job, loaders: Loaders, steps: int, folder: Path) -> list[str]:
    """How busy the GPU is in steps of fit, where its time goes, and its longest gaps."""
    on_gpu = torch.cuda.is_available()
    kinds = ON_GPU if on_gpu else {"cpu_op"}  # a rehearsal reads the same kind of file
    profiler, seconds = profiled(job, loaders, steps, ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU)
    file = folder / "trace.json"
    profiler.export_chrome_trace(str(file))
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("cat") in kinds]
    events.sort(key=lambda event: event["ts"])
    if not events:
        return ["the trace has no event of a GPU"]
    busy, end, before = 0.0, events[0]["ts"], events[0]["name"]  # microseconds, as in the trace
    gaps: list[tuple[float, str]] = []
    of_name: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        if event["ts"] > end:
            gaps.append((event["ts"] - end, f"{before[:60]} -> {event['name'][:60]}"))
        busy += max(0.0, event["ts"] + event["dur"] - max(end, event["ts"]))
        if event["ts"] + event["dur"] > end:
            end, before = event["ts"] + event["dur"], event["name"]
        of_name[event["name"]] += event["dur"]
        calls[event["name"]] += 1
    gaps.sort(reverse=True)
    long = [length for length, _ in gaps if length > 10]
    short = sum(length for length, _ in gaps) - sum(long)
    busy_line = (
        f"{'GPU' if on_gpu else 'CPU'} busy {busy / 1e6 / seconds:.1%} of {steps} steps of "
        f"{1e3 * seconds / steps:.2f} ms under the profiler; "
        f"{len(events) / steps:.0f} kernels and copies a step; gaps above 10 us: {sum(long) / 1e3 / steps:.2f} ms in "
        f"{len(long) / steps:.1f} a step, shorter ones {short / 1e3 / steps:.2f} ms"
    )
    return [
        busy_line,
        *(f"  gap {length / 1e3:.3f} ms: {where}" for length, where in gaps[:LISTED]),
        *(
            f"  {time_ / 1e3 / steps:7.3f} ms in {calls[name] / steps:5.1f} calls a step: {name[:100]}"
            for name, time_ in of_name.most_common(LISTED)
        ),
    ]
