"""Which GPUs there are, and how worker processes are started."""

from __future__ import annotations

import sys

import pytest

from hpo.launcher import launch, own_command, stop, visible_gpus

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-1a, MIG-2b", ["GPU-1a", "MIG-2b"])],
)
def test_a_given_subset_of_gpus_is_respected(chosen, gpus):
    """CUDA_VISIBLE_DEVICES decides, where it is set, and may name GPUs by number, UUID or MIG slice."""
    assert visible_gpus(chosen) == gpus


def test_gpus_are_counted_by_the_driver(tmp_path, monkeypatch):
    """Where nothing is chosen, there are as many GPUs as the driver lists; none without a driver."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus(None) == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one'\necho '  MIG 1g.10gb Device 0: x'\necho 'GPU 1: two'\n")
    tool.chmod(0o755)
    assert visible_gpus(None) == ["0", "1"]


def test_each_worker_gets_its_gpu_its_name_and_its_threads():
    """Each worker sees one GPU from its start, in turn where there are more workers, and has a name of its own."""
    program = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:])"
    launched = launch([sys.executable, "-c", program], 3, ["GPU-a", "GPU-b"])
    assert [worker.process.wait(timeout=60) for worker in launched] == [0, 0, 0]
    words = [worker.printed().split() for worker in launched]
    for worker in launched:
        worker.output.close()
    assert [word[0] for word in words] == ["GPU-a", "GPU-b", "GPU-a"]
    assert [word[2] for word in words] == [worker.name for worker in launched]
    assert len({worker.name for worker in launched}) == 3
    assert all(int(word[4]) >= 1 for word in words)


def test_stopping_ends_workers_that_would_not_end():
    """Workers that do not listen to SIGTERM are ended all the same."""
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    [worker] = launch([sys.executable, "-c", program], 1, [])
    while worker.printed() != "up":
        assert worker.process.poll() is None
    stop([worker])
    assert worker.process.poll() is None
    stop([worker], at_once=True)
    assert worker.process.wait(timeout=10) == -9
    worker.output.close()


def test_a_script_of_ones_own_starts_itself():
    """Workers run the same program: `python -m hpo`, or the user's own script."""
    assert own_command(None) == [sys.executable, "-m", "hpo"]
    assert own_command("mine.py") == [sys.executable, "mine.py"]
