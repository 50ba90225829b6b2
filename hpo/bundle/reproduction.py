"""`hpo reproduce`: the training of a bundle or of a trial done again, and compared with what was kept of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.bundle.bundle import ORIGIN, PSEUDO_LABELS
from hpo.bundle.comparison import Comparison
from hpo.bundle.inputs import find_images
from hpo.bundle.origin import data_of, scores_of, weights_of
from hpo.bundle.pseudo_labels import learned_pseudo_labels, restore
from hpo.bundle.retraining import Chosen, Retrained, divide
from hpo.errors import HpoError
from hpo.hardware import cores
from hpo.study.environment import environment, environment_differences
from hpo.study.images import load_images
from hpo.study.metric_settings import kept_metric
from hpo.study.open_study import model_of, recipe_of
from hpo.study.settings import differences
from storage.errors import StorageError
from storage.keys import DEVICE_KEY, ENVIRONMENT_KEY, SAME_RECIPE_KEY, THREADS_KEY
from trainer.device import choose_device, torch_threads
from trainer.model.backbones import weights_of as copied_weights
from trainer.scoring import metrics_with_error_of, most_probable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna.trial import FrozenTrial

    from hpo.bundle.bundle import Bundle
    from hpo.study.open_study import OpenStudy
    from trainer.data import Data
    from trainer.extensions import Extensions
    from trainer.model.backbones import Classifier


@dataclass(frozen=True)
class Again:
    """How a training is to be done again.

    Attributes:
        extensions: losses, augmentations and models of one's own.
        data: where the images are now, if they have moved.
        threads: of torch; None: as many as then.
        say: takes lines on how it goes.
    """

    extensions: Extensions
    data: Path | str | None
    threads: int | None
    say: Callable[[str], None]


def reproduce_bundle(bundle: Bundle, again: Again) -> Comparison:
    """Train the model of a bundle again, without its study, and compare train losses and weights.

    Of a model that learned pseudo-labels the training with them is done again, not the one that gave them. The classes
    of the held-out images are not used.

    Raises:
        HpoError: the bundle does not keep what this needs, or the images are not where it says, or others.
        TrainerError: the images or the pretrained weights cannot be read.
    """
    info = bundle.info
    if bundle.members:
        raise HpoError(
            f"reproduce: {bundle.folder} is a bundle of several models; name one of them, such as"
            f" {bundle.members[0].folder}"
        )
    if ORIGIN not in info:
        raise HpoError(
            f"reproduce: {bundle.folder} is of an hpo that did not keep where its images are; `hpo reproduce STUDY"
            f" --trial {info.get('trial', 'N')}` trains its trial again"
        )
    settings, device = data_of(bundle, again.data), choose_device()
    threads = again.threads or info["threads"]
    with tempfile.TemporaryDirectory(prefix="hpo-") as cache:
        data = settings.load(Path(cache)).with_ranges(bundle.reading.ranges)
        if data.index.classes != bundle.classes:
            raise HpoError(f"reproduce: the images in {settings.path} have other classes than the bundle")
        now = environment(device, threads)
        found = environment_differences(info, now)
        found += [
            f"{what} digest: {info[key][:12]}… then, {digest[:12]}… here"
            for key, digest, what in (
                ("data_digest", data.index.digest, "images, by their"),
                ("split_digest", data.split.digest, "split, by its"),
            )
            if info[key] != digest
        ]
        _say_environment(found, again)
        origin = info[ORIGIN]
        chosen = Chosen(
            recipe=bundle.recipe,
            epochs=info["epochs"],
            valid_scores=scores_of(origin),
            metric=kept_metric(origin),
            extensions=again.extensions,
            weights=weights_of(bundle),
            device=device,
            threads=threads,
            say=again.say,
        )
        comparison = Comparison(_are_cpus(info.get("device"), now["device"]), chosen.metric)
        kept = bundle.load_model(again.extensions, device)
        with torch_threads(threads):
            if info["retrained"]:
                trained = _retrained(chosen, bundle, data)
                comparison.epochs("train loss", origin["train_losses"], trained.train_losses)
                model = trained.model
            else:
                model = _searched(chosen, data, comparison)
            _compare_models(chosen, (kept, model), data, comparison)
    return comparison


def reproduce_trial(opened: OpenStudy, number: int, again: Again) -> Comparison:
    """Train a trial of a study again, as far as it came, and compare its scores by epoch, and its weights if kept.

    Raises:
        HpoError: there is no such trial, or it has no epoch that hpo trained.
        TrainerError: the images or the pretrained weights cannot be read.
    """
    trial, study_file = _trial_of(opened, number), opened.file
    if again.data:
        settings = replace(study_file.data, path=again.data)
        study_file = replace(study_file, data=settings)
    device = choose_device()
    data, attributes = load_images(study_file, opened.study), trial.user_attrs
    then = {**attributes.get(ENVIRONMENT_KEY, {}), "device": attributes.get(DEVICE_KEY)}
    if then["device"] == "cpu":
        then["threads"] = attributes.get(THREADS_KEY)
    threads = again.threads or then.get("threads") or cores()
    changed = differences(opened.study, study_file, data)
    now = environment(device, threads)
    found = environment_differences(then, now)
    found += [line for table in ("data", "images") for line in changed.get(table, [])]
    if ENVIRONMENT_KEY not in attributes:
        found.append("the trial ran before versions were kept with each: only the major ones of its study are known")
        found += changed.get("major versions", [])
    _say_environment(found, again)
    scores = [score for _, score in sorted(trial.intermediate_values.items())]
    extensions = again.extensions
    chosen = Chosen(
        recipe=recipe_of(trial, opened.study, extensions),
        epochs=len(scores),
        valid_scores=scores,
        metric=opened.metric,
        extensions=extensions,
        weights=study_file.weights,
        device=device,
        threads=threads,
        say=again.say,
    )
    comparison = Comparison(_are_cpus(then["device"], now["device"]), chosen.metric)
    with torch_threads(threads):
        model = _searched(chosen, data, comparison)
        try:
            kept = model_of(trial, opened, extensions, len(data.index.classes), device)
        except StorageError:
            again.say(f"the weights of trial {number} are not kept here: only its scores are compared")
        else:
            _compare_models(chosen, (kept, model), data, comparison)
    return comparison


def _trial_of(opened: OpenStudy, number: int) -> FrozenTrial:
    """The trial of this number, which has an epoch at least."""
    trials = opened.study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise HpoError(f'reproduce: "{opened.file.name}" has no trial {number}; it has {len(trials)}, the first is 0')
    trial = trials[number]
    if (same := trial.user_attrs.get(SAME_RECIPE_KEY)) is not None:
        raise HpoError(f"reproduce: trial {number} was given the result of trial {same}; give --trial {same}")
    if not trial.state.is_finished():
        raise HpoError(f"reproduce: trial {number} is {trial.state.name.lower()}; wait until it has ended")
    if not trial.intermediate_values or THREADS_KEY not in trial.user_attrs:
        raise HpoError(f"reproduce: trial {number} has no epoch that hpo trained; give another one")
    return trial


def _say_environment(found: Sequence[str], again: Again) -> None:
    for line in found or ["the environment is as it was then: versions, processor, device, threads, images, split"]:
        again.say(line)


def _are_cpus(*devices: str | None) -> bool:
    return all(device in ("cpu", None) for device in devices)


def _retrained(chosen: Chosen, bundle: Bundle, data: Data) -> Retrained:
    """The retraining of a bundle done again."""
    if fold := bundle.info.get("fold"):
        return chosen.retrained_without(fold["number"] - 1, divide(data, fold["of"]), data)
    if not learned_pseudo_labels(bundle.info):
        return chosen.retrained(data)
    rows = find_images([str(bundle.folder / PSEUDO_LABELS)], bundle.classes, "reproduce")
    return chosen.retrained_with(
        restore(data, [(row.file, row.true) for row in rows], bundle.info["pseudo_labels"]["confidence"])
    )


def _searched(chosen: Chosen, data: Data, comparison: Comparison) -> Classifier:
    """The model of the best epoch of a training as in the search, whose scores are compared with those of then."""
    searched = chosen.trained_as_in_the_search(data)
    found, best, metric = searched.scores, searched.best, chosen.metric
    there = chosen.valid_scores[: len(found)]
    if comparison.exact:
        name = f"validation {metric.title}"
        comparison.epochs(name, [*map(metric.value, there)], [*map(metric.value, found)])
    else:
        told = most_probable(data.index.labels[data.split.valid], best.probabilities.numpy(), data.index.classes)
        error = metric.standard_error(metrics_with_error_of(metric, told)) or 0.0
        comparison.score(max(there), best.score, error)
    return searched.model


def _compare_models(chosen: Chosen, models: Sequence[Classifier], data: Data, comparison: Comparison) -> None:
    """Compare the weights of two models and, where they may differ, the classes that both give the held-out images."""
    comparison.weights(*map(copied_weights, models))
    if comparison.different or not comparison.exact:
        images = data.split.test if len(data.split.test) else data.split.valid
        comparison.classes(*(chosen.probabilities(model, data, images) for model in models))
