"""The metrics by which trainings are compared: their names, their words, and where they are not defined."""

from __future__ import annotations

import re

import pytest

from trainer.objective_metric import MACRO_F1, METRICS, Metric, metric_of

pytestmark = pytest.mark.unit

CLASSES = ("black cat", "dog", "owl")


@pytest.mark.parametrize("name", ["f1:black cat", 'f1:"black cat"', "f1:'black cat'", " f1 : black cat "])
def test_a_class_may_have_spaces_and_quotes_around_it(name):
    """A class is named after a colon, with quotes around it or without."""
    metric = metric_of(name)
    assert (metric.kind, metric.of_class, metric.name) == ("f1", "black cat", "f1:black cat")
    assert (metric.title, metric.heading) == ("F1 of black cat", "F1 of black cat")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("acuracy", f'"acuracy" is not known; did you mean "accuracy"?; known: {", ".join(METRICS)}'),
        ("mse", f'"mse" is not known; known: {", ".join(METRICS)}'),
        ("f1", '"f1" names no class; write "f1:CLASS", such as "f1:cat"'),
        ("roc_auc:", '"roc_auc:" names no class; write "roc_auc:CLASS", such as "roc_auc:cat"'),
        ("accuracy:cat", '"accuracy:cat": accuracy is of all classes; write "accuracy"'),
    ],
)
def test_a_name_that_is_no_metric_is_told_in_one_line(name, problem):
    """What is wrong with the name of a metric is one line, with the names that there are."""
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        metric_of(name)


def test_the_score_of_a_loss_is_its_negative():
    """All scores are the higher the better; people are shown the value."""
    loss = metric_of("log_loss")
    assert loss.score(0.3) == -0.3
    assert (loss.value(-0.3), loss.text(-0.3), loss.score_title) == (0.3, "0.3000", "negative log-loss")
    assert str(loss.value(0.0)) == "0.0"
    assert (MACRO_F1.score(0.3), MACRO_F1.text(0.3), MACRO_F1.score_title) == (0.3, "0.3000", "macro-F1")


@pytest.mark.parametrize("name", ["macro_f1", "quadratic_kappa", "log_loss"])
def test_a_share_keeps_the_order_of_scores(name):
    """What a model of recipes learns from is in [0, 1], the higher the better."""
    metric = metric_of(name)
    scores = [-40.0, -1.0, -0.2, 0.0] if name == "log_loss" else [metric.lowest, 0.1, 0.7, 1.0]
    shares = [metric.share(score) for score in scores]
    assert shares == sorted(shares)
    assert len(set(shares)) == 4
    assert shares[0] >= 0
    assert shares[-1] == 1


@pytest.mark.parametrize(
    ("name", "images", "problem"),
    [
        ("f1:blck cat", (5, 5, 5), 'there is no class "blck cat"; did you mean "black cat"?'),
        ("f1:7", (5, 5, 5), 'there is no class "7"; the classes "black cat", "dog", "owl"'),
        ("f1:dog", (5, 0, 5), 'F1 of dog is not defined, as no image of the class "dog" is among those to validate'),
        ("roc_auc", (0, 5, 0), 'ROC-AUC is not defined, as the images to validate are all of the class "dog"'),
        (
            "roc_auc:dog",
            (0, 5, 0),
            'ROC-AUC of dog is not defined, as the images to validate are all of the class "dog"',
        ),
        ("average_precision:owl", (5, 5, 0), 'no image of the class "owl" is among those to validate'),
        ("average_precision", (5, 0, 0), 'the images to validate are all of the class "black cat"'),
        ("quadratic_kappa", (5, 0, 0), 'the images to validate are all of the class "black cat"'),
    ],
)
def test_a_metric_that_the_images_do_not_define_is_told_in_one_line(name, images, problem):
    """A class that is not there, or validation images that do not define the metric, are told before any training."""
    told = metric_of(name).problem(CLASSES, images)
    assert problem in told
    assert "\n" not in told


@pytest.mark.parametrize("name", ["macro_f1", "accuracy", "balanced_accuracy", "weighted_f1", "log_loss"])
def test_metrics_that_any_images_define(name):
    """Images of one class define these metrics."""
    assert metric_of(name).problem(CLASSES, (5, 0, 0)) is None


def test_a_class_without_images_is_left_out_of_means():
    """ROC-AUC and average precision of many classes need no image of each."""
    assert metric_of("roc_auc").problem(CLASSES, (5, 5, 0)) is None
    assert metric_of("average_precision").problem(CLASSES, (5, 5, 0)) is None


def test_average_precision_of_two_classes_is_that_of_the_second():
    """Without a class it judges the second one of two, as scikit-learn does, which then needs images."""
    metric = metric_of("average_precision")
    assert (metric.position(("cat", "dog")), metric.position(CLASSES)) == (1, None)
    assert 'no image of the class "dog"' in metric.problem(("cat", "dog"), (5, 0))


def test_the_order_of_classes():
    """It is the one that is set; else that of the numbers, where all classes are numbers, else that of the classes."""
    kappa = metric_of("quadratic_kappa")
    assert kappa.ranks(("1", "10", "2")) == [0, 2, 1]
    assert kappa.ranks(("mild", "none", "severe")) == [0, 1, 2]
    ordered = Metric("quadratic_kappa", order=("none", "mild", "severe"))
    assert ordered.ranks(("mild", "none", "severe")) == [1, 0, 2]
    assert ordered.problem(("mild", "none", "severe"), (5, 5, 5)) is None
    assert ordered.problem(("mild", "none", "severe", "unknown"), (5, 5, 5, 5)) == (
        'class_order lacks the class "unknown"'
    )
    assert "there is no class" in ordered.problem(("mild", "none", "strong"), (5, 5, 5))


def test_standard_errors():
    """Those of the accuracy and of macro metrics have a formula; those of the others are kept with the metrics."""
    metrics = {"accuracy": 0.5, "images": 100, "per_class": {"a": {"recall": 0.5, "images": 100}}}
    assert metric_of("accuracy").standard_error(metrics) == pytest.approx(0.05, rel=0.01)
    assert metric_of("balanced_accuracy").standard_error(metrics) == MACRO_F1.standard_error(metrics)
    assert metric_of("log_loss").standard_error(metrics) is None
    assert metric_of("log_loss").standard_error({**metrics, "standard_error": {"log_loss": 0.1}}) == 0.1
