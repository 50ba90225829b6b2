"""What a GPU gives: training speed against the bare model, timm and the card's roof, and what a search adds.

    python benchmarks/gpu.py [FOLDER] [--budget SECONDS] [--output FILE] [--only PART …] [--rehearse]

FOLDER has one folder a class; without it made-up JPEGs of 256 px are the images, enough for an epoch of 10,000. Each
part runs in a process of its own, the most important ones first, so that one that fails or hangs takes no other along;
a part for which the time is not enough is left out. `--rehearse` goes through all of it in tiny sizes, on a CPU, too.

`fit`, `limit` and `timm` are those of throughput.py. The limit does the same work on the device as fit: normalisation
of uint8 images, forward and backward pass in bfloat16 and channels last, the fused update. It has no copies of batches,
no seeding of each step, no schedule, no sum of the losses and no look at them.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gpu_parts import GRACE_SECONDS, HERE, Bench, Sizes, card, memory, model, search, sharing, timm
from PIL import Image

from trainer.device import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES = 10  # of the images that are made up

FULL = Sizes(
    goals={"resnet50": 0.95, "convnext_tiny": 0.95, "efficientnet_b0": 0.90, "vit_small_patch16_224": 0.95},
    image_size=224,
    batch_size=128,
    images=12_000,
    image_side=256,
    seconds=1.2,
    turns=3,
    shared=("resnet18", "mobilenetv3_small_100"),
    shared_size=128,
    shared_batch=64,
    together=(1, 2, 4),
    epochs=12,
    trials=2,
    matmul=8192,
    copied_bytes=1 << 30,
    memory_trials=20,
)
REHEARSAL = Sizes(
    goals={"test_resnet": 0.95, "test_vit": 0.95},
    image_size=32,
    batch_size=8,
    images=300,
    image_side=40,
    seconds=0.2,
    turns=2,
    shared=("test_resnet",),
    shared_size=32,
    shared_batch=8,
    together=(1, 2),
    epochs=2,
    trials=2,
    matmul=256,
    copied_bytes=1 << 24,
    memory_trials=10,
)


def parts_of(sizes: Sizes) -> dict[str, tuple[Callable[[Bench], None], float]]:
    """The parts in the order of their importance, with the seconds that each needs at least."""
    models = {name: (partial(model, backbone=name), 25) for name in sizes.goals}
    shared = {f"{name}-shared": (partial(sharing, backbone=name), 25) for name in sizes.shared}
    first, *others = sizes.goals
    order = {
        "card": (card, 15),
        first: models[first],
        "timm": (partial(timm, backbone=first), 25),
        "search": (search, 50),
        **{name: models[name] for name in others[:2]},
        **dict([next(iter(shared.items()))]),
    }
    return {**order, **models, **shared, "memory": (memory, 20)}


def make_images(folder: Path, sizes: Sizes) -> None:
    """Write JPEGs of smooth random colours, around a colour and a corner that are those of their class."""

    def write(number: int) -> None:
        random = np.random.default_rng(number)
        label = number % CLASSES
        coarse = random.integers(0, 256, (8, 8, 3)) // 2 + 64
        coarse[label % 4, label // 4] = 25 * label
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((sizes.image_side,) * 2, Image.Resampling.BICUBIC)
        picture.save(folder / str(label) / f"{number:05}.jpg", quality=85)

    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(sizes.images)))


def run_part(bench: Bench, arguments: list[str], seconds: float) -> None:
    """Run a part in a process of its own for at most so long; what goes wrong is told."""
    began = time.monotonic()
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        *arguments,
        "--part",
        bench.part,
        "--work",
        str(bench.work),
    ]
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(command, start_new_session=True, env={**os.environ, "PYTHONPATH": path})
    try:
        code = process.wait(seconds)
        ending = f"FAILED with exit code {code} after" if code else "took"
    except subprocess.TimeoutExpired:
        ending = "STOPPED after"
    finally:
        _end_group(process)
    bench.tell(f"{ending} {time.monotonic() - began:.0f} s")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part that still runs, with all that it has started."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, end)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


def main() -> None:
    """Run the parts, or the one that is asked for by ourselves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path, nargs="?")
    parser.add_argument("--budget", type=float, metavar="SECONDS", default=340.0, help="for all parts together")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="add each result to this file, a JSON object a line"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="card, memory, search, timm or a backbone")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU, too")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = REHEARSAL if options.rehearse else FULL
    parts = parts_of(sizes)
    if options.part:
        images = options.folder or options.work / "images"
        parts[options.part][0](Bench(options.part, sizes, images, options.work, options.output))
        return
    if unknown := set(options.only or ()) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    if choose_device().type != "cuda" and not options.rehearse:
        parser.error("there is no GPU: torch sees no CUDA device; --rehearse runs tiny sizes on a CPU")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        work = Path(temporary)
        bench = Bench("images", sizes, options.folder or work / "images", work, options.output)
        arguments = [str(options.folder.resolve())] if options.folder else []
        arguments += ["--output", str(options.output.resolve())] if options.output else []
        arguments += ["--rehearse"] if options.rehearse else []
        if not options.folder:
            make_images(bench.images, sizes)
            bench.tell(f"{sizes.images:,} of {sizes.image_side} px written in {time.monotonic() - began:.1f} s")
        for name in options.only or parts:
            _, least = parts[name]
            left = began + options.budget - time.monotonic()
            if left < (1 if options.rehearse else least):
                replace(bench, part=name).tell(f"left out: it needs {least:.0f} s, and {left:.0f} s are left")
            else:
                run_part(replace(bench, part=name), arguments, left)
        bench.tell(f"all parts done after {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
