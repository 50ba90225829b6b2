"""The files of a bundle that is being made: weights, recipe, bundle.json, and the lists of its images."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.bundle.bundle import INFO, PSEUDO_LABELS, RECIPE, TEST, TRAIN, UNLABELLED, VALID, WEIGHTS
from hpo.study.environment import environment
from trainer.images.spreadsheets import cell_of, write_rows
from trainer.model.backbones import save_weights
from trainer.model.hub_layout import write_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from hpo.bundle.pseudo_labels import Joined, PseudoLabels
    from hpo.bundle.retraining import Chosen
    from hpo.study.study_file import StudyFile
    from trainer.data import Data
    from trainer.images.index import Index
    from trainer.model.backbones import Classifier


def write_model(folder: Path, model: Classifier, chosen: Chosen, study_file: StudyFile, data: Data) -> dict[str, Any]:
    """Write weights, timm's config.json and recipe.toml into a folder; returns what bundle.json has of the model."""
    save_weights(model, folder / WEIGHTS)
    chosen.recipe.write(folder / RECIPE)
    if problem := write_config(folder / WEIGHTS, chosen.recipe, data.index.classes, chosen.extensions):
        chosen.say(f"timm alone cannot load this bundle, only hpo: {problem}")
    return {
        "classes": list(data.index.classes),
        "preprocessing": {
            "image_size": chosen.recipe.image_size,
            **model.preprocessing(),
            "value_ranges": ranges.as_json() if (ranges := data.ranges()) else None,
        },
        "timm_problem": problem,
        "epochs": chosen.epochs,
        "seeds": {"training": chosen.recipe.seed, "split": study_file.data.seed, "search": study_file.seed},
        **environment(chosen.device, chosen.threads),
    }


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write bundle.json."""
    text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / INFO).write_text(f"{text}\n", encoding="utf-8")


def write_lists(temporary: Path, folder: Path, data: Data) -> None:
    """The images of each side with their classes, and those without, as paths from where the bundle will be.

    Where images belong together there is a column group. `hpo predict` reads all of it.
    """
    names = _group_names(data.index)
    index, sides = data.index, {TRAIN: data.split.train, VALID: data.split.valid, TEST: data.split.test}
    lists: dict[str, list[tuple[str, ...]]] = {
        name: [(index.paths[image], index.classes[index.labels[image]], *names[image : image + 1]) for image in images]
        for name, images in sides.items()
    }
    lists[UNLABELLED] = [(path,) for path in index.unlabelled]
    for name, rows in lists.items():
        if rows:
            _write_list(temporary / name, folder, index, rows)


def write_pseudo_labels(temporary: Path, folder: Path, joined: Joined, pseudo: PseudoLabels) -> None:
    """All unlabelled images but the copies, with the classes of those that were learned; `hpo reproduce` reads them."""
    index, learned = pseudo.data.index, set(pseudo.images.tolist())
    rows = [
        (index.paths[image], index.classes[index.labels[image]] if image in learned else "")
        for image in joined.unlabelled.tolist()
    ]
    _write_list(temporary / PSEUDO_LABELS, folder, index, rows)


def _group_names(index: Index) -> list[str]:
    """The group of each image, which its copies share; empty where each image is alone."""
    _, first, place = np.unique(index.groups_with_copies, return_index=True, return_inverse=True)
    if len(first) == len(index.paths):
        return []
    return [index.group_names[index.groups[image]] for image in first[place].tolist()]


def _write_list(file: Path, folder: Path, index: Index, rows: Sequence[tuple[str, ...]]) -> None:
    """Rows of a path, perhaps a class, and perhaps a group."""
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
        write_rows(opened, [("path", "label", "group")[: len(rows[0])]])
        for path, *rest in rows:
            write_rows(opened, [map(cell_of, (index.reference(path, folder), *rest))])
