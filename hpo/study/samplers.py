"""The sampler and the pruner that a study file names."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import optuna

from hpo.study.pruners import BracketPruner, RunningMedianPruner

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from hpo.study.study_file import StudyFile

STARTUP_TRIALS = 10  # random before TPE models anything, and unpruned before the median means anything


def make_sampler(study_file: StudyFile, place: int) -> BaseSampler:
    """The sampler for one place in the budget, with a seed of its own: workers that begin together differ."""
    seed = int(np.random.SeedSequence((study_file.seed, place)).generate_state(1)[0])
    if study_file.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        # `group` samples the fields of a condition jointly where they occur; Optuna calls it experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def make_pruner(study_file: StudyFile) -> BasePruner:
    """The pruner that the study file names: the median after a quarter of the epochs, Hyperband after a ninth."""
    epochs = int(max(study_file.space.values("epochs")))
    match study_file.pruner:
        case "median":
            quarter = math.ceil(epochs / 4)
            return RunningMedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=quarter)
        case "hyperband":
            return BracketPruner(min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3)
        case _:
            return optuna.pruners.NopPruner()
