"""The values of metrics, against scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from trainer.calibration import macro_f1_of
from trainer.objective_metric import MACRO_F1, Metric, metric_of
from trainer.scoring import (
    class_score,
    metrics_with_error_of,
    most_probable,
    score_of,
    score_of_drawn,
    value_interval,
    value_of,
)

pytestmark = pytest.mark.unit


def told(classes, seed=0, images=150):
    """Labels, probabilities with ties among them, and both as predictions; not all classes need have images."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes - (seed % 2), images)
    shares = random.integers(1, 8, (images, classes)) + 3 * (np.arange(classes) == labels[:, None])
    probabilities = (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)
    return labels, probabilities, most_probable(labels, probabilities, [f"c{label}" for label in range(classes)])


def _expected(name, labels, probabilities):
    predicted, truth = probabilities.argmax(axis=1), np.eye(probabilities.shape[1])[labels]
    present = np.unique(labels)
    match name:
        case "macro_f1" | "weighted_f1":
            return reference.f1_score(labels, predicted, average=name.removesuffix("_f1"))
        case "accuracy":
            return reference.accuracy_score(labels, predicted)
        case "balanced_accuracy":
            return reference.balanced_accuracy_score(labels, predicted)
        case "quadratic_kappa":
            return reference.cohen_kappa_score(labels, predicted, weights="quadratic")
        case "log_loss":
            return reference.log_loss(labels, probabilities, labels=range(probabilities.shape[1]))
        case "f1:c1":
            return reference.f1_score(labels, predicted, labels=[1], average=None)[0]
        case "roc_auc":
            return reference.roc_auc_score(truth[:, present], probabilities[:, present])
        case "average_precision":
            return reference.average_precision_score(truth[:, present], probabilities[:, present])
        case "average_precision:c1":
            return reference.average_precision_score(truth[:, 1], probabilities[:, 1])


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "macro_f1",
        "accuracy",
        "balanced_accuracy",
        "weighted_f1",
        "f1:c1",
        "roc_auc",
        "average_precision",
        "average_precision:c1",
        "quadratic_kappa",
        "log_loss",
    ],
)
def test_values_are_those_of_scikit_learn(name, seed):
    """Each metric has scikit-learn's value, also where a class has no image, and its score is the higher the better."""
    labels, probabilities, classified = told(4, seed)
    metric, expected = metric_of(name), _expected(name, labels, probabilities)
    assert value_of(metric, classified) == pytest.approx(expected, abs=1e-6)
    assert score_of(metric, classified) == pytest.approx(-expected if name == "log_loss" else expected, abs=1e-6)


def test_two_classes():
    """Of two classes ROC-AUC is the same for both, and average precision that of the second one."""
    labels, probabilities, classified = told(2)
    area = reference.roc_auc_score(labels, probabilities[:, 1])
    assert value_of(metric_of("roc_auc"), classified) == pytest.approx(area)
    assert value_of(metric_of("roc_auc:c0"), classified) == pytest.approx(area)
    precision = reference.average_precision_score(labels, probabilities[:, 1])
    assert value_of(metric_of("average_precision"), classified) == pytest.approx(precision)


def test_kappa_follows_the_order_that_is_set():
    """Classes in another order have another distance, and so another quadratic kappa."""
    labels, probabilities, classified = told(3, images=300)
    order = ("c1", "c2", "c0")
    ranks = np.array([2, 0, 1])  # of c0, c1 and c2
    expected = reference.cohen_kappa_score(ranks[labels], ranks[probabilities.argmax(axis=1)], weights="quadratic")
    kappa = value_of(Metric("quadratic_kappa", order=order), classified)
    assert kappa == pytest.approx(expected)
    assert kappa != pytest.approx(value_of(Metric("quadratic_kappa"), classified), abs=1e-3)


def test_what_images_do_not_define_is_none():
    """Of images of one class ROC-AUC and kappa have no value, which JSON holds as null."""
    classified = most_probable(np.zeros(5, np.int64), np.full((5, 2), 0.5, np.float32), ("a", "b"))
    for name in ("roc_auc", "quadratic_kappa", "average_precision"):
        found = metrics_with_error_of(metric_of(name), classified)
        assert found[name] is None
        assert found["standard_error"] == {name: None}
        assert json.dumps(found, allow_nan=False)
    of_b = metric_of("f1:b")  # which no image is, so that 0 would say nothing
    assert metrics_with_error_of(of_b, classified)[of_b.name] is None
    assert value_interval(of_b, classified, np.arange(5)) is None


@pytest.mark.parametrize("name", ["log_loss", "f1:c1"])
def test_standard_errors_are_the_spread_over_draws(name):
    """Where no formula gives the standard error, it is near the spread of the metric over fresh images."""
    metric = metric_of(name)
    spread = np.std([value_of(metric, told(3, 2 * seed)[2]) for seed in range(100)])
    assert metrics_with_error_of(metric, told(3)[2])["standard_error"][name] == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("name", ["macro_f1", "accuracy", "quadratic_kappa", "roc_auc"])
def test_images_that_are_drawn_several_times_count_so_often(name):
    """The score by counts is that of the images written out."""
    metric = metric_of(name)
    _, _, classified = told(4)
    times = np.random.default_rng(0).integers(0, 3, 150)
    written_out = classified.rows(np.repeat(np.arange(150), times))
    assert score_of_drawn(metric, classified, times) == pytest.approx(score_of(metric, written_out))


def test_a_score_of_classes_alone():
    """Metrics that the class alone makes are there as a function of classes, by which offsets are found."""
    labels, probabilities, classified = told(3)
    predicted = probabilities.argmax(axis=1)
    assert class_score(MACRO_F1, classified.classes) is macro_f1_of
    kappa = class_score(metric_of("quadratic_kappa"), classified.classes)
    assert kappa(labels, predicted, 3, None) == score_of(metric_of("quadratic_kappa"), classified)
    assert torch.equal(classified.predicted, torch.from_numpy(predicted))
