"""The sampler and the pruner that a study file names."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
import optuna

from hpo.study.forest_sampler import ForestSampler
from hpo.study.pruners import BracketPruner, RungPruner, RunningMedianPruner

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from hpo.study.forest_sampler import TrialForest
    from hpo.study.study_file import StudyFile

STARTUP_TRIALS = 10  # random before TPE models anything, and unpruned before the median means anything


def make_sampler(study_file: StudyFile, place: int, forest: TrialForest) -> BaseSampler:
    """The sampler for one place in the budget, with a seed of its own: workers that begin together differ.

    Args:
        study_file: that names it.
        place: number of the place.
        forest: for "forest": what has learned from the study's trials.
    """
    seed = int(np.random.SeedSequence((study_file.seed, place)).generate_state(1)[0])
    if study_file.sampler == "forest":
        return ForestSampler(forest, seed)
    if study_file.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        # `group` samples the fields of a condition jointly where they occur; Optuna calls it experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def make_pruner(study_file: StudyFile, reach_rung: Callable[[int, int, float], bool]) -> BasePruner:
    """The pruner that the study file names: the median after a quarter of the epochs, Hyperband after a ninth.

    Args:
        study_file: that names it.
        reach_rung: for "asha": notes that a trial has come to a rung, see `RungPruner`.
    """
    epochs = int(max(study_file.space.values("epochs")))
    match study_file.pruner:
        case "asha":
            return RungPruner(epochs, reach_rung)
        case "median":
            quarter = math.ceil(epochs / 4)
            return RunningMedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=quarter)
        case "hyperband":
            return BracketPruner(min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3)
        case _:
            return optuna.pruners.NopPruner()
