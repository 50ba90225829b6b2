"""The folds on which recipes are confirmed."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.errors import HpoError
from hpo.study.fresh_folds import data_of_fold, fold_count
from trainer.data import load_data
from trainer.images.split import Split
from trainer.objective_metric import MACRO_F1, metric_of

pytestmark = pytest.mark.unit


@pytest.fixture
def data(photos):
    """36 images of three classes, of which nothing is held out."""
    return load_data(photos, valid=0.25, test=0.0)


def in_groups(data, sizes):
    """The images in groups of these sizes, the last of which validates."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    data.index.groups[:] = np.random.default_rng(0).permutation(groups)
    last = data.index.groups == len(sizes) - 1
    return data.with_split(Split(np.flatnonzero(~last), np.flatnonzero(last), np.empty(0, np.int64), ""))


def test_there_are_no_more_folds_than_groups(data):
    """Of a few groups, the one that validates much smaller than the rest, each is a fold once, and none is empty."""
    few = in_groups(data, [17, 16, 3])
    assert fold_count(few, 0, MACRO_F1) == 3
    for turn in range(2):
        folds = [data_of_fold(few, 3 * turn + number, 0, MACRO_F1).split for number in range(3)]
        assert sorted(len(fold.valid) for fold in folds) == [3, 16, 17]
        assert all(len(set(data.index.groups[fold.valid])) == 1 for fold in folds)
        assert all(len(fold.train) + len(fold.valid) == 36 for fold in folds)


def test_each_fold_defines_the_metric(data):
    """Where the metric judges one class, there are no more folds than that class has images, one in each."""
    blue = np.flatnonzero(data.index.labels == data.index.classes.index("blue"))
    split = data.split
    train, valid = (np.setdiff1d(side, blue[3:]) for side in (split.train, split.valid))
    rare = data.with_split(Split(train, valid, blue[3:], ""))
    assert (fold_count(rare, 0, MACRO_F1), fold_count(rare, 0, metric_of("f1:blue"))) == (4, 3)
    for fold in range(3):
        assert np.isin(data_of_fold(rare, fold, 0, metric_of("f1:blue")).split.valid, blue).sum() == 1


def test_images_that_cannot_be_divided_are_refused(data):
    """Images of one group, or one image of the class that the metric judges, make no two folds; the line says why."""
    blue = np.flatnonzero(data.index.labels == data.index.classes.index("blue"))
    train, valid = (np.setdiff1d(side, blue[1:]) for side in (data.split.train, data.split.valid))
    with pytest.raises(HpoError, match=r'into two folds: .* is not defined, as no image of the class "blue" is among'):
        fold_count(data.with_split(Split(train, valid, blue[1:], "")), 0, metric_of("f1:blue"))
    with pytest.raises(HpoError, match="cannot be divided into two folds: they are of too few groups; add images"):
        fold_count(in_groups(data, [36]).with_split(data.split), 0, MACRO_F1)
