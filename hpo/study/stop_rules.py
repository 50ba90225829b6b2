"""When a search has found enough: its target is reached, or many full trainings in a row have brought no gain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.study.ranking import counts, find_best
from storage.keys import BEST_EPOCH_KEY, METRICS_KEY, ORIGIN_KEY
from trainer.uncertainty import standard_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.trial import FrozenTrial

    from storage.budget import StopRules
    from trainer.space import Space


@dataclass(frozen=True)
class LastGain:
    """The last trial that was better than the one before it by more than the noise; the first one was, too.

    Attributes:
        trial: its number.
        macro_f1: its value, in [0, 1].
        noise: the standard error of that value by the choice of the validation images.
        trainings: how many full trainings the study has done since.
    """

    trial: int
    macro_f1: float
    noise: float
    trainings: int


def last_gain(trials: Iterable[FrozenTrial], space: Space) -> LastGain | None:
    """Find the last gain of a study; None before its first complete trial.

    A trial gains where it exceeds the last one that did by more than that one's standard error. What was taken over
    from an old study can be the last gain, and is no training of this study.
    """
    gain: LastGain | None = None
    trained = [each for each in trials if each.state is TrialState.COMPLETE and BEST_EPOCH_KEY in each.user_attrs]
    for trial in sorted(trained, key=lambda each: (ORIGIN_KEY not in each.user_attrs, each.datetime_complete)):
        value = trial.value or 0.0
        if (gain is None or value > gain.macro_f1 + gain.noise) and counts(trial, space):
            gain = LastGain(trial.number, value, standard_error(trial.user_attrs[METRICS_KEY]["per_class"]), 0)
        elif gain and ORIGIN_KEY not in trial.user_attrs:
            gain = LastGain(gain.trial, gain.macro_f1, gain.noise, gain.trainings + 1)
    return gain


def check_rules(trials: Sequence[FrozenTrial], space: Space, rules: StopRules) -> tuple[str | None, LastGain | None]:
    """Why no further trial of a study is to begin, as one clause, and its last gain.

    The first is None where the rules end nothing, the second where they ask for no patience.
    """
    gain = None if rules.patience is None else last_gain(trials, space)
    if rules.target is not None:
        best, _ = find_best(trials, space)
        if best and best.value is not None and best.value >= rules.target:
            return f"trial {best.number} has reached {best.value:.4f}, and [budget] target is {rules.target:g}", gain
    if rules.patience is not None and gain and gain.trainings >= rules.patience:
        reason = (
            f"{gain.trainings} full trainings since trial {gain.trial} ({gain.macro_f1:.4f}) have brought no gain"
            f" beyond the noise of {gain.noise:.4f}, and [budget] patience is {rules.patience}"
        )
        return reason, gain
    return None, gain
