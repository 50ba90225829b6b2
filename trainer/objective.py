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
from trainer.model.backbones import weights_of, write_weights
from trainer.model.feasibility import training_problem
from trainer.objective_metric import MACRO_F1
from trainer.observer import Result, SilentObserver
from trainer.scoring import Classified, metrics_with_error_of
from trainer.space import suggest
from trainer.validation import Validation

if TYPE_CHECKING:
    from pathlib import Path

    from optuna.trial import BaseTrial
    from torch import Tensor

    from trainer.checkpoint import Capture, Checkpoint
    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.objective_metric import Metric
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
    metric: Metric = MACRO_F1,
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
        metric: by which trials are compared.

    Returns:
        the best validation score of the epochs, the higher the better: of the log-loss it is the negative. Of the
        trial's user attributes `best_epoch` says which one gave it, and `metrics` holds all metrics of that epoch, also
        where the trial is pruned.

    Raises:
        optuna.TrialPruned: the pruner wants no more of it.
        TrainerError: the training failed for a reason that the message names.
    """
    recipe, split = suggest(trial, space), data.split
    if not resume and recipe.backbone not in space.extensions.backbones and (problem := training_problem(recipe)):
        raise RecipeError([problem])
    observer = observer or SilentObserver()
    progress = _Progress(resume, metric)
    epochs = fit(
        recipe,
        data,
        Subsets(split.train, split.valid, metric=metric),
        extensions=space.extensions,
        resources=resources,
        resume=resume,
        on_step=lambda capture: observer.on_step(progress.with_best(capture)),
    )
    pruned = False
    with closing(epochs):
        for epoch in epochs:
            score = progress.add(epoch)
            observer.on_epoch(replace(epoch, capture=progress.with_best(epoch.capture)))
            trial.report(score, epoch.number)
            if pruned := epoch.number < recipe.epochs and trial.should_prune():
                break
    best = progress.best
    assert best, "there is an epoch at least"
    labels = torch.from_numpy(data.index.labels[split.valid])
    confusion, probabilities = best.validation.confusion, best.validation.probabilities
    trial.set_user_attr("best_epoch", best.epoch)
    classified = Classified(labels, probabilities.argmax(dim=1), probabilities, data.index.classes)
    trial.set_user_attr("metrics", metrics_with_error_of(metric, classified))
    if best_weights:
        write_weights(best.weights, best_weights)
    history, losses = progress.history, progress.train_losses
    observer.on_end(Result(recipe, history, losses, best.epoch, confusion, probabilities, metric))
    if pruned:
        raise optuna.TrialPruned
    return best.validation.score


@dataclass(frozen=True, eq=False)
class _Best:
    """What is kept of the best epoch."""

    epoch: int
    validation: Validation
    weights: dict[str, Tensor]


class _Progress:
    """What the epochs of a trial have given so far, those before an interruption among them."""

    def __init__(self, resume: Checkpoint | None, metric: Metric) -> None:
        self.history = list(resume.history) if resume else []
        self.train_losses = resume.train_losses if resume else []
        self.best = _read_best(resume, metric) if resume and resume.history else None

    def add(self, epoch: Epoch) -> float:
        """Take in an epoch; returns its score."""
        validation = epoch.validation
        assert validation, "there are validation images"
        if self.best is None or validation.score > self.best.validation.score:
            self.best = _Best(epoch.number, validation, weights_of(epoch.model))
        self.history.append(validation.score)
        self.train_losses.append(epoch.train_loss)
        return validation.score

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


def _read_best(checkpoint: Checkpoint, metric: Metric) -> _Best:
    """The best epoch in a checkpoint, as `_best_tensors` wrote it."""
    history, tensors = checkpoint.history, without_prefix("best", checkpoint.tensors)
    score = max(history)
    validation = Validation(score, tensors["confusion"], tensors["probabilities"], metric)
    return _Best(history.index(score) + 1, validation, without_prefix("weights", tensors))
