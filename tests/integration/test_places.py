"""Places of the budget: exact with any number of takers, and never held by two."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from sqlalchemy import text

from storage import logs
from storage.budget import Limits, Used, used
from storage.database import connect, initialize
from storage.errors import StorageError
from storage.halts import begin_halt, end_halt, halt_in_force, paused_hosts
from storage.heartbeat import WorkerPresence
from storage.notifications import claim
from storage.places import Lease, LostPlaceError, Progress, StudyGoneError
from storage.requeue import requeue, requeue_in
from storage.study_rows import StudyRows, places, workers
from tests.support.waiting import paced, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture
def study_id(storage):
    """An empty study."""
    return storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")


def joined(storage, study_id, name, host="host"):
    """The lease of a worker of this name, which has joined."""
    presence(storage, study_id, name).join(host, 1, "cpu")
    return Lease(storage.engine, study_id, name)


def presence(storage, study_id, name="worker"):
    """The presence of a worker of this name."""
    return WorkerPresence(storage.engine, study_id, name)


def add_waiting(storage, study_id, **fields):
    """The id of a new trial in Optuna's queue."""
    return storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING, **fields))


def running(storage, study_id, lease):
    """A place of this worker, with a running trial."""
    place = lease.take(Limits())
    add_waiting(storage, study_id)
    trial_id = lease.name_trial(place)
    storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    return place, trial_id


def progress(storage, lease, place, trial_id, lines=()):
    """A word on the second of nine epochs."""
    study = optuna.load_study(study_name="study", storage=storage)
    trial = optuna.Trial(study, trial_id)
    lease.keep_progress(place, trial, Progress(epoch=2, epochs=9, score=0.5, best=0.75), lines)


def rows(storage, study_id):
    """All places."""
    with storage.engine.connect() as connection:
        return places(connection, study_id)


def test_eight_takers_take_exactly_the_budget(storage, study_id, ready_database):
    """However many workers take at once, the budget's places are given out once each, and no more."""

    def take_all(name):
        mine = connect(ready_database)
        lease = joined(mine, study_id, f"worker {name}")
        taken = []
        while place := lease.take(Limits(trials=30)):
            taken.append(place.number)
            lease.finish(place, "complete")
        mine.engine.dispose()
        return taken

    with ThreadPoolExecutor(8) as pool:
        taken = [number for numbers in pool.map(take_all, range(8)) for number in numbers]
    assert sorted(taken) == list(range(30))
    assert joined(storage, study_id, "late").take(Limits(trials=30)) is None


def test_a_place_handed_back_is_taken_again_and_counts_once(storage, study_id):
    """A place that was handed back comes before new ones, names its earlier trial, and uses no more of the budget."""
    first, second = joined(storage, study_id, "first"), joined(storage, study_id, "second")
    add_waiting(storage, study_id)
    place, _ = running(storage, study_id, first)
    assert second.take(Limits(trials=1)) is None
    first.hand_back(place, "interrupted")
    again = second.take(Limits(trials=1))
    assert (again.number, again.earlier_trial, again.failed_runs, again.reason) == (0, 0, 0, "interrupted")
    with storage.engine.connect() as connection:
        assert used(connection, study_id).trials == 1
    [trial, _] = storage.get_all_trials(study_id)
    assert (trial.state, trial.user_attrs["reason"]) == (TrialState.FAIL, "interrupted; run again as another trial")


def test_a_place_that_waits_is_not_taken_once_the_hours_are_over(storage, study_id):
    """A place handed back waits for more hours; one whose trial was told a result is taken, to be closed."""
    lease = joined(storage, study_id, "worker")
    place, trial_id = running(storage, study_id, lease)
    lease.hand_back(place, "interrupted")
    assert lease.take(Limits(hours=0.0)) is None
    assert [row.state for row in rows(storage, study_id)] == ["waiting"]
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE trials SET state = 'COMPLETE' WHERE trial_id = :trial"), {"trial": trial_id})
    assert lease.take(Limits(hours=0.0)).number == place.number


def test_a_failed_run_counts_where_it_is_said_to(storage, study_id):
    """A run that is handed back as failed brings its place nearer to being given up."""
    first = joined(storage, study_id, "first")
    place, _ = running(storage, study_id, first)
    first.hand_back(place, "disk full", failed=True)
    assert first.take(Limits()).failed_runs == 1


def test_a_taker_whose_answer_was_lost_gets_the_same_place_again(storage, study_id):
    """A worker that asks again, since the connection broke before the answer came, uses no more of the budget."""
    lease = joined(storage, study_id, "worker")
    assert lease.take(Limits(trials=5)) == lease.take(Limits(trials=5))
    assert len(rows(storage, study_id)) == 1


def test_an_end_that_was_told_already_may_be_told_again(storage, study_id):
    """Repeating the end of a place, since the answer was lost, changes nothing and is no loss of the place."""
    lease = joined(storage, study_id, "worker")
    place, _ = running(storage, study_id, lease)
    lease.finish(place, "failed", "the loss is nan")
    lease.finish(place, "failed", "the loss is nan")
    assert [(row.state, row.reason) for row in rows(storage, study_id)] == [("failed", "the loss is nan")]


def test_a_trial_fails_in_the_same_breath_as_its_place_is_given_back(storage, study_id):
    """What ends a run ends its trial for Optuna, too, with the reason, in one transaction."""
    lease = joined(storage, study_id, "worker")
    _, trial_id = running(storage, study_id, lease)
    requeue(storage.engine, "worker")
    trial = storage.get_trial(trial_id)
    assert trial.state is TrialState.FAIL
    assert trial.user_attrs == {"reason": "its worker died; run again as another trial"}
    assert trial.datetime_complete >= trial.datetime_start
    [row] = rows(storage, study_id)
    assert (row.state, row.reason, row.trial) == ("waiting", "its worker died", trial.number)


def test_a_waiting_trial_is_named_by_one_place_only(storage, study_id):
    """Of Optuna's waiting trials each is named once, the first first, and a repeating one only for what it repeats."""
    lease, other = joined(storage, study_id, "worker"), joined(storage, study_id, "other")
    first = add_waiting(storage, study_id)
    repeat = add_waiting(storage, study_id, user_attrs={"repeats": 7})
    third = add_waiting(storage, study_id)
    assert lease.name_trial(lease.take(Limits())) == first
    place = other.take(Limits())
    assert other.name_trial(place, repeats=8) is None
    assert other.name_trial(place) == third
    assert other.name_trial(place) == third  # it asks again where the answer was lost
    assert other.name_trial(place, repeats=7) == repeat


def test_a_trial_that_was_ended_elsewhere_takes_no_more_progress(storage, study_id):
    """A worker finds out at its next epoch that its trial was failed from outside."""
    lease = joined(storage, study_id, "worker")
    place, trial_id = running(storage, study_id, lease)
    assert presence(storage, study_id).beat({}).trial == 0
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
    assert presence(storage, study_id).beat({}).trial is None
    with pytest.raises(LostPlaceError):
        progress(storage, lease, place, trial_id)


def test_a_halted_study_gives_out_no_place(storage, study_id):
    """While a study is paused or stopped nobody begins a trial, every worker hears it, and pauses are no hours."""
    lease = joined(storage, study_id, "worker")
    with storage.engine.begin() as connection:
        begin_halt(connection, study_id, "pause")
    assert lease.take(Limits()) is None
    assert presence(storage, study_id).beat({}).halt == lease.halt() == "pause"
    with storage.engine.begin() as connection:
        begin_halt(connection, study_id, "stop")
        assert halt_in_force(connection, study_id) == "stop"
        end_halt(connection, study_id)
        connection.execute(text("UPDATE hpo.worker SET started = now() - interval '3 hours'"))
        connection.execute(
            text("UPDATE hpo.halt SET began = now() - interval '2 hours', ended = now() - interval '1 hour'")
        )
        assert used(connection, study_id).hours == pytest.approx(2, abs=0.01)
    assert lease.take(Limits()).number == 0


def test_a_paused_host_leaves_its_places_to_the_others(storage, study_id):
    """The workers on a paused host get no place and hear why; those elsewhere go on, and their hours count alone."""
    lease = joined(storage, study_id, "worker")
    elsewhere = joined(storage, study_id, "elsewhere", "other")
    with storage.engine.begin() as connection:
        begin_halt(connection, study_id, "pause", "host")
    assert lease.take(Limits()) is None
    assert elsewhere.take(Limits()).number == 0
    assert presence(storage, study_id).beat({}).halt == lease.halt() == "host pause"
    assert presence(storage, study_id, "elsewhere").beat({}).halt is None
    with storage.engine.begin() as connection:
        assert (halt_in_force(connection, study_id), paused_hosts(connection, study_id)) == (None, ["host"])
        begin_halt(connection, study_id, "stop")
    assert lease.halt() == elsewhere.halt() == "stop"
    with storage.engine.begin() as connection:
        end_halt(connection, study_id)
        connection.execute(text("DELETE FROM hpo.halt WHERE host IS NULL"))
    assert lease.halt() == "host pause"
    with storage.engine.begin() as connection:
        end_halt(connection, study_id, "host")
        assert paused_hosts(connection, study_id) == []
        connection.execute(
            text("UPDATE hpo.halt SET began = now() - interval '4 hours', ended = now() - interval '1 hour'")
        )
        connection.execute(text("UPDATE hpo.worker SET started = now() - interval '5 hours' WHERE id = 'worker'"))
        connection.execute(text("UPDATE hpo.worker SET started = now() - interval '2 hours' WHERE id = 'elsewhere'"))
        # One hour of the paused host before its pause, two of the other, in the last of which it went on, too.
        assert used(connection, study_id).hours == pytest.approx(3, abs=0.01)
    assert lease.take(Limits()).number == 1


def test_a_worker_may_end_only_where_no_place_can_come_back(storage, study_id):
    """As long as a place runs, or waits and the hours allow it, a worker that has none stays."""
    lease, other = joined(storage, study_id, "worker"), joined(storage, study_id, "other")
    limits = Limits(trials=1, hours=1)
    assert not lease.may_get_a_place(limits)
    place, _ = running(storage, study_id, other)
    assert lease.take(limits) is None
    assert lease.may_get_a_place(limits)
    other.hand_back(place, "interrupted")  # between two questions of the other worker, say
    assert lease.may_get_a_place(limits)
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.worker SET started = now() - interval '2 hours'"))
    assert not lease.may_get_a_place(limits)
    assert lease.take(Limits(trials=1)).number == place.number


def test_a_worker_of_a_deleted_study_is_told_so(storage, study_id):
    """Who takes a place of a study that was deleted learns that it was."""
    lease = joined(storage, study_id, "worker")
    storage.delete_study(study_id)
    assert not presence(storage, study_id).beat({}).known
    with pytest.raises(StudyGoneError):
        lease.take(Limits())


def test_the_former_holder_of_a_place_can_do_nothing_with_it(storage, study_id):
    """A worker whose place was given away finds out at its next word about it."""
    first, second = joined(storage, study_id, "first"), joined(storage, study_id, "second")
    place = first.take(Limits())
    requeue(storage.engine, "first")
    again = second.take(Limits())
    assert (again.number, again.failed_runs) == (place.number, 1)
    trial_id = add_waiting(storage, study_id)
    for attempt in (
        lambda: first.hold(place),
        lambda: progress(storage, first, place, trial_id),
        lambda: first.finish(place, "complete"),
        lambda: first.finish(place, "failed", "a reason"),
        lambda: first.name_trial(place),
    ):
        with pytest.raises(LostPlaceError):
            attempt()
    first.hand_back(place, "interrupted")
    assert storage.get_trial(trial_id).state is TrialState.WAITING
    assert [row.worker for row in rows(storage, study_id)] == ["second"]
    second.finish(again, "pruned")
    assert [row.state for row in rows(storage, study_id)] == ["pruned"]


def test_a_worker_that_breaks_down_leaves_its_place_to_the_next(storage, study_id):
    """A worker that leaves with a place in hand hands it back, so that nobody waits for it."""
    broken, next_one = joined(storage, study_id, "broken"), joined(storage, study_id, "next")
    broken.take(Limits(trials=1))
    assert next_one.take(Limits(trials=1)) is None
    presence(storage, study_id, "broken").leave({})
    assert next_one.take(Limits(trials=1)).failed_runs == 1
    with storage.engine.connect() as connection:
        gone = next(row for row in workers(connection, study_id) if row.id == "broken")
    assert (gone.gone, gone.died) == (True, False)


def test_a_worker_that_comes_back_is_watched_again(storage, study_id):
    """A worker that was given up, and beats again, is there again for all."""
    frozen, watcher = joined(storage, study_id, "frozen"), presence(storage, study_id, "watcher")
    requeue(storage.engine, "frozen")
    presence(storage, study_id, "frozen").beat({})
    with storage.engine.connect() as connection:
        assert [(row.gone, row.died) for row in workers(connection, study_id)] == [(False, False)]
    frozen.take(Limits())
    watcher.reap(grace_seconds=paced(0.1))
    time.sleep(paced(0.2))
    watcher.reap(grace_seconds=paced(0.1))
    assert [row.state for row in rows(storage, study_id)] == ["waiting"]


def test_time_after_the_last_beat_is_not_charged(storage, study_id):
    """What passes between a worker's last beat and its requeueing counts among neither the hours nor the GPU hours."""
    lease = joined(storage, study_id, "worker")
    lease.take(Limits())
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.place SET taken = now() - interval '15 hours'"))
        connection.execute(
            text("UPDATE hpo.worker SET started = now() - interval '16 hours', beaten = now() - interval '14 hours'")
        )
        before = used(connection, study_id)
        assert (before.hours, before.gpu_hours) == (pytest.approx(2, abs=0.01), pytest.approx(1, abs=0.01))
    requeue(storage.engine, "worker")
    with storage.engine.connect() as connection:
        after = used(connection, study_id)
    assert (after.hours, after.gpu_hours) == (pytest.approx(2, abs=0.01), pytest.approx(1, abs=0.01))


def test_a_run_without_a_beat_takes_no_time_back(storage, study_id):
    """A worker that dies before its first beat in a run is charged nothing for it, and not less than nothing."""
    joined(storage, study_id, "worker").take(Limits())
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.worker SET beaten = now() - interval '1 hour'"))
    requeue(storage.engine, "worker")
    with storage.engine.connect() as connection:
        assert used(connection, study_id).gpu_hours == 0


def test_the_last_reason_of_a_trial_counts(storage, study_id):
    """A trial that had a reason already is given the one that it fails for."""
    lease = joined(storage, study_id, "worker")
    place, trial_id = running(storage, study_id, lease)
    storage.set_trial_user_attr(trial_id, "reason", "of before")
    lease.finish(place, "failed", "the loss is nan")
    assert storage.get_trial(trial_id).user_attrs["reason"] == "the loss is nan"


def test_a_limit_that_is_just_reached_is_reached():
    """Each limit ends the search as soon as it is reached, and by itself."""
    spent = Used(trials=4, hours=2.0, gpu_hours=6.0)
    for reached in (Limits(trials=4), Limits(hours=2.0), Limits(gpu_hours=6.0)):
        assert not spent.within(reached)
    assert spent.within(Limits(trials=5, hours=2.1, gpu_hours=6.1))
    assert spent.within(Limits())


def test_what_we_end_ourselves_is_no_death(storage, study_id):
    """A worker that the user's own Ctrl-C ends counts no death of its trial's."""
    lease, other = joined(storage, study_id, "worker"), joined(storage, study_id, "other")
    lease.take(Limits())
    requeue(storage.engine, "worker", by_us=True)
    assert other.take(Limits()).failed_runs == 0


def test_only_a_beat_watched_standing_still_counts_as_death(storage, study_id):
    """A worker is reaped after the watcher itself has seen its beat unchanged for the grace time, and not before."""
    frozen, living = joined(storage, study_id, "frozen"), joined(storage, study_id, "living")
    watcher = presence(storage, study_id, "watcher")
    frozen.take(Limits())
    living.take(Limits())
    with storage.engine.begin() as connection:  # the clocks of the database say nothing
        connection.execute(text("UPDATE hpo.worker SET beaten = now() - interval '1 day'"))
    watcher.reap(grace_seconds=paced(0.2))
    assert {row.state for row in rows(storage, study_id)} == {"running"}
    time.sleep(paced(0.3))
    presence(storage, study_id, "living").beat({})
    watcher.reap(grace_seconds=paced(0.2))
    assert [row.state for row in rows(storage, study_id)] == ["waiting", "running"]


def test_a_worker_has_a_minute_without_a_beat_and_no_second_less(storage, study_id, monkeypatch):
    """Watched every five seconds, a worker is not dead after exactly one minute, and dead at the look after it."""
    clock = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr("storage.heartbeat.time", SimpleNamespace(monotonic=lambda: clock.seconds))
    frozen, watcher = joined(storage, study_id, "frozen"), presence(storage, study_id, "watcher")
    frozen.take(Limits())

    def watch(began):
        for seconds in (0, 5, 10, 15, 20, 25, 29, 31, 35, 40, 45, 50, 55, 59.5, 60):
            clock.seconds = began + seconds
            watcher.reap()
            assert [row.state for row in rows(storage, study_id)] == ["running"], f"after {seconds} s"

    watch(1000.0)
    presence(storage, study_id, "frozen").beat({})  # the minute begins anew
    watch(1060.5)
    clock.seconds += 0.5
    watcher.reap()
    assert [row.state for row in rows(storage, study_id)] == ["waiting"]


def test_a_worker_that_beats_at_the_last_moment_is_not_reaped(storage, study_id, monkeypatch):
    """A beat between the watcher's look and its verdict saves the worker."""
    late, watcher = joined(storage, study_id, "late"), presence(storage, study_id, "watcher")
    late.take(Limits())
    verdicts = []

    def requeue_after_a_beat(connection, worker, *arguments, **options):
        presence(storage, study_id, worker).beat({})
        verdicts.append(worker)
        requeue_in(connection, worker, *arguments, **options)

    monkeypatch.setattr("storage.heartbeat.requeue_in", requeue_after_a_beat)
    watcher.reap(grace_seconds=0.0)
    watcher.reap(grace_seconds=0.0)
    assert verdicts == ["late"]
    assert [row.state for row in rows(storage, study_id)] == ["running"]


def test_after_an_outage_nobody_is_reaped_for_it(storage, study_id, monkeypatch):
    """A watcher that could not look for a while, since the database was away, begins its watch anew."""
    monkeypatch.setattr("storage.heartbeat.WATCH_SECONDS", paced(0.5))
    quiet, watcher = joined(storage, study_id, "quiet"), presence(storage, study_id, "watcher")
    quiet.take(Limits())
    watcher.reap(grace_seconds=paced(0.7))
    time.sleep(paced(0.8))
    watcher.reap(grace_seconds=paced(0.7))
    assert [row.state for row in rows(storage, study_id)] == ["running"]

    def is_reaped():
        watcher.reap(grace_seconds=paced(0.7))
        return [row.state for row in rows(storage, study_id)] == ["waiting"]

    wait_until(is_reaped, every=paced(0.1))


def test_hours_are_those_with_at_least_one_worker(storage, study_id):
    """Two workers at once count once for the hours, a pause does not count, and GPU hours add up."""
    for name, start, end in (("a", 10, 8), ("b", 9, 7), ("c", 2, 1)):
        lease = joined(storage, study_id, name)
        place = lease.take(Limits())
        lease.finish(place, "complete")
        with storage.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE hpo.worker SET started = now() - make_interval(hours => :start),"
                    " gone = now() - make_interval(hours => :end) WHERE id = :name"
                ),
                {"start": start, "end": end, "name": name},
            )
            connection.execute(text("UPDATE hpo.place SET busy_seconds = 1800"))
    with storage.engine.connect() as connection:
        spent = used(connection, study_id)
    assert spent.hours == pytest.approx(4, abs=0.01)
    assert spent.gpu_hours == pytest.approx(1.5)
    assert not spent.within(Limits(hours=3.9))
    assert not spent.within(Limits(gpu_hours=1.5))
    assert spent.within(Limits(trials=4, hours=4.1, gpu_hours=1.6))
    assert joined(storage, study_id, "d").take(Limits(hours=3.9)) is None


def test_first_ends_are_those_since_a_worker_joined(storage, study_id):
    """What ended before a worker joined is no part of its search's beginning."""
    earlier = joined(storage, study_id, "earlier")
    earlier.finish(earlier.take(Limits()), "failed", "disk full")
    later = joined(storage, study_id, "later")
    assert later.first_ends(5) == []
    later.finish(later.take(Limits()), "failed", "out of memory")
    assert later.first_ends(5) == [("failed", "out of memory")]


def test_progress_and_times_are_seen_by_all(storage, study_id):
    """Everybody sees who runs what, how far it has come, and where a worker's time went."""
    lease = joined(storage, study_id, "worker")
    place, trial_id = running(storage, study_id, lease)
    progress(storage, lease, place, trial_id, ["a line"])
    lease.log(0, ["another"])
    presence(storage, study_id).beat({"training": 1.5})
    [row] = rows(storage, study_id)
    assert (row.trial, row.epoch, row.epochs, row.score, row.best, row.worker) == (0, 2, 9, 0.5, 0.75, "worker")
    with storage.engine.connect() as connection:
        assert [line for _, line in logs.read(connection, study_id, 0)] == ["a line", "another"]
        [worker] = workers(connection, study_id)
    assert worker.seconds == {"training": 1.5}
    assert not worker.gone
    presence(storage, study_id).leave({})
    with storage.engine.connect() as connection:
        assert workers(connection, study_id)[0].gone


def test_of_each_event_one_caller_tells(storage, study_id):
    """Eight machines that see the same events at once: each event is claimed by one of them, and once for ever."""
    rows, events = StudyRows(storage, study_id), [f"event {number}" for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        claimed = [event for each in pool.map(rows.claim_notifications, [events, events[::-1]] * 4) for event in each]
    assert sorted(claimed) == sorted(events)
    assert rows.claim_notifications([*events, "new"]) == ["new"]
    assert rows.claim_notifications({}) == []


def test_deleting_the_study_deletes_its_rows(storage, study_id):
    """Nothing of ours outlives a study, whoever deletes it."""
    lease = joined(storage, study_id, "worker")
    lease.take(Limits())
    with storage.engine.begin() as connection:
        logs.append(connection, study_id, 0, ["a line"])
        begin_halt(connection, study_id, "pause")
        claim(connection, study_id, ["an event"])
    storage.delete_study(study_id)
    with storage.engine.connect() as connection:
        for table in ("worker", "place", "log", "halt", "notification"):
            assert connection.execute(text(f"SELECT count(*) FROM hpo.{table}")).scalar() == 0


def test_logs_keep_order_and_any_text(storage, study_id):
    """Lines of a trial come back in their order, whatever characters they hold."""
    lines = ["first", "", "두 번째 %s :name", "nul\0byte"]
    with storage.engine.begin() as connection:
        logs.append(connection, study_id, 3, lines[:2])
        logs.append(connection, study_id, 3, lines[2:])
        logs.append(connection, study_id, 4, ["of another trial"])
        logs.append(connection, study_id, 4, [])
        assert [line for _, line in logs.read(connection, study_id, 3)] == ["first", "", "두 번째 %s :name", "nulbyte"]


def test_any_text_may_be_a_reason(storage, study_id):
    """A reason with what Postgres cannot store, as the bytes of an odd file name, is kept as far as it goes."""
    lease = joined(storage, study_id, "worker")
    place, trial_id = running(storage, study_id, lease)
    progress(storage, lease, place, trial_id, ["nul\0, \udcff"])
    lease.hand_back(place, "nul\0, \udcff.png")
    again = lease.take(Limits())
    assert again.reason == "nul, \\udcff.png"
    lease.finish(again, "failed", "nul\0, \udcff.png")
    assert rows(storage, study_id)[0].reason == "nul, \\udcff.png"


def test_pauses_that_cross_leave_one_halt_and_a_sane_time(storage, study_id):
    """Commands that come at the same moment, and a clock that goes back, leave the hours of a study countable."""
    with storage.engine.begin() as early, storage.engine.begin() as late:
        early.execute(text("SELECT now()"))
        begin_halt(late, study_id, "pause")
        late.commit()
        end_halt(early, study_id)
    with storage.engine.begin() as connection:
        connection.execute(text("INSERT INTO hpo.halt (study_id, kind, began) VALUES (1, 'pause', now() + '1 hour')"))
        end_halt(connection, study_id)
        assert used(connection, study_id).hours == 0

    def pause(_):
        with storage.engine.begin() as connection:
            begin_halt(connection, study_id, "pause")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(pause, range(6)))
    with storage.engine.connect() as connection:
        assert halt_in_force(connection, study_id) == "pause"


def test_tables_of_a_newer_program_are_left_as_they_are(storage, ready_database):
    """An older program refuses the tables of a newer one, and does not mark them as its own."""
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.version SET number = number + 1"))
    initialize(ready_database)
    with pytest.raises(StorageError, match="is used by a newer hpo"):
        connect(ready_database)
