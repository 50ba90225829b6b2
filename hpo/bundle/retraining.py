"""The model of a trial that becomes a bundle: trained again on all that is not held out, also with pseudo-labels."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpo.bundle.pseudo_labels import CONFIDENCE, choose
from hpo.hardware import cores
from storage.keys import BEST_EPOCH_KEY, DEVICE_KEY, THREADS_KEY
from trainer.fit import Subsets, fit
from trainer.loaders import loaders_for
from trainer.resources import Resources
from trainer.step import MicroBatch
from trainer.validation import probabilities_of
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.bundle.pseudo_labels import Joined, PseudoLabels
    from hpo.study.study_file import StudyFile
    from trainer.data import Data
    from trainer.model.backbones import Classifier
    from trainer.recipe import Recipe


@dataclass(frozen=True)
class Training:
    """How the models of bundles are to be made.

    Attributes:
        retrain: False takes the trials' own weights, which never saw the validation images.
        unlabelled: folders, files, patterns and CSVs, only with `retrain`; classes that they may tell are not read.
        confidence: the lowest probability, in [0, 1], with which a model is sure of an unlabelled image's class.
        threads: of torch on a CPU, beside a GPU processes that augment; None: those of the trial where it ran on a CPU
            as this does, as the last bits of the weights depend on their number, else one a core.
    """

    retrain: bool = True
    unlabelled: Sequence[str] = ()
    confidence: float = CONFIDENCE
    threads: int | None = None

    def threads_for(self, trial: FrozenTrial, device: torch.device) -> int:
        """How many threads the model of this trial gets on this device."""
        on_cpus = device.type == "cpu" and trial.user_attrs.get(DEVICE_KEY) == "cpu"
        return self.threads or (on_cpus and trial.user_attrs.get(THREADS_KEY)) or cores()


@dataclass(frozen=True)
class Chosen:
    """A trial that becomes a bundle, and what its retraining needs beside the images.

    Attributes:
        study_file: of the study.
        trial: complete.
        recipe: what it was trained by.
        device: that trains.
        threads: of torch on a CPU, beside a GPU processes that augment.
        say: takes lines on how it goes.
    """

    study_file: StudyFile
    trial: FrozenTrial
    recipe: Recipe
    device: torch.device
    threads: int
    say: Callable[[str], None]

    def retrained(self, data: Data) -> Classifier:
        """The model after a training on the images that are not held out."""
        return self._retrained(data, _labelled(data), "training and validation")

    def retrained_with(self, pseudo: PseudoLabels) -> Classifier:
        """The model after a training on these images and on those that have pseudo-labels."""
        images = np.concatenate([_labelled(pseudo.data), pseudo.images])
        return self._retrained(pseudo.data, images, f"{len(pseudo.images)} of them unlabelled")

    def pseudo_labels(self, joined: Joined, confidence: float) -> PseudoLabels:
        """Retrain the model and let it classify the unlabelled images; its memory is free when this returns.

        Raises:
            HpoError: it is sure of none.
        """
        if left_out := joined.left_out():
            self.say(left_out)
        # The unlabelled images are decoded with the others, so that a broken one is found before the training.
        model = self.retrained(joined.data)
        pixels = joined.data.pixels(self.recipe.image_size, model.interpolation)
        batches = MicroBatch(self.recipe.batch_size)
        probabilities = probabilities_of(model, pixels, joined.unlabelled, self.device, batches)
        chosen = choose(joined, probabilities.numpy(), confidence)
        self.say(chosen.line())
        return chosen

    def _retrained(self, data: Data, images: NDArray[np.int64], source: str) -> Classifier:
        """The model after a training on these images, as many epochs as the trial took to its best; says `source`."""
        last = int(self.trial.user_attrs[BEST_EPOCH_KEY])
        loaders = loaders_for(self.device, self.threads)
        epochs = fit(
            self.recipe,
            data,
            Subsets(images, plateau=[score for _, score in sorted(self.trial.intermediate_values.items())]),
            extensions=self.study_file.space.extensions,
            resources=Resources(device=self.device, loaders=loaders, weights=self.study_file.weights),
        )
        length = f"for {last} of {counted(self.recipe.epochs, 'epoch')}"
        self.say(f"retraining on {counted(len(images), 'image')}, {source}, {length}{self._on()}")
        with closing(loaders), closing(epochs):
            for epoch in epochs:
                self.say(f"epoch {epoch.number}: train loss {epoch.train_loss:.4f}, {epoch.seconds:.1f} s")
                if epoch.number == last:
                    return epoch.model
        raise AssertionError("the best epoch is one of the recipe's epochs")

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
