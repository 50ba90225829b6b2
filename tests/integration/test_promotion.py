"""Trials that are paused at rungs and go on from their checkpoints: which, when, how often, and what comes of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import optuna
import pytest
import torch
from optuna.trial import TrialState, create_trial

from hpo.bundle.chosen_trials import trial_of_number
from hpo.errors import HpoError
from hpo.report.results import read_results
from hpo.study.candidates import WAYS
from hpo.study.interruptions import pauses
from hpo.study.retention import take_inventory
from hpo.study.status import take_snapshot
from hpo.study.takeover import take_over
from hpo.worker.shutdown import Shutdown
from storage import logs
from storage.budget import Limits, used
from storage.database import connect
from storage.heartbeat import WorkerPresence
from storage.keys import WAY_KEY
from storage.places import Lease, LostPlaceError, Progress
from storage.requeue import requeue
from storage.study_rows import places
from tests.integration.conftest import FIXED, ScriptedLoss, lines_of, stop_of, weights_of

pytestmark = pytest.mark.integration

SEED = 'sampler = "random"\nseed = 3'
RECIPE = {**FIXED, "epochs": 5}  # three steps an epoch; rungs after epochs 1 and 2


@pytest.fixture
def study_id(storage):
    """An empty study."""
    return storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")


@pytest.fixture
def join(storage, study_id):
    """Makes the lease of a worker that takes paused trials."""

    def make(name, opened=storage):
        WorkerPresence(opened.engine, study_id, name).join("host", 1, "cpu")
        lease = Lease(opened.engine, study_id, name)
        lease.promotion = True
        return lease

    return make


def train(storage, study_id, lease, limits, epoch, macro_f1):
    """Take a place, bring its trial to a rung, and say whether it goes on; a trial that does not is paused."""
    place = lease.take(limits)
    storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
    trial_id = lease.name_trial(place)
    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    number = storage.get_trial_number_from_id(trial_id)
    trial = optuna.Trial(optuna.load_study(study_name="study", storage=storage), trial_id)
    lease.keep_progress(place, trial, Progress(epoch, 5, macro_f1, macro_f1), [])
    goes_on = lease.reach_rung(number, epoch, macro_f1)
    if not goes_on:
        storage.set_trial_state_values(trial_id, TrialState.PRUNED)
        lease.finish(place, "pruned")
    return place, number, goes_on


def rows(storage, study_id):
    """State and rung of each place."""
    with storage.engine.connect() as connection:
        return [(place.state, place.paused_after) for place in places(connection, study_id)]


def test_the_best_half_of_a_rung_goes_on(storage, study_id, join):
    """The best of two goes on at once where it comes second, and the next worker takes it where it came first."""
    lease, limits = join("worker"), Limits(trials=10)
    assert train(storage, study_id, lease, limits, 1, 0.5)[2] is False
    first, number, goes_on = train(storage, study_id, lease, limits, 1, 0.7)
    assert goes_on
    assert rows(storage, study_id) == [("paused", 1), ("running", None)]
    lease.finish(first, "complete")
    assert train(storage, study_id, lease, limits, 1, 0.3)[2] is False
    assert train(storage, study_id, lease, limits, 1, 0.4)[2] is False  # there is room for one more, which 0.5 is
    promoted = lease.take(limits)
    assert (promoted.number, promoted.earlier_trial, promoted.promoted) == (0, 0, True)
    with storage.engine.connect() as connection:
        assert used(connection, study_id).trials == 4
        said = [line for _, line in logs.read(connection, study_id, 0)]
        assert [line for _, line in logs.read(connection, study_id, number)] == [
            "goes on after epoch 1: number 1 of the 2 that have come so far"
        ]
    assert said == [
        "paused after epoch 1: number 1 of the 1 that have come so far; goes on if it comes among the best half",
        "goes on after epoch 1 as another trial: it is among the best half of 4",
    ]


def test_no_two_workers_take_the_same_paused_trial(storage, study_id, join, ready_database):
    """Eight workers that ask at once get each paused trial of the best half once, and no other one."""
    limits, lease = Limits(trials=17), join("worker")
    for number in range(16):
        lease.promotion = False  # so that nothing goes on yet
        place, _, goes_on = train(storage, study_id, lease, limits, 1, 1 / (number + 1))
        assert place.number == number
        assert not goes_on
    lasting = lease.take(limits)  # the budget has no place left

    def take_all(name):
        mine = connect(ready_database)
        taking, taken = join(f"worker {name}", mine), []
        while place := taking.take(limits):
            taken.append(place.number)
            taking.finish(place, "complete")
        mine.engine.dispose()
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [number for numbers in pool.map(take_all, range(8)) for number in numbers]
    assert sorted(taken) == list(range(8))
    assert lasting.number == 16


def test_without_new_trials_the_best_half_is_rounded_up(storage, study_id, join):
    """Of three trials one may go on while more can come, and two where the budget has begun them all."""
    lease = join("worker")
    for macro_f1 in (0.6, 0.5, 0.4):
        lease.promotion = False
        assert not train(storage, study_id, lease, Limits(trials=3), 1, macro_f1)[2]
    lease.promotion = True
    assert [lease.may_get_a_place(Limits(trials=3)), lease.may_get_a_place(Limits(trials=3, gpu_hours=0))] == [
        True,
        False,
    ]
    taken = []
    while place := lease.take(Limits(trials=3)):
        taken.append(place.number)
        lease.finish(place, "complete")
    assert taken == [0, 1]
    assert not lease.may_get_a_place(Limits(trials=3))


def test_the_best_of_a_rung_is_trained_to_its_end_though_others_went_on_before_it_came(storage, study_id, join):
    """Where the budget has no new trial left, one that is better than all before it goes on beyond its half."""
    lease = join("worker")
    assert not train(storage, study_id, lease, Limits(trials=1), 1, 0.2)[2]
    early = lease.take(Limits(trials=1))
    assert early.number == 0  # as no other one was to come
    lease.finish(early, "complete")
    limits = Limits(trials=2)
    best, number, goes_on = train(storage, study_id, lease, limits, 1, 0.6)
    assert not goes_on  # one of two has gone on
    assert lease.take(limits).number == best.number
    lease.finish(best, "complete")
    assert not lease.may_get_a_place(limits)
    with storage.engine.connect() as connection:
        assert [line for _, line in logs.read(connection, study_id, number)][-1] == (
            "goes on after epoch 1 as another trial: it is the best of 2"
        )


def test_where_every_recipe_was_tried_the_best_half_is_rounded_up(storage, study_id, join):
    """Where the search space holds no other recipe, the only paused trial goes on though the budget has places left."""
    lease, limits = join("worker"), Limits(trials=10)
    assert not train(storage, study_id, lease, limits, 1, 0.6)[2]
    assert lease.take(limits, lambda _: None).number == 0


def test_a_rung_decides_once(storage, study_id, join):
    """A trial that comes to a rung again, since the answer was lost, gets the same answer; a lost place gets none."""
    lease, limits = join("worker"), Limits(trials=10)
    train(storage, study_id, lease, limits, 1, 0.5)
    place, number, _ = train(storage, study_id, lease, limits, 1, 0.7)
    assert lease.reach_rung(number, 1, 0.7)
    requeue(storage.engine, "worker")
    with pytest.raises(LostPlaceError):
        lease.reach_rung(number, 1, 0.7)
    assert rows(storage, study_id)[place.number] == ("waiting", None)


def test_a_paused_trial_whose_taker_died_stays_promoted(storage, study_id, join):
    """A worker that dies between taking a paused trial and beginning it leaves it to the next one."""
    first, second, limits = join("first"), join("second"), Limits(trials=1)
    train(storage, study_id, first, limits, 1, 0.5)
    assert first.take(limits).promoted
    assert second.take(limits) is None
    requeue(storage.engine, "first")
    again = second.take(limits)
    assert (again.number, again.earlier_trial, again.promoted, again.failed_runs) == (0, 0, True, 1)


@pytest.fixture
def searched(harness):
    """A search by halves of six trials, and the same recipes each trained to its end."""
    whole = harness(ScriptedLoss({}), more=SEED, recipe=RECIPE, trials=6, name="whole")
    whole.work("whole")
    halved = harness(ScriptedLoss({}), more=SEED, pruner="asha", recipe=RECIPE, trials=6, name="halved")
    halved.work("halved")
    return halved, whole


def test_what_was_paused_and_goes_on_ends_bit_for_bit_as_if_it_had_never_stopped(searched):
    """Each complete trial of a search by halves has the values and the weights of a training without a pause."""
    halved, whole = searched
    assert [place.number for place in halved.places] == list(range(6))
    ended = {place.number: place for place in halved.places}
    assert ended[0].state == "complete"  # the default recipe
    complete = [place for place in halved.places if place.state == "complete"]
    paused = [place for place in halved.places if place.state == "paused"]
    assert len(complete) + len(paused) == 6
    assert len(complete) >= 2
    assert len(paused) >= 2
    went_on = 0
    for place in halved.places:
        trial, other = halved.trials[place.trial], whole.trials[place.number]
        assert trial.params == other.params
        assert trial.intermediate_values == {
            epoch: value for epoch, value in other.intermediate_values.items() if epoch in trial.intermediate_values
        }
        if place.state == "complete":
            kept, expected = weights_of(halved, place.trial), weights_of(whole, place.number)
            assert all(torch.equal(kept[name], expected[name]) for name in expected)
            went_on += "repeats" in trial.user_attrs
        else:
            assert (trial.state, trial.last_step) == (TrialState.PRUNED, place.paused_after)
    assert went_on  # else nothing was tried
    epochs = sum(place.paused_after or 5 for place in halved.places)
    assert halved.own_loss.taken == 3 * epochs  # no epoch was trained twice


def test_a_search_by_halves_is_told_as_it_is(searched):
    """Status and logs say what is paused; the checkpoints of paused trials are kept, and no others."""
    halved, _ = searched
    snapshot = take_snapshot(halved.opened)
    assert snapshot.finished
    paused = [place for place in halved.places if place.state == "paused"]
    assert snapshot.counts["paused"] == len(paused)
    assert len(halved.checkpoints) == len(paused)
    assert take_inventory(halved.opened, 20).surplus == ()
    sizes = sorted(file.stat().st_size for file in halved.checkpoints)
    assert sorted(snapshot.paused_checkpoints) == sizes
    limited = replace(halved.opened, file=replace(halved.file, checkpoints_gb=sizes[0] * 1.5 / 1e9))
    surplus = take_inventory(limited, 20).surplus  # as `hpo prune-artifacts` does
    assert len(surplus) == len(paused) - 1
    assert all("which is paused: its checkpoint is removed: those of the trials" in one.why for one in surplus)
    told = pauses(halved.trials, halved.places, "asha")
    for place in paused:
        assert (
            told[place.trial] == f"is paused after epoch {place.paused_after}; goes on if it comes among the best half"
        )
        assert lines_of(halved, place.trial)[-1].startswith(f"paused after epoch {place.paused_after}: number ")
    number = paused[0].trial
    with pytest.raises(HpoError, match=f"^export: trial {number} is paused after epoch .*, and only a complete trial"):
        trial_of_number(halved.opened, number, None)
    otherwise = pauses(halved.trials, halved.places, "median")[paused[0].trial]
    assert otherwise.endswith('; pruner = "median" does not let it go on, "asha" does')


def test_each_recipe_is_one_result_however_often_it_was_paused(searched):
    """Report and takeover have one result for each place, and none for the runs that were paused and have gone on."""
    halved, _ = searched
    later = {trial.user_attrs["repeats"]: trial.number for trial in halved.trials if "repeats" in trial.user_attrs}
    assert later
    told = pauses(halved.trials, halved.places, "asha")
    assert all(told[number] == f"was paused, and has gone on as trial {after}" for number, after in later.items())
    results = read_results(halved.opened, datetime.now(UTC))
    states = {place.trial: place.state for place in halved.places}
    assert {outcome.number: outcome.state for outcome in results.outcomes} == states
    assert not any(outcome.taken_over for outcome in results.outcomes)
    assert (results.repeats, len(results.snapshot.rungs)) == (0, 2)
    lines = take_over(replace(halved.file, name="newer"), halved.url, halved.data, "halved").lines()
    assert lines == ['6 of 6 finished trials of "halved" still fit and were taken over']


def test_a_trial_whose_minutes_are_over_is_not_paused(harness):
    """What `[budget] trial_minutes` ends is pruned for good: it keeps no checkpoint, and does not go on."""
    study = harness(ScriptedLoss({}), more=SEED, pruner="asha", recipe=RECIPE, trials=2)
    study.file = replace(study.file, trial_minutes=1e-9)
    study.work()
    assert [(place.state, place.paused_after) for place in study.places] == [("pruned", None)] * 2
    assert study.checkpoints == []


def test_more_budget_lets_paused_trials_go_on(harness):
    """A search that has ended goes on with its paused trials where the budget is raised."""
    study = harness(ScriptedLoss({}), more=SEED, pruner="asha", recipe=RECIPE, trials=4)
    study.work("first")
    before = {place.number: place.trial for place in study.places if place.state == "paused"}
    later = harness(study.own_loss, more=SEED, pruner="asha", recipe=RECIPE, trials=9)
    later.work("second")
    assert len(later.places) == 9
    assert any(place.trial != before[place.number] for place in later.places if place.number in before)


def test_controls_are_trained_to_their_end_and_count_at_no_rung(harness):
    """A trial of control_share is not paused, whatever its rank, and the log says why; the status tells of them."""
    more = 'sampler = "random"\ncontrol_share = 1'
    study = harness(ScriptedLoss({}), more=more, pruner="asha", recipe=RECIPE, trials=5)
    study.work()
    assert [place.state for place in study.places] == ["complete"] * 5
    said = "trained to its end whatever its rank, to see what pausing costs"
    assert [said in lines_of(study, place.trial) for place in study.places] == [False, True, True, True, True]
    snapshot = take_snapshot(study.opened)
    assert (snapshot.early.trials, snapshot.rungs) == (4, [])


def test_a_paused_trial_without_its_checkpoint_begins_anew(harness):
    """Where checkpoints_gb leaves no room none is kept; what goes on all the same ends as if it had never stopped."""
    study = harness(ScriptedLoss({}), more=f"{SEED}\ncheckpoints_gb = 0", pruner="asha", recipe=RECIPE, trials=6)
    study.work()
    paused = [place for place in study.places if place.state == "paused"]
    assert paused
    assert study.checkpoints == []
    assert take_snapshot(study.opened).paused_checkpoints == []
    removed = "its checkpoint is removed: those of the trials that are likelier to go on take 0 bytes, and [study]"
    assert all(lines_of(study, place.trial)[-1].startswith(removed) for place in paused)
    whole = harness(ScriptedLoss({}), more=SEED, recipe=RECIPE, trials=6, name="whole")
    whole.work("whole")
    anew = 0
    for place in study.places:
        if place.state == "complete":
            trial = study.trials[place.trial]
            assert trial.intermediate_values == whole.trials[place.number].intermediate_values
            anew += "repeats" in trial.user_attrs
    assert anew


@pytest.mark.parametrize("step", [4, 5, 7, 8, 9])
def test_an_interruption_changes_nothing_of_a_search_by_halves(harness, step):
    """A worker that is told to stop in any epoch leaves a search whose places end as without that."""
    whole = harness(ScriptedLoss({}), more=SEED, pruner="asha", recipe=RECIPE, trials=4, name="whole")
    whole.work("whole")
    steps = 15 + step  # those of the default recipe come first
    study = harness(ScriptedLoss({steps: stop_of(lambda: study)}), more=SEED, pruner="asha", recipe=RECIPE, trials=4)
    study.work("stopped")
    study.stop = Shutdown()
    study.work("next")
    ends = [
        [(place.state, place.paused_after, one.trials[place.trial].intermediate_values) for place in one.places]
        for one in (study, whole)
    ]
    assert ends[0] == ends[1]


def test_the_forest_proposes_to_real_workers(harness):
    """With `forest` each new trial says how its recipe was drawn, the default one not; two searches are alike."""
    recipe = {**FIXED, "epochs": 2, "learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}
    more = 'sampler = "forest"'
    searches = [
        harness(ScriptedLoss({}), more=more, pruner="asha", recipe=recipe, trials=14, name=name) for name in ("a", "b")
    ]
    for study in searches:
        study.work(study.file.name)
    tried = [[study.trials[place.trial].params for place in study.places] for study in searches]
    assert tried[0] == tried[1]
    assert len({tuple(sorted(params.items())) for params in tried[0]}) == 14
    assert {"complete", "paused"} == {place.state for place in searches[0].places}
    default, *others = [searches[0].trials[place.trial] for place in searches[0].places]
    assert WAY_KEY not in default.user_attrs
    assert {trial.user_attrs[WAY_KEY] for trial in others} <= set(WAYS)
