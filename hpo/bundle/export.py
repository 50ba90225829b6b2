"""`hpo export-best`: trials, retrained on all that is not held out, each tested once on what is, as bundles."""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpo.bundle.bundle import (
    INFO,
    PSEUDO_LABELS,
    RECIPE,
    TEST,
    TRAIN,
    UNLABELLED,
    VALID,
    WEIGHTS,
    new_folder,
    refuse_existing,
)
from hpo.bundle.card import Story, write_card
from hpo.bundle.decision import Found, find_decision
from hpo.bundle.inputs import find_images
from hpo.bundle.origin import ORIGIN, origin_of
from hpo.bundle.pseudo_labels import join
from hpo.bundle.retraining import Chosen, Training
from hpo.bundle.scores import scores
from hpo.study.environment import environment
from hpo.study.images import load_images
from hpo.study.open_study import count_test_use, keep_test_score, model_of, recipe_of
from hpo.study.ranking import best_trial, ranked
from hpo.study.settings import check_settings, space_of
from storage.errors import StorageError
from storage.keys import BEST_EPOCH_KEY
from trainer.calibration import Decision
from trainer.device import choose_device, torch_threads
from trainer.images.spreadsheets import cell_of, write_rows
from trainer.model.backbones import save_weights
from trainer.model.hub_layout import write_config
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.bundle.pseudo_labels import Joined, PseudoLabels
    from hpo.study.open_study import OpenStudy
    from trainer.data import Data
    from trainer.images.index import Index
    from trainer.model.backbones import Classifier


def export(
    opened: OpenStudy, folders: Mapping[Path, FrozenTrial], training: Training, say: Callable[[str], None]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write the bundles of these trials, each whole or not at all; yields each folder with its bundle.json.

    The retraining follows the trial: same recipe, seed, schedule and number of threads, ended at the trial's best
    epoch, with the validation images added to the training images. Nothing judges it on the way, so nothing is chosen
    on the test images; each test is counted in the study.

    With unlabelled images the retrained model classifies them; those that it is sure of, with the classes that it
    gives them, join its training images for a second model, which is trained likewise from the start. That one alone
    is tested and written.

    Args:
        opened: the study.
        folders: to be made, none of which may exist, with a complete trial for each.
        training: how the models are to be made.
        say: takes lines on how it goes.

    Raises:
        HpoError: the study has other settings, a folder exists or cannot be written, or of the unlabelled images there
            are none, none but copies, or none that the model is sure of.
        StorageError: the trial's own weights are not here.
        DataError: images that cannot be read.
    """
    study_file, best = opened.file, best_trial(opened)
    for folder in folders:
        refuse_existing(folder)
    study_file.make_folder()
    data, device = load_images(study_file, opened.study), choose_device()
    check_settings(opened.study, study_file, data)
    given = training.unlabelled
    rows = find_images(given, (), "export", unpack=study_file.folder / "pixels") if given else []
    joined = join(data, [row.file for row in rows]) if given else None
    for folder, trial in folders.items():
        recipe = recipe_of(trial, opened.study, study_file.space.extensions)
        chosen = Chosen(
            recipe=recipe,
            epochs=int(trial.user_attrs[BEST_EPOCH_KEY]),
            valid_macro_f1=[score for _, score in sorted(trial.intermediate_values.items())],
            extensions=study_file.space.extensions,
            weights=study_file.weights,
            device=device,
            threads=training.threads_for(trial, device),
            say=say,
        )
        say(_score_line(trial, best))
        with new_folder(folder) as temporary, torch_threads(chosen.threads):
            used, pseudo, losses = data, None, None
            if joined:
                pseudo = chosen.pseudo_labels(joined, training.confidence)
                used, retrained = pseudo.data, chosen.retrained_with(pseudo)
                model, losses = retrained.model, retrained.train_losses
            elif training.retrain:
                retrained = chosen.retrained(data)
                model, losses = retrained.model, retrained.train_losses
            else:
                model = model_of(trial, opened, study_file.space.extensions, len(data.index.classes), device)
            save_weights(model, temporary / WEIGHTS)
            if problem := write_config(temporary / WEIGHTS, recipe, data.index.classes, study_file.space.extensions):
                say(f"timm alone cannot load this bundle, only hpo: {problem}")
            found = _find_decision(chosen, None if training.retrain else model, trial, opened, used)
            for line in found.lines():
                say(line)
            test, uses = None, 0
            if len(data.split.test):
                now = datetime.now(UTC).isoformat(timespec="seconds")
                use = str(uuid.uuid4())
                uses = count_test_use(opened.study, use, now)
                test = _test(chosen, model, used, found.decision)
                keep_test_score(opened.study, use, trial.number, test)
            info = {
                "classes": list(data.index.classes),
                "preprocessing": {
                    "image_size": recipe.image_size,
                    **model.preprocessing(),
                    "value_ranges": ranges.as_json() if (ranges := used.ranges()) else None,
                },
                "timm_problem": problem,
                "study": study_file.name,
                "trial": trial.number,
                "retrained": training.retrain,
                "pseudo_labels": pseudo and pseudo.as_json(),
                "epochs": trial.user_attrs[BEST_EPOCH_KEY],
                "seeds": {"training": recipe.seed, "split": study_file.data.seed, "search": study_file.seed},
                **environment(device, chosen.threads),
                "data_digest": data.index.digest,
                "split_digest": data.split.digest,
                "metrics": {"valid_macro_f1": trial.value, "test": test},
                "test_uses": uses,
                **found.as_json(data.index.classes),
                ORIGIN: origin_of(study_file, folder, chosen.valid_macro_f1, losses),
            }
            _write_lists(temporary, folder, data)
            if joined and pseudo:
                _write_pseudo_labels(temporary, folder, joined, pseudo)
            recipe.write(temporary / RECIPE)
            text = json.dumps(info, indent=2, ensure_ascii=False, allow_nan=False)
            (temporary / INFO).write_text(f"{text}\n", encoding="utf-8")
            comparable = ranked(
                opened.study.get_trials(deepcopy=False), space_of(opened.study, study_file.space.extensions)
            )
            write_card(temporary, info, Story(recipe, _images_of(data), len(list(comparable)), found.lines()))
        yield folder, info


def _images_of(data: Data) -> NDArray[np.int64]:
    """How many images each class has in each side of the split, int64 [classes, 3]."""
    sides, labels, classes = (
        (data.split.train, data.split.valid, data.split.test),
        data.index.labels,
        data.index.classes,
    )
    return np.stack([np.bincount(labels[side], minlength=len(classes)) for side in sides], axis=1)


def _score_line(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    """The validation score of a trial, and of the best one where that is another."""
    if best is None or best.number == trial.number:
        return f"trial {trial.number} has won with a validation macro-F1 of {trial.value:.4f}"
    return (
        f"trial {trial.number} has a validation macro-F1 of {trial.value:.4f}; trial {best.number} has won with"
        f" {best.value:.4f}"
    )


def _find_decision(chosen: Chosen, own: Classifier | None, trial: FrozenTrial, opened: OpenStudy, data: Data) -> Found:
    """Temperature and offsets, by what the trial's own weights say of the validation images.

    After a retraining on these images nothing but the test split is unseen, so that the model that has not learned them
    stands for the one that has.
    """
    classes = len(data.index.classes)
    try:
        model = own or model_of(trial, opened, chosen.extensions, classes, chosen.device)
    except StorageError:
        return Found(
            Decision(), f"as the weights of trial {trial.number} that have not learned the validation images are gone"
        )
    images = data.split.valid
    source = f"{counted(len(images), 'validation image')} that the trial's own weights have not learned"
    return find_decision(data, images, chosen.probabilities(model, data, images), source)


def _test(chosen: Chosen, model: Classifier, data: Data, decision: Decision) -> dict[str, Any]:
    """The scores of a model on the held-out images."""
    shown = decision.probabilities(chosen.probabilities(model, data, data.split.test))
    labels = torch.from_numpy(data.index.labels[data.split.test])
    return scores(labels, torch.from_numpy(decision.classes(shown)), torch.from_numpy(shown), data.index.classes)


def _write_lists(temporary: Path, folder: Path, data: Data) -> None:
    """The images of each side with their classes, and those without, as paths from where the bundle will be.

    `hpo predict` reads them.
    """
    index, sides = data.index, {TRAIN: data.split.train, VALID: data.split.valid, TEST: data.split.test}
    lists: dict[str, list[tuple[str, ...]]] = {
        name: [(index.paths[image], index.classes[index.labels[image]]) for image in images]
        for name, images in sides.items()
    }
    lists[UNLABELLED] = [(path,) for path in index.unlabelled]
    for name, rows in lists.items():
        if rows:
            _write_list(temporary / name, folder, index, rows)


def _write_pseudo_labels(temporary: Path, folder: Path, joined: Joined, pseudo: PseudoLabels) -> None:
    """All unlabelled images but the copies, with the classes of those that were learned; `hpo reproduce` reads them."""
    index, learned = pseudo.data.index, set(pseudo.images.tolist())
    rows = [
        (index.paths[image], index.classes[index.labels[image]] if image in learned else "")
        for image in joined.unlabelled.tolist()
    ]
    _write_list(temporary / PSEUDO_LABELS, folder, index, rows)


def _write_list(file: Path, folder: Path, index: Index, rows: Sequence[tuple[str, ...]]) -> None:
    """Rows of a path and perhaps a class."""
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as opened:
        write_rows(opened, [("path", "label")[: len(rows[0])]])
        for path, *label in rows:
            relative = os.path.relpath(index.root / path, folder.absolute())
            write_rows(opened, [map(cell_of, (relative, *label))])
