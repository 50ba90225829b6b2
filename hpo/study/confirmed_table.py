"""What a confirmation says, for people: as a table, and in a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.study.fold_comparison import RULES
from hpo.units import duration
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.study.confirmed import Confirmed, ConfirmedRecipe
    from trainer.objective_metric import Metric

HEADINGS = ("trial", "search", "confirmed", "optimism", "epochs", "parameters", "a training", "")


def confirmed_rows(confirmed: Confirmed) -> list[tuple[str, ...]]:
    """A row of cells for each recipe, one for each of `HEADINGS`, the best recipe first."""
    return [
        (
            str(recipe.trial),
            "-" if recipe.search_score is None else confirmed.metric.text(recipe.search_score),
            shown_mean(recipe, confirmed.metric),
            "-" if recipe.optimism is None else f"{recipe.optimism:+.4f}",
            "-" if recipe.epochs is None else str(recipe.epochs),
            f"{recipe.parameters:,}",
            "-" if recipe.seconds is None else duration(recipe.seconds),
            _remark(recipe, confirmed),
        )
        for recipe in confirmed.recipes
    ]


def confirmed_lines(confirmed: Confirmed) -> list[str]:
    """The table as lines, and who has won, or what is missing."""
    rows = [HEADINGS, *confirmed_rows(confirmed)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, verdict(confirmed)]


def verdict(confirmed: Confirmed) -> str:
    """Who has won, how sure that is, and how much of the search's score was luck; or what is missing for that."""
    won = confirmed.won
    if won is None or won.mean is None:
        if confirmed.trainings < confirmed.planned:
            return f"{confirmed.trainings} of {counted(confirmed.planned, 'training')} are done: no winner is named yet"
        return "no winner can be named: no recipe has done all of its folds"
    metric, default = confirmed.metric, ", the default recipe" * won.is_default
    line = f"confirmed winner: trial {won.trial}{default}, {metric.title} {shown_mean(won, metric)}"
    if won.search_score is not None and won.optimism is not None:
        line += f"; in the search it had {metric.text(won.search_score)}, {abs(won.optimism):.4f} "
        line += "more" if metric.value(won.optimism) >= 0 else "less"
    line += _against_default(won, confirmed)
    others = [trial for trial in confirmed.tied if trial != won.trial]
    if others:
        line += (
            f"; {_trials(others)} {'has' if len(others) == 1 else 'have'} nearly the same score and no smaller model"
        )
    return line


def _against_default(won: ConfirmedRecipe, confirmed: Confirmed) -> str:
    """How probable it is that the search has found something better than the default recipe."""
    if confirmed.evidence is None:
        return ""
    if won.is_default:
        return (
            f"; trial {confirmed.challenger} is better than that with a probability of only"
            f" {int(100 * confirmed.evidence)} %, and needs {int(100 * RULES.evidence)} % to win"
        )
    return f"; better than the default recipe with a probability of {int(100 * confirmed.evidence)} %"


def shown_mean(recipe: ConfirmedRecipe, metric: Metric) -> str:
    """The confirmed score with half its interval of 95 %."""
    if recipe.mean is None:
        return "-"
    return metric.text(recipe.mean) + ("" if recipe.margin is None else f" ± {recipe.margin:.4f}")


def _remark(recipe: ConfirmedRecipe, confirmed: Confirmed) -> str:
    """What there is to say of a recipe beside its numbers."""
    parts = ["default recipe"] if recipe.is_default else []
    if recipe.trial == confirmed.winner:
        parts.append("winner")
    elif recipe.trial in confirmed.tied:
        parts.append("nearly the same score as the winner")
    if recipe.end:
        parts.append(recipe.end)
    elif recipe.folds < confirmed.repeats:
        parts.append(f"{recipe.folds} of {counted(confirmed.repeats, 'fold')}")
    return ", ".join(parts)


def _trials(numbers: Sequence[int]) -> str:
    return f"trial{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
