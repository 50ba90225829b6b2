"""The result of `hpo nested`: a JSON file beside the study file, and what it says of a study with the same search."""

from __future__ import annotations

import glob
import json
from typing import TYPE_CHECKING

from storage.keys import SETTINGS_KEY
from trainer.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.study.open_study import OpenStudy


def nested_file(study_path: Path, folds: int | str) -> Path:
    """Where the result by so many outer folds is."""
    return study_path.with_name(f"{study_path.stem}.nested-{folds}.json")


def nested_line(opened: OpenStudy) -> str | None:
    """What nested cross-validation has found of this search, by the most folds; None where it is of another one.

    The images, the search space and the metric must be those of the study. The split need not be: where nothing is held
    out this is the only honest score.
    """
    kept, path, metric = opened.study.user_attrs[SETTINGS_KEY], opened.file.path, opened.metric
    found = {}
    for file in path.parent.glob(nested_file(path.with_name(glob.escape(path.name)), "*").name):
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            same = told["data_digest"] == kept["images"]["digest"] and told["recipe"] == kept["recipe"]
            if same and told["metric"] == metric.name and told[metric.name] is not None:
                found[told["folds"]] = told
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not whole, or not ours
    if not found:
        return None
    told = found[max(found)]
    ends = told["interval"] and told["interval"][metric.name]
    interval = f" ({ends[0]:.4f} to {ends[1]:.4f} in 95 %)" if ends else ""
    value, images = told[metric.name], counted(told["images"], "image")
    return (
        f"nested cross-validation by {told['folds']} outer folds: {metric.title} {value:.4f}{interval} on all"
        f" {images}, each tested by a search like this one that never saw it"
    )
