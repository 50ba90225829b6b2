"""Several models as one bundle: those of the folds of a cross-validation, or an ensemble of kept ones."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.bundle.bundle import ORIGIN, new_folder
from hpo.bundle.card import CHOSEN_BY, write_card
from hpo.bundle.chosen_trials import score_line, trial_to_export, winner
from hpo.bundle.decision import find_decision
from hpo.bundle.export import chosen_of, confirmation_of, searched_value, story_of, tested_once
from hpo.bundle.origin import origin_of
from hpo.bundle.retraining import Training, divide
from hpo.bundle.scores import headline, scores_on
from hpo.bundle.selection import REPEATS, UNKNOWN_GAIN, Criterion, judge, select
from hpo.bundle.writing import write_info, write_lists, write_model
from hpo.errors import HpoError
from hpo.study.confirmed import read_confirmed
from hpo.study.images import load_images
from hpo.study.metric_settings import metric_settings
from hpo.study.open_study import model_of
from hpo.study.ranking import best_of_different_recipes
from hpo.study.settings import check_settings
from storage.errors import StorageError
from storage.keys import WEIGHTS_NAME
from trainer.calibration import Decision, mean_of
from trainer.device import choose_device, torch_threads
from trainer.images.split import Split, divide_into_folds
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.bundle.retraining import Chosen
    from hpo.study.open_study import OpenStudy
    from trainer.data import Data


def export_folds(
    opened: OpenStudy, folder: Path, number: int | None, count: int, threads: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train a trial's recipe once without each fold, and write the models as one bundle that votes softly.

    The images are those that are not held out. Each training has as many epochs as that of `hpo.bundle.export.export`,
    and each image is judged by the one model that has not learned it. That score is one of a single model; the vote of
    all is seldom worse.

    Args:
        opened: the study.
        folder: of the bundle, to be made.
        number: of the trial; None: the winner.
        count: of the folds.
        threads: of torch; None: as many as the trial had.
        say: takes lines on how it goes.

    Returns:
        what is in bundle.json.

    Raises:
        HpoError: as `hpo.bundle.export.export`, and where there are too few images for so many folds.
        TrainerError: images or weights cannot be read.
    """
    confirmed = read_confirmed(opened)
    trial = trial_to_export(opened, number, confirmed)
    data, metric = _data_of(opened), opened.metric
    chosen, folds = chosen_of(trial, opened, Training(threads=threads), say, confirmed), divide(data, count)
    say(score_line(trial, opened, confirmed))
    judged = folds.numbers >= 0
    out_of_fold = np.zeros((len(folds.images), len(data.index.classes)), np.float32)
    tests: list[NDArray[np.float32]] = []
    infos: dict[str, dict[str, Any]] = {}
    with new_folder(folder) as temporary, torch_threads(chosen.threads):
        for fold in range(count):
            name = f"fold-{fold + 1}"
            (temporary / name).mkdir()
            trained = chosen.retrained_without(fold, folds, data)
            own = folds.numbers == fold
            out_of_fold[own] = chosen.probabilities(trained.model, data, folds.images[own])
            tests += [chosen.probabilities(trained.model, data, data.split.test)] if len(data.split.test) else []
            about = write_model(temporary / name, trained.model, chosen, opened.file, data)
            sides = Split(folds.images[~own], folds.images[own], data.split.test, data.split.digest)
            write_lists(temporary / name, folder / name, data.with_split(sides))
            origin = origin_of(opened.file, folder / name, chosen, trained.train_losses)
            more = {"retrained": True, "pseudo_labels": None, "fold": {"number": fold + 1, "of": count}, ORIGIN: origin}
            infos[name] = {**about, **_source(opened, trial, data), **more}
        images = folds.images[judged]
        source = f"{counted(len(images), 'image')}, each by the model that has not learned it"
        found = find_decision(data, images, out_of_fold[judged], source, metric)
        for line in found.lines():
            say(line)
        told = found.as_json(data.index.classes)
        alone = Decision(found.decision.temperature)  # of each model; the offsets come after the mean
        together = Decision(offsets=found.decision.offsets)
        shown, predicted = found.crossed(out_of_fold[judged])
        estimate = scores_on(data, images, predicted, shown, metric)
        say(f"out of fold: {headline(estimate, metric)}, on {source}; {CHOSEN_BY}")

        def test() -> dict[str, Any]:
            shown = mean_of([alone] * count, [1] * count, np.stack(tests))
            return scores_on(data, data.split.test, together.classes(shown), shown, metric)

        info = {
            "classes": list(data.index.classes),
            "members": [{"folder": name, "votes": 1} for name in infos],
            **_source(opened, trial, data),
            "epochs": chosen.epochs,
            "versions": about["versions"],
            "metrics": {**searched_value(trial, metric), "out_of_fold": estimate},
            "confirmation": confirmation_of(trial.number, confirmed),
            "calibration": None,  # each model has it
            "thresholds": told["thresholds"],
        }
        info["metrics"]["test"], info["test_uses"] = tested_once(opened, trial.number, test, data)
        for name, one_info in infos.items():
            more = {"test_uses": info["test_uses"], "calibration": told["calibration"]}
            write_info(temporary / name, {**one_info, **more})
        write_lists(temporary, folder, data)
        write_info(temporary, info)
        write_card(temporary, info, story_of(opened, [chosen.recipe], data, found.lines()))
    return info


def export_ensemble(
    opened: OpenStudy, folder: Path, votes: int, threads: int | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Choose models among the kept ones of the search, by the validation images, and write them as one bundle.

    The gain over the best single model is judged on images that neither was chosen by.

    Args:
        opened: the study.
        folder: of the bundle, to be made.
        votes: how many are given away, at most; a model may have several.
        threads: of torch; None: as many as the trials had.
        say: takes lines on how it goes.

    Returns:
        what is in bundle.json.

    Raises:
        HpoError: as `hpo.bundle.export.export`, and where no complete trial has kept its weights.
        DataError: images cannot be read.
    """
    data, device, metric = _data_of(opened), choose_device(), opened.metric
    images, classes = data.split.valid, len(data.index.classes)
    kept: list[Kept] = []
    there = {file.number for file in opened.rows.kept_files(WEIGHTS_NAME)}
    best_first = best_of_different_recipes(opened, len(there), seeds_differ=True)
    for trial in (trial for trial in best_first if trial.number in there):
        chosen = chosen_of(trial, opened, Training(retrain=False, threads=threads), say)
        try:
            model = model_of(trial, opened, chosen.extensions, classes, device)
        except StorageError:  # in the store of another machine
            continue
        with torch_threads(chosen.threads):
            chosen.probabilities(model, data, images[:1])  # what is done at the first image alone is not timed
            started = time.perf_counter()
            probabilities = chosen.probabilities(model, data, images)
        kept.append(Kept(trial, chosen, probabilities, (time.perf_counter() - started) / len(images)))
    if not kept:
        raise HpoError(
            "export: no complete trial has kept its weights here; `hpo export-best` without --ensemble retrains"
        )
    candidates = np.stack([one.probabilities for one in kept])
    labels, groups = data.index.labels[images], data.index.groups_with_copies[images]
    criterion = Criterion(metric, data.index.classes)
    counts = select(labels, candidates, votes, criterion)
    members = [(one, int(count)) for one, count in zip(kept, counts, strict=True) if count]
    say(
        f"ensemble of {counted(int(counts.sum()), 'vote')} by {len(members)} of {counted(len(kept), 'kept model')}: "
        + ", ".join(f"trial {one.trial.number} ({count})" for one, count in members)
    )
    best, gain = kept[0] if len(members) > 1 else members[0][0], None
    seconds = (best.seconds, sum(one.seconds for one, _ in members))
    if len(members) > 1:
        divisions = [
            divide_into_folds(data.index, images, 2, seed=f"ensemble {n}", copies=data.index.copies)
            for n in range(REPEATS)
        ]
        gain = judge(labels, candidates, votes, groups, divisions, criterion)
        say(
            f"its gain in {metric.score_title} over the best single model: {gain.text() if gain else UNKNOWN_GAIN};"
            f" {seconds[1] * 1000:.2f} ms an image in place of {seconds[0] * 1000:.2f}"
        )
    else:
        say(_alone_line(opened, best.trial))
    plain = [Decision()] * len(members)
    shown = mean_of(plain, [count for _, count in members], candidates[counts > 0])
    source = f"{counted(len(images), 'validation image')}, which chose the models and so flatter them a little"
    found = find_decision(data, images, shown, source, metric)
    for line in found.lines():
        say(line)
    tests: list[NDArray[np.float32]] = []
    infos: dict[str, dict[str, Any]] = {}
    with new_folder(folder) as temporary:
        for one, _ in members:
            name = f"trial-{one.trial.number}"
            (temporary / name).mkdir()
            model = model_of(one.trial, opened, one.chosen.extensions, classes, device)
            with torch_threads(one.chosen.threads):
                tests += [one.chosen.probabilities(model, data, data.split.test)] if len(data.split.test) else []
            about = write_model(temporary / name, model, one.chosen, opened.file, data)
            origin = origin_of(opened.file, folder / name, one.chosen, None)
            more = {"retrained": False, "pseudo_labels": None, ORIGIN: origin}
            infos[name] = {**about, **_source(opened, one.trial, data), **more}
            write_lists(temporary / name, folder / name, data)

        def test() -> dict[str, Any]:
            mean = mean_of(plain, [count for _, count in members], np.stack(tests))
            shown = found.decision.probabilities(mean)
            return scores_on(data, data.split.test, found.decision.classes(shown), shown, metric)

        tested, uses = tested_once(opened, best.trial.number, test, data)
        for name, one_info in infos.items():
            write_info(temporary / name, {**one_info, "test_uses": uses})
        info = {
            "classes": list(data.index.classes),
            "members": [{"folder": f"trial-{one.trial.number}", "votes": count} for one, count in members],
            **_source(opened, best.trial, data),
            "metrics": {**searched_value(best.trial, metric), "ensemble": gain and gain.as_json(), "test": tested},
            "versions": about["versions"],
            "seconds_an_image": {"best": seconds[0], "ensemble": seconds[1]},
            "test_uses": uses,
            **found.as_json(data.index.classes),
        }
        write_lists(temporary, folder, data)
        write_info(temporary, info)
        recipes = [one.chosen.recipe for one, _ in members]
        write_card(temporary, info, story_of(opened, recipes, data, found.lines()))
    return info


@dataclass(frozen=True, eq=False)
class Kept:
    """A complete trial whose weights are kept.

    Attributes:
        trial: the trial.
        chosen: how it was trained.
        probabilities: of the validation images, float32 [images, classes].
        seconds: that an image took.
    """

    trial: FrozenTrial
    chosen: Chosen
    probabilities: NDArray[np.float32]
    seconds: float


def _alone_line(opened: OpenStudy, trial: FrozenTrial) -> str:
    """What is said where the vote of several is no better than the model of this trial alone."""
    confirmed = read_confirmed(opened)
    won = winner(opened, confirmed)
    kind = "confirmed winner" if confirmed and confirmed.winner == won.number else "winner"
    return (
        f"no vote of several is better on the validation images than trial {trial.number} alone: there is no gain, and"
        f" the bundle has this one model; the {kind}, trial {won.number}, is as good a choice, and `hpo export-best"
        f" {opened.file.path.name} -o DIR` lets it learn these images, too"
    )


def _data_of(opened: OpenStudy) -> Data:
    opened.file.make_folder()
    data = load_images(opened.file, opened.study)
    check_settings(opened.study, opened.file, data)
    return data


def _source(opened: OpenStudy, trial: FrozenTrial, data: Data) -> dict[str, Any]:
    return {
        "study": opened.file.name,
        "trial": trial.number,
        **metric_settings(opened.metric),
        "data_digest": data.index.digest,
        "split_digest": data.split.digest,
    }
