"""Learning-rate schedules by name, all from PyTorch, moved once a step and once an epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from trainer.recipe import Recipe

STEPS_AT = (0.5, 0.75)  # shares of the training after which "step" divides the rate by 10 (He et al. 2016)
STEP_FACTOR = 0.1
PLATEAU_FACTOR = 0.3
PLATEAU_PATIENCE = 2  # epochs without a better score
PLATEAU_THRESHOLD = 1e-4  # of the best score, by which one has to be better to count
ONE_CYCLE_RISE = 0.3  # share of the training in which the rate rises (Smith & Topin 2018)
WARMUP_START = 0.01  # of the full learning rate


@dataclass(frozen=True)
class Schedule:
    """What moves the learning rate of an optimiser."""

    each_step: LRScheduler | None
    each_epoch: ReduceLROnPlateau | None

    def after_step(self) -> None:
        """Move on by one optimiser step."""
        if self.each_step is not None:
            self.each_step.step()

    def after_epoch(self, score: float) -> None:
        """Take in the validation score of an epoch, the higher the better."""
        if self.each_epoch is not None:
            self.each_epoch.step(score)
            # PyTorch's share of the best score would make a worse one count as better where scores are negative.
            self.each_epoch.threshold = math.copysign(PLATEAU_THRESHOLD, self.each_epoch.best)

    def state(self) -> dict[str, Any]:
        """How far it has moved, as JSON can hold it; the optimiser's rates are the optimiser's."""
        return {name: mover.state_dict() for name, mover in self._movers().items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where a schedule of the same recipe and steps was when it gave this state."""
        for name, mover in self._movers().items():
            mover.load_state_dict(dict(state[name]))

    def _movers(self) -> dict[str, LRScheduler]:
        movers = {"each_step": self.each_step, "each_epoch": self.each_epoch}
        return {name: mover for name, mover in movers.items() if mover is not None}


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> Schedule:
    """Build the recipe's schedule for a training of `steps` optimiser steps in all.

    The rate rises linearly over the first `warmup` of the steps, to the recipe's learning rate; the rest follows
    the named curve from its start. One-cycle brings a rise of its own and takes no other.
    """
    warmup = round(steps * recipe.warmup)
    if recipe.schedule == "one_cycle":
        highest = [group["lr"] for group in optimizer.param_groups]  # layers may have rates of their own
        cycle = OneCycleLR(optimizer, highest, total_steps=steps + 1, pct_start=ONE_CYCLE_RISE)
        return Schedule(each_step=cycle, each_epoch=None)
    if recipe.schedule == "plateau":
        rise = LinearLR(optimizer, WARMUP_START, total_iters=warmup) if warmup else None
        plateau = ReduceLROnPlateau(
            optimizer, mode="max", factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE, threshold=PLATEAU_THRESHOLD
        )
        return Schedule(each_step=rise, each_epoch=plateau)
    curve = {"constant": _constant, "step": _step, "cosine": _cosine}[recipe.schedule]

    def factor(step: int) -> float:
        if step < warmup:
            return WARMUP_START + (1 - WARMUP_START) * step / warmup
        return curve((step - warmup) / max(1, steps - warmup))

    return Schedule(each_step=LambdaLR(optimizer, factor), each_epoch=None)


def _constant(_done: float) -> float:
    return 1.0


def _step(done: float) -> float:
    return STEP_FACTOR ** sum(done >= share for share in STEPS_AT)


def _cosine(done: float) -> float:
    """Loshchilov & Hutter 2017, "SGDR", equation 5 with one period and a rate of 0 at the end."""
    return (1 + math.cos(math.pi * min(1.0, done))) / 2
