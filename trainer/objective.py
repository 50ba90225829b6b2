"""The one objective function: what a trial of the search does."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import optuna
import torch

from trainer.backbones import save_weights
from trainer.device import choose_device, device_name
from trainer.fit import fit
from trainer.metrics import summary
from trainer.space import suggest
from trainer.step import MicroBatch

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping
    from pathlib import Path

    from optuna.trial import BaseTrial

    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.loaders import Loaders
    from trainer.space import Space


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
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[], None] | None = None,
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
        best_weights: file for the weights of the best epoch, as safetensors.
        on_epoch: called with each epoch as soon as it has ended.
        on_step: called after each batch; what it raises ends the trial.

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

    best = -1.0
    epochs = fit(
        recipe,
        data,
        train=split.train,
        valid=split.valid,
        parts=space.parts,
        device=device,
        weights=weights,
        loaders=loaders,
        micro_batch=MicroBatch(min(recipe.batch_size, known.get(key, recipe.batch_size)), remember),
        on_step=on_step,
    )
    with closing(epochs):
        for epoch in epochs:
            assert epoch.macro_f1 is not None, "there are validation images"
            if on_epoch:
                on_epoch(epoch)
            if epoch.macro_f1 > best:
                best, best_epoch = epoch.macro_f1, epoch
                if best_weights:
                    save_weights(epoch.model, best_weights)
            trial.report(epoch.macro_f1, epoch.number)
            if pruned := epoch.number < recipe.epochs and trial.should_prune():
                break
    trial.set_user_attr("best_epoch", best_epoch.number)
    trial.set_user_attr("metrics", _metrics(best_epoch, data))
    if pruned:
        raise optuna.TrialPruned
    return best


def _metrics(epoch: Epoch, data: Data) -> dict[str, object]:
    """All metrics of an epoch's validation, in one piece that JSON can hold."""
    assert epoch.confusion is not None, "there are validation images"
    labels = torch.from_numpy(data.index.labels[data.split.valid])
    return summary(epoch.confusion, data.index.classes, labels, epoch.probabilities)
