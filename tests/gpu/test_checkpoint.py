"""A training that was interrupted on the GPU goes on in a new process."""

import os
import subprocess
import sys
import time
from itertools import combinations

import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.gpu.interrupted import BACKBONES
from tests.support.waiting import limit

pytestmark = pytest.mark.gpu


def trained_in(folders, images, device, *options):
    """Run the program at once for each of the folders; returns the seconds until all have ended."""
    started, processes = time.perf_counter(), []
    for kind, folder in folders.items():
        mode = ["--deterministic"] if kind == "deterministic" else []
        command = [sys.executable, "-m", "tests.gpu.interrupted", images, folder, device.type, *mode, *options]
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if mode else dict(os.environ)
        to_read = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, **to_read))
    for process in processes:
        output, _ = process.communicate(timeout=limit(300))
        assert process.returncode == 0, output
    return time.perf_counter() - started


@pytest.fixture(scope="module")
def trainings(device, folder, tmp_path_factory):
    """Folders with the ends of trainings, of both kinds: the first, second, third, and the resumed first one."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("plain", "deterministic")}
    for options in ((), ("--resume",)):
        print(f"processes with {options}: {trained_in(folders, folder, device, *options):.1f} s")
    return folders


def apart(one, other):
    """The largest difference of any weight, and the difference of the macro-F1."""
    assert one.keys() == other.keys()
    weights = [name for name in one if name not in ("macro_f1", "probabilities") and one[name].is_floating_point()]
    largest = max((one[name] - other[name]).abs().max().item() for name in weights)
    return largest, abs(one["macro_f1"] - other["macro_f1"]).item()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_resumed_training_ends_as_near_as_another_one(backbone, trainings, record):
    """A training that goes on from a checkpoint ends no further from another than three times what such two differ.

    Without deterministic algorithms sums on a GPU may come out in any order, so two trainings of one recipe differ,
    interrupted or not; where three uninterrupted ones agree bit for bit, so does the resumed one.
    """
    ends = {
        name: load_file(trainings["plain"] / f"{backbone}-{name}.safetensors")
        for name in ("first", "second", "third", "resumed")
    }
    whole = [apart(ends[one], ends[other]) for one, other in combinations(("first", "second", "third"), 2)]
    resumed = [apart(ends["resumed"], ends[name]) for name in ("first", "second", "third")]
    (usual, usual_f1), (nearest, nearest_f1) = max(whole), min(resumed)
    record(
        f"{backbone}, ends of trainings",
        f"three whole ones up to {usual:.1e} apart (macro-F1 {usual_f1:.3f}), the resumed one {nearest:.1e} from the "
        f"nearest of them (macro-F1 {nearest_f1:.3f}); macro-F1 {ends['first']['macro_f1']:.3f}",
    )
    assert nearest <= 3 * usual, (whole, resumed)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_with_deterministic_algorithms_bit_for_bit(backbone, trainings, record):
    """With torch's deterministic algorithms a resumed training ends bit for bit as one that was not interrupted.

    Where an operation of the backbone has no deterministic algorithm, torch refuses, and nothing is promised.
    """
    refused = trainings["deterministic"] / f"{backbone}-refused.txt"
    if refused.exists():
        record(f"{backbone}, deterministic", refused.read_text())
        pytest.skip(f"torch has no deterministic algorithm: {refused.read_text()}")
    first, *others = (
        load_file(trainings["deterministic"] / f"{backbone}-{name}.safetensors")
        for name in ("first", "second", "third", "resumed")
    )
    differences = [apart(first, other)[0] for other in others]
    record(f"{backbone}, deterministic, the first from the second, third and resumed one", differences)
    assert all(first[name].equal(other[name]) for other in others for name in first), differences
