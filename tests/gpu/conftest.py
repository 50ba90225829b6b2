"""What the tests of the GPU share: the device, the images, and the numbers that they measure.

Where torch sees no CUDA device they are all skipped; with HPO_GPU_TESTS=rehearse the CPU takes the GPU's place, as far
as it can, with small sizes.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from itertools import chain

import numpy as np
import pytest
from PIL import Image

REHEARSAL = os.environ.get("HPO_GPU_TESTS") == "rehearse"
NO_GPU = "no GPU: torch sees no CUDA device (HPO_GPU_TESTS=rehearse runs what can run on a CPU)"


LONGEST = ("test_search.py", "test_compile.py", "test_checkpoint.py")  # begin first, where processes share the tests


def pytest_collection_modifyitems(items):
    """Let a library's warning be no error here, since each card and driver has its own; let the longest come first."""
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.filterwarnings("default"))
    if all(item.get_closest_marker("gpu") for item in items):
        items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_terminal_summary(terminalreporter):
    """Print what was measured, on which card, with which torch and when."""
    reports = [terminalreporter.stats.get(outcome, []) for outcome in ("passed", "failed", "skipped")]
    measured = [item for report in chain(*reports) if report.when == "call" for item in report.user_properties]
    if measured:
        import torch  # here it is imported already

        from trainer.device import device_name

        card = device_name(torch.device("cpu" if REHEARSAL else "cuda"))
        terminalreporter.section(f"measured on {card}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}")
        for name, value in measured:
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session", autouse=True)
def device():
    """The GPU, or the CPU in a rehearsal."""
    import torch  # not above: `make test` collects these tests also where they are skipped

    if REHEARSAL:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip(NO_GPU)
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def one_thread(device):
    """One thread of torch: the CPU's part is small, and several threads for it would wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@contextmanager
def float32():
    """Trainings in float32 whatever the device; matrix products are without TF32 by torch's default."""
    import torch

    with pytest.MonkeyPatch.context() as patch:
        for module in ("step", "validation"):
            patch.setattr(f"trainer.{module}.autocast", lambda _: nullcontext())
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


@pytest.fixture
def gpu(device):
    """The GPU; a rehearsal has none."""
    if device.type != "cuda":
        pytest.skip("a CPU has nothing of this: it needs a GPU")
    return device


@pytest.fixture
def record(record_property):
    """A function that notes a measured number, as `name: value` at the end of the run; with `pytest -s` at once too."""

    def note(name, value):
        text = f"{value:.3g}" if isinstance(value, float) else str(value)
        record_property(name, text)
        print(f"measured {name}: {text}", flush=True)

    return note


@pytest.fixture(scope="session")
def folder(device, tmp_path_factory):
    """Noisy images of 32 pixels, one folder a class: 80, 48 and 32 of them."""
    root, random = tmp_path_factory.mktemp("noise"), np.random.default_rng(1)
    for channel, (name, count) in enumerate({"red": 80, "green": 48, "blue": 32}.items()):
        (root / name).mkdir()
        for number in range(count):
            noisy = random.normal(110, 45, (32, 32, 3))
            noisy[..., channel] += 25
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def noise(folder, tmp_path_factory):
    """Those images: 128 to train, 32 to validate, none to test."""
    from trainer.data import load_data
    from trainer.images.cache import PixelCache

    return load_data(folder, valid=0.2, test=0.0, cache=PixelCache(tmp_path_factory.mktemp("cache")))
