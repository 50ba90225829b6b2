"""How the trials of a search compare: by the values of a field, and by what matters."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from hpo.report.outcomes import CUT_SHORT, complete_values
from trainer.space import Choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.trial import FrozenTrial

    from hpo.report.outcomes import Outcome
    from trainer.space import Space

FEWEST_TRIALS = 10  # complete ones, below which an importance says nothing
TOP_TRIALS = 5  # that PED-ANOVA needs at least among the best, as Optuna's documentation has it


@dataclass(frozen=True)
class Spread:
    """How values are spread: how many, and their quartiles, of which 0 is the lowest and 4 the highest."""

    count: int
    quartiles: tuple[float, float, float, float, float]

    @property
    def median(self) -> float:
        """Half of the values are at most this."""
        return self.quartiles[2]


def spread(values: Sequence[float]) -> Spread:
    """How these values, at least one, are spread."""
    low, first, median, third, high = (float(each) for each in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    return Spread(len(values), (low, first, median, third, high))


def by_value(outcomes: Iterable[Outcome], name: str) -> dict[Any, list[Outcome]]:
    """Complete, pruned and paused trials by their value of a field that their recipe uses; the best median first.

    The median is that of the complete ones: the score of another trial is that of a shorter training.
    """
    found: dict[Any, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state in ("complete", *CUT_SHORT) and outcome.value is not None and name in outcome.fields:
            found.setdefault(outcome.fields[name], []).append(outcome)

    def rank(item: tuple[Any, list[Outcome]]) -> tuple[float, str]:
        values = complete_values(item[1])
        return (-spread(values).median if values else math.inf, str(item[0]))

    return dict(sorted(found.items(), key=rank))


def searched_choices(space: Space) -> list[str]:
    """The fields of which a list was searched."""
    return [name for name, entry in space.fields.items() if isinstance(entry, Choice) and len(entry.values) > 1]


def importances(outcomes: Iterable[Outcome], trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much each searched field has to do with being among the best, as shares of 1, the largest first.

    By PED-ANOVA (Watanabe et al., IJCAI 2023), which also rates fields that only some recipes use. The best are the
    best tenth of the complete trials, and at least five.

    Args:
        outcomes: of which the complete ones are compared; empty where these are fewer than `FEWEST_TRIALS`.
        trials: all of the study, by number.
    """
    complete = [trials[outcome.number] for outcome in outcomes if outcome.state == "complete"]
    if len(complete) < FEWEST_TRIALS or not any(trial.params for trial in complete):
        return {}
    # A study of its own: what was told from outside is no evidence.
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=trial.value) for trial in complete
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP_TRIALS / len(complete)))
    if len({trial.value for trial in complete}) == 1:  # equally good: nothing made a difference
        return {}
    with warnings.catch_warnings():
        # A field that one recipe alone uses is rated by the others; the report says below how many trials to doubt all.
        warnings.filterwarnings("ignore", "Some regimes for parameter", UserWarning)
        return get_param_importances(study, evaluator=evaluator)
