"""What a confirmation says to people."""

from __future__ import annotations

import pytest

from hpo.study.confirmed import Confirmed, ConfirmedRecipe
from hpo.study.confirmed_table import confirmed_lines, confirmed_rows, verdict
from trainer.objective_metric import metric_of


def recipe(trial, mean, *, is_default=False):
    """A recipe that has done its four folds."""
    return ConfirmedRecipe(trial, is_default, 0.9, mean, 0.01, 4, 5, 1000, 2.0, None, (mean,))


def confirmed(winner, *, tied=(), challenger=None, evidence=None):
    """A confirmation of the default recipe, trial 0, and two others."""
    recipes = [recipe(7, 0.88), recipe(3, 0.875), recipe(0, 0.87, is_default=True)]
    return Confirmed(recipes, 4, 12, 12, winner, tied or [winner], challenger, evidence)


@pytest.mark.parametrize(
    ("given", "begin", "end"),
    [
        (
            confirmed(7, challenger=7, evidence=0.839),
            "trial 7, macro-F1 0.8800 ± 0.0100; in the search it had 0.9000, 0.0200 more; ",
            "better than the default recipe with a probability of 83 %",
        ),
        (
            confirmed(0, challenger=7, evidence=0.699),
            "trial 0, the default recipe, macro-F1 0.8700 ± 0.0100; in the search it had 0.9000, 0.0300 more; ",
            "trial 7 is better than that with a probability of only 69 %, and needs 70 % to win",
        ),
        (
            confirmed(3, tied=[7, 3]),
            "trial 3, macro-F1 0.8750 ± 0.0100; in the search it had 0.9000, 0.0250 more; ",
            "trial 7 has nearly the same score and no smaller model",
        ),
    ],
)
def test_the_verdict_says_why_a_recipe_has_won(given, begin, end):
    """The winner stands with how probable it is that the search has found something better than the default recipe."""
    assert verdict(given) == f"confirmed winner: {begin}{end}"
    assert confirmed_lines(given)[-1] == verdict(given)


def test_a_loss_is_told_as_a_loss():
    """By log-loss values are shown, the lowest is the best, and what flattered itself had less in the search."""
    best = ConfirmedRecipe(5, False, -0.2, -0.3, 0.02, 4, 3, 2000, 60.0, None, (-0.3,))
    told = Confirmed([best], 4, 4, 4, 5, [5], None, None, metric_of("log_loss"))
    assert verdict(told) == (
        "confirmed winner: trial 5, log-loss 0.3000 ± 0.0200; in the search it had 0.2000, 0.1000 less"
    )
    assert [row[1:4] for row in confirmed_rows(told)] == [("0.2000", "0.3000 ± 0.0200", "+0.1000")]
    shown = told.as_json()
    assert (shown["metric"], shown["recipes"][0]["search_score"], shown["recipes"][0]["mean"]) == ("log_loss", 0.2, 0.3)
