"""[study] metric and class_order: by what a study compares its trials."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from hpo.errors import HpoError
from storage.keys import SETTINGS_KEY
from trainer.objective_metric import MACRO_F1, metric_of
from trainer.rules import show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.study.table import Table
    from trainer.data import Data
    from trainer.objective_metric import Metric


def read_metric(study: Table, problems: list[str]) -> Metric:
    """The metric that the table [study] names; what is wrong goes to `problems`."""
    name, order = study.text("metric"), study.value("class_order")
    metric = MACRO_F1
    if name is not None:
        try:
            metric = metric_of(name)
        except ValueError as error:
            problems.append(f"study.metric: {error}")
            return metric
    if order is None:
        return metric
    if not isinstance(order, list) or not all(isinstance(each, str) for each in order) or len(order) < 2:
        problems.append(f'study.class_order: {show(order)} is no list of classes, such as ["none", "mild", "severe"]')
    elif len(set(order)) < len(order):
        problems.append("study.class_order: a class is listed more than once")
    elif not metric.ordered:
        problems.append(f'study.class_order: metric = "{metric.name}" has no use for it; remove it')
    else:
        return replace(metric, order=tuple(order))
    return metric


def metric_settings(metric: Metric) -> dict[str, Any]:
    """The metric among the settings of a study."""
    return {"metric": metric.name, "class_order": list(metric.order) or None}


def metric_of_study(attributes: Mapping[str, Any]) -> Metric:
    """That by which a study with these attributes compares its trials."""
    return kept_metric(attributes[SETTINGS_KEY].get("study", {}))


def kept_metric(kept: Mapping[str, Any]) -> Metric:
    """The metric that was kept by `metric_settings`; where an earlier version has kept none, it was macro-F1."""
    return replace(metric_of(kept.get("metric", MACRO_F1.name)), order=tuple(kept.get("class_order") or ()))


def name_metric(study: optuna.Study, metric: Metric) -> None:
    """Have Optuna and its dashboard say what the values of a study are, which are scores; macro-F1 needs no name."""
    if metric == MACRO_F1:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([metric.score_title])


def metric_problem(metric: Metric, data: Data) -> str | None:
    """Say in one line why the images to validate do not define the metric, or None."""
    classes = data.index.classes
    images = np.bincount(data.index.labels[data.split.valid], minlength=len(classes)).tolist()
    return metric.problem(classes, images)


def refuse_undefined(metric: Metric, data: Data, study_file: Path) -> None:
    """Raise HpoError where the images to validate do not define the metric, before a trial begins."""
    if problem := metric_problem(metric, data):
        raise HpoError(f"{study_file.name}: study.metric: {problem}")
