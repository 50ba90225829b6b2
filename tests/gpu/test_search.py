"""`hpo search` with two workers on one GPU: from the images to predictions, through a kill and through a CUDA error."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from hpo.demo import write_demo
from hpo.study.open_study import create_study, load_study, storage_url
from hpo.study.study_file import read_study_file
from storage.keys import REPEATS_KEY, RESUMED_KEY
from tests.acceptance.test_search import write_study
from tests.conftest import STORAGE_VARIABLES
from tests.gpu.conftest import REHEARSAL
from tests.support.tally import count
from tests.support.waiting import limit, wait_until
from trainer.device import device_name
from trainer.extensions import Extensions

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

TRIALS, EPOCHS = (4, 3) if REHEARSAL else (6, 4)  # of the search of digits
TRIALS_OF_FAULTS = 4  # of the searches in which a worker ends before its time
AGAIN_ONCE = ({"complete": TRIALS_OF_FAULTS}, TRIALS_OF_FAULTS + 1, 1)  # states, runs, those that went on
SECONDS = 120  # that one command may take on a machine that does nothing else
MOST_APART = 0.05  # a GPU's probability in bfloat16 from a CPU's in float32, which keeps 16 bits more
SAME_CLASS = 0.99  # of the images, at least: those of other classes lie on a border

# An `hpo` of one's own with a loss that, in one step of one process, meets labels that are no classes: on a GPU that is
# found by a kernel, whose error ends all work of the process there.
OWN = """
import itertools
import os

import torch

from hpo.cli import main
from trainer.extensions import Extensions

STEP = 10
steps = itertools.count(1)


def is_first():
    try:
        file = os.open("broken", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(file, str(os.getpid()).encode())
    os.close(file)
    return True


def breaking(logits, labels):
    if next(steps) == STEP and is_first():
        if not logits.is_cuda:
            raise RuntimeError("CUDA error: device-side assert triggered")
        labels = labels + logits.shape[1]
    return torch.nn.functional.cross_entropy(logits, labels)


if __name__ == "__main__":
    main(parts=Extensions(losses={"breaking": breaking}))
"""


@contextmanager
def started(folder, *arguments, program=("-m", "hpo"), **options):
    """A command that runs, and is ended with the block if it still does; all that it prints is one text."""
    with subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def two_workers():
    """The options for two workers on the GPU, or in a rehearsal on the CPU."""
    return ("--workers", "2") if REHEARSAL else ("--per-gpu", "2")


def environment(**variables):
    """That of a command: it has no storage but its own, and sees the GPU unless this is a rehearsal."""
    given = {name: value for name, value in os.environ.items() if name not in STORAGE_VARIABLES}
    if REHEARSAL:
        given["CUDA_VISIBLE_DEVICES"] = ""
    elif not shutil.which("nvidia-smi"):  # which lists the GPUs where they are not named
        given.setdefault("CUDA_VISIBLE_DEVICES", "0")
    return {**given, **variables}


def end(process):
    """Wait for the end of a command that has to end well; returns all that it has printed."""
    try:
        printed, _ = process.communicate(timeout=limit(SECONDS))
    except subprocess.TimeoutExpired:
        process.terminate()
        printed, _ = process.communicate(timeout=limit(60))
        pytest.fail(f"{process.args} was not done within {limit(SECONDS)} s: {printed[-6000:]}")
    assert process.returncode == 0, f"{process.args} ended with {process.returncode}: {printed[-6000:]}"
    return printed


@contextmanager
def studied(path, extensions=None):
    """A study, made where it is not there yet, in its embedded Postgres, which runs as long as the block."""
    file = read_study_file(path, extensions)
    with storage_url(file, None) as url:
        create_study(file, url, file.data.load(file.folder / "pixels"))
        opened = load_study(file, url)
        try:
            yield file, url, opened
        finally:
            opened.storage.engine.dispose()


def seen(opened):
    """The places of the budget and the workers at this moment."""
    state = opened.rows.read()
    return state.places, state.workers


def probabilities_in(predictions):
    """The class of each image and the probabilities of all classes in a CSV of predictions, by path."""
    with predictions.open() as file:
        rows = list(csv.reader(file))[1:]
    return {path: (predicted, np.array(shares, float)) for path, _, predicted, _, *shares in rows}


def test_a_search_with_two_workers_on_one_gpu_ends_with_a_bundle_that_predicts(tmp_path, device, record):
    """Two workers share a GPU and spend exactly the budget; the winner predicts there as it does on a CPU."""
    study = write_demo(tmp_path / "demo", trials=TRIALS, epochs=EPOCHS, repeats=None)
    study.write_text(study.read_text().replace("[study]", '[study]\npruner = "none"'))
    begun = time.monotonic()
    with started(tmp_path, "search", str(study), *two_workers(), env=environment()) as search:
        printed = end(search)
    record("search: seconds", time.monotonic() - begun)

    with studied(study) as (file, url, opened):
        tally, (rows, worker_rows) = count(file, url), seen(opened)
        devices = {trial.user_attrs["device"] for trial in opened.study.get_trials()}
    assert tally.problems == (), f"{tally}\n{printed}"
    assert sum(tally.states.values()) == len(rows) == tally.runs == TRIALS, f"{tally}\n{printed}"
    assert tally.failures == (), f"{tally}\n{printed}"
    trained = {row.worker for row in rows}
    assert trained == {worker.id for worker in worker_rows}, f"{rows}\n{worker_rows}"
    assert len(trained) == 2, f"{rows}\n{worker_rows}"
    assert devices == {worker.device for worker in worker_rows} == {device_name(device)}
    shares = re.search(r"^time: .* of all workers' time: (.*(?:\n.*)?%)$", printed, re.MULTILINE)
    assert shares, printed
    shares = {name: float(share) for name, share in re.findall(r"(\w[^,%]*?)\s+([\d.]+)\s%", shares[1])}
    assert sum(shares.values()) == pytest.approx(100, abs=0.5), printed
    record("search: % of the workers' time", ", ".join(f"{name} {share}" for name, share in shares.items()))
    record("search: first steps and turnover", re.search(r"on average a trial's first step .*", printed)[0])

    begun = time.monotonic()
    with started(tmp_path, "export-best", str(study), "-o", "bundle", env=environment()) as export:
        printed = end(export)
    record("export-best: seconds", time.monotonic() - begun)
    record("export-best: the winner", re.search(r"test macro-F1 .*", printed)[0])

    arguments = ("predict", "bundle", "bundle/test.csv", "-o")
    with (
        started(tmp_path, *arguments, "here.csv", env=environment()) as here,
        started(tmp_path, *arguments, "cpu.csv", env=environment(CUDA_VISIBLE_DEVICES="")) as on_cpu,
    ):
        accuracy = float(re.search(r"accuracy ([\d.]+)", end(here))[1])
        end(on_cpu)
    predicted, expected = (probabilities_in(tmp_path / name) for name in ("here.csv", "cpu.csv"))
    assert predicted.keys() == expected.keys()
    apart = np.array([np.abs(predicted[path][1] - expected[path][1]).max() for path in expected])
    same = np.mean([predicted[path][0] == expected[path][0] for path in expected])
    record("predict: probabilities apart from a CPU's, most", float(apart.max()))
    record("predict: probabilities apart from a CPU's, mean of each image's most", float(apart.mean()))
    record("predict: share of images with the CPU's class", float(same))
    assert accuracy > 0.7, printed
    assert apart.max() <= MOST_APART, np.sort(apart)[-20:]
    assert same >= SAME_CLASS, f"{same} of {len(expected)}"


def test_a_killed_worker_of_two_on_one_gpu_costs_no_trial(tmp_path, photos, record):
    """After kill -9 of one of two workers on a GPU the other goes on, and the first one's trial from its checkpoint."""
    study = write_study(tmp_path, trials=TRIALS_OF_FAULTS, epochs=60)
    with (
        studied(study) as (file, url, opened),
        started(tmp_path, "search", str(study), *two_workers(), env=environment()) as search,
    ):

        def both_train():
            running = [row for row in seen(opened)[0] if row.state == "running"]
            assert search.poll() is None, f"it has ended: {search.communicate()[0][-6000:]}"
            return sorted(running, key=lambda row: row.epoch) if len(running) == 2 and running[1].epoch >= 2 else None

        other, victim = wait_until(both_train, SECONDS)
        pids = {worker.id: worker.pid for worker in seen(opened)[1]}
        os.kill(pids[victim.worker], signal.SIGKILL)
        killed = time.monotonic()

        def goes_on():
            row = seen(opened)[0][victim.number]
            return row.trial != victim.trial and row.epoch and time.monotonic() - killed

        record("kill -9: seconds until the trial goes on", wait_until(goes_on, SECONDS))
        printed = end(search)
        record("kill -9: seconds until the end of the search", time.monotonic() - killed)
        tally, (rows, _), trials = count(file, url), seen(opened), opened.study.get_trials()
    assert f":{pids[victim.worker]} has died: ended by signal 9 (Killed); it starts again in 1 s" in printed
    assert printed.count("has died") == 1, printed
    assert tally.problems == (), f"{tally}\n{printed}"
    assert (tally.states, tally.runs, tally.resumed) == AGAIN_ONCE, f"{tally}\n{printed}"
    assert rows[other.number].worker == other.worker
    assert rows[other.number].trial == other.trial
    assert rows[victim.number].worker != victim.worker
    again = trials[rows[victim.number].trial]
    assert again.user_attrs[REPEATS_KEY] == victim.trial
    record("kill -9: epochs that were not lost", again.user_attrs[RESUMED_KEY])


def test_a_cuda_error_ends_its_worker_alone_and_the_trial_goes_on(tmp_path, photos, record):
    """A device-side assert ends the worker that met it and no other; its trial goes on elsewhere, from a checkpoint."""
    (tmp_path / "own.py").write_text(OWN)
    study = write_study(tmp_path, trials=TRIALS_OF_FAULTS, epochs=30, more='loss = "breaking"\nmixing = "none"')
    begun = time.monotonic()
    with studied(study, Extensions(losses={"breaking": lambda *_: None})) as (file, url, opened):
        search = ("search", str(study), *two_workers())
        with started(tmp_path, *search, program=("own.py",), env=environment()) as process:
            printed = end(process)
        record("CUDA error: seconds of the search", time.monotonic() - begun)
        tally, (rows, worker_rows), trials = count(file, url), seen(opened), opened.study.get_trials()
        again = next((trial for trial in trials if REPEATS_KEY in trial.user_attrs), None)
        assert again, f"no trial was run again: {tally}\n{printed}"
        log = [line for _, line in opened.rows.log(again.user_attrs[REPEATS_KEY])]
    broken = int((tmp_path / "broken").read_text())
    deaths = re.findall(r"^worker \S+:(\d+) has died: (.*(?:\n.*)?); it starts again in", printed, re.MULTILINE)
    assert [int(pid) for pid, _ in deaths] == [broken], printed
    record("CUDA error: the worker's end", deaths[0][1])
    record("CUDA error: in the trial's log", next((line for line in log if "CUDA" in line), "nothing"))
    assert "device-side assert" in printed, printed
    assert tally.problems == (), f"{tally}\n{printed}"
    assert (tally.states, tally.runs, tally.resumed) == AGAIN_ONCE, f"{tally}\n{printed}\n{log}"
    place = next(row for row in rows if row.trial == again.number)
    assert place.worker not in [worker.id for worker in worker_rows if worker.pid == broken], f"{place}\n{worker_rows}"
