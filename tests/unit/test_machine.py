"""What a machine lacks for a search is told before it begins."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch

from hpo.check.machine import check_disk, check_gpus, check_memory

pytestmark = pytest.mark.unit


@pytest.fixture
def cuda(monkeypatch):
    """A function that lets torch see GPUs with these bytes (free, total)."""

    def see(*memory):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(memory))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(memory))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: memory[number])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU of a test")

    return see


def test_a_machine_without_gpu_is_a_warning(cuda):
    """Without a GPU the search trains on the CPU, which is a warning; so is a GPU that torch cannot use."""
    cuda()
    finding = check_gpus([])
    assert (finding.level, "trains on the CPU" in finding.message) == ("warning", True)
    finding = check_gpus(["0", "1"])
    assert (finding.level, "cannot use the 2 GPUs" in finding.message) == ("warning", True)


def test_gpus_are_listed_with_their_free_memory(cuda):
    """Each GPU is named with its free memory; one that others use is a warning."""
    cuda((79e9, 80e9), (78e9, 80e9))
    finding = check_gpus(["0", "1"])
    assert finding.level == "ok"
    assert finding.cases[1].note == "GPU 1: GPU of a test, 78 GB of 80 GB free"
    cuda((79e9, 80e9), (20e9, 80e9))
    finding = check_gpus(["0", "1"])
    assert (finding.level, "on 1 others hold more than 20%" in finding.message) == ("warning", True)


def test_pixels_that_do_not_fit(tmp_path, monkeypatch):
    """No room on the disk is an error, in a folder that need not exist; more than half of the memory is a warning."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    assert check_disk(tmp_path / ".hpo", 10**9).level == "ok"
    finding = check_disk(tmp_path / "new" / ".hpo", 10**9 + 1)
    assert finding.level == "error"
    assert f"in {str(tmp_path)!r}, where 1 GB are free" in finding.message
    assert not (tmp_path / "new").exists()
    assert check_memory(1000).level == "ok"
    assert check_memory(10**15).level == "warning"
