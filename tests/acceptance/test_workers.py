"""`hpo workers` and what it shares with `hpo search`: workers that die, databases that crash, signals."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from storage.embedded.server import data_folder, embedded_postgres
from tests.acceptance.test_search import status, write_study
from tests.support.faulty_hpo import HELD, Faults
from tests.support.faulty_study import STUDY as FAULTY_STUDY
from tests.support.hpo_process import HpoProcess
from tests.support.waiting import limit, wait_until

pytestmark = pytest.mark.acceptance

# An `hpo` of one's own, whose supervisor inherits orphans as PID 1 of a container does; it and its workers first do
# something else, and trainings are held as `faults` says.
OWN = """
import ctypes, os, signal, subprocess, sys, time
from pathlib import Path
from tests.support.faulty_hpo import Faults, main

def begin_worker():
    {worker}

if __name__ == "__main__":
    if sys.argv[1] == "workers":
        {supervisor}
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    if sys.argv[1] == "worker":
        begin_worker()
    main({faults})
"""


@pytest.fixture
def start(tmp_path):
    """A function that starts a program in the folder of the test; it is ended after the test if it still runs."""
    begun = []

    def start(*words, **variables):
        begun.append(HpoProcess(words, tmp_path, variables))
        return begun[-1]

    yield start
    for process in begun:
        if process.runs:
            process.send(signal.SIGKILL)
            process.end()


@pytest.fixture
def study(hpo, tmp_path, photos, database):
    """A function that makes a study for `own.py`, whose workers and supervisor begin with these lines of Python."""

    def make(worker="pass", supervisor="pass", **settings):
        held = write_own(tmp_path, worker, supervisor, **settings)
        done = hpo("init", "study.toml", program=("own.py",), HPO_STORAGE=database)
        assert done.returncode == 0, done.stderr
        return held

    return make


def write_own(folder, worker="pass", supervisor="pass", *, trials=4, hold_at_step=None):
    """Write `own.py` and a study file for it; returns the file that holds its trainings from this step on."""
    faults = Faults(hold_at_step=hold_at_step)
    (folder / "own.py").write_text(OWN.format(worker=worker, supervisor=supervisor, faults=faults))
    settings = {"name": "colours", "pruner": "none", "retries": 100, "epochs": 3, "batch_size": 8}
    (folder / "study.toml").write_text(FAULTY_STUDY.format(trials=trials, **settings))
    (folder / HELD).touch()
    return folder / HELD


def test_a_killed_worker_is_started_again_and_leaves_nothing_behind(tmp_path, study, start, database, hpo):
    """Kill -9 of a worker: its trial is run again, another worker comes in its stead, its orphan leaves no zombie."""
    # The orphan ends when its worker has ended, as that is who writes to it.
    orphan = "global orphan; orphan = subprocess.Popen(['cat'], stdin=subprocess.PIPE)"
    held = study(f"{orphan}; Path(f'{{os.getpid()}}.orphan').write_text(str(orphan.pid))", hold_at_step=4)
    workers = start("own.py", "workers", "study.toml", "--workers", "2", HPO_STORAGE=database)
    own = {"program": ("own.py",), "HPO_STORAGE": database}
    killed = wait_until(lambda: (now := status(hpo, **own)) and [w["pid"] for w in now["workers"] if w["epoch"]])[0]
    orphan = Path("/proc") / (tmp_path / f"{killed}.orphan").read_text()
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: not orphan.exists())
    wait_until(lambda: workers.printed.count("has started on the CPU") == 3)
    held.unlink()
    assert workers.end(180) == 0, workers.printed
    out = workers.printed
    assert f":{killed} has died: ended by signal 9 (Killed); it starts again in 1 s" in out
    assert out.count("has started on the CPU") == out.count("has ended") + 1 == 3
    assert "all workers have ended: 4 complete" in out
    now = status(hpo, **own)
    assert now["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "paused": 0}
    assert now["workers"] == []


def test_a_worker_that_always_dies_at_once_is_given_up(study, hpo, database):
    """After five deaths at once the command ends with one line that names the cause, and the traceback was shown."""
    study("raise RuntimeError('no luck')")
    done = hpo("workers", "study.toml", "--workers", 1, program=("own.py",), HPO_STORAGE=database)
    assert done.returncode == 1
    assert done.stderr == "hpo: workers: one died at once 5 times in a row: RuntimeError: no luck\n"
    assert done.stdout.count("has started") == done.stdout.count("in begin_worker") == 5
    assert "has died: RuntimeError: no luck; it starts again in 8 s" in done.stdout


def test_one_bad_gpu_costs_one_worker(study, hpo, database):
    """Each worker sees its own GPU; one that fails for a reason that stays is given up, and the other goes on."""
    study(
        "os.environ['CUDA_VISIBLE_DEVICES'] == 'GPU-bad' and sys.exit('hpo: data: no images here');"
        " os.environ['CUDA_VISIBLE_DEVICES'] = ''",
        supervisor="os.environ['CUDA_VISIBLE_DEVICES'] = 'GPU-good,GPU-bad'",
        trials=2,
    )
    done = hpo("workers", "study.toml", program=("own.py",), HPO_STORAGE=database)
    assert done.returncode == 0, done.stderr
    assert "is given up, 1 goes on: data: no images here" in done.stdout
    assert done.stdout.count("has started on GPU GPU-good") == done.stdout.count("has started on GPU GPU-bad") == 1
    assert "all workers have ended: 2 complete" in done.stdout


def test_a_worker_that_meets_no_database_tries_again(tmp_path, study, hpo, database):
    """A failure of the storage may pass: the worker is started again."""
    study(
        "Path('met').exists() or (Path('met').touch(), sys.exit('hpo: storage: the database stopped answering'))",
        trials=1,
    )
    done = hpo("workers", "study.toml", "--workers", 1, program=("own.py",), HPO_STORAGE=database)
    assert done.returncode == 0, done.stderr
    assert "has died: storage: the database stopped answering; it starts again in 1 s" in done.stdout


def test_sigterm_hands_all_trials_back(study, start, database, hpo):
    """SIGTERM ends all workers, with their trials in the queue, within 20 seconds; none is started again."""
    held, own = study(hold_at_step=4), {"program": ("own.py",), "HPO_STORAGE": database}
    workers = start("own.py", "workers", "study.toml", "--workers", "2", HPO_STORAGE=database)
    wait_until(lambda: (now := status(hpo, **own)) and sum(bool(w["epoch"]) for w in now["workers"]) == 2)
    begun = time.monotonic()
    workers.send(signal.SIGTERM)
    wait_until(lambda: "stopping: " in workers.printed)
    held.unlink()
    assert workers.end() == 143, workers.printed
    assert time.monotonic() - begun < limit(20)
    out = workers.printed
    assert out.count("has started") == out.count("has ended") == 2
    assert "stopped: 0 trials are done, 2 went back to the queue" in out
    now = status(hpo, **own)
    assert (now["trials"]["waiting"], now["trials"]["running"], now["workers"]) == (2, 0, [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_workers(tmp_path, study, start, database, number, code):
    """A terminal that goes away, and Ctrl-C, end the workers, too."""
    study("Path('up').touch(); time.sleep(600)")
    workers = start("own.py", "workers", "study.toml", "--workers", "1", HPO_STORAGE=database)
    wait_until((tmp_path / "up").exists)
    workers.send(number)
    assert workers.end(20) == code, workers.printed
    out = workers.printed
    assert out.count("has started") == out.count("has ended") == 1


def test_a_frozen_database_keeps_no_signal_from_the_workers(tmp_path, photos, start, hpo):
    """SIGTERM reaches the workers at once, and ends the command, while the database neither answers nor refuses."""
    write_own(tmp_path, "Path('up').touch(); time.sleep(600)")
    with embedded_postgres(tmp_path / "server") as url:
        assert hpo("init", "study.toml", program=("own.py",), HPO_STORAGE=url).returncode == 0
        workers = start("own.py", "workers", "study.toml", "--workers", "1", HPO_STORAGE=url)
        wait_until((tmp_path / "up").exists)
        server = int((data_folder(tmp_path / "server") / "data" / "postmaster.pid").read_text().split()[0])
        backends = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
        frozen = [server, *backends]
        for process in frozen:
            os.kill(process, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            workers.send(signal.SIGTERM)
            code = workers.end(60)
            seconds = time.monotonic() - begun
        finally:
            for process in frozen:
                os.kill(process, signal.SIGCONT)
    out = workers.printed
    assert code == 143, out
    assert "the database does not say how the search stands; the same command resumes" in out
    assert seconds < limit(15)


def test_a_second_interrupt_ends_workers_that_do_not_end(tmp_path, study, start, database):
    """Ctrl-C asks, Ctrl-C again kills; a terminal that goes away ends nothing under nohup."""
    study(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); Path('deaf').touch(); time.sleep(600)",
        supervisor="signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    )
    workers = start("own.py", "workers", "study.toml", "--workers", "1", HPO_STORAGE=database)
    wait_until((tmp_path / "deaf").exists)
    workers.send(signal.SIGHUP)
    workers.send(signal.SIGINT)
    wait_until(lambda: "stopping: " in workers.printed)
    assert "has started" in workers.printed
    assert workers.runs
    workers.send(signal.SIGINT)
    assert workers.end(20) == 130, workers.printed
    assert "stopped: 0 trials are done" in workers.printed


def test_what_cannot_work_is_refused_at_once(tmp_path, study, hpo, database):
    """No such study, other settings, no place for files: told once, exit code 1 and no second start."""
    write_study(tmp_path)
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    file = tmp_path / "study.toml"
    known = file.read_text()
    file.write_text(known.replace('name = "colours"', 'name = "unknown"'))
    unknown = hpo("workers", "study.toml", "--workers", 2, HPO_STORAGE=database)
    file.write_text(known.replace("batch_size = 8", "batch_size = 4"))
    changed = hpo("workers", "study.toml", "--workers", 2, HPO_STORAGE=database)
    homeless = hpo("workers", "study.toml", HPO_STORAGE=database, HPO_ARTIFACTS="/dev/null/artifacts")
    shared = hpo("workers", "study.toml", "--per-gpu", 2, HPO_STORAGE=database, CUDA_VISIBLE_DEVICES="")
    for done, said in (
        (unknown, '"unknown" is not in this storage'),
        (changed, "recipe.batch_size was 8, is now 4"),
        (homeless, "artifacts: /dev/null/artifacts"),
        (shared, "--per-gpu needs a GPU"),
    ):
        assert done.returncode == 1
        assert done.stderr.count(said) == 1
        assert done.stderr.count("hpo: ") == 1
        assert "starts again" not in done.stdout


def test_a_search_outlives_the_crash_of_its_embedded_postgres(tmp_path, photos, start, hpo):
    """After kill -9 of the private Postgres in the middle of a search it is started again, and the budget is exact."""
    held, own = write_own(tmp_path, hold_at_step=4), {"program": ("own.py",)}
    search = start("own.py", "search", "study.toml", "--workers", "2", HPO_STORAGE="")
    wait_until(lambda: (now := status(hpo, **own)) and any(w["epoch"] for w in now["workers"]))
    pid_file = data_folder(tmp_path / ".hpo") / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    held.unlink()
    assert search.end(180) == 0, search.printed
    out = search.printed
    assert "the database answers again" in out
    now = status(hpo, **own)
    assert now["trials"] == {"complete": 4, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "paused": 0}
    assert now["budget"]["used"]["trials"] == 4


def test_a_finished_search_starts_no_worker(study, hpo, database):
    """Workers of a search at its end are not started at all."""
    study(trials=1)
    own = {"program": ("own.py",), "HPO_STORAGE": database}
    assert hpo("worker", "study.toml", **own).returncode == 0
    done = hpo("workers", "study.toml", "--workers", 2, **own)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the budget is used up: no worker was started\nall workers have ended: 1 complete\n"
