"""`hpo export-best`: the winner, retrained on all that is not held out, tested once on what is, as a bundle."""

from __future__ import annotations

import csv
import json
import os
import platform
import uuid
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpo import DISTRIBUTION
from hpo.bundle.bundle import INFO, RECIPE, TEST, WEIGHTS, new_folder
from hpo.bundle.prediction import find_images
from hpo.bundle.pseudo_labels import CONFIDENCE, choose, join
from hpo.bundle.scores import scores
from hpo.errors import HpoError
from hpo.hardware import cores
from hpo.study.open_study import count_test_use, model_of, recipe_of
from hpo.study.ranking import best_trial
from hpo.study.settings import PACKAGES, check_settings
from storage.keys import BEST_EPOCH_KEY
from trainer.device import choose_device
from trainer.fit import Subsets, fit
from trainer.images.spreadsheets import cell_of
from trainer.loaders import loaders_for
from trainer.model.backbones import save_weights
from trainer.resources import Resources
from trainer.step import MicroBatch
from trainer.validation import probabilities_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.bundle.pseudo_labels import Joined, PseudoLabels
    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from trainer.data import Data
    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe


@dataclass(frozen=True)
class _Winner:
    """The best trial of a study, and what its retraining needs beside the images.

    Attributes:
        study_file: of the study.
        trial: complete.
        recipe: what it was trained by.
        device: that trains.
        say: takes lines on how it goes.
    """

    study_file: StudyFile
    trial: FrozenTrial
    recipe: Recipe
    device: torch.device
    say: Callable[[str], None]


def export_best(
    opened: OpenStudy,
    folder: Path,
    *,
    retrain: bool,
    say: Callable[[str], None],
    unlabelled: Sequence[str] = (),
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """Write the bundle of a study's winner; returns its bundle.json.

    The retraining follows the winning trial: same recipe, seed and schedule, ended at the trial's best epoch, with
    the validation images added to the training images. Nothing judges it on the way, so nothing is chosen on the test
    images; each test is counted in the study.

    With unlabelled images the retrained model classifies them; those that it is sure of, with the classes that it
    gives them, join its training images for a second model, which is trained likewise from the start. That one alone
    is tested and written.

    Args:
        opened: the study.
        folder: to be made; must not exist.
        retrain: False takes the trial's own weights, which never saw the validation images.
        say: takes lines on how it goes.
        unlabelled: folders, files, patterns and CSVs, only with `retrain`; classes that they may tell are not read.
        confidence: the lowest probability, in [0, 1], with which the model is sure of an unlabelled image's class.

    Raises:
        HpoError: no trial is complete, the study has other settings, the folder cannot be written, or of the unlabelled
            images there are none, none but copies, or none that the model is sure of.
        StorageError: the trial's own weights are not here.
        DataError: images that cannot be read.
    """
    study_file, trial = opened.file, best_trial(opened)
    if trial is None:
        raise HpoError(
            f"export: no trial is complete yet; `hpo status {study_file.path.name}` shows how far the search is"
        )
    study_file.make_folder()
    data, device = study_file.data.load(study_file.folder / "pixels"), choose_device()
    check_settings(opened.study, study_file, data)
    recipe = recipe_of(trial, opened.study, study_file.space.extensions)
    winner = _Winner(study_file, trial, recipe, device, say)
    joined = join(data, find_images(unlabelled, (), "export").files) if unlabelled else None
    used, pseudo = joined.data if joined else data, None
    with new_folder(folder) as temporary:
        say(f"trial {trial.number} has won with a validation macro-F1 of {trial.value:.4f}")
        if joined:
            pseudo = _pseudo_labels(winner, joined, confidence)
            images = np.concatenate([_labelled(data), pseudo.images])
            source = f"{len(pseudo.images)} of them unlabelled"
            model = _retrain(winner, pseudo.data, images, source)
        elif retrain:
            model = _retrain(winner, data, _labelled(data), "training and validation")
        else:
            model = model_of(trial, opened, study_file.space.extensions, len(data.index.classes), device)
        save_weights(model, temporary / WEIGHTS)
        test, uses = None, 0
        if len(data.split.test):
            now = datetime.now(UTC).isoformat(timespec="seconds")
            uses = count_test_use(opened.study, str(uuid.uuid4()), now)
            probabilities = probabilities_of(
                model,
                used.pixels(recipe.image_size, model.interpolation),
                data.split.test,
                device,
                MicroBatch(recipe.batch_size),
            )
            labels = torch.from_numpy(data.index.labels[data.split.test])
            test = scores(labels, probabilities.argmax(dim=1), probabilities, data.index.classes)
            _write_test_files(temporary / TEST, folder, data)
        info = {
            "classes": list(data.index.classes),
            "preprocessing": {"image_size": recipe.image_size, **model.preprocessing()},
            "study": study_file.name,
            "trial": trial.number,
            "retrained": retrain,
            "pseudo_labels": pseudo and pseudo.as_json(),
            "epochs": trial.user_attrs[BEST_EPOCH_KEY],
            "seeds": {"training": recipe.seed, "split": study_file.data.seed, "search": study_file.seed},
            "versions": {
                "python": platform.python_version(),
                "hpo": version(DISTRIBUTION),
                **{name: version(name) for name in PACKAGES},
            },
            "data_digest": data.index.digest,
            "split_digest": data.split.digest,
            "metrics": {"valid_macro_f1": trial.value, "test": test},
            "test_uses": uses,
        }
        recipe.write(temporary / RECIPE)
        text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False)
        (temporary / INFO).write_text(f"{text}\n", encoding="utf-8")
    return info


def _labelled(data: Data) -> NDArray[np.int64]:
    """The images that are not held out."""
    return np.sort(np.concatenate([data.split.train, data.split.valid]))


def _pseudo_labels(winner: _Winner, joined: Joined, confidence: float) -> PseudoLabels:
    """Retrain the winner and let it classify the unlabelled images; its memory is free when this returns."""
    if left_out := joined.left_out():
        winner.say(left_out)
    # The unlabelled images are decoded with the others, so that a broken one is found before the training.
    data, images = joined.data, _labelled(joined.data)
    model = _retrain(winner, data, images, "training and validation")
    pixels = data.pixels(winner.recipe.image_size, model.interpolation)
    batches = MicroBatch(winner.recipe.batch_size)
    probabilities = probabilities_of(model, pixels, joined.unlabelled, winner.device, batches)
    chosen = choose(joined, probabilities.numpy(), confidence)
    winner.say(chosen.line())
    return chosen


def _retrain(winner: _Winner, data: Data, images: NDArray[np.int64], source: str) -> Classifier:
    """The model after a training on these images, as many epochs as the winner took to its best; `source` is told."""
    study_file, scores = winner.study_file, winner.trial.intermediate_values
    last = int(winner.trial.user_attrs[BEST_EPOCH_KEY])
    loaders = loaders_for(winner.device, cores())
    epochs = fit(
        winner.recipe,
        data,
        Subsets(images, plateau=[score for _, score in sorted(scores.items())]),
        extensions=study_file.space.extensions,
        resources=Resources(device=winner.device, loaders=loaders, weights=study_file.weights),
    )
    winner.say(f"retraining on {len(images)} images, {source}, for {last} of {winner.recipe.epochs} epochs")
    with closing(loaders), closing(epochs):
        for epoch in epochs:
            winner.say(f"epoch {epoch.number}: train loss {epoch.train_loss:.4f}, {epoch.seconds:.1f} s")
            if epoch.number == last:
                return epoch.model
    raise AssertionError("the best epoch is one of the recipe's epochs")


def _write_test_files(file: Path, folder: Path, data: Data) -> None:
    """The held-out images with their classes, relative to where the bundle will be: `hpo predict` reads it."""
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["path", "label"])
        for image in data.split.test:
            path = os.path.relpath(data.index.root / data.index.paths[image], folder.absolute())
            writer.writerow([cell_of(path), cell_of(data.index.classes[data.index.labels[image]])])
