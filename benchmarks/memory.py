"""Whether the memory of a worker grows from trial to trial.

    python benchmarks/memory.py [--trials N] [--loaders N]

Runs trials of recipes drawn at random from the whole default space, but with small models and images, in one process as
a worker does, and prints after every tenth how much memory the process has, and how many processes and open files.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from contextlib import closing
from pathlib import Path

import optuna
import psutil
import torch

from hpo.demo import write_demo
from trainer.data import load_data
from trainer.device import choose_device
from trainer.errors import TrainerError
from trainer.images.cache import PixelCache
from trainer.loaders import Loaders
from trainer.objective import objective
from trainer.resources import Resources
from trainer.space import Space

SMALL = {
    "backbone": ["test_resnet", "test_convnext", "test_efficientnet"],
    "pretrained": False,
    "image_size": 32,
    "epochs": 2,
    "batch_size": [32, 64],
}


def main() -> None:
    """Run the trials and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--loaders", type=int, default=1)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device, process = choose_device(), psutil.Process(os.getpid())
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0), pruner=optuna.pruners.NopPruner()
    )
    loaders = Loaders(options.loaders, pin_memory=device.type == "cuda")
    with tempfile.TemporaryDirectory() as folder, closing(loaders):
        study_file = write_demo(Path(folder), seed=0, trials=1, epochs=1)
        data = load_data(study_file.parent / "digits", cache=PixelCache(Path(folder) / "pixels"))
        space, resources, weights = Space(SMALL), Resources(loaders=loaders), Path(folder) / "best.safetensors"
        for number in range(1, options.trials + 1):
            trial = study.ask()
            try:
                value = objective(trial, space, data, resources=resources, best_weights=weights)
                study.tell(trial, value)
            except TrainerError:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if number % 10 == 0:
                gc.collect()
                on_gpu = f", GPU {torch.cuda.memory_allocated() / 1e6:.0f} MB" if device.type == "cuda" else ""
                print(
                    f"{number} trials: {process.memory_info().rss / 1e6:.0f} MB{on_gpu}, "
                    f"{len(process.children(recursive=True))} processes, {process.num_fds()} open files",
                    flush=True,
                )


if __name__ == "__main__":
    main()
