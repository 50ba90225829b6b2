"""Whether pseudo-labels help: a recipe trained with and without them on the folds of a cross-validation."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from hpo.bundle.decision import FEWEST_IMAGES
from hpo.bundle.pseudo_labels import choose
from hpo.bundle.selection import Criterion, paired_scores
from hpo.study.confirmation import find_confirmation, mark_of, recipe_of_fold
from hpo.study.fresh_folds import data_of_fold, fold_count
from hpo.study.open_study import model_of, recipe_of
from hpo.study.out_of_fold import read_fold
from storage.errors import StorageError
from storage.keys import WEIGHTS_NAME
from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from hpo.bundle.pseudo_labels import Joined, PseudoLabels
    from hpo.bundle.retraining import Chosen, Retrained, Training
    from hpo.study.open_study import OpenStudy
    from trainer.data import Data
    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric

FEWEST_GROUPS = 6  # of images: of fewer, all gain by chance in more than 2.5 % of cases
ANYWAY = "--keep-pseudo-labels learns them in any case"


@dataclass(frozen=True)
class PseudoLabelGain:
    """What pseudo-labels gain on images that the models had not learned.

    Attributes:
        folds: of the cross-validation.
        images: that were judged.
        groups: of them, by which they belong together.
        scores: of the metric without and with pseudo-labels, the higher the better; None of too few images or groups.
        interval: of 95 % of the gain, by resampling the groups; likewise.
        metric: of the study.
    """

    folds: int
    images: int
    groups: int
    scores: tuple[float, float] | None = None
    interval: tuple[float, float] | None = None
    metric: Metric = MACRO_F1

    @property
    def helps(self) -> bool:
        """Whether the gain is beyond its interval."""
        return self.interval is not None and self.interval[0] > 0

    def line(self) -> str:
        """What people are told."""
        if self.scores is None or self.interval is None:
            return (
                f"pseudo-labels left out: {counted(self.images, 'image')} of {counted(self.groups, 'group')} are too"
                f" few to see whether they help; {ANYWAY}"
            )
        (without, with_them), (low, high) = self.scores, self.interval
        found = (
            f"{self.metric.title} {self.metric.text(without)} → {self.metric.text(with_them)} on"
            f" {counted(self.images, 'image')} of {self.folds} folds, each by the model that has not learned it (gain"
            f" {with_them - without:+.4f}, {low:+.4f} to {high:+.4f} in 95 %)"
        )
        if self.helps:
            return f"pseudo-labels help: {found}: kept"
        return f"pseudo-labels left out: {found}, which is no gain beyond chance; {ANYWAY}"

    def as_json(self) -> dict[str, Any] | None:
        """`comparison` in bundle.json; None where there were too few images."""
        if self.scores is None or self.interval is None or not all(map(math.isfinite, (*self.scores, *self.interval))):
            return None
        values = map(self.metric.value, self.scores)
        return {
            "folds": self.folds,
            "images": self.images,
            self.metric.name: dict(zip(("without", "with"), values, strict=True)),
            "gain": self.scores[1] - self.scores[0],
            "interval": list(self.interval),
        }


@dataclass(frozen=True, eq=False)
class Learned:
    """The model of a bundle that was given unlabelled images.

    Attributes:
        retrained: with pseudo-labels where they are used, else without.
        data: what it has learned from.
        pseudo: the pseudo-labels.
        gain: what they gain; None where there are none, or nobody wanted to know.
    """

    retrained: Retrained
    data: Data
    pseudo: PseudoLabels
    gain: PseudoLabelGain | None

    @property
    def used(self) -> bool:
        """Whether the pseudo-labels were learned."""
        return len(self.pseudo.images) > 0 and (self.gain is None or self.gain.helps)

    def lines(self) -> list[str]:
        """What the card says of them."""
        if not len(self.pseudo.images):
            return [self.pseudo.line()]
        return [self.gain.line()] if self.gain else []

    def as_json(self) -> dict[str, Any]:
        """`pseudo_labels` of bundle.json."""
        return {**self.pseudo.as_json(), "used": self.used, "comparison": self.gain and self.gain.as_json()}


def learn(chosen: Chosen, joined: Joined, opened: OpenStudy, training: Training) -> Learned:
    """Retrain a model, and once more with its pseudo-labels where they help on the folds of a cross-validation.

    The folds are those of `hpo confirm`: of the images to train and to validate, groups and copies whole. On each of
    them the recipe is trained without pseudo-labels, as the confirmation does it; this model gives those with which
    the recipe is then trained in the same way. What the two models say of the images of the fold is compared. Where
    the confirmation has trained the recipe on that fold, and its weights are here, they are taken.

    Args:
        chosen: what is retrained.
        joined: labelled and unlabelled images.
        opened: the study.
        training: how.
    """
    retrained, pseudo = chosen.pseudo_labels(joined, training.confidence)
    gain = None
    if not len(pseudo.images):
        return Learned(retrained, joined.data, pseudo, gain)
    if not training.keep_pseudo_labels:
        retrained.model.cpu()  # makes room for the trainings
        gain = _find_gain(chosen, joined, opened, training.confidence)
        chosen.say(gain.line())
    if gain is None or gain.helps:
        return Learned(chosen.retrained_with(pseudo), pseudo.data, pseudo, gain)
    retrained.model.to(chosen.device)
    return Learned(retrained, joined.data, pseudo, gain)


def _find_gain(chosen: Chosen, joined: Joined, opened: OpenStudy, confidence: float) -> PseudoLabelGain:
    index, split, seed = joined.data.index, joined.data.split, opened.file.seed
    labelled = np.concatenate([split.train, split.valid])
    if (groups_in_all := len(np.unique(index.groups_with_copies[labelled]))) < FEWEST_GROUPS:
        return PseudoLabelGain(0, len(labelled), groups_in_all)
    count = fold_count(joined.data, seed, chosen.metric)
    folds = {fold: data_of_fold(joined.data, fold, seed, chosen.metric) for fold in range(count)}
    images = np.concatenate([data.split.valid for data in folds.values()])
    groups = index.groups_with_copies[images]
    counts = (len(folds), len(images), len(np.unique(groups)))
    if len(images) < FEWEST_IMAGES or counts[2] < FEWEST_GROUPS:
        return PseudoLabelGain(*counts)
    kept = _kept_models(chosen, opened, folds)
    there = f"; {len(kept)} without are there from `hpo confirm`" if kept else ""
    chosen.say(
        f"to see whether pseudo-labels help: {counted(2 * len(folds) - len(kept), 'training')} of"
        f" {counted(chosen.recipe.epochs, 'epoch')}, with and without them on each of {len(folds)} folds{there}"
        f" ({ANYWAY})"
    )
    shown = []
    for fold, data in folds.items():
        without, with_them = (_on_fold(chosen, fold, seed, arm) for arm in ("without", "with"))
        model = _kept_or_trained(without, data, kept.get(fold))
        before = without.probabilities(model, data, data.split.valid)
        found = choose(joined, without.probabilities(model, data, joined.unlabelled), confidence)
        del model  # its memory is for the next one
        after = _probabilities_with(with_them, data, found) if len(found.images) else before
        shown.append(np.stack([before, after]))
    scores, interval = paired_scores(
        index.labels[images], np.concatenate(shown, axis=1), groups, Criterion(chosen.metric, index.classes)
    )
    return PseudoLabelGain(*counts, scores, interval, chosen.metric)


def _on_fold(chosen: Chosen, fold: int, seed: int, arm: str) -> Chosen:
    """What is trained on a fold, as `hpo confirm` does it: all epochs, each of them judged."""
    recipe = recipe_of_fold(chosen.recipe, fold, seed)

    def say(line: str) -> None:
        chosen.say(f"fold {fold + 1} {arm} pseudo-labels: {line}")

    return replace(chosen, recipe=recipe, epochs=recipe.epochs, valid_scores=(), say=say)


def _kept_models(chosen: Chosen, opened: OpenStudy, folds: Mapping[int, Data]) -> dict[int, Callable[[], Classifier]]:
    """What loads the models of the folds on which the recipe was trained to confirm it, and whose weights are kept."""
    confirmation = find_confirmation(opened)
    if confirmation is None:
        return {}
    with_weights = {kept.number for kept in confirmation.rows.kept_files(WEIGHTS_NAME)}
    found: dict[int, Callable[[], Classifier]] = {}
    for trial in confirmation.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        mark = mark_of(trial)
        if mark is None or mark[1] not in folds or trial.number not in with_weights:
            continue
        recipe = recipe_of(trial, confirmation.study, chosen.extensions)
        if recipe != recipe_of_fold(chosen.recipe, mark[1], opened.file.seed):
            continue
        judged = read_fold(confirmation, trial)  # with another [study] seed the folds were others
        if judged is not None and np.array_equal(judged.images, folds[mark[1]].split.valid):
            classes = len(folds[mark[1]].index.classes)
            found[mark[1]] = partial(model_of, trial, confirmation, chosen.extensions, classes, chosen.device)
    return found


def _kept_or_trained(chosen: Chosen, data: Data, load: Callable[[], Classifier] | None) -> Classifier:
    """The model of a fold without pseudo-labels."""
    if load:
        try:
            return load()
        except StorageError as error:
            chosen.say(f"{error}; it is trained again")
    return chosen.trained_as_in_the_search(data).model


def _probabilities_with(chosen: Chosen, data: Data, found: PseudoLabels) -> NDArray[np.float32]:
    """What a model that has learned pseudo-labels, too, says of the images of the fold."""
    split = data.split
    both = found.data.with_split(replace(split, train=np.concatenate([split.train, found.images])))
    return chosen.probabilities(chosen.trained_as_in_the_search(both).model, both, split.valid)
