"""Which paused trials keep their checkpoints."""

from __future__ import annotations

import random

import pytest

from hpo.study.paused_checkpoints import SLIGHT_CHANCE, PausedTrial, paused_trials, surplus_checkpoints
from storage.budget import Used
from storage.rungs import RungCount, has_room
from storage.study_rows import PlaceRow, SearchState

pytestmark = pytest.mark.unit


def place(number, state="paused", paused_after=1, best=0.5):
    """A place whose trial has the same number."""
    return PlaceRow(number, state, "w", number, None, 1, 9, best, best, 3600.0, paused_after)


def state_of(places, *rungs):
    """A search with these places and rungs."""
    used = Used(len(places), 1.0, 1.0)
    return SearchState(used, places, workers=[], halt=None, halts=0, rungs=list(rungs), paused_hosts=[])


def test_paused_trials_are_in_the_order_of_their_chances():
    """Rank and number are those among all that have come to a rung; one that is only about to be paused is not told."""
    places = [
        place(0, "complete", None, 0.9),
        place(1, best=0.5),
        place(2, best=0.8),
        place(3, "running", best=0.7),
        place(4, paused_after=2, best=0.6),
    ]
    found = paused_trials(state_of(places, RungCount(1, 5, 3, False), RungCount(2, 2, 1, False)))
    assert found == [PausedTrial(2, 1, 3, 5), PausedTrial(4, 2, 2, 2), PausedTrial(1, 1, 5, 5)]
    assert [each.chance for each in found] == sorted((each.chance for each in found), reverse=True)


@pytest.mark.parametrize(("rank", "reached"), [(4, 6), (6, 8), (12, 20), (15, 20), (26, 40)])
def test_the_chance_to_go_on_is_that_of_simulated_searches(rank, reached):
    """Of trials that stood so, about that share went on while five hundred more came to the rung."""
    draw, went_on, searches = random.Random(0), 0, 400
    for _ in range(searches):
        scores = sorted((draw.random() for _ in range(reached)), reverse=True)
        mine, better = scores[rank - 1], rank - 1
        for come in range(reached, reached + 500):
            # It is the best one that is paused where all better ones have gone on.
            if has_room(RungCount(1, come, come - better, better == 0), closing=False):
                went_on += 1
                break
            better += draw.random() > mine
    assert went_on / searches == pytest.approx(PausedTrial(0, 1, rank, reached).chance, abs=0.12)


def test_those_that_can_hardly_go_on_keep_no_checkpoint():
    """Of twenty at a rung the last few are given up, of four none."""
    scores = [1 - number / 100 for number in range(20)]
    twenty = paused_trials(state_of([place(n, best=best) for n, best in enumerate(scores)], RungCount(1, 20, 20, True)))
    assert [each.rank for each in twenty if each.chance < SLIGHT_CHANCE] == [17, 18, 19, 20]
    reasons = surplus_checkpoints(twenty, dict.fromkeys(range(19), 1000), 1.0)
    assert list(reasons) == [16, 17, 18]
    assert reasons[16] == (
        "its checkpoint is removed: number 17 of 20 after epoch 1 will hardly come among the best half; it begins anew"
        " if it ever goes on"
    )
    four = paused_trials(state_of([place(n, best=best) for n, best in enumerate(scores[:4])], RungCount(1, 4, 4, True)))
    assert surplus_checkpoints(four, dict.fromkeys(range(4), 1000), 1.0) == {}


def test_of_the_others_those_that_are_likelier_to_go_on_keep_theirs():
    """Within the limit in gigabytes the best come first, and a large one leaves room for smaller ones."""
    places = [place(number, best=1 - number / 10) for number in range(4)]
    paused = paused_trials(state_of(places, RungCount(1, 4, 4, True)))
    sizes = {0: 400_000_000, 1: 400_000_000, 3: 100_000_000}
    assert surplus_checkpoints(paused, sizes, 1.0) == {}
    assert surplus_checkpoints(paused, sizes, 0.5) == {
        1: "its checkpoint is removed: those of the trials that are likelier to go on take 400 MB, and [study]"
        " checkpoints_gb is 0.5; it begins anew if it ever goes on"
    }
    assert list(surplus_checkpoints(paused, sizes, 0)) == [0, 1, 3]
