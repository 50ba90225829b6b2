"""Which trials of a study `hpo export-best` makes bundles of."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.errors import HpoError
from hpo.study.confirmed_table import shown_mean
from hpo.study.interruptions import pauses, successors_of
from hpo.study.ranking import best_of_different_recipes, counts, ranked
from hpo.study.settings import space_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.trial import FrozenTrial

    from hpo.study.confirmed import Confirmed
    from hpo.study.open_study import OpenStudy
    from trainer.objective_metric import Metric

SHOWN = 5  # numbers of trials that could be taken in place of one that cannot


def best_trials(opened: OpenStudy, count: int = 1) -> list[FrozenTrial]:
    """The best trials of a study, the best first, each with another recipe.

    Raises:
        HpoError: there are not so many.
    """
    found = best_of_different_recipes(opened, count, seeds_differ=True)
    if len(found) == count:
        return found
    if not found:
        raise HpoError(
            f"export: no trial is complete yet; `hpo status {opened.file.path.name}` shows how far the search is"
        )
    raise HpoError(
        f"export: --top {count} needs so many complete trials of different recipes, and there are {len(found)};"
        f" give --top {len(found)}"
    )


def winner(opened: OpenStudy, confirmed: Confirmed | None) -> FrozenTrial:
    """The trial that has won: the confirmed winner where there is one, else the one with the best validation score.

    Raises:
        HpoError: no trial is complete.
    """
    if confirmed and confirmed.winner is not None:
        return opened.study.get_trials(deepcopy=False)[confirmed.winner]
    return best_trials(opened)[0]


def trial_to_export(opened: OpenStudy, number: int | None, confirmed: Confirmed | None) -> FrozenTrial:
    """The trial of this number; None: the winner.

    Raises:
        HpoError: as `winner` and `trial_of_number` do.
    """
    return winner(opened, confirmed) if number is None else trial_of_number(opened, number, confirmed)


def score_line(trial: FrozenTrial, opened: OpenStudy, confirmed: Confirmed | None) -> str:
    """The score of a trial, confirmed or not, and which one has won where that is another."""
    metric = opened.metric
    known, won = (confirmed.recipe_of(trial.number), confirmed.won) if confirmed else (None, None)
    if won and known and known.mean is not None:
        searched = "" if known.search_score is None else f"; in the search it had {metric.text(known.search_score)}"
        if won == known:
            line = (
                f"trial {trial.number} is the confirmed winner with {metric.with_article} of"
                f" {shown_mean(known, metric)}{searched}"
            )
            best = best_trials(opened)[0]
            if confirmed and confirmed.recipe_of(best.number) is None:
                line += (
                    f"; trial {best.number} with a validation {metric.title} of {_value(best, metric)} is not"
                    f" confirmed, and `hpo confirm {opened.file.path.name}` compares it, too"
                )
            return line
        return (
            f"trial {trial.number} has a confirmed {metric.title} of {shown_mean(known, metric)}{searched}; trial"
            f" {won.trial} has won with {shown_mean(won, metric)}"
        )
    if won:
        return (
            f"trial {trial.number} has a validation {metric.title} of {_value(trial, metric)}; it is not confirmed, so"
            f" that a part of that is luck; trial {won.trial} is the confirmed winner with {shown_mean(won, metric)}"
        )
    best = best_trials(opened)[0]
    if best.number == trial.number:
        line = f"trial {trial.number} has won with a validation {metric.title} of {_value(trial, metric)}"
    else:
        line = (
            f"trial {trial.number} has a validation {metric.title} of {_value(trial, metric)}; trial {best.number} has"
            f" won with {_value(best, metric)}"
        )
    return f"{line}; not confirmed, so that a part of it is luck (`hpo confirm {opened.file.path.name}`)"


def _value(trial: FrozenTrial, metric: Metric) -> str:
    assert trial.value is not None, "it is complete"
    return metric.text(trial.value)


def trial_of_number(opened: OpenStudy, number: int, confirmed: Confirmed | None) -> FrozenTrial:
    """The trial of this number.

    Raises:
        HpoError: there is none, or it was neither trained to its end nor confirmed.
    """
    trials = opened.study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise HpoError(f'export: "{opened.file.name}" has no trial {number}; it has {len(trials)}, the first is 0')
    trial, space = trials[number], space_of(opened.study, opened.file.space.extensions)
    known = confirmed.recipe_of(number) if confirmed else None
    if counts(trial, space) or (known and known.folds > 1):
        return trial
    if (last := _last_run(trials, number)) != number:
        raise HpoError(f"export: trial {number} was interrupted and continued as trial {last}; give --trial {last}")
    if trial.state is TrialState.COMPLETE:
        what = "was told or added from outside, so that there is no model of it"
    else:
        paused = pauses(trials, opened.rows.read().places, opened.file.pruner)
        state = paused.get(number, f"is {trial.state.name.lower()}")
        what = f"{state}, and only a complete trial has a model"
    others = [str(other.number) for other in islice(ranked(trials, space), SHOWN)]
    instead = f"give one of the best: {', '.join(others)}" if others else "no trial is complete yet"
    raise HpoError(f"export: trial {number} {what}; {instead}")


def _last_run(trials: Sequence[FrozenTrial], number: int) -> int:
    """The number of the last trial that continues the one of this number; that number where none did."""
    successors = successors_of(trials)
    while number in successors:
        number = successors[number]
    return number
