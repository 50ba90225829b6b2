"""Places of the budget: exact with any number of takers, and never held by two."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from sqlalchemy import text

from storage import logs
from storage.database import connect, initialize
from storage.lease import Lease, Limits, LostPlaceError, bury, places, used, workers

pytestmark = pytest.mark.integration


@pytest.fixture
def storage(database):
    """Optuna's storage on an empty, initialised database."""
    initialize(database)
    opened = connect(database)
    yield opened
    opened.engine.dispose()


@pytest.fixture
def study_id(storage):
    """An empty study."""
    return storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")


def joined(storage, study_id, name):
    """A worker of this name."""
    lease = Lease(storage.engine, study_id, name)
    lease.join("host", 1, "cpu")
    return lease


def rows(storage, study_id):
    """All places."""
    with storage.engine.connect() as connection:
        return places(connection, study_id)


def test_eight_takers_take_exactly_the_budget(storage, study_id, database):
    """However many workers take at once, the budget's places are given out once each, and no more."""

    def take_all(name):
        mine = connect(database)
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
    place = first.take(Limits(trials=1))
    first.begin(place, trial=7)
    assert second.take(Limits(trials=1)) is None
    first.hand_back(place)
    again = second.take(Limits(trials=1))
    assert (again.number, again.interrupted_trial, again.deaths) == (0, 7, 0)
    with storage.engine.connect() as connection:
        assert used(connection, study_id).trials == 1


def test_the_former_holder_of_a_place_can_do_nothing_with_it(storage, study_id):
    """A worker whose place was given away finds out at its next word about it."""
    first, second = joined(storage, study_id, "first"), joined(storage, study_id, "second")
    place = first.take(Limits())
    bury(storage.engine, "first")
    again = second.take(Limits())
    assert (again.number, again.deaths) == (place.number, 1)
    for attempt in (
        lambda: first.hold(place),
        lambda: first.progress(place, 1, 2, 0.5, 0.5),
        lambda: first.finish(place, "complete"),
        lambda: first.hand_back(place),
        lambda: first.begin(place, trial=3),
    ):
        with pytest.raises(LostPlaceError):
            attempt()
    second.finish(again, "pruned")
    assert [row.state for row in rows(storage, study_id)] == ["pruned"]


def test_a_worker_that_breaks_down_leaves_its_place_to_the_next(storage, study_id):
    """A worker that leaves with a place in hand hands it back, so that nobody waits for it."""
    broken, next_one = joined(storage, study_id, "broken"), joined(storage, study_id, "next")
    broken.take(Limits(trials=1))
    assert next_one.take(Limits(trials=1)) is None
    broken.leave()
    assert next_one.take(Limits(trials=1)).deaths == 1


def test_a_worker_that_comes_back_is_watched_again(storage, study_id):
    """A worker that was given up, and beats again, is there again for all."""
    frozen, watcher = joined(storage, study_id, "frozen"), joined(storage, study_id, "watcher")
    bury(storage.engine, "frozen")
    frozen.beat({})
    frozen.take(Limits())
    watcher.reap(grace_seconds=0.1)
    time.sleep(0.2)
    watcher.reap(grace_seconds=0.1)
    assert [row.state for row in rows(storage, study_id)] == ["waiting"]


def test_time_after_the_last_beat_is_no_gpu_time(storage, study_id):
    """What passes between a worker's last beat and its burial is not charged to the budget."""
    lease = joined(storage, study_id, "worker")
    lease.take(Limits())
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE hpo.place SET taken = now() - interval '15 hours'"))
        connection.execute(text("UPDATE hpo.worker SET beaten = now() - interval '14 hours'"))
        assert used(connection, study_id).gpu_hours == pytest.approx(1, abs=0.01)
    bury(storage.engine, "worker")
    with storage.engine.connect() as connection:
        assert used(connection, study_id).gpu_hours == pytest.approx(1, abs=0.01)


def test_what_we_end_ourselves_is_no_death(storage, study_id):
    """A worker that the user's own Ctrl-C ends counts no death of its trial's."""
    lease, other = joined(storage, study_id, "worker"), joined(storage, study_id, "other")
    lease.take(Limits())
    bury(storage.engine, "worker", by_us=True)
    assert other.take(Limits()).deaths == 0


def test_only_a_beat_watched_standing_still_counts_as_death(storage, study_id):
    """A worker is reaped after the watcher itself has seen its beat unchanged for the grace time, and not before."""
    frozen, living, watcher = (joined(storage, study_id, name) for name in ("frozen", "living", "watcher"))
    frozen.take(Limits())
    living.take(Limits())
    with storage.engine.begin() as connection:  # the clocks of the database say nothing
        connection.execute(text("UPDATE hpo.worker SET beaten = now() - interval '1 day'"))
    watcher.reap(grace_seconds=0.2)
    assert {row.state for row in rows(storage, study_id)} == {"running"}
    time.sleep(0.3)
    living.beat({})
    watcher.reap(grace_seconds=0.2)
    assert [row.state for row in rows(storage, study_id)] == ["waiting", "running"]


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
    place = lease.take(Limits())
    lease.begin(place, trial=4)
    lease.progress(place, 2, 9, 0.5, 0.75)
    lease.beat({"training": 1.5})
    [row] = rows(storage, study_id)
    assert (row.trial, row.epoch, row.epochs, row.macro_f1, row.best, row.worker) == (4, 2, 9, 0.5, 0.75, "worker")
    with storage.engine.connect() as connection:
        [worker] = workers(connection, study_id)
    assert worker.seconds == {"training": 1.5}
    assert not worker.gone
    lease.leave()
    with storage.engine.connect() as connection:
        assert workers(connection, study_id)[0].gone


def test_deleting_the_study_deletes_its_rows(storage, study_id):
    """Nothing of ours outlives a study, whoever deletes it."""
    lease = joined(storage, study_id, "worker")
    lease.take(Limits())
    with storage.engine.begin() as connection:
        logs.append(connection, study_id, 0, ["a line"])
    storage.delete_study(study_id)
    with storage.engine.connect() as connection:
        for table in ("worker", "place", "log"):
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
