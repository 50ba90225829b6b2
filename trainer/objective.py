"""The one objective function: what a trial of the search does."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import optuna
import torch

from trainer.checkpoint import with_prefix, without_prefix
from trainer.errors import RecipeError
from trainer.fit import Subsets, fit
from trainer.metrics import summary
from trainer.model.backbones import weights_of, write_weights
from trainer.model.feasibility import training_problem
from trainer.observer import Result, SilentObserver
from trainer.space import suggest
from trainer.validation import Validation

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.trial import BaseTrial
    from torch import Tensor

    from trainer.checkpoint import Capture, Checkpoint
    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.observer import Observer
    from trainer.resources import Resources
    from trainer.space import Space


def objective(
    trial: BaseTrial,
    space: Space,
    data: Data,
    *,
    resources: Resources | None = None,
    observer: Observer | None = None,
    resume: Checkpoint | None = None,
    best_weights: Path | None = None,
) -> float:
    """Train by the recipe that the trial suggests; report each epoch; stop where the pruner says so.

    Args:
        trial: of a study with direction "maximize".
        space: what is searched.
        data: trained on `data.split.train`, judged on `data.split.valid`; the test side is never looked at.
        resources: what the training may use: device, processes that augment, pretrained weights, what is known of the
            memory; defaults where not given.
        observer: is told of each step, each epoch and the end; the checkpoints that it can ask for go on as trials.
        resume: a checkpoint of an earlier trial with these parameters, to go on from. The trial is to have the values
            that are in its history already: they are not reported again.
        best_weights: file for the weights of the best epoch, as safetensors; written as the training ends or is pruned.

    Returns:
        the best validation macro-F1 of the epochs, in [0, 1]. Of the trial's user attributes `best_epoch` says which
        one gave it, and `metrics` holds all metrics of that epoch, also where the trial is pruned.

    Raises:
        optuna.TrialPruned: the pruner wants no more of it.
        TrainerError: the training failed for a reason that the message names.
    """
    recipe, split = suggest(trial, space), data.split
    if not resume and recipe.backbone not in space.extensions.backbones and (problem := training_problem(recipe)):
        raise RecipeError([problem])
    observer = observer or SilentObserver()
    progress = _Progress(resume)
    epochs = fit(
        recipe,
        data,
        Subsets(split.train, split.valid),
        extensions=space.extensions,
        resources=resources,
        resume=resume,
        on_step=lambda capture: observer.on_step(progress.with_best(capture)),
    )
    pruned = False
    with closing(epochs):
        for epoch in epochs:
            macro_f1 = progress.add(epoch)
            observer.on_epoch(replace(epoch, capture=progress.with_best(epoch.capture)))
            trial.report(macro_f1, epoch.number)
            if pruned := epoch.number < recipe.epochs and trial.should_prune():
                break
    best = progress.best
    assert best, "there is an epoch at least"
    labels = torch.from_numpy(data.index.labels[split.valid])
    confusion, probabilities = best.validation.confusion, best.validation.probabilities
    trial.set_user_attr("best_epoch", best.epoch)
    trial.set_user_attr("metrics", summary(confusion, data.index.classes, labels, probabilities))
    if best_weights:
        write_weights(best.weights, best_weights)
    observer.on_end(Result(recipe, progress.history, progress.train_losses, best.epoch, confusion, probabilities))
    if pruned:
        raise optuna.TrialPruned
    return best.validation.macro_f1


@dataclass(frozen=True, eq=False)
class _Best:
    """What is kept of the best epoch."""

    epoch: int
    validation: Validation
    weights: dict[str, Tensor]


class _Progress:
    """What the epochs of a trial have given so far, those before an interruption among them."""

    def __init__(self, resume: Checkpoint | None) -> None:
        self.history = list(resume.history) if resume else []
        self.train_losses = resume.train_losses if resume else []
        self.best = _read_best(resume) if resume and resume.history else None

    def add(self, epoch: Epoch) -> float:
        """Take in an epoch; returns its macro-F1."""
        validation = epoch.validation
        assert validation, "there are validation images"
        if self.best is None or validation.macro_f1 > self.best.validation.macro_f1:
            self.best = _Best(epoch.number, validation, weights_of(epoch.model))
        self.history.append(validation.macro_f1)
        self.train_losses.append(epoch.train_loss)
        return validation.macro_f1

    def with_best(self, capture: Capture) -> Capture:
        """Let the checkpoints of a training hold the best epoch of the trial, too."""
        return partial(self._captured, capture)

    def _captured(self, capture: Capture) -> Checkpoint:
        checkpoint = capture()
        best = _best_tensors(self.best) if self.best else {}
        return replace(checkpoint, tensors={**checkpoint.tensors, **best})


def _best_tensors(best: _Best) -> dict[str, Tensor]:
    """How a checkpoint holds it: which epoch it was is in the history."""
    own = {"confusion": best.validation.confusion, "probabilities": best.validation.probabilities}
    return with_prefix("best", own | with_prefix("weights", best.weights))


def _read_best(checkpoint: Checkpoint) -> _Best:
    """The best epoch in a checkpoint, as `_best_tensors` wrote it."""
    history, tensors = checkpoint.history, without_prefix("best", checkpoint.tensors)
    macro_f1 = max(history)
    validation = Validation(macro_f1, tensors["confusion"], tensors["probabilities"])
    return _Best(history.index(macro_f1) + 1, validation, without_prefix("weights", tensors))
