"""Which GPUs there are, and how worker processes are started."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpo.errors import HpoError
from hpo.search import launcher
from hpo.search.launcher import launch, own_command, stop, visible_gpus

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
    assert launcher.LIST_SECONDS == 10
    monkeypatch.setattr(launcher, "LIST_SECONDS", 0.2)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 60\n")
    tool.chmod(0o755)
    with pytest.raises(HpoError, match="nvidia-smi has not listed them"):
        visible_gpus(None)


def test_each_worker_gets_its_gpu_its_name_and_its_threads():
    """Each worker sees its one GPU from its start, and has a name of its own."""
    program = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:])"
    launched = [launch([sys.executable, "-c", program], 3, gpu) for gpu in ("GPU-a", "GPU-b")]
    assert [worker.process.wait(timeout=60) for worker in launched] == [0, 0]
    words = [worker.printed().split() for worker in launched]
    for worker in launched:
        worker.output.close()
    assert [word[0] for word in words] == [worker.gpu for worker in launched] == ["GPU-a", "GPU-b"]
    assert [word[2] for word in words] == [worker.name for worker in launched]
    assert len({worker.name for worker in launched}) == 2
    assert [word[4] for word in words] == ["3", "3"]


def test_stopping_ends_workers_that_would_not_end():
    """Workers that do not listen to SIGTERM are ended all the same."""
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    worker = launch([sys.executable, "-c", program], 1, None)
    while worker.printed() != "up":
        assert worker.process.poll() is None
    stop([worker])
    assert worker.process.poll() is None
    stop([worker], at_once=True)
    assert worker.process.wait(timeout=10) == -9
    worker.output.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has orphans that come to another than PID 1")
def test_orphans_are_reaped_and_ones_own_children_left():
    """A process whose parent has died is let go by the one that inherits it, which leaves its own children alone."""
    program = """
import ctypes, os, subprocess, sys
from hpo.search.launcher import reap_orphans
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
shell = ["sh", "-c", "exec 3<&0; cat <&3 & echo $!"]
child = subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
orphan = int(child.stdout.readline())
os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
child.stdin.close()
os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
reap_orphans([child.pid])  # the child may be looked at first, and then stands before the orphan
assert child.wait() == 0
reap_orphans([])
assert not os.path.exists(f"/proc/{orphan}")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(("limit", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 3), (None, 3)])
def test_the_limit_of_a_container_bounds_the_cores(tmp_path, monkeypatch, limit, cores):
    """A container that may use one and a half of a machine's three cores has two; without a limit it has three."""
    monkeypatch.setattr(launcher.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(launcher, "CONTROL_GROUP", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert launcher.cores() == cores


def test_a_script_of_ones_own_starts_itself():
    """Workers run the same program: `python -m hpo`, or the user's own script."""
    assert own_command(None) == [sys.executable, "-m", "hpo"]
    assert own_command("mine.py") == [sys.executable, "mine.py"]
