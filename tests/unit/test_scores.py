"""The scores of a test as JSON and as lines."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hpo.bundle.scores import details, doubt, headline, scores
from trainer.metrics import confusion_matrix, summary
from trainer.objective_metric import metric_of
from trainer.scoring import Classified
from trainer.uncertainty import score_intervals

pytestmark = pytest.mark.unit


def _scores(true, predicted, classes, groups=None):
    labels, best = torch.tensor(true), torch.tensor(predicted)
    own = np.arange(len(true)) if groups is None else groups
    return scores(Classified(labels, best, torch.eye(len(classes))[best], classes), own)


def test_scores_are_the_metrics_with_their_intervals_and_the_matrix():
    """The scores hold all metrics, the intervals of macro-F1, accuracy and each F1, and the matrix, as plain JSON."""
    found = _scores([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], ("cat", "dog", "owl"))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    labels, best = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 1])
    metrics = summary(confusion_matrix(labels, best, 3), ("cat", "dog", "owl"), labels, torch.eye(3)[best])
    intervals = score_intervals(labels.numpy(), best.numpy(), np.arange(5), 3)
    for row, interval in zip(metrics["per_class"].values(), intervals.class_f1, strict=True):
        row["f1_interval"] = interval and list(interval)
    assert {name: found[name] for name in metrics} == metrics
    assert found["interval"] == {
        "macro_f1": list(intervals.macro_f1),
        "accuracy": list(intervals.accuracy),
        "groups": 5,
    }
    assert found["confusion_matrix"] == {"cat": {"cat": 2, "dog": 1}, "dog": {"dog": 2}, "owl": {}}


def test_the_headline_has_the_interval_beside_each_score():
    """Macro-F1 and accuracy are shown with their intervals, by how many groups, or why there are none."""
    cat, dog = ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    found = _scores(cat, dog, ("cat", "dog"))
    (low, high), (least, most) = found["interval"]["macro_f1"], found["interval"]["accuracy"]
    shown = f"macro-F1 0.8000 ({low:.4f} to {high:.4f} in 95 %), accuracy 0.8000 ({least:.4f} to {most:.4f})"
    assert headline(found) == shown
    grouped = headline(_scores(cat, dog, ("cat", "dog"), np.array([0, 1, 1, 2, 2])))
    assert grouped.endswith("), by 3 groups")
    assert grouped[:40] != shown[:40]
    alone = headline(_scores(cat, dog, ("cat", "dog"), np.zeros(5, int)))
    assert alone == "macro-F1 0.8000, accuracy 0.8000 (no intervals: all are of one group)"


def test_few_classes_are_shown_as_a_matrix():
    """The matrix has a row a true and a column a predicted class; classes that do not occur are left out."""
    found = _scores([0, 0, 0, 2, 2], [0, 0, 2, 2, 2], ("a cat that sleeps", "dog", "올빼미"))
    shown = [
        "({:.4f} to {:.4f})".format(*found["per_class"][name]["f1_interval"])
        for name in ("a cat that sleeps", "올빼미")
    ]
    assert details(found) == [
        f"  a cat that sleeps: F1 0.8000 {shown[0]}, 3 images",
        f"  올빼미: F1 0.8000 {shown[1]}, 2 images",
        "confusion matrix: a row for each true class, a column for each predicted one",
        "                a cat that …  올빼미",
        "  a cat that …             2       1",
        "        올빼미             0       2",
    ]


def test_predicted_classes_without_an_image_are_said():
    """Where a class is only predicted, as of images of one class, a line says that it counts 0 in macro-F1."""
    lines = details(_scores([0, 0, 0], [0, 1, 2], ("cat", "dog", "owl")))
    assert "predicted classes without an image count 0 in macro-F1: dog, owl" in lines
    assert lines[0].startswith("  cat: F1 0.5000 (")
    assert "  dog: F1 0.0000, 0 images" in lines
    assert not any("count 0" in line for line in details(_scores([0, 1], [0, 0], ("cat", "dog"))))


def test_of_many_classes_the_most_frequent_mistakes_are_shown():
    """Where a matrix would be too wide there are all classes and the ten most frequent mistakes, the first first."""
    classes = tuple(f"c{number}" for number in range(13))
    true = [*range(13), *range(13), 5, 5]
    lines = details(_scores(true, [(label + 1) % 13 for label in true[:12]] + true[12:26] + [7, 7], classes))
    assert lines[13:16] == [
        "images of a wrong class: 14, the most often:",
        "  c5 taken for c7: 2",
        "  c0 taken for c1: 1",
    ]
    assert len(lines) == 13 + 1 + 10


def test_a_test_on_few_images_is_doubted():
    """A line says what to do where the macro-F1 of a test has a wide interval or none, none where it is narrow."""
    classes = ("cat", "dog")
    assert "`hpo nested STUDY` tests on all images" in doubt(_scores([0, 1] * 10, [0, 1] * 9 + [1, 0], classes))
    assert doubt(_scores([0, 1], [0, 1], classes, np.zeros(2, np.int64)))
    assert doubt(_scores([0, 1] * 200, [0, 1] * 190 + [1, 0] * 10, classes)) is None


def test_the_headline_begins_with_the_metric_of_the_study():
    """The metric of the study comes first, macro-F1 and accuracy after it, each of them once."""
    labels, best = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 1])
    told = Classified(labels, best, torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]), ("cat", "dog"))
    by_loss, by_accuracy = metric_of("log_loss"), metric_of("accuracy")
    found = scores(told, np.arange(4), by_loss)
    low, high = found["interval"]["log_loss"]
    assert low < found["log_loss"] < high
    assert headline(found, by_loss).startswith(f"log-loss 0.4004 ({low:.4f} to {high:.4f} in 95 %), macro-F1 0.7333 (")
    shown = headline(scores(told, np.arange(4), by_accuracy), by_accuracy)
    assert shown.startswith("accuracy 0.7500 (")
    assert shown.count("accuracy") == 1


def test_no_interval_claims_to_be_certain():
    """The F1 of one class has the interval that stands beside that class; a ROC-AUC of 1 has none of no length."""
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    told = Classified(labels, labels, torch.eye(2)[labels], ("cat", "dog"))
    found = scores(told, np.arange(6), metric_of("f1:dog"))
    assert found["interval"]["f1:dog"] == found["per_class"]["dog"]["f1_interval"]
    low, high = found["interval"]["f1:dog"]
    assert low < 0.9 < high
    area = metric_of("roc_auc")
    found = scores(told, np.arange(6), area)
    assert found["interval"]["roc_auc"] is None
    assert headline(found, area).startswith("ROC-AUC 1.0000, macro-F1 1.0000 (")


def test_a_metric_that_images_do_not_define_is_said_to_be_so():
    """ROC-AUC of images of one class is None in JSON and not defined in the headline; the others are there."""
    area = metric_of("roc_auc")
    told = Classified(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.eye(2), ("cat", "dog"))
    found = scores(told, np.arange(2), area)
    assert (found["roc_auc"], found["interval"]["roc_auc"]) == (None, None)
    assert headline(found, area).startswith("ROC-AUC not defined, macro-F1 ")
    assert json.dumps(found, allow_nan=False)
