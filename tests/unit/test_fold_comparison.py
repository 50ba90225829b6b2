"""Which of a few recipes is the best, by trainings on the same folds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpo.study.fold_comparison import Candidate, compare, estimate, mean_epoch, paired_error, scores_of

SHARE = 1 / 3  # four folds: a third as many images to validate as to train


def recipe(scores, cost=1.0, *, over=False, is_default=False):
    """A recipe whose trainings have one epoch with these scores."""
    return Candidate([(score,) for score in scores], 1, cost, over, is_default)


def test_an_interval_is_that_of_nadeau_and_bengio():
    """The interval of 95 % is Student's, with the variance corrected for the images that trainings share."""
    scores = [0.81, 0.84, 0.79, 0.9]
    found = estimate(scores, SHARE)
    error = np.sqrt((1 / 4 + SHARE) * np.var(scores, ddof=1))
    low, _ = stats.t.interval(0.95, df=3, loc=np.mean(scores), scale=error)
    assert found.mean == pytest.approx(np.mean(scores))
    assert found.margin == pytest.approx(found.mean - low)
    assert estimate([0.8], SHARE).margin is None


def test_folds_of_the_same_score_do_not_say_how_far_it_may_be_off():
    """No confirmed score has an interval without length, as 1.0000 ± 0.0000."""
    found = estimate([1.0, 1.0, 1.0], SHARE)
    assert (found.mean, found.margin) == (1.0, None)


def test_two_recipes_are_compared_by_the_corrected_paired_t_test():
    """Of two recipes the error of the difference is that of Nadeau and Bengio, with one freedom less than folds."""
    scores = np.array([[0.8, 0.7, 0.9, 0.85], [0.82, 0.74, 0.9, 0.81]])
    error, freedom = paired_error(scores, SHARE)
    assert freedom == 3
    assert error == pytest.approx(np.sqrt((1 / 4 + SHARE) * np.var(scores[0] - scores[1], ddof=1)))


def test_a_fold_that_all_find_hard_does_not_count_against_anybody():
    """The comparison of recipes does not change where a fold is harder by the same amount for all of them."""
    scores = np.random.default_rng(0).normal(0.8, 0.02, (4, 5))
    harder = scores - np.array([0.0, 0.3, 0.1, 0.0, 0.2])
    assert paired_error(harder, SHARE)[0] == pytest.approx(paired_error(scores, SHARE)[0])


def test_the_epoch_of_a_fold_is_chosen_by_the_other_folds():
    """A training does not choose its epoch by the images that judge it."""
    candidate = Candidate([(0.5, 0.9, 0.6), (0.5, 0.6, 0.7), (0.5, 0.6, 0.8)], 2, 1.0)
    assert scores_of(candidate, 3) == [0.6, 0.6, 0.6]
    assert scores_of(candidate, 1) == [0.9]  # the search's epoch, as no other fold is there
    assert mean_epoch(candidate.curves) == 2  # of equals the first: 2.1 and 2.1
    assert mean_epoch([(0.5, 0.5)]) == 1


def test_the_best_recipe_wins_where_it_can_be_told_apart():
    """The highest confirmed score wins, whatever it costs, where the others are surely lower."""
    found = compare(
        [recipe([0.80, 0.81, 0.79, 0.80]), recipe([0.90, 0.91, 0.89, 0.90], cost=9)], folds=4, test_share=SHARE
    )
    assert (found.winner, found.hopeless_after) == (1, [2, None])


def test_recipes_of_nearly_the_same_score_go_to_the_cheaper_one():
    """Within a tenth of a standard error the smaller model wins, of models of one size the higher score."""
    scores = [0.80, 0.84, 0.78, 0.82], [0.815, 0.80, 0.83, 0.81]
    error, _ = paired_error(np.array(scores), SHARE)
    assert np.mean(scores[1]) - np.mean(scores[0]) == pytest.approx(0.00375)
    assert 0.05 * error < 0.00375 < 0.2 * error
    near = [scores[0], [score - 0.001 for score in scores[1]]]
    for pair, winner, tied in ((near, 0, [0, 1]), (scores, 1, [1])):
        found = compare([recipe(pair[0], 1), recipe(pair[1], 2)], 4, SHARE)
        assert (found.winner, found.tied) == (winner, tied)
    assert compare([recipe(near[0], 1), recipe(near[1], 1)], 4, SHARE).winner == 1


def test_a_smaller_model_that_is_worse_by_a_standard_error_does_not_win():
    """Whoever searches is not given a poorer recipe for its size: what is lost would be what confirming has won."""
    better, smaller = [0.85, 0.83, 0.88, 0.84], [0.84, 0.86, 0.82, 0.82]
    error, _ = paired_error(np.array([better, smaller]), SHARE)
    assert 0.1 * error < np.mean(better) - np.mean(smaller) < error
    assert compare([recipe(smaller, 1), recipe(better, 100)], 4, SHARE).winner == 1


@pytest.mark.parametrize(("lead", "after"), [(0.03, None), (0.035, 2)])
def test_a_recipe_that_is_probably_worse_gets_no_more_folds(lead, after):
    """A recipe that is worse than the best one with a probability of 80 % is left out, unless it is the default one."""
    poor, best = np.array([0.80, 0.82, 0.81]), np.array([0.81, 0.80, 0.81]) + lead
    difference = (best - poor)[:2]
    probability = stats.t.cdf(difference.mean() / np.sqrt((1 / 2 + SHARE) * difference.var(ddof=1)), df=1)
    assert (probability > 0.8) == (after is not None)
    assert compare([recipe(poor), recipe(best)], 3, SHARE).hopeless_after == [after, None]
    assert compare([recipe(poor, is_default=True), recipe(best)], 3, SHARE).hopeless_after == [None, None]


@pytest.mark.parametrize(("lead", "winner"), [(0.03, 1), (0.015, 1), (0.003, 0), (-0.01, 0)])
def test_the_default_recipe_wins_unless_another_one_is_probably_better(lead, winner):
    """A recipe takes the place of the default one where it is better with a probability of 70 %, and not below."""
    default = np.array([0.80, 0.84, 0.78, 0.82])
    other = np.array([0.82, 0.81, 0.80, 0.81]) + lead
    found = compare([recipe(default, 9, is_default=True), recipe(other, 1)], 4, SHARE)
    difference = other - default
    probability = stats.t.cdf(difference.mean() / np.sqrt((1 / 4 + SHARE) * difference.var(ddof=1)), df=3)
    assert (probability >= 0.7) == (winner == 1)
    assert (found.winner, found.tied, found.challenger) == (winner, [winner], 1)
    assert found.evidence == pytest.approx(probability)


def test_a_cheaper_recipe_of_nearly_the_same_score_must_be_better_than_the_default_one_too():
    """The size decides only among recipes each of which is probably better than the default one."""
    default = recipe([0.80, 0.84, 0.78, 0.82], 5, is_default=True)
    for lead, winner, tied in ((0.009, 0, [0]), (0.0095, 1, [1]), (0.012, 2, [1, 2])):
        best = recipe(np.array([0.82, 0.81, 0.80, 0.81]) + lead, 2)
        cheaper = recipe(np.array([0.79, 0.84, 0.80, 0.81]) + lead - 0.0005, 1)
        found = compare([default, best, cheaper], 4, SHARE)
        assert (found.winner, found.tied) == (winner, tied)


def test_there_is_nothing_to_beat_without_the_default_recipe():
    """Where the default recipe failed, or has no trial, the best of the others wins."""
    scores = [0.80, 0.84, 0.78, 0.82], [0.81, 0.84, 0.79, 0.82]
    alone = compare([recipe(scores[0]), recipe(scores[1])], 4, SHARE)
    failed = recipe([0.9], over=True, is_default=True)
    found = compare([recipe(scores[0]), recipe(scores[1]), failed], 4, SHARE)
    assert (alone.winner, alone.evidence, found.winner, found.evidence) == (1, None, 1, None)
    assert compare([recipe(scores[0], is_default=True)], 4, SHARE).winner == 0


def test_no_winner_before_the_last_fold():
    """A recipe that still has trainings to do leaves the winner open, and one that is over does not."""
    waits, ended = recipe([0.8, 0.8, 0.8]), recipe([0.8, 0.8, 0.8], over=True)
    full = recipe([0.8, 0.81, 0.79, 0.8])
    assert compare([waits, full], 4, SHARE).winner is None
    assert compare([ended, full], 4, SHARE).winner == 1
    assert compare([recipe([], over=True)], 4, SHARE).winner is None
    assert compare([full], 4, SHARE).winner == 0


def test_later_trainings_of_a_hopeless_recipe_change_nothing():
    """Trainings that other workers had begun, or not, give the same winner and the same scores."""
    best, poor = recipe([0.90, 0.91, 0.90, 0.92]), [0.5, 0.51, 0.99, 0.99]
    ends = [compare([best, recipe(poor[:folds], over=over)], 4, SHARE) for folds, over in ((2, True), (4, False))]
    assert ends[0] == ends[1]
    assert ends[0].hopeless_after == [None, 2]
    assert ends[0].estimates[1].mean == pytest.approx(0.505)
