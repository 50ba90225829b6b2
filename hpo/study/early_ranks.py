"""What pausing trials by early ranks may have cost, by trials that were trained to their end whatever their rank."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import TrialState

from hpo.study.interruptions import successors_of
from storage.keys import BEST_EPOCH_KEY, CONTROL_KEY
from storage.rungs import ETA
from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from trainer.objective_metric import Metric

FEWEST_TRIALS = 5  # below which no correlation is told
MISLEADING = 0.5  # a correlation below which early ranks say too little
NORMAL_95 = 1.96  # standard deviations on each side of 95 % of a normal distribution


def is_control(seed: int, place: int, share: float) -> bool:
    """Whether the trial in a place is one of the random share that is trained to its end whatever its rank."""
    return random.Random(f"control {seed} {place}").random() < share  # noqa: S311 - no secret


@dataclass(frozen=True)
class RungRanks:
    """How well the ranks at a rung foretell those at the end.

    Attributes:
        epoch: of the rung.
        correlation: of Spearman, between the best score until then and that of the whole training.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    epoch: int
    correlation: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.correlation:.2f} after epoch {self.epoch} (95 %: {self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class EarlyRanks:
    """What the trials tell that were trained to their end whatever their rank.

    Attributes:
        trials: how many of these are complete.
        rungs: how well early ranks foretell the last ones, the first rung first; empty where there are too few trials.
        paused: how many of them would be paused by now, as they are not among the best half of a rung.
        best_paused: the highest score that one of those has reached; None where there is none.
        best: the highest of all trials of the study.
        metric: that gives the scores.
    """

    trials: int
    rungs: Sequence[RungRanks]
    paused: int
    best_paused: float | None
    best: float
    metric: Metric = MACRO_F1

    @property
    def misleading(self) -> list[RungRanks]:
        """The rungs whose ranks say too little of the end."""
        return [rung for rung in self.rungs if rung.correlation < MISLEADING]

    def warning(self) -> str | None:
        """That early ranks mislead, with what to do; None where they do not."""
        if not self.misleading:
            return None
        shown = "; ".join(map(str, self.misleading))
        return (
            f"early ranks say little of the end, so that good trials may be paused: the rank correlation is {shown},"
            f' among {self.trials} trials trained to their end at random; pruner = "none" pauses none'
        )

    def as_json(self) -> dict[str, Any]:
        """As `hpo status --json` prints it, with values for scores."""
        paused = None if self.best_paused is None else self.metric.value(self.best_paused)
        shown = {**asdict(self), "best_paused": paused, "best": self.metric.value(self.best)}
        del shown["metric"]
        return shown

    def lines(self) -> list[str]:
        """What a report says."""
        best = ""
        if self.best_paused is not None:
            reached = self.metric.text(self.best_paused)
            best = f"; the best of those reached {reached}, the best of the search {self.metric.text(self.best)}"
        trained = counted(self.trials, "trial was", "trials were")
        lines = [
            f"{trained} trained to the end at random, whatever the rank, to see what pausing costs.",
            f"{self.paused} of them would be paused by now{best}.",
        ]
        if self.rungs:
            shown = "; ".join(map(str, self.rungs))
            lines.append(f"Rank correlation (Spearman) of their scores at a rung with those at the end: {shown}.")
        else:
            lines.append(f"From {FEWEST_TRIALS} on it is told how well early ranks foretell those at the end.")
        return lines


def early_ranks(trials: Sequence[FrozenTrial], rungs: Sequence[int], metric: Metric = MACRO_F1) -> EarlyRanks | None:
    """What the trials of a study tell that were trained to their end whatever their rank; None before the first.

    Args:
        trials: all of the study, by number.
        rungs: epochs after which trials are compared.
        metric: that gives the scores.
    """
    controls = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETE and CONTROL_KEY in trial.user_attrs and BEST_EPOCH_KEY in trial.user_attrs
    ]
    if not controls:
        return None
    later = successors_of(trials)
    last_runs = [trial for trial in trials if trial.number not in later and trial.intermediate_values]
    found, paused = [], dict[int, float]()  # number of a control -> the highest score that it has reached
    for epoch in rungs:
        scores = {trial.number: _best_until(trial, epoch) for trial in controls if _has_come_to(trial, epoch)}
        if not scores:
            continue
        ends = {trial.number: _best_until(trial, math.inf) for trial in controls if trial.number in scores}
        come = sorted(_best_until(trial, epoch) for trial in last_runs if _has_come_to(trial, epoch))
        half = come[-max(1, len(come) // ETA)]
        paused |= {number: ends[number] for number, score in scores.items() if score < half}
        if len(scores) >= FEWEST_TRIALS and (rank := rung_ranks(epoch, list(scores.values()), list(ends.values()))):
            found.append(rank)
    best_paused = max(paused.values(), default=None)
    best = max(_best_until(trial, math.inf) for trial in last_runs)
    return EarlyRanks(len(controls), found, len(paused), best_paused, best, metric)


def rung_ranks(epoch: int, scores: Sequence[float], ends: Sequence[float]) -> RungRanks | None:
    """The rank correlation of scores at a rung with those at the end; None where all are equal at one of them.

    The interval is that of Fisher's z with the standard error for Spearman's correlation by Bonett & Wright
    (Psychometrika 2000): sqrt((1 + r^2 / 2) / (n - 3)).
    """
    from scipy.stats import rankdata

    first, last = rankdata(scores), rankdata(ends)
    if not first.std() or not last.std():
        return None
    correlation = float(np.corrcoef(first, last)[0, 1])
    inside = min(max(correlation, -1 + 1e-9), 1 - 1e-9)
    room = NORMAL_95 * math.sqrt((1 + inside**2 / 2) / (len(scores) - 3))
    low, high = (math.tanh(math.atanh(inside) + side * room) for side in (-1, 1))
    return RungRanks(epoch, correlation, low, high)


def _has_come_to(trial: FrozenTrial, epoch: int) -> bool:
    """Whether a trial was, or would have been, compared after an epoch: not where that was the last one of its own."""
    last = trial.last_step or 0
    return last > epoch or (last == epoch and trial.state is not TrialState.COMPLETE)


def _best_until(trial: FrozenTrial, epoch: float) -> float:
    """The highest score of a trial up to an epoch; below all others where it has none."""
    return max((value for at, value in trial.intermediate_values.items() if at <= epoch), default=-math.inf)
