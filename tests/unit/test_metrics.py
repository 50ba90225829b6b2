"""The metrics, compared with scikit-learn's."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from trainer.metrics import (
    accuracy,
    class_f1,
    class_precision,
    class_recall,
    confusion_matrix,
    macro_f1,
    macro_precision,
    macro_recall,
    roc_auc,
    summary,
)

pytestmark = pytest.mark.unit

CLASSES = 6


def _case(seed):
    """Labels and predictions in which some classes are never seen, never predicted, or neither."""
    random = np.random.default_rng(seed)
    seen = random.choice(CLASSES, random.integers(1, CLASSES + 1), replace=False)
    named = random.choice(CLASSES, random.integers(1, CLASSES + 1), replace=False)
    images = random.integers(1, 60)
    labels = random.choice(seen, images)
    right = random.random(images) < random.random()
    return labels, np.where(right, labels, random.choice(named, images))


def _matrix(labels, predicted):
    return confusion_matrix(torch.from_numpy(labels), torch.from_numpy(predicted), CLASSES)


CASES = range(40)


@pytest.mark.parametrize("seed", CASES)
def test_confusion_matrix(seed):
    """Rows are true classes and columns predicted ones, as whole numbers."""
    labels, predicted = _case(seed)
    matrix = _matrix(labels, predicted)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(
        matrix.numpy(), reference.confusion_matrix(labels, predicted, labels=np.arange(CLASSES))
    )


@pytest.mark.parametrize("seed", CASES)
def test_scores(seed):
    """Macro-F1, precision, recall and accuracy are scikit-learn's, whichever classes are absent."""
    labels, predicted = _case(seed)
    matrix = _matrix(labels, predicted)
    options = {"average": "macro", "zero_division": 0}
    assert macro_f1(matrix) == pytest.approx(reference.f1_score(labels, predicted, **options), abs=1e-12)
    assert macro_precision(matrix) == pytest.approx(reference.precision_score(labels, predicted, **options), abs=1e-12)
    assert macro_recall(matrix) == pytest.approx(reference.recall_score(labels, predicted, **options), abs=1e-12)
    assert accuracy(matrix) == reference.accuracy_score(labels, predicted)


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize(
    ("score", "expected_of"),
    [
        (class_f1, reference.f1_score),
        (class_precision, reference.precision_score),
        (class_recall, reference.recall_score),
    ],
)
def test_scores_of_classes(seed, score, expected_of):
    """F1, precision and recall of each class that occurs are scikit-learn's; a class that does not occur has none."""
    labels, predicted = _case(seed)
    scores = score(_matrix(labels, predicted))
    occurring = np.union1d(labels, predicted)
    expected = np.full(CLASSES, np.nan)
    expected[occurring] = expected_of(labels, predicted, labels=occurring, average=None, zero_division=0)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-12)


def test_cases_have_absent_classes():
    """The cases above hold classes that are neither seen nor predicted, only seen, and only predicted."""
    kinds = set()
    for seed in CASES:
        labels, predicted = _case(seed)
        kinds |= {(c in labels, c in predicted) for c in range(CLASSES)}
    assert len(kinds) == 4


def test_a_class_that_is_never_right():
    """A class that is only predicted, or never predicted, counts 0 in macro-F1; one that does not occur not at all."""
    matrix = torch.tensor([[4, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert macro_f1(matrix) == pytest.approx(1 / 3)
    assert macro_precision(matrix) == pytest.approx(1 / 3)
    assert macro_recall(matrix) == pytest.approx(1 / 3)


def test_perfect_and_worst():
    """All right is 1 and all wrong is 0, in every metric."""
    for matrix, expected in ((torch.eye(3, dtype=torch.int64) * 5, 1.0), (torch.tensor([[0, 3], [2, 0]]), 0.0)):
        scores = [score(matrix) for score in (macro_f1, macro_precision, macro_recall, accuracy)]
        assert scores == [expected] * 4


def test_batches_add_up():
    """The matrices of batches add up to that of all images; their macro-F1 values do not average to it."""
    random = np.random.default_rng(5)
    labels, predicted = random.integers(0, CLASSES, 100), random.integers(0, CLASSES, 100)
    batches = [_matrix(labels[start : start + 8], predicted[start : start + 8]) for start in range(0, 100, 8)]
    whole = _matrix(labels, predicted)
    assert torch.equal(sum(batches), whole)
    assert abs(np.mean([macro_f1(batch) for batch in batches]) - macro_f1(whole)) > 0.01


def test_many_images():
    """Counts of millions of images lose no image."""
    matrix = torch.tensor([[2**30, 1], [0, 2**30]])
    assert accuracy(matrix) == 2**31 / (2**31 + 1)
    assert 1 - macro_f1(matrix) == pytest.approx(2**-31, rel=1e-3)


def _probabilities(labels, seed):
    """Probabilities that favour the true class a little, rounded so that many are equal."""
    random = np.random.default_rng(seed)
    scores = random.random((len(labels), CLASSES)) + 0.3 * np.eye(CLASSES)[labels]
    return np.round(scores / scores.sum(axis=1, keepdims=True), 2).astype(np.float32)


@pytest.mark.parametrize("seed", CASES)
def test_roc_auc(seed):
    """ROC-AUC of a class is the chance to rank its images above the others; without either there is none."""
    labels, _ = _case(seed)
    probabilities = _probabilities(labels, seed)
    areas = roc_auc(torch.from_numpy(labels), torch.from_numpy(probabilities))
    assert areas.dtype == torch.float64
    assert areas.shape == (CLASSES,)
    for number, area in enumerate(areas.tolist()):
        inside, outside = probabilities[labels == number, number], probabilities[labels != number, number]
        if inside.size and outside.size:
            difference = inside[:, None] - outside
            assert area == pytest.approx(((difference > 0) + 0.5 * (difference == 0)).mean(), abs=1e-12)
        else:
            assert np.isnan(area)


def test_macro_roc_auc():
    """Where each class has images, the mean over the classes is scikit-learn's one-vs-rest ROC-AUC."""
    labels = np.arange(60) % CLASSES
    random = np.random.default_rng(1)
    probabilities = torch.from_numpy(random.normal(size=(60, CLASSES))).softmax(dim=1)
    expected = reference.roc_auc_score(labels, probabilities.numpy(), multi_class="ovr", average="macro")
    areas = roc_auc(torch.from_numpy(labels), probabilities)
    assert areas.nanmean().item() == pytest.approx(expected, abs=1e-12)
    made = summary(torch.eye(CLASSES, dtype=torch.int64), tuple("abcdef"), torch.from_numpy(labels), probabilities)
    assert made["macro_roc_auc"] == pytest.approx(expected, abs=1e-12)
    assert [row["roc_auc"] for row in made["per_class"].values()] == areas.tolist()


def test_roc_auc_of_many_classes(monkeypatch):
    """Classes that are ranked a few at a time have the areas that they have all at once."""
    labels, _ = _case(3)
    labels, probabilities = torch.from_numpy(labels), torch.from_numpy(_probabilities(labels, 3))
    at_once = roc_auc(labels, probabilities)
    assert at_once.isfinite().sum() > 1
    for few in (1, 4):  # of six classes: one by one, and with fewer in the end
        monkeypatch.setattr("trainer.metrics.CLASSES_AT_ONCE", few)
        torch.testing.assert_close(roc_auc(labels, probabilities), at_once, equal_nan=True)


def test_summary_with_probabilities():
    """The summary holds ROC-AUC where probabilities are given, and null for a class that has none."""
    labels = torch.tensor([0, 0, 1, 1])
    probabilities = torch.tensor([[0.8, 0.2, 0], [0.4, 0.6, 0], [0.5, 0.5, 0], [0.1, 0.9, 0]])
    matrix = confusion_matrix(labels, probabilities.argmax(dim=1), 3)
    made = summary(matrix, ("cat", "dog", "owl"), labels, probabilities)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["macro_roc_auc"] == 0.75
    assert {name: row["roc_auc"] for name, row in made["per_class"].items()} == {"cat": 0.75, "dog": 0.75, "owl": None}


def test_summary_of_one_class():
    """Where all images are of one class, no ROC-AUC is defined and its macro is null."""
    labels = torch.tensor([1, 1])
    made = summary(torch.tensor([[0, 0], [1, 1]]), ("cat", "dog"), labels, torch.tensor([[0.6, 0.4], [0.3, 0.7]]))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["macro_roc_auc"] is None
    assert [row["roc_auc"] for row in made["per_class"].values()] == [None, None]


def test_summary():
    """The summary holds all metrics, and those and the images of each class by name, as plain JSON."""
    matrix = torch.tensor([[8, 2, 0], [1, 9, 0], [0, 0, 0]])
    made = summary(matrix, ("cat", "dog", "owl"))
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made == {
        "macro_f1": macro_f1(matrix),
        "accuracy": 0.85,
        "macro_precision": macro_precision(matrix),
        "macro_recall": macro_recall(matrix),
        "balanced_accuracy": pytest.approx(0.85),
        "weighted_f1": pytest.approx((16 / 19 + 18 / 21) / 2),
        "images": 20,
        "per_class": {
            "cat": {
                "f1": pytest.approx(16 / 19),
                "precision": pytest.approx(8 / 9),
                "recall": pytest.approx(0.8),
                "images": 10,
            },
            "dog": {
                "f1": pytest.approx(18 / 21),
                "precision": pytest.approx(9 / 11),
                "recall": pytest.approx(0.9),
                "images": 10,
            },
            "owl": {"f1": 0.0, "precision": 0.0, "recall": 0.0, "images": 0},
        },
    }
