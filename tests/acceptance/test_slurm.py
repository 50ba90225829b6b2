"""The Slurm script with the real hpo, and stand-ins for Slurm's own programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy import NullPool, create_engine, text

from storage.database import connect
from storage.keys import RESUMED_KEY
from tests.acceptance.test_search import status, write_study
from tests.conftest import ROOT
from tests.support.waiting import limit, wait_until

pytestmark = pytest.mark.acceptance

# An hpo whose workers load images in processes of their own, as they do beside a GPU. These hold the second epoch back
# while there is a file.
OWN = """
import sys, time
from pathlib import Path
from hpo.cli import main
from trainer.extensions import Extensions
from storage.keys import RESUMED_KEY

if __name__ == "__main__":
    if sys.argv[1] == "worker":
        import trainer.loaders
        from trainer.loaders import AugmentedImages

        held = Path(__file__).with_name("held")

        def make(images, order, plainly=AugmentedImages.make):
            while order.epoch > 1 and held.exists():
                time.sleep(0.02)
            return plainly(images, order)

        AugmentedImages.make = make
        trainer.loaders.loader_processes = lambda device, cores: 2
    main(extensions=Extensions())
"""
STAND_INS = {
    "hpo": f'exec {sys.executable} "$HPO_SCRIPT" "$@"',
    "srun": 'echo $$ > step.pid; shift; exec "$@"',  # the options are one argument
    "squeue": "echo RUNNING",
    "scontrol": 'echo "$*" >> scontrol.calls',
}


@contextmanager
def task(folder):
    """A task of a job array; ended with the block if it still runs."""
    for name, line in STAND_INS.items():
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    (folder / "node").mkdir(exist_ok=True)
    (folder / "own.py").write_text(OWN)
    (folder / "held").touch()
    variables = {
        "HPO_SCRIPT": str(folder / "own.py"),
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "TMPDIR": str(folder / "node"),
        "CUDA_VISIBLE_DEVICES": "0",  # set by Slurm; so there is one worker, on the CPU where there is no GPU
        "HPO_STORAGE": "",
        "HPO_STORAGE_FILE": str(folder / "storage"),
        "HPO_ARTIFACTS": str(folder / "artifacts"),
        "SLURM_JOB_ID": "71",
        "SLURM_ARRAY_JOB_ID": "71",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    with subprocess.Popen(
        ["bash", ROOT / "deploy/slurm/hpo.sbatch", "study.toml"],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as script:
        try:
            yield script
        finally:
            if script.poll() is None:
                for process in [*psutil.Process(script.pid).children(recursive=True), script]:
                    process.kill()


def has_trained(database):
    """Whether a trial has come through an epoch; without `hpo status`, of which each asking takes a process."""
    engine = create_engine(database, poolclass=NullPool)
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*) FROM hpo.place WHERE epoch > 0")).scalar_one()


def test_a_job_whose_time_is_up_goes_on_where_it_was(hpo, tmp_path, photos, database):
    """SIGTERM to all processes of a step: the task is queued again, and its trial goes on from where it was."""
    study = write_study(tmp_path, trials=1, epochs=3, more='augment = "none"')
    study.write_text(study.read_text().replace('"photos"', f'"{photos}"'))
    (tmp_path / "storage").write_text(database)
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    with task(tmp_path) as script:
        wait_until(lambda: has_trained(database), seconds=120)
        step = psutil.Process(int((tmp_path / "step.pid").read_text()))
        for process in [*step.children(recursive=True), step]:  # as Slurm does
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        (tmp_path / "held").unlink()
        out, _ = script.communicate(timeout=limit(60))
    assert script.returncode == 143, out
    assert (tmp_path / "scontrol.calls").read_text() == "requeue 71_3\n"
    assert list((tmp_path / "node").iterdir()) == []
    now = status(hpo, HPO_STORAGE=database)["trials"]
    assert (now["waiting"], now["running"], now["failed"]) == (1, 0, 0)

    # A worker of the next task, without its script and its supervisor, whose start takes seconds of imports.
    done = hpo("worker", "study.toml", HPO_STORAGE=database, HPO_ARTIFACTS=str(tmp_path / "artifacts"))
    assert done.returncode == 0, done.stderr
    last = optuna.load_study(study_name="colours", storage=connect(database)).trials[-1]
    assert last.state is TrialState.COMPLETE
    assert last.user_attrs[RESUMED_KEY] >= 1
