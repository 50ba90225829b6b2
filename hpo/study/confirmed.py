"""What the trainings that confirm a study say of its best recipes: confirmed scores, the drop, and the winner."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from hpo.study.confirmation import find_confirmation, mark_of, plan_of
from hpo.study.fold_comparison import Candidate, compare, mean_epoch
from storage.keys import BEST_EPOCH_KEY
from trainer.objective_metric import MACRO_F1
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import optuna
    from optuna.trial import FrozenTrial

    from hpo.study.confirmation import Plan
    from hpo.study.fold_comparison import Comparison, Curve
    from hpo.study.open_study import OpenStudy
    from storage.study_rows import PlaceRow
    from trainer.objective_metric import Metric


@dataclass(frozen=True)
class ConfirmedRecipe:
    """A recipe of a search, trained again.

    Attributes:
        trial: number of its trial in the search.
        is_default: whether it is the default recipe.
        search_score: validation score of that trial, the higher the better; None where it is not complete.
        mean: mean score over the folds; None before the first fold.
        margin: half the length of its interval of 95 %; None before the second fold, or where all have the same score.
        folds: trainings that count.
        epochs: after which the mean training is the best; None before the first fold.
        parameters: weights and biases of its model.
        seconds: that a training has taken, the mean; None before the first.
        end: why it is trained no further; None where nothing speaks against it.
        curve: the mean training's score after each epoch.
    """

    trial: int
    is_default: bool
    search_score: float | None
    mean: float | None
    margin: float | None
    folds: int
    epochs: int | None
    parameters: int
    seconds: float | None
    end: str | None
    curve: tuple[float, ...]

    @property
    def optimism(self) -> float | None:
        """How much higher the search's score is than the confirmed one; None where one of them is missing."""
        if self.search_score is None or self.mean is None:
            return None
        return self.search_score - self.mean


@dataclass(frozen=True)
class Confirmed:
    """How far a confirmation is, and what it says.

    Attributes:
        recipes: the best one by confirmed score first.
        repeats: on how many folds a recipe is trained.
        trainings: that have ended, were not needed, or failed.
        planned: all of them.
        winner: the trial that has won; None while trainings are missing.
        tied: the trials between which the size of the model has decided, the winner among them.
        challenger: the trial that has won, or the best of the others where that is the default recipe; None where the
            default recipe has not done all folds, or is alone.
        evidence: the probability with which the challenger is better than the default recipe, in [0, 1].
        metric: that gives the scores.
    """

    recipes: Sequence[ConfirmedRecipe]
    repeats: int
    trainings: int
    planned: int
    winner: int | None
    tied: Sequence[int]
    challenger: int | None
    evidence: float | None
    metric: Metric = MACRO_F1

    def recipe_of(self, trial: int) -> ConfirmedRecipe | None:
        """What is known of the recipe of a trial; None where it is not among them."""
        return next((recipe for recipe in self.recipes if recipe.trial == trial), None)

    @property
    def won(self) -> ConfirmedRecipe | None:
        """The winner."""
        return None if self.winner is None else self.recipe_of(self.winner)

    def as_json(self) -> dict[str, Any]:
        """As `hpo status --json` prints it, with values for scores."""
        recipes = [{**asdict(recipe), "optimism": recipe.optimism} for recipe in self.recipes]
        for recipe in recipes:
            del recipe["curve"]
            for name in ("search_score", "mean"):
                recipe[name] = None if recipe[name] is None else self.metric.value(recipe[name])
        return {**asdict(self), "recipes": recipes, "metric": self.metric.name}


def read_confirmed(opened: OpenStudy) -> Confirmed | None:
    """What is known by now of the confirmation of a study; None where `hpo confirm` has not begun one."""
    confirmation = find_confirmation(opened)
    return None if confirmation is None else confirmed_by(opened, confirmation)


def confirmed_by(opened: OpenStudy, confirmation: OpenStudy) -> Confirmed:
    """What is known by now of a study from the one that confirms it."""
    trials = confirmation.study.get_trials(deepcopy=False)
    places = {place.trial: place for place in confirmation.rows.read().places}
    searched = opened.study.get_trials(deepcopy=False)
    return confirmed(plan_of(confirmation.study), searched, trials, places, opened.metric)


def hopeless_after(opened: OpenStudy, trial: FrozenTrial | optuna.Trial) -> int | None:
    """After how many folds the recipe of a training was probably worse than another, so that it is not needed.

    Args:
        opened: the study that confirms.
        trial: of it.
    """
    mark, plan = mark_of(trial), plan_of(opened.study)
    if mark is None or mark[0] not in plan.trials:
        return None
    comparison = _compare(plan, opened.study.get_trials(deepcopy=False), (), {})
    after = comparison.hopeless_after[plan.trials.index(mark[0])]
    return after if after is not None and after <= mark[1] else None


def confirmed(
    plan: Plan,
    searched: Sequence[FrozenTrial],
    trials: Sequence[FrozenTrial],
    places: Mapping[int | None, PlaceRow],
    metric: Metric = MACRO_F1,
) -> Confirmed:
    """What the trainings of a plan say.

    Args:
        plan: of the confirmation.
        searched: all trials of the search, by number.
        trials: all of the study that confirms it.
        places: of that study, by the number of the trial that each names.
        metric: that gives the scores.
    """
    failed = {
        mark[0]: place.reason or "told failed from outside"
        for trial in trials
        if (mark := mark_of(trial)) and (place := places.get(trial.number)) and place.state == "failed"
    }
    pruned = _pruned(trials)
    epochs = {number: int(searched[number].user_attrs.get(BEST_EPOCH_KEY) or 1) for number in plan.trials}
    comparison = _compare(plan, trials, failed, epochs)
    curves = curves_of(plan, trials)
    recipes = []
    for position, number in enumerate(plan.trials):
        estimate, after = comparison.estimates[position], comparison.hopeless_after[position]
        own = curves[number] if after is None else curves[number][:after]
        seconds = [
            place.seconds
            for trial in trials
            if (mark := mark_of(trial)) and mark[0] == number and trial.state is TrialState.COMPLETE
            if (place := places.get(trial.number))
        ]
        end = failed.get(number)
        if end is None and after is not None:
            end = f"probably worse than the best one after {counted(after, 'fold')}"
        elif end is None and number in pruned:
            place = places.get(pruned[number])
            end = (place and place.reason) or "told pruned from outside"
        trial = searched[number]
        recipes.append(
            ConfirmedRecipe(
                trial=number,
                is_default=number == plan.default,
                search_score=trial.value if trial.state is TrialState.COMPLETE else None,
                mean=estimate.mean if estimate else None,
                margin=estimate.margin if estimate else None,
                folds=len(own),
                epochs=mean_epoch(own) if len(own) > 1 else (epochs[number] if own else None),
                parameters=plan.parameters[position],
                seconds=sum(seconds) / len(seconds) if seconds else None,
                end=end,
                curve=tuple(sum(values) / len(own) for values in zip(*own, strict=True)),
            )
        )
    ended = sum(place.state in ("complete", "pruned", "failed") for place in places.values())
    return Confirmed(
        recipes=sorted(recipes, key=lambda recipe: (math.inf if recipe.mean is None else -recipe.mean, recipe.trial)),
        repeats=plan.repeats,
        trainings=ended,
        planned=len(plan.runs),
        winner=None if comparison.winner is None else plan.trials[comparison.winner],
        tied=[plan.trials[position] for position in comparison.tied],
        challenger=None if comparison.challenger is None else plan.trials[comparison.challenger],
        evidence=comparison.evidence,
        metric=metric,
    )


def curves_of(plan: Plan, trials: Sequence[FrozenTrial]) -> dict[int, list[Curve]]:
    """The complete trainings of each recipe of a plan, by the number of its trial: folds in order, without a gap."""
    found: dict[tuple[int, int], Curve] = {}
    for trial in trials:
        mark = mark_of(trial)
        if mark and trial.state is TrialState.COMPLETE and BEST_EPOCH_KEY in trial.user_attrs:
            found[mark] = tuple(value for _, value in sorted(trial.intermediate_values.items()))
    curves: dict[int, list[Curve]] = {}
    for number in plan.trials:
        curves[number] = []
        while curve := found.get((number, len(curves[number]))):
            curves[number].append(curve)
    return curves


def _compare(
    plan: Plan, trials: Sequence[FrozenTrial], failed: Collection[int], epochs: Mapping[int, int]
) -> Comparison:
    curves = curves_of(plan, trials)
    over = {*failed, *_pruned(trials)}
    candidates = [
        Candidate(curves[number], epochs.get(number, 1), float(parameters), number in over, number == plan.default)
        for number, parameters in zip(plan.trials, plan.parameters, strict=True)
    ]
    return compare(candidates, plan.repeats, plan.test_share)


def _pruned(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """The trials of the search of whose recipes a training was ended since it is not needed, or its time was over.

    Returns:
        their numbers, with that of the first such training.
    """
    ended = [
        (mark[0], trial.number) for trial in trials if trial.state is TrialState.PRUNED and (mark := mark_of(trial))
    ]
    return dict(reversed(ended))
