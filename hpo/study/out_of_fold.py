"""What the trainings that confirm a study say of the images of their folds, which they have not learned."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import TrialState

from hpo.study.confirmation import find_confirmation, mark_of
from hpo.study.confirmed import confirmed_by
from storage.artifacts.artifacts import fetch_file
from storage.errors import StorageError
from storage.keys import OUT_OF_FOLD_NAME

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy

DECIMALS = 3  # of a kept probability: of many classes most are 0 then, which takes hardly any room


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """What models say of images that none of them has learned.

    Attributes:
        images: positions in the index, sorted, int64 [n], n >= 1.
        probabilities: of the classes, the mean over the models, float32 [n, classes].
        models: how many models there are.
    """

    images: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    models: int


def out_of_fold_file(images: NDArray[np.int64], probabilities: NDArray[np.float32]) -> bytes:
    """What one training says of the images of its fold, as an .npz file: `images` and rounded `probabilities`."""
    file = io.BytesIO()
    np.savez_compressed(file, images=images, probabilities=probabilities.round(DECIMALS).astype(np.float16))
    return file.getvalue()


def read_fold(confirmation: OpenStudy, trial: FrozenTrial) -> OutOfFold | None:
    """What one complete training says of the images of its fold; None where that is not here, or not whole."""
    with TemporaryDirectory(prefix="hpo-") as folder:
        file = Path(folder) / OUT_OF_FOLD_NAME
        try:
            fetch_file(confirmation.artifacts, confirmation.storage, trial, OUT_OF_FOLD_NAME, file)
            with np.load(file) as kept:
                return OutOfFold(kept["images"], kept["probabilities"].astype(np.float32), models=1)
        except (StorageError, OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None  # in the store of another machine, or not whole


def read_out_of_fold(opened: OpenStudy) -> OutOfFold | None:
    """The mean over all trainings that confirm a study, but for those of recipes that are surely worse than the best.

    An image has as many models as its fold has trainings that this machine can reach.

    Returns:
        None where there is none: nothing is confirmed, by an earlier version, or on another machine.
    """
    confirmation = find_confirmation(opened)
    if confirmation is None:
        return None
    worse = {recipe.trial for recipe in confirmed_by(opened, confirmation).recipes if recipe.end}
    sums: dict[int, NDArray[np.float32]] = {}
    times: dict[int, int] = {}
    models = 0
    for trial in confirmation.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        mark = mark_of(trial)
        if mark is None or mark[0] in worse or (kept := read_fold(confirmation, trial)) is None:
            continue
        models += 1
        for image, row in zip(kept.images.tolist(), kept.probabilities, strict=True):
            sums[image] = sums[image] + row if image in sums else row
            times[image] = times.get(image, 0) + 1
    if not models:
        return None
    found = sorted(sums)
    return OutOfFold(np.array(found, np.int64), np.stack([sums[image] / times[image] for image in found]), models)
