"""The sampler and the pruner that a study file names."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import optuna

from hpo.study.forest_sampler import ForestSampler
from hpo.study.pruners import BracketPruner, RungPruner, RunningMedianPruner
from hpo.study.study_file import StudyFile
from storage.keys import SEARCH_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from hpo.study.forest_sampler import TrialForest

STARTUP_TRIALS = 10  # random before TPE models anything, and unpruned before the median means anything
OLD_SEARCH = {"sampler": "tpe", "pruner": "median"}  # of studies that were begun before these were kept


def keep_search(study: optuna.Study) -> None:
    """Keep with a new study what it is searched by where its file names no sampler or no pruner."""
    study.set_user_attr(SEARCH_KEY, {"sampler": StudyFile.sampler, "pruner": StudyFile.pruner})


def with_search_of(study: optuna.Study, study_file: StudyFile) -> StudyFile:
    """A study file with the sampler and the pruner that its study has begun with, where it names none."""
    kept = study.user_attrs.get(SEARCH_KEY, OLD_SEARCH)
    return replace(study_file, unnamed=frozenset(), **{key: kept[key] for key in study_file.unnamed})


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
    if study_file.sampler in ("random", "grid"):  # of a grid, which no recipe leaves twice, all is drawn in the end
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
