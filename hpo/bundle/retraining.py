"""The model of a trial that becomes a bundle: trained again on all that is not held out, also with pseudo-labels."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from hpo.bundle.pseudo_labels import CONFIDENCE, choose
from hpo.errors import HpoError
from hpo.hardware import cores
from storage.keys import DEVICE_KEY, THREADS_KEY
from trainer.fit import Subsets, fit
from trainer.images.split import divide_into_folds
from trainer.loaders import loaders_for
from trainer.model.backbones import weights_of
from trainer.resources import Resources
from trainer.step import MicroBatch
from trainer.validation import probabilities_of
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.bundle.pseudo_labels import Joined, PseudoLabels
    from trainer.data import Data
    from trainer.extensions import Extensions
    from trainer.fit import Epoch
    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe
    from trainer.validation import Validation


@dataclass(frozen=True)
class Training:
    """How the models of bundles are to be made.

    Attributes:
        retrain: False takes the trials' own weights, which never saw the validation images.
        unlabelled: folders, files, patterns and CSVs, only with `retrain`; classes that they may tell are not read.
        confidence: the lowest probability, in [0, 1], with which a model is sure of an unlabelled image's class.
        keep_pseudo_labels: True learns these images without finding out whether that helps.
        threads: of torch on a CPU, beside a GPU processes that augment; None: those of the trial where it ran on a CPU
            as this does, as the last bits of the weights depend on their number, else one a core.
    """

    retrain: bool = True
    unlabelled: Sequence[str] = ()
    confidence: float = CONFIDENCE
    keep_pseudo_labels: bool = False
    threads: int | None = None

    def threads_for(self, trial: FrozenTrial, device: torch.device) -> int:
        """How many threads the model of this trial gets on this device."""
        on_cpus = device.type == "cpu" and trial.user_attrs.get(DEVICE_KEY) == "cpu"
        return self.threads or (on_cpus and trial.user_attrs.get(THREADS_KEY)) or cores()


@dataclass(frozen=True, eq=False)
class Folds:
    """The images that are not held out, divided for a cross-validation, groups and copies whole.

    Attributes:
        count: of the folds.
        images: positions, sorted, int64 [n].
        numbers: the fold of each of them, int64 [n], from 0 on; -1: always trained on.
    """

    count: int
    images: NDArray[np.int64]
    numbers: NDArray[np.int64]


def divide(data: Data, count: int) -> Folds:
    """Divide the images that are not held out into folds, always in the same way.

    Raises:
        HpoError: there are too few images or groups.
    """
    images = _labelled(data)
    numbers = divide_into_folds(data.index, images, count, seed="folds", copies=data.index.copies)
    if len(np.unique(numbers[numbers >= 0])) < count:
        raise HpoError(f"export: --folds {count} needs a group of images for each fold at least; give fewer folds")
    return Folds(count, images, numbers)


@dataclass(frozen=True)
class Retrained:
    """What a retraining has given.

    Attributes:
        model: in eval mode, on the device.
        train_losses: mean train loss of each epoch, the first first.
    """

    model: Classifier
    train_losses: Sequence[float]


@dataclass(frozen=True, eq=False)
class Searched:
    """What a training as in the search has given.

    Attributes:
        model: of the best epoch, in eval mode, on the device.
        scores: of the validation images after each epoch, the first first.
        best: what the best epoch says of these images.
    """

    model: Classifier
    scores: Sequence[float]
    best: Validation


@dataclass(frozen=True)
class Chosen:
    """What was chosen for a bundle, and what its training needs beside the images.

    Attributes:
        recipe: of the trial.
        epochs: how many of the recipe's epochs are trained: up to the best of the trial.
        valid_scores: score of each epoch of the trial, the first first, which the plateau schedule follows.
        metric: of the study, that gives the scores.
        extensions: losses, augmentations and models of one's own.
        weights: folder or file of pretrained weights in place of the hub.
        device: that trains.
        threads: of torch on a CPU, beside a GPU processes that augment.
        say: takes lines on how it goes.
    """

    recipe: Recipe
    epochs: int
    valid_scores: Sequence[float]
    metric: Metric
    extensions: Extensions
    weights: Path | None
    device: torch.device
    threads: int
    say: Callable[[str], None]

    def retrained(self, data: Data) -> Retrained:
        """The model after a training on the images that are not held out."""
        return self._retrained(data, _labelled(data), "training and validation")

    def retrained_with(self, pseudo: PseudoLabels) -> Retrained:
        """The model after a training on these images and on those that have pseudo-labels."""
        images = np.concatenate([_labelled(pseudo.data), pseudo.images])
        return self._retrained(pseudo.data, images, f"{len(pseudo.images)} of them unlabelled")

    def retrained_without(self, fold: int, folds: Folds, data: Data) -> Retrained:
        """The model after a training on all images that are not held out, but for those of this fold, from 0 on."""
        return self._retrained(data, folds.images[folds.numbers != fold], f"fold {fold + 1} of {folds.count}")

    def trained_as_in_the_search(self, data: Data) -> Searched:
        """The model of the best epoch of a training on the images to train, judged on those to validate."""
        split, scores = data.split, list[float]()
        self.say(f"training on {counted(len(split.train), 'image')} {self._length()}{self._on()}")
        for epoch in self._trained(data, Subsets(split.train, split.valid, metric=self.metric)):
            assert epoch.validation, "there are validation images"
            if not scores or epoch.validation.score > max(scores):
                best, weights = epoch.validation, weights_of(epoch.model)
            scores.append(epoch.validation.score)
        model = epoch.model
        model.backbone.load_state_dict(weights)
        return Searched(model, scores, best)

    def pseudo_labels(self, joined: Joined, confidence: float) -> tuple[Retrained, PseudoLabels]:
        """Retrain the model and let it classify the unlabelled images; perhaps it is sure of none."""
        if left_out := joined.left_out():
            self.say(left_out)
        # The unlabelled images are decoded with the others, so that a broken one is found before the training.
        retrained = self.retrained(joined.data)
        found = self.probabilities(retrained.model, joined.data, joined.unlabelled)
        chosen = choose(joined, found, confidence)
        self.say(chosen.line())
        return retrained, chosen

    def probabilities(self, model: Classifier, data: Data, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a model of this recipe says of these images: float32 [images, classes]."""
        pixels = data.pixels(model.reading)
        return probabilities_of(model, pixels, images, self.device, MicroBatch(self.recipe.batch_size)).numpy()

    def _retrained(self, data: Data, images: NDArray[np.int64], source: str) -> Retrained:
        """The model after a training on these images, as many epochs as the trial took to its best; says `source`."""
        self.say(f"retraining on {counted(len(images), 'image')}, {source}, {self._length()}{self._on()}")
        losses = []
        for epoch in self._trained(data, Subsets(images, plateau=self.valid_scores)):
            losses.append(epoch.train_loss)
        return Retrained(epoch.model, losses)

    def _trained(self, data: Data, subsets: Subsets) -> Iterator[Epoch]:
        """The epochs of a training up to the last that is wanted, each of them said."""
        loaders = loaders_for(self.device, self.threads)
        epochs = fit(
            self.recipe,
            data,
            subsets,
            extensions=self.extensions,
            resources=Resources(device=self.device, loaders=loaders, weights=self.weights),
        )
        with closing(loaders), closing(epochs):
            for epoch in islice(epochs, self.epochs):
                self.say(f"epoch {epoch.number}: train loss {epoch.train_loss:.4f}, {epoch.seconds:.1f} s")
                yield epoch

    def _length(self) -> str:
        return f"for {self.epochs} of {counted(self.recipe.epochs, 'epoch')}"

    def _on(self) -> str:
        """What the end of the line on a retraining says of the threads, which only a CPU's result depends on."""
        if self.device.type != "cpu":
            return ""
        here = cores()
        more = f"; --threads {here} may be faster on this machine, and gives slightly other weights"
        return f" with {counted(self.threads, 'thread')}{more if self.threads > here else ''}"


def _labelled(data: Data) -> NDArray[np.int64]:
    """The images that are not held out."""
    return np.sort(np.concatenate([data.split.train, data.split.valid]))
