"""When a search has found enough: its target is reached, or many full trainings in a row have brought no gain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from hpo.study.ranking import counts, find_best
from storage.keys import BEST_EPOCH_KEY, METRICS_KEY, ORIGIN_KEY
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.trial import FrozenTrial

    from storage.budget import StopRules
    from trainer.objective_metric import Metric
    from trainer.space import Space


@dataclass(frozen=True)
class LastGain:
    """The last trial that was better than the one before it by more than the noise; the first one was, too.

    Attributes:
        trial: its number.
        score: its score, the higher the better.
        noise: the standard error of that by the choice of the validation images; None where it is not known.
        trainings: how many full trainings the study has done since.
        metric: that gives the score.
    """

    trial: int
    score: float
    noise: float | None
    trainings: int
    metric: Metric

    def is_beaten_by(self, score: float) -> bool:
        """Whether a score is better by more than the noise."""
        return score > self.score + (self.noise or 0.0)

    def as_json(self) -> dict[str, Any]:
        """As `hpo status --json` prints it: the value by the metric's name."""
        value = {"trial": self.trial, self.metric.name: self.metric.value(self.score)}
        return {**value, "noise": self.noise, "trainings": self.trainings}


def last_gain(trials: Iterable[FrozenTrial], space: Space, metric: Metric) -> LastGain | None:
    """Find the last gain of a study; None before its first complete trial.

    A trial gains where it exceeds the last one that did by more than that one's standard error. What was taken over
    from an old study can be the last gain, and is no training of this study.
    """
    gain: LastGain | None = None
    trained = [each for each in trials if each.state is TrialState.COMPLETE and BEST_EPOCH_KEY in each.user_attrs]
    for trial in sorted(trained, key=lambda each: (ORIGIN_KEY not in each.user_attrs, each.datetime_complete)):
        if trial.value is not None and (gain is None or gain.is_beaten_by(trial.value)) and counts(trial, space):
            noise = metric.standard_error(trial.user_attrs[METRICS_KEY])
            gain = LastGain(trial.number, trial.value, noise, 0, metric)
        elif gain and ORIGIN_KEY not in trial.user_attrs:
            gain = replace(gain, trainings=gain.trainings + 1)
    return gain


def check_rules(
    trials: Sequence[FrozenTrial], space: Space, rules: StopRules, metric: Metric
) -> tuple[str | None, LastGain | None]:
    """Why no further trial of a study is to begin, as one clause, and its last gain.

    The first is None where the rules end nothing, the second where they ask for no patience.
    """
    gain = None if rules.patience is None else last_gain(trials, space, metric)
    if rules.target is not None:
        best, _ = find_best(trials, space)
        if best and best.value is not None and best.value >= metric.score(rules.target):
            reached = f"trial {best.number} has reached {metric.text(best.value)}"
            return f"{reached}, and [budget] target is {rules.target:g}", gain
    if rules.patience is not None and gain and gain.trainings >= rules.patience:
        noise = "" if gain.noise is None else f" beyond the noise of {gain.noise:.4f}"
        since = f"since trial {gain.trial} ({metric.text(gain.score)})"
        has = "has" if gain.trainings == 1 else "have"
        reason = (
            f"{counted(gain.trainings, 'full training')} {since} {has} brought no gain{noise}, and [budget] patience is"
            f" {rules.patience}"
        )
        return reason, gain
    return None, gain
