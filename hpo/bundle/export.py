"""`hpo export-best`: trials, retrained on all that is not held out, each tested once on what is, as bundles."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from hpo.bundle.bundle import ORIGIN, new_folder
from hpo.bundle.card import Story, write_card
from hpo.bundle.chosen_trials import score_line
from hpo.bundle.decision import Found, find_decision
from hpo.bundle.inputs import find_images
from hpo.bundle.origin import origin_of
from hpo.bundle.pseudo_label_gain import learn
from hpo.bundle.pseudo_labels import join
from hpo.bundle.retraining import Chosen, Training
from hpo.bundle.scores import scores_on
from hpo.bundle.writing import write_info, write_lists, write_model, write_pseudo_labels
from hpo.study.images import load_images
from hpo.study.metric_settings import metric_settings
from hpo.study.nested_file import nested_line
from hpo.study.open_study import model_of, recipe_of
from hpo.study.ranking import ranked
from hpo.study.settings import check_settings, space_of
from hpo.study.test_uses import count_test_use, keep_test_score
from storage.errors import StorageError
from storage.keys import BEST_EPOCH_KEY
from trainer.device import choose_device, torch_threads
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.study.confirmed import Confirmed
    from hpo.study.open_study import OpenStudy
    from trainer.calibration import Decision
    from trainer.data import Data
    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe


def export(
    opened: OpenStudy,
    folders: Mapping[Path, FrozenTrial],
    training: Training,
    say: Callable[[str], None],
    confirmed: Confirmed | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Write the bundles of these trials, each whole or not at all; yields each folder with its bundle.json.

    The retraining follows the trial: same recipe, seed, schedule and number of threads, ended at the trial's best
    epoch, with the validation images added to the training images. Nothing judges it on the way, so nothing is chosen
    on the test images; each test is counted in the study. A trial that is confirmed is trained for the epochs that its
    folds say.

    With unlabelled images the retrained model classifies them; those that it is sure of, with the classes that it
    gives them, join its training images for a second model, which is trained likewise from the start, where that helps
    on the folds of a cross-validation. One of the two alone is tested and written.

    Args:
        opened: the study.
        folders: to be made, none of which may exist, with a complete trial for each.
        training: how the models are to be made.
        say: takes lines on how it goes.
        confirmed: what is known of the trials that were trained again on fresh folds.

    Raises:
        HpoError: the study has other settings, a folder exists or cannot be written, or of the unlabelled images there
            are none, or none but copies.
        StorageError: the trial's own weights are not here.
        DataError: images that cannot be read.
    """
    study_file = opened.file
    study_file.make_folder()
    data = load_images(study_file, opened.study)
    check_settings(opened.study, study_file, data)
    given = training.unlabelled
    rows = find_images(given, (), "export", unpack=study_file.folder / "pixels") if given else []
    joined = join(data, [row.file for row in rows]) if given else None
    for folder, trial in folders.items():
        chosen = chosen_of(trial, opened, training, say, confirmed)
        say(score_line(trial, opened, confirmed))
        with new_folder(folder) as temporary, torch_threads(chosen.threads):
            used, learned, losses = data, None, None
            if joined:
                learned = learn(chosen, joined, opened, training)
                used, model, losses = learned.data, learned.retrained.model, learned.retrained.train_losses
            elif training.retrain:
                retrained = chosen.retrained(data)
                model, losses = retrained.model, retrained.train_losses
            else:
                model = model_of(trial, opened, study_file.space.extensions, len(data.index.classes), chosen.device)
            about = write_model(temporary, model, chosen, study_file, used)
            found = decision_of(chosen, None if training.retrain else model, trial, opened, used)
            for line in found.lines():
                say(line)
            test, uses = tested_once(opened, trial.number, partial(_test, chosen, model, used, found.decision), data)
            info = {
                **about,
                "study": study_file.name,
                "trial": trial.number,
                "retrained": training.retrain,
                "pseudo_labels": learned and learned.as_json(),
                "data_digest": data.index.digest,
                "split_digest": data.split.digest,
                **metric_settings(opened.metric),
                "metrics": {**searched_value(trial, opened.metric), "test": test},
                "confirmation": confirmation_of(trial.number, confirmed),
                "test_uses": uses,
                **found.as_json(data.index.classes),
                ORIGIN: origin_of(study_file, folder, chosen, losses),
            }
            write_lists(temporary, folder, data)
            if joined and learned and learned.used:
                write_pseudo_labels(temporary, folder, joined, learned.pseudo)
            write_info(temporary, info)
            lines = [*(learned.lines() if learned else ()), *found.lines()]
            write_card(temporary, info, story_of(opened, [chosen.recipe], data, lines))
        yield folder, info


def searched_value(trial: FrozenTrial, metric: Metric) -> dict[str, float | None]:
    """What bundle.json says of the metric on the validation images; None of a trial that was not trained to its end."""
    score = trial.value if trial.state is TrialState.COMPLETE else None
    return {f"valid_{metric.name}": None if score is None else metric.value(score)}


def chosen_of(
    trial: FrozenTrial,
    opened: OpenStudy,
    training: Training,
    say: Callable[[str], None],
    confirmed: Confirmed | None = None,
) -> Chosen:
    """A trial, ready to be trained again on this machine: where it is confirmed, for the epochs that its folds say."""
    known = confirmed.recipe_of(trial.number) if confirmed else None
    extensions, device = opened.file.space.extensions, choose_device()
    epochs = known.epochs if training.retrain and known and known.folds > 1 else None
    searched = [score for _, score in sorted(trial.intermediate_values.items())]
    return Chosen(
        recipe=recipe_of(trial, opened.study, extensions),
        epochs=epochs or int(trial.user_attrs[BEST_EPOCH_KEY]),
        valid_scores=known.curve if epochs and known else searched,
        metric=opened.metric,
        extensions=extensions,
        weights=opened.file.weights,
        device=device,
        threads=training.threads_for(trial, device),
        say=say,
    )


def tested_once(
    opened: OpenStudy, trial: int, test: Callable[[], dict[str, Any]], data: Data
) -> tuple[dict[str, Any] | None, int]:
    """Count a use of the held-out images, and then test on them; returns the scores and how many uses there were.

    None and 0 where nothing is held out.

    Args:
        opened: the study.
        trial: number of the trial that is tested.
        test: gives the scores.
        data: of the study.
    """
    if not len(data.split.test):
        return None, 0
    use = str(uuid.uuid4())
    uses = count_test_use(opened.study, use, datetime.now(UTC).isoformat(timespec="seconds"))
    found = test()
    keep_test_score(opened.study, use, trial, found, opened.metric)
    return found, uses


def story_of(opened: OpenStudy, recipes: Sequence[Recipe], data: Data, lines: Sequence[str]) -> Story:
    """What a card tells of a bundle with models of these recipes, and these lines, which the export has printed."""
    trials = opened.study.get_trials(deepcopy=False)
    comparable = ranked(trials, space_of(opened.study, opened.file.space.extensions))
    return Story(recipes, _images_of(data), len(list(comparable)), lines, nested_line(opened))


def _images_of(data: Data) -> NDArray[np.int64]:
    """How many images each class has in each side of the split, int64 [classes, 3]."""
    sides, labels, classes = (
        (data.split.train, data.split.valid, data.split.test),
        data.index.labels,
        data.index.classes,
    )
    return np.stack([np.bincount(labels[side], minlength=len(classes)) for side in sides], axis=1)


def confirmation_of(trial: int, confirmed: Confirmed | None) -> dict[str, Any] | None:
    """What bundle.json says of the trainings that confirm the trial of this number; None where there is none."""
    known = confirmed.recipe_of(trial) if confirmed else None
    if confirmed is None or known is None or known.mean is None:
        return None
    return {
        "winner": confirmed.winner == known.trial,
        confirmed.metric.name: confirmed.metric.value(known.mean),
        "margin": known.margin,
        "folds": known.folds,
        "optimism": known.optimism,
        "trainings": confirmed.trainings,
    }


def decision_of(chosen: Chosen, own: Classifier | None, trial: FrozenTrial, opened: OpenStudy, data: Data) -> Found:
    """Temperature and offsets, by what the trial's own weights say of the validation images.

    After a retraining on these images nothing but the test split is unseen, so that the model that has not learned them
    stands for the one that has.
    """
    classes = len(data.index.classes)
    try:
        model = own or model_of(trial, opened, chosen.extensions, classes, chosen.device)
    except StorageError:
        return Found(f"as the weights of trial {trial.number} that have not learned the validation images are gone")
    images = data.split.valid
    source = f"{counted(len(images), 'validation image')} that the trial's own weights have not learned"
    return find_decision(data, images, chosen.probabilities(model, data, images), source, chosen.metric)


def _test(chosen: Chosen, model: Classifier, data: Data, decision: Decision) -> dict[str, Any]:
    """The scores of a model on the held-out images."""
    shown = decision.probabilities(chosen.probabilities(model, data, data.split.test))
    return scores_on(data, data.split.test, decision.classes(shown), shown, chosen.metric)
