"""The one objective function: what a trial of the search does."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import optuna

from trainer.backbones import save_weights
from trainer.fit import fit
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from optuna.trial import BaseTrial

    from trainer.data import Data
    from trainer.fit import Epoch
    from trainer.space import Space


def objective(
    trial: BaseTrial,
    space: Space,
    data: Data,
    *,
    device: torch.device | None = None,
    weights: Path | None = None,
    loaders: int = 0,
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
        loaders: processes that augment; 0 does it in this one.
        best_weights: file for the weights of the best epoch, as safetensors.
        on_epoch: called with each epoch before it is reported.
        on_step: called after each batch; what it raises ends the trial.

    Returns:
        the best validation macro-F1 of the epochs, in [0, 1]; the trial's user attribute `best_epoch` says which one
        gave it.

    Raises:
        optuna.TrialPruned: the pruner wants no more of it.
        TrainerError: the training failed for a reason that the message names.
    """
    recipe = suggest(trial, space)
    split = data.split
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
        on_step=on_step,
    )
    with closing(epochs):
        for epoch in epochs:
            assert epoch.macro_f1 is not None, "there are validation images"
            if epoch.macro_f1 > best:
                best = epoch.macro_f1
                trial.set_user_attr("best_epoch", epoch.number)
                if best_weights:
                    save_weights(epoch.model, best_weights)
            if on_epoch:
                on_epoch(epoch)
            trial.report(epoch.macro_f1, epoch.number)
            if epoch.number < recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned
    return best
