"""How worker processes are started and ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpo.supervision.launcher import launch, own_command, stop
from tests.support.waiting import limit

pytestmark = pytest.mark.unit


def test_each_worker_gets_its_gpu_its_name_and_its_threads():
    """Each worker sees its one GPU from its start, and has a name of its own."""
    program = "import os, sys; print(os.environ['CUDA_VISIBLE_DEVICES'], *sys.argv[1:])"
    launched = [launch([sys.executable, "-c", program], 3, gpu) for gpu in ("GPU-a", "GPU-b")]
    assert [worker.process.wait(timeout=limit(60)) for worker in launched] == [0, 0]
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
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    worker = launch([sys.executable, "-c", program], 1, None)
    while worker.printed() != "up":
        assert worker.process.poll() is None
    stop([worker])
    assert worker.process.poll() is None
    stop([worker], at_once=True)
    assert worker.process.wait(timeout=limit(10)) == -9
    worker.output.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has orphans that come to another than PID 1")
def test_orphans_are_reaped_and_ones_own_children_left():
    """A process whose parent has died is let go by the one that inherits it, which leaves its own children alone."""
    program = """
import ctypes, os, subprocess, sys
from hpo.supervision.launcher import reap_orphans
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
    subprocess.run([sys.executable, "-c", program], check=True, timeout=limit(60))


def test_a_script_of_ones_own_starts_itself():
    """Workers run the same program: `python -m hpo`, or the user's own script."""
    assert own_command(None) == [sys.executable, "-m", "hpo"]
    assert own_command("mine.py") == [sys.executable, "mine.py"]
