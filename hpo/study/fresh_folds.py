"""The fresh folds of `hpo confirm`: the images to train and to validate divided anew, so that each fold can judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hpo.errors import HpoError
from trainer.images.split import Split, divide_into_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data import Data
    from trainer.objective_metric import Metric

FOLDS = range(2, 11)  # a cross-validation may have


def data_of_fold(data: Data, fold: int, seed: int, metric: Metric) -> Data:
    """The images of a study, those to train and to validate divided anew; those that are held out are in neither.

    Args:
        data: as the search has them.
        fold: 0 for the first; those of one cross-validation have no image to validate in common.
        seed: of the search.
        metric: of the study.

    Raises:
        HpoError: as `fold_count` does.
    """
    pool, (count, found) = _pool(data), _first_folds(data, seed, metric)
    turn, number = divmod(fold, count)
    if turn:
        found = _divided(data, count, turn, seed)
    held = found == number
    return data.with_split(Split(pool[~held], pool[held], data.split.test, f"{data.split.digest}, fold {fold}"))


def fold_count(data: Data, seed: int, metric: Metric) -> int:
    """How many folds a cross-validation has: as many as let a training have about as many images as in the search.

    They are fewer where one of so many would have no image to validate, since there are too few groups, or none that
    the metric is defined by.

    Args:
        data: as the search has them.
        seed: of the search.
        metric: of the study.

    Raises:
        HpoError: not even two folds can be had.
    """
    return _first_folds(data, seed, metric)[0]


def _first_folds(data: Data, seed: int, metric: Metric) -> tuple[int, NDArray[np.int64]]:
    """How many folds there are, and that of each image of the pool in the first cross-validation, int64 [pool]."""
    train, valid = len(data.split.train), len(data.split.valid)
    most = min(max(round((train + valid) / valid), FOLDS[0]), FOLDS[-1])
    for count in range(most, FOLDS[0] - 1, -1):
        found = _divided(data, count, 0, seed)
        problem = _problem(data, found, count, metric)
        if problem is None:
            return count, found
    raise HpoError(f"folds: the images to train and to validate cannot be divided into two folds: {problem}")


def _divided(data: Data, count: int, turn: int, seed: int) -> NDArray[np.int64]:
    """The fold of each image of the pool in one cross-validation after another, int64 [pool]; -1: always trains."""
    return divide_into_folds(data.index, _pool(data), count, seed=f"confirm {seed} {turn}", copies=data.index.copies)


def _problem(data: Data, folds: NDArray[np.int64], count: int, metric: Metric) -> str | None:
    """Say in one line why one of the folds cannot judge a recipe, or None."""
    labels, classes = data.index.labels[_pool(data)], data.index.classes
    for fold in range(count):
        images = np.bincount(labels[folds == fold], minlength=len(classes)).tolist()
        if not any(images):
            return "they are of too few groups; add images of other groups"
        if problem := metric.problem(classes, images):
            return problem
    return None


def _pool(data: Data) -> NDArray[np.int64]:
    """The images to train and to validate: positions in the index, sorted."""
    return np.sort(np.concatenate([data.split.train, data.split.valid]))
