"""What a forest learns from an earlier study, and how it loses faith in one that misleads."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from hpo.study.forest import Forest
from hpo.study.transfer import FEWEST_RESULTS, MOST_WEIGHT, Lesson, rank_correlation, shares_below
from tests.unit.test_forest import TOY, searched, toy_score

pytestmark = pytest.mark.unit

POINTS = TOY.random(np.random.default_rng(7), 60)
SCORES = np.array([toy_score(TOY.params(point)) for point in POINTS])


def lesson(sign=1):
    """What a study with other images has found, where recipes have the same order of merit, or the reverse."""
    return Lesson(TOY.features(POINTS), shares_below(sign * 100 * SCORES))


def test_ranks_and_their_correlation_are_those_of_scipy():
    """Ranks are the mean of equals, from 0 to 1, and their correlation is Spearman's."""
    one, other = np.array([3.0, 1.0, 2.0, 2.0, 9.0]), np.array([1.0, 1.0, 5.0, 2.0, 4.0])
    assert shares_below(one) == pytest.approx((rankdata(one) - 1) / 4)
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert rank_correlation(one, np.ones(5)) == 0
    assert shares_below(np.array([0.5])).tolist() == [0]


def test_an_earlier_study_counts_less_the_more_is_known_and_nothing_where_it_misleads():
    """Its weight falls with the number of own results, and to 0 where these have the reverse order."""
    features, scores = TOY.features(POINTS), SCORES
    counts, most = [0, FEWEST_RESULTS, 10, 20, 60], MOST_WEIGHT / len(POINTS)
    true = [lesson().weight(features[:count], scores[:count]) for count in counts]
    assert true[0] == most
    assert true == sorted(true, reverse=True)
    assert 0.35 * most < true[3] < 0.55 * most
    false = [lesson(-1).weight(features[:count], scores[:count]) for count in counts]
    assert false[0] == most
    assert false[1:] == [0, 0, 0, 0]  # three results are enough


def test_ranks_become_the_scores_that_the_study_has_seen_itself():
    """The scale of another study is of no meaning: its best recipe counts as much as the best of the own ones."""
    own = np.array([0.2, 0.4, 0.9])
    scores = lesson().scores(own)
    assert (scores.min(), scores.max()) == (0.2, 0.9)
    assert np.argmax(scores) == np.argmax(SCORES)
    assert lesson().scores(own[:2]).max() == 1


def test_a_forest_that_was_taught_begins_where_the_earlier_study_was_good():
    """The best of its first ten proposals is better by far than that of random ones, which they are without lessons."""
    taught = [max(map(toy_score, searched(Forest(TOY, 1, [lesson()]), 10, seed))) for seed in range(3)]
    random = [max(map(toy_score, searched(Forest(TOY, 1), 10, seed))) for seed in range(3)]
    assert statistics.mean(taught) > statistics.mean(random) / 2


def test_a_forest_that_was_taught_the_reverse_still_finds_what_is_good():
    """Where the earlier study misleads, the best of twenty proposals is as good as without it, but for a tenth."""
    misled = [max(map(toy_score, searched(Forest(TOY, 1, [lesson(-1)]), 20, seed))) for seed in range(6)]
    alone = [max(map(toy_score, searched(Forest(TOY, 1), 20, seed))) for seed in range(6)]
    assert statistics.mean(misled) >= statistics.mean(alone) - 0.1
