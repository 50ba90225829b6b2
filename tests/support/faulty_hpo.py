"""An `hpo` whose processes meet faults, as the variable FAULTS says: `python faulty.py worker study.toml`."""

from __future__ import annotations

import datetime as dt
import functools
import importlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import hpo.cli
import hpo.worker.checkpoints
import hpo.worker.observer
from hpo.worker.shutdown import Shutdown
from trainer.extensions import Extensions

VARIABLE = "FAULTS"
HELD = "held"  # a file in the folder of a study, which holds the trainings as long as it is there


@dataclass(frozen=True)
class Faults:
    """What happens to one process.

    Attributes:
        step_seconds: that each step of a training takes longer.
        grace_seconds: after which the workers count another as dead, 60 where not given; they beat as much faster.
        kill: a function as "module:name", "before" or "after", and at which of its calls the process kills itself.
        hold_at_step: the step of the process from which on its trainings are held, until the file is gone.
        terminate_at_step: the step of a training at which the process gets SIGTERM.
        raise_at_step: the step of a training that raises.
        hang_at_step: the step of a training that does not end.
        clock_seconds: by which the clock of the process is ahead.
        pictures: whether those of trials are drawn, which takes longer than the rest.
    """

    step_seconds: float = 0.0
    grace_seconds: float | None = None
    kill: tuple[str, str, int] | None = None
    hold_at_step: int | None = None
    terminate_at_step: int | None = None
    raise_at_step: int | None = None
    hang_at_step: int | None = None
    clock_seconds: float = 0.0
    pictures: bool = False

    def as_text(self):
        """What the variable is to hold."""
        return json.dumps(asdict(self))


def linear(classes, size):
    """A small model that draws random numbers as it learns."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.2), torch.nn.Linear(3 * size * size, classes))


def main(faults):
    """Run the command, with its faults."""
    if not faults.pictures:
        hpo.worker.observer.draw_pictures = lambda *_: iter(())
    hpo.worker.checkpoints.SHARE = 1000.0  # so that one is due after each epoch, however long the last one took
    if faults.grace_seconds:
        _shorten_grace(faults.grace_seconds)
    if faults.clock_seconds:
        _skew_clock(faults.clock_seconds)
    if faults.kill:
        _kill_at(*faults.kill)
    steps = itertools.count(1)

    def slow(logits, labels):
        time.sleep(faults.step_seconds)
        step = next(steps)
        while faults.hold_at_step and step >= faults.hold_at_step and Path(HELD).exists():
            time.sleep(0.01)
        if step == faults.terminate_at_step:
            _terminate()
        if step == faults.raise_at_step:
            raise ValueError("the loss had enough")
        if step == faults.hang_at_step:
            time.sleep(3600)
        return torch.nn.functional.cross_entropy(logits, labels)

    hpo.cli.main(extensions=Extensions(losses={"slow": slow}, backbones={"linear": linear}))


def _shorten_grace(seconds):
    import hpo.worker.heartbeat
    from storage import heartbeat

    heartbeat.WorkerPresence.reap.__defaults__ = (seconds,)
    hpo.worker.heartbeat.BEAT_SECONDS, heartbeat.WATCH_SECONDS = seconds / 12, seconds / 4
    hpo.worker.checkpoints.STORE_PAUSE = seconds / 12


def _skew_clock(seconds):
    """Set the clock of this process, in every module that has imported it."""
    for module in ("hpo.worker.worker", "hpo.study.status"):
        importlib.import_module(module)
    now, real = time.time, dt.datetime

    class Skewed(real):
        """A time of the clock that is ahead."""

        @classmethod
        def now(cls, tz=None):
            """The time."""
            return real.now(tz) + dt.timedelta(seconds=seconds)

    time.time = lambda: now() + seconds
    for module in list(sys.modules.values()):
        if getattr(module, "datetime", None) is real:
            module.datetime = Skewed


def _terminate():
    """Send this process SIGTERM, and come back once it has heard that, in a thread of its own."""
    heard, ask = threading.Event(), Shutdown.ask

    def hear(shutdown):
        ask(shutdown)
        heard.set()

    Shutdown.ask = hear
    os.kill(os.getpid(), signal.SIGTERM)
    heard.wait()


def _kill_at(target, when, call):
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner = functools.reduce(getattr, outer, importlib.import_module(module))
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def deadly(*arguments, **options):
        now = next(calls) == call
        if now and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if now and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


if __name__ == "__main__":
    main(Faults(**json.loads(os.environ.get(VARIABLE, "{}"))))
