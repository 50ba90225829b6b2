"""Labels that may be wrong: models that have not learned them predict another class."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hpo.output import new_csv
from hpo.study.open_study import model_of
from hpo.study.out_of_fold import read_out_of_fold
from hpo.study.ranking import ranked
from hpo.study.settings import space_of
from storage.errors import StorageError
from trainer.device import choose_device
from trainer.images.spreadsheets import cell_of, write_rows
from trainer.predict import Member, predict
from trainer.quality.checks import Finding, doubted_labels, wrong_labels
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from hpo.study.open_study import OpenStudy
    from trainer.data import Data
    from trainer.images.index import Index
    from trainer.quality.checks import DoubtedLabel

MODELS = 5  # whose probabilities are averaged: five models are seldom wrong together
HEADINGS = ("path", "label", "expected", "label_probability", "expected_probability")


@dataclass(frozen=True)
class LabelErrors:
    """What was found out about the labels.

    Attributes:
        finding: as `hpo check` shows it.
        doubted: the labels that may be wrong, the surest first; None where no model could look at them.
    """

    finding: Finding
    doubted: Sequence[DoubtedLabel] | None


def find_label_errors(
    opened: OpenStudy, data: Data, broken: Container[int], on_progress: Callable[[int, int], None]
) -> LabelErrors | None:
    """Find the labels that models doubt which have not learned them; held-out images are not used.

    Where trainings confirm the study, each image to train and to validate is judged by those that had it in their fold.
    Else the best complete trials classify the images to validate, as they have learned the others by heart.

    Args:
        opened: the study, whose settings must be those of its study file and of the images.
        data: the images.
        broken: positions of images that cannot be read.
        on_progress: called with the images done and all of them, over all models.

    Returns:
        None where no trial is complete yet.
    """
    if found := read_out_of_fold(opened):
        everyone = len(data.split.train) + len(data.split.valid)
        by = counted(found.models, "model")
        looked = f"of the {len(found.images):,} images to train and to validate, by {by} of the folds of `hpo confirm`"
        rest = "those held out are not looked at"
        if missing := everyone - len(found.images):
            rest += f", and {counted(missing, 'other')} were in no fold: `hpo confirm --repeats` adds folds"
        doubted = doubted_labels(data.index, found.images, found.probabilities)
        return LabelErrors(wrong_labels(data.index, doubted, looked, rest), doubted)
    return _by_the_search(opened, data, broken, on_progress)


def write_label_errors(index: Index, doubted: Sequence[DoubtedLabel], file: Path) -> None:
    """Write the labels that may be wrong as a CSV, the surest first, with paths relative to it.

    Raises:
        HpoError: the file exists, or cannot be written.
    """
    with new_csv("check", file) as opened:
        write_rows(opened, [HEADINGS])
        for one in doubted:
            path = os.path.relpath(index.root.absolute() / index.paths[one.image], file.parent.absolute())
            texts = (path, index.classes[one.label], index.classes[one.expected])
            shares = (one.label_probability, one.expected_probability)
            write_rows(opened, [[*map(cell_of, texts), *(f"{share:.3f}" for share in shares)]])


def _by_the_search(
    opened: OpenStudy, data: Data, broken: Container[int], on_progress: Callable[[int, int], None]
) -> LabelErrors | None:
    """By the best complete trials, on the images to validate."""
    extensions = opened.file.space.extensions
    space = space_of(opened.study, extensions)
    complete = list(ranked(opened.study.get_trials(deepcopy=False), space))
    if not complete:
        return None
    images = np.array([image for image in data.split.valid.tolist() if image not in broken], np.int64)
    files = [data.files[image] for image in images]
    found: list[NDArray[np.float32]] = []
    device = choose_device()
    for trial in complete:
        try:
            model = model_of(trial, opened, extensions, len(data.index.classes), device)
        except StorageError:  # kept on another machine, or no longer
            continue
        batches = []
        for batch in predict([Member(model, replace(model.reading, ranges=data.ranges()))], files, device):
            batches.append(batch[0])
            on_progress(len(found) * len(files) + sum(map(len, batches)), MODELS * len(files))
        found.append(np.concatenate(batches))
        if len(found) == MODELS:
            break
    if not found:
        line = f"not looked for: the weights of {counted(len(complete), 'complete trial')} are not in this store"
        return LabelErrors(Finding("wrong labels", "ok", line, "check again where they were trained"), None)
    best = f"{len(found)} best models" if len(found) > 1 else "best model"
    looked = f"of the {len(images):,} images to validate, by the {best}"
    doubted = doubted_labels(data.index, images, np.mean(found, axis=0))
    rest = "the others were not looked at: after `hpo confirm` those to train are, too"
    return LabelErrors(wrong_labels(data.index, doubted, looked, rest), doubted)
