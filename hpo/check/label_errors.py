"""Labels that may be wrong: the best models of a search predict another class."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hpo.study.open_study import model_of
from hpo.study.ranking import ranked
from hpo.study.settings import space_of
from storage.errors import StorageError
from trainer.device import choose_device
from trainer.predict import Member, predict
from trainer.quality.checks import Finding, wrong_labels
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from numpy.typing import NDArray

    from hpo.study.open_study import OpenStudy
    from trainer.data import Data

MODELS = 5  # whose probabilities are averaged: five models are seldom wrong together


def find_label_errors(
    opened: OpenStudy, data: Data, broken: Container[int], on_progress: Callable[[int, int], None]
) -> Finding | None:
    """Let the best complete trials classify the validation images, which none of them was trained on.

    Only these: the models have learned the labels of the training images by heart, and held-out images are not used.

    Args:
        opened: the study, whose settings must be those of its study file and of the images.
        data: the images.
        broken: positions of images that cannot be read.
        on_progress: called with the images done and all of them, over all models.

    Returns:
        A finding; None where no trial is complete yet.
    """
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
        return Finding("wrong labels", "ok", line, "check again where they were trained")
    return wrong_labels(data.index, images, np.mean(found, axis=0), len(found))
