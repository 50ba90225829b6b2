"""The one objective function: what a trial of the search does."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import optuna
import torch

from trainer.checkpoint import in_part, part_of
from trainer.device import choose_device, device_name
from trainer.fit import fit
from trainer.metrics import summary
from trainer.model.backbones import weights_of, write_weights
from trainer.space import suggest
from trainer.step import MicroBatch

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping, Sequence
    from pathlib import Path

    from optuna.trial import BaseTrial
    from torch import Tensor

    from trainer.checkpoint import Capture, Checkpoint
    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.loaders import Loaders
    from trainer.recipe import Recipe
    from trainer.space import Space


@dataclass(frozen=True, eq=False)
class Result:
    """What the training of a trial came to, also of a pruned one.

    Attributes:
        recipe: by which it trained.
        history: validation macro-F1 of each epoch, the first first, those before an interruption among them.
        train_losses: mean train loss of each epoch, likewise; NaN where a checkpoint of an older program had none.
        best_epoch: number of the epoch with the best macro-F1, 1 for the first.
        confusion: of the validation images after it, int64 [true class, predicted class] on the CPU.
        probabilities: of the classes, float32 [validation images, classes], likewise.
    """

    recipe: Recipe
    history: Sequence[float]
    train_losses: Sequence[float]
    best_epoch: int
    confusion: Tensor
    probabilities: Tensor


def objective(
    trial: BaseTrial,
    space: Space,
    data: Data,
    *,
    device: torch.device | None = None,
    weights: Path | None = None,
    loaders: Loaders | None = None,
    micro_batches: MutableMapping[str, int] | None = None,
    best_weights: Path | None = None,
    resume: Checkpoint | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[Capture], None] | None = None,
    on_end: Callable[[Result], None] | None = None,
) -> float:
    """Train by the recipe that the trial suggests; report each epoch; stop where the pruner says so.

    Args:
        trial: of a study with direction "maximize".
        space: what is searched.
        data: trained on `data.split.train`, judged on `data.split.valid`; the test part is never looked at.
        device: where to train; the first GPU or the CPU where not given.
        weights: folder with pretrained weights, in place of the hub.
        loaders: processes that augment; None does it in this one.
        micro_batches: how many images fit into memory, where that was fewer than a batch, by backbone, image size and
            device; read before the training, and added to when memory runs out.
        best_weights: file for the weights of the best epoch, as safetensors; written as the training ends or is pruned.
        resume: a checkpoint of an earlier trial with these parameters, to go on from. The trial is to have the values
            that are in its history already: they are not reported again.
        on_epoch: called with each epoch as soon as it has ended, before it is reported.
        on_step: called after each batch, of training and of validation, with a function that gives the checkpoint of a
            trial that stops there, as an epoch's `capture` does; what it raises ends the trial.
        on_end: called last, also where the trial is pruned, with what its training came to.

    Returns:
        the best validation macro-F1 of the epochs, in [0, 1]. Of the trial's user attributes `best_epoch` says which
        one gave it, and `metrics` holds all metrics of that epoch, also where the trial is pruned.

    Raises:
        optuna.TrialPruned: the pruner wants no more of it.
        TrainerError: the training failed for a reason that the message names.
    """
    recipe = suggest(trial, space)
    split = data.split
    device = device or choose_device()
    known = {} if micro_batches is None else micro_batches
    key = f"{recipe.backbone}, {recipe.image_size} px, {device_name(device)}"

    def remember(size: int) -> None:
        known[key] = size

    best = _best_in(resume) if resume and resume.history else None
    history = list(resume.history) if resume else []
    train_losses = resume.train_losses if resume else []

    def with_best(capture: Capture) -> Capture:
        def captured() -> Checkpoint:
            checkpoint = capture()
            return replace(checkpoint, tensors={**checkpoint.tensors, **(_tensors_of(best) if best else {})})

        return captured

    def stepped(capture: Capture) -> None:
        if on_step:
            on_step(with_best(capture))

    pruned = False
    epochs = fit(
        recipe,
        data,
        train=split.train,
        valid=split.valid,
        extensions=space.extensions,
        device=device,
        weights=weights,
        loaders=loaders,
        micro_batch=MicroBatch(min(recipe.batch_size, known.get(key, recipe.batch_size)), remember),
        resume=resume,
        on_step=stepped if on_step else None,
    )
    with closing(epochs):
        for epoch in epochs:
            assert epoch.macro_f1 is not None, "there are validation images"
            if best is None or epoch.macro_f1 > best.macro_f1:
                best = _best_of(epoch)
            history.append(epoch.macro_f1)
            train_losses.append(epoch.train_loss)
            if on_epoch:
                on_epoch(replace(epoch, capture=with_best(epoch.capture)))
            trial.report(epoch.macro_f1, epoch.number)
            if pruned := epoch.number < recipe.epochs and trial.should_prune():
                break
    assert best, "there is an epoch at least"
    labels = torch.from_numpy(data.index.labels[split.valid])
    trial.set_user_attr("best_epoch", best.number)
    trial.set_user_attr("metrics", summary(best.confusion, data.index.classes, labels, best.probabilities))
    if best_weights:
        write_weights(best.weights, best_weights)
    if on_end:
        on_end(Result(recipe, history, train_losses, best.number, best.confusion, best.probabilities))
    if pruned:
        raise optuna.TrialPruned
    return best.macro_f1


@dataclass(frozen=True, eq=False)
class _Best:
    """What is kept of the best epoch."""

    number: int
    macro_f1: float
    confusion: Tensor
    probabilities: Tensor
    weights: dict[str, Tensor]


def _best_of(epoch: Epoch) -> _Best:
    assert epoch.macro_f1 is not None, "there are validation images"
    assert epoch.confusion is not None, "as above"
    assert epoch.probabilities is not None, "as above"
    return _Best(epoch.number, epoch.macro_f1, epoch.confusion, epoch.probabilities, weights_of(epoch.model))


def _tensors_of(best: _Best) -> dict[str, Tensor]:
    """How a checkpoint holds it: which epoch it was is in the history."""
    own = {"confusion": best.confusion, "probabilities": best.probabilities}
    return in_part("best", own | in_part("weights", best.weights))


def _best_in(checkpoint: Checkpoint) -> _Best:
    history, tensors = checkpoint.history, part_of("best", checkpoint.tensors)
    macro_f1 = max(history)
    weights = part_of("weights", tensors)
    return _Best(history.index(macro_f1) + 1, macro_f1, tensors["confusion"], tensors["probabilities"], weights)
