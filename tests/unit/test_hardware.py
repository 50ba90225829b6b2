"""Which GPUs and CPU cores of a machine may be used."""

from __future__ import annotations

import pytest

from hpo import hardware
from hpo.errors import HpoError
from hpo.hardware import visible_gpus

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [
        ("0,2", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,0", ["1"]),
        ("GPU-1a, MIG-2b", ["GPU-1a", "MIG-2b"]),
    ],
)
def test_a_given_subset_of_gpus_is_respected(chosen, gpus):
    """CUDA_VISIBLE_DEVICES decides, where it is set, up to what names no GPU: by number, UUID or MIG slice."""
    assert visible_gpus(chosen) == gpus


def test_gpus_are_listed_by_the_driver(tmp_path, monkeypatch):
    """Where nothing is chosen, the GPUs are those of the driver, cut-up ones by MIG slice; none without one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus(None) == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\n"
        "echo 'GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)'\n"
        "echo '  MIG 3g.20gb     Device  0: (UUID: MIG-0b1c)'\n"
        "echo '  MIG 1g.5gb      Device  1: (UUID: MIG-c5d2)'\n"
        "echo 'GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-9a7e)'\n"
    )
    tool.chmod(0o755)
    assert visible_gpus(None) == ["MIG-0b1c", "MIG-c5d2", "1"]


def test_a_driver_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    """A driver that hangs holds nobody up for more than ten seconds, and is not taken for a machine without GPUs."""
    assert hardware.LIST_SECONDS == 10
    monkeypatch.setattr(hardware, "LIST_SECONDS", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    with pytest.raises(HpoError, match="nvidia-smi has not listed them"):
        visible_gpus(None)


@pytest.mark.parametrize(("limit", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 3), (None, 3)])
def test_the_limit_of_a_container_bounds_the_cores(tmp_path, monkeypatch, limit, cores):
    """A container that may use one and a half of a machine's three cores has two; without a limit it has three."""
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(hardware, "CONTROL_GROUP", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert hardware.cores() == cores
