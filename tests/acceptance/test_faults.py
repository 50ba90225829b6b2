"""Whatever happens to workers, their database and their files, every trial of the budget comes to its own end."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from storage.keys import CHECKPOINT_KEY, RESUMED_KEY
from tests.support.faulty_study import FaultyStudy, changed
from tests.support.small_disk import fill
from tests.support.waiting import limit, paced, wait_until
from tests.support.webhook import webhook

pytestmark = pytest.mark.acceptance

KILLED = -signal.SIGKILL


def holds(study):
    """The tally of a study, which must have no problem and all of its trials complete."""
    tally = study.tally()
    assert tally.problems == ()
    assert tally.states == {"complete": study.file.limits.trials}
    return tally


def changes(study, calm):
    """The places of a study whose trials ended otherwise than those of a calm one, which runs now."""
    assert calm.worker().end() == 0
    return changed(study.ends(), calm.ends())


def test_workers_killed_at_random_lose_nothing_and_change_nothing(faulty_study):
    """Kill -9 of workers at random moments: each trial ends as without it, bit for bit."""
    rng, killed = random.Random(4), faulty_study(trials=20, epochs=5, step_seconds=0.1, hold_at_step=1)
    killed.hold()
    workers = [killed.worker() for _ in range(3)]
    for _ in range(10):
        victim = rng.choice(workers)
        wait_until(lambda victim=victim: killed.place_of(victim))
        killed.release()
        time.sleep(rng.uniform(0.0, 0.7))
        victim.send(signal.SIGKILL)
        assert victim.end() == KILLED
        killed.hold()  # until the next one has a trial, or the others would end the search meanwhile
        workers[workers.index(victim)] = killed.worker()
    killed.release()
    assert [worker.end() for worker in workers] == [0, 0, 0]
    tally = holds(killed)
    assert tally.runs > 20
    assert tally.resumed > 0
    assert changes(killed, faulty_study("calm", trials=20, epochs=5)) == []


RUNG_KILLS = (  # at which call of a worker it kills itself: around what is decided, told and claimed at rungs
    ("hpo.worker.checkpoints:Checkpoints.write", "after", 1),
    ("storage.places:Lease.reach_rung", "before", 1),
    ("storage.places:Lease.reach_rung", "after", 1),
    ("storage.places:Lease.finish", "before", 1),
    ("storage.places:Lease.finish", "after", 1),
    ("storage.places:Lease.take", "after", 2),
    ("storage.places:Lease.name_trial", "after", 2),
    ("storage.places:Lease.take", "after", 2),
    ("storage.places:Lease.take", "after", 2),
)


def _rungs(study):
    """How each place has ended, and its scores at the rungs that it has come to."""
    query = text("SELECT number, state, paused_after, rungs FROM hpo.place ORDER BY number")
    with study.opened.storage.engine.connect() as connection:
        return connection.execute(query).all()


def test_workers_killed_around_rungs_pause_and_promote_the_same_trials(faulty_study):
    """Kill -9 before and after each decision at a rung, and each claim of a paused trial, changes no trial's end."""
    killed = faulty_study(trials=6, epochs=5, pruner="asha")
    claimed = 0
    for kill in RUNG_KILLS:
        assert killed.worker(kill=kill).end() == KILLED
        with killed.opened.storage.engine.connect() as connection:
            claimed += connection.execute(text("SELECT count(*) FROM hpo.place WHERE promoted")).scalar_one()
    assert killed.worker().end() == 0
    assert claimed  # a worker has died with a paused trial that it had just claimed
    calm = faulty_study("calm", trials=6, epochs=5, pruner="asha")
    assert calm.worker().end() == 0
    rungs = [_rungs(study) for study in (killed, calm)]
    assert rungs[0] == rungs[1]
    assert {"complete", "paused"} == {row.state for row in rungs[0]}
    assert killed.ends() == calm.ends()


def test_no_trial_notices_a_database_that_goes_away(faulty_study, server):
    """Postgres restarted, crashed, cut off and stopped for longer than the grace time: no run breaks off."""
    study = faulty_study(trials=4, epochs=10, step_seconds=0.2, hold_at_step=4)
    study.hold()
    workers = [study.worker() for _ in range(3)]
    wait_until(lambda: all(study.place_of(worker, epoch=1) for worker in workers))
    study.release()
    server.restart("fast")
    server.restart("immediate")
    for _ in range(3):
        wait_until(server.cut)
        time.sleep(paced(0.3))
    server.stop("fast")
    time.sleep(paced(3))
    server.start()
    assert [worker.end() for worker in workers] == [0, 0, 0]
    tally = holds(study)
    assert (tally.runs, tally.workers) == (4, 3)
    assert sum("the database is back after" in study.log(trial) for trial in range(4)) >= 3


def test_a_frozen_worker_drops_its_trial_and_goes_on(faulty_study):
    """SIGSTOP past the grace time: another takes the trial; after SIGCONT the worker drops it and takes the next."""
    study = faulty_study(trials=6, epochs=6)
    study.hold()
    frozen = study.worker(hold_at_step=4)
    held = wait_until(lambda: study.place_of(frozen, epoch=1))
    frozen.send(signal.SIGSTOP)
    other = study.worker(step_seconds=0.3)  # so that its first trial takes longer than the grace time
    wait_until(lambda: study.places[held.number].worker == other.name)
    frozen.send(signal.SIGCONT)
    study.release()
    assert [frozen.end(), other.end()] == [0, 0]
    assert holds(study).resumed == 1
    assert "Traceback" not in frozen.printed
    assert frozen.printed.count("was given to another worker; this worker drops it") == 1
    assert {place.worker for place in study.places} == {frozen.name, other.name}
    assert study.places[held.number].worker == other.name


def test_a_full_disk_delays_the_end_of_a_trial_and_no_more(faulty_study, mount_small_disk):
    """No room for a checkpoint: the log says so, the training goes on, and the trial is complete when there is room."""
    study = faulty_study(trials=2, epochs=8, grace_seconds=60, hold_at_step=4)
    mount_small_disk(study.disk)
    study.hold()
    worker = study.worker()
    wait_until(lambda: study.place_of(worker, epoch=1))
    filler = fill(study.disk)
    study.release()
    wait_until(lambda: "waiting for the artifact store: " in worker.printed)
    assert [place.state for place in study.places] == ["running"]
    filler.unlink()
    assert worker.end() == 0
    assert "the training goes on" in study.log(0)
    assert "No space left on device" in study.log(0)
    assert holds(study).runs == 2


def test_an_artifact_store_that_goes_away_and_comes_back(faulty_study):
    """The folder of the artifacts is gone for a while: trainings go on, and what is complete waits for it."""
    study = faulty_study(trials=2, epochs=8, grace_seconds=60, hold_at_step=4)
    store = study.store
    study.hold()
    worker = study.worker()
    wait_until(lambda: study.place_of(worker, epoch=1) and store.exists())
    store.rename(store.with_name("away"))
    store.write_text("a file in its place")
    study.release()
    wait_until(lambda: "waiting for the artifact store: " in worker.printed)
    store.unlink()
    store.with_name("away").rename(store)
    assert worker.end() == 0
    assert "the training goes on" in study.log(0) + study.log(1)
    assert holds(study).leftovers == 0


def damage(checkpoint):
    """Change one byte in the middle."""
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint.write_bytes(content)


def truncate(checkpoint):
    """Leave the first half."""
    checkpoint.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])


def test_a_damaged_checkpoint_costs_its_epochs_alone(faulty_study):
    """A checkpoint that is corrupt, cut short or gone: the log says so, the trial begins anew, and ends the same."""
    study = faulty_study(trials=3, epochs=4)
    for place, harm in enumerate((damage, truncate, type(study.folder).unlink)):
        # In its third epoch; each worker but the first one has trained the trial before, anew, in 12 steps.
        assert study.worker(terminate_at_step=20 if place else 8).end() == 143
        assert study.places[place].epoch == 2
        broken = study.trials[study.places[place].trial]
        harm(study.store / broken.user_attrs[CHECKPOINT_KEY])
    assert study.worker().end() == 0
    assert holds(study).resumed == 0
    logs = [study.log(place.trial) for place in study.places]
    assert [("is cut short or damaged" in log, "epoch 1 of 4" in log) for log in logs] == [
        (True, True),
        (True, True),
        (False, True),
    ]
    assert changes(study, faulty_study("calm", trials=3, epochs=4)) == []


def test_clocks_and_zones_that_differ_harm_nobody(faulty_study):
    """Hosts whose clocks are two hours apart, and their zones the world: nobody is taken for dead, times are sane."""
    study = faulty_study(trials=4, epochs=4, grace_seconds=30.0, hold_at_step=7)
    study.hold()
    workers = [
        study.worker(clock_seconds=3600, variables={"TZ": "Pacific/Auckland", "PGTZ": "Pacific/Auckland"}),
        study.worker(clock_seconds=-3600, variables={"TZ": "America/Anchorage", "PGTZ": "America/Anchorage"}),
    ]
    wait_until(lambda: all(study.place_of(worker, epoch=2) for worker in workers))
    shown = study.begin("status", "--json", clock_seconds=3600)
    assert shown.end() == 0
    status = json.loads(shown.printed)
    assert len(status["workers"]) == 2
    assert all(0 <= worker["beat_seconds_ago"] < limit(10) for worker in status["workers"])
    study.release()
    assert [worker.end() for worker in workers] == [0, 0]
    assert holds(study).runs == 4
    ended = study.begin("status", "--json", clock_seconds=-3600)
    assert ended.end() == 0
    assert 0 < json.loads(ended.printed)["budget"]["used"]["hours"] < 0.1


def test_two_searches_on_one_study_share_its_budget(faulty_study):
    """Two `hpo search` at once end with exactly the budget, both tell the winner, and one of them the URL."""
    study = faulty_study(trials=7, epochs=3, step_seconds=0.02, grace_seconds=60)
    with webhook() as hook:
        told = {"HPO_NOTIFY": hook.url}
        searches = [study.begin("search", "--workers", "1", variables=told) for _ in range(2)]
        assert [search.end() for search in searches] == [0, 0]
        again = study.begin("search", "--workers", "1", variables=told)
        assert again.end() == 0
    [message] = hook.messages
    assert (message["event"], message["trials"]["complete"]) == ("finished", 7)
    assert message["best"]["macro_f1"] == study.opened.study.best_value
    assert not any(hook.token in search.printed for search in (*searches, again))
    assert all("7 trials: 7 complete" in search.printed for search in searches)
    assert holds(study).runs == 7


def test_a_worker_is_terminated_in_time_also_where_the_database_never_answers(faulty_study, server):
    """SIGTERM while Postgres stands still: exit 143 within 20 s, and the trial goes on when it is back."""
    study = faulty_study(trials=1, epochs=40, step_seconds=0.3, grace_seconds=3.0)
    worker = study.worker()
    wait_until(lambda: study.place_of(worker, epoch=1))
    with server.frozen():
        begun = time.monotonic()
        worker.send(signal.SIGTERM)
        code = worker.end()
        assert time.monotonic() - begun < limit(20)
    assert code == 143
    assert study.worker(step_seconds=0).end() == 0
    assert holds(study).resumed == 1


def test_a_terminated_worker_hands_its_trial_back_in_the_middle_of_an_epoch(faulty_study):
    """SIGTERM in a long epoch: exit 143 within 20 s, the trial in the queue; the next worker goes on at that step."""
    study, begun = faulty_study(trials=1, epochs=2, batch_size=1), time.monotonic()
    assert study.worker(step_seconds=3, terminate_at_step=2).end() == 143
    assert time.monotonic() - begun < limit(20)  # an epoch has 22 steps
    [place] = study.places
    assert (place.state, place.epoch) == ("waiting", 0)
    assert study.worker().end() == 0
    assert holds(study).resumed == 1
    [_, again] = study.trials
    assert again.user_attrs[RESUMED_KEY] == 0
    assert re.search("going on after epoch 0 and [23] steps", study.log(1))
    assert changes(study, faulty_study("calm", trials=1, epochs=2, batch_size=1)) == []


# What kills the workers of a study, one after the other: a function, before or after it, and at which of its calls. The
# last worker meets no fault.
TAKE, NAME, PROGRESS, FINISH, HAND_BACK = (
    f"storage.places:Lease.{name}" for name in ("take", "name_trial", "keep_progress", "finish", "hand_back")
)
BEAT = "storage.heartbeat:WorkerPresence.beat"
MAKE, TELL, REPORT = "optuna:Study.add_trial", "optuna:Study.tell", "optuna:Trial.report"
BOUNDARIES = {
    "taken": [(TAKE, "after", 1)],
    "named": [(NAME, "after", 1)],
    "made": [(MAKE, "after", 1)],
    "made and named": [(NAME, "after", 3)],
    "running": [("storage.optuna_storage:StudyStorage.set_trial_state_values", "after", 1)],
    "asked": [("hpo.worker.runs:Runs._begin_in", "after", 1)],
    "half suggested": [("storage.optuna_storage:StudyStorage._set_trial_param", "after", 1)],
    "before the first beat": [(BEAT, "before", 1)],
    "after the first beat": [(BEAT, "after", 1)],
    "checkpoint half written": [("shutil:copyfileobj", "after", 1)],
    "checkpoint stored, not named": [("storage.artifacts.folder_store:FolderFiles.write", "after", 1)],
    "before progress": [(PROGRESS, "before", 2)],
    "before a report": [(REPORT, "before", 1)],
    "after a report": [(REPORT, "after", 2)],
    "weights half written": [("shutil:copyfileobj", "after", 2)],
    "weights stored, not named": [("storage.artifacts.artifacts:put", "after", 1)],
    "weights named": [("hpo.worker.training:keep_file", "after", 1)],
    "told": [(TELL, "after", 1)],
    "finished": [(FINISH, "after", 1)],
    "earlier checkpoints removed": [(REPORT, "after", 3), ("hpo.worker.checkpoints:discard", "after", 1)],
    "reaped, not committed": [(REPORT, "after", 2), ("storage.heartbeat:requeue_in", "after", 1)],
    "reaped": [(REPORT, "after", 2), (MAKE, "before", 1)],
    "retry made": [(REPORT, "after", 2), (MAKE, "after", 1)],
    "retry named": [(REPORT, "after", 2), (NAME, "after", 2)],
    "retry resumed": [(REPORT, "after", 2), ("hpo.worker.checkpoints:decode", "after", 1)],
    "retry taken over": [(REPORT, "after", 2), (REPORT, "after", 1)],
}
# These runs end otherwise first: they fail, or are told to go.
FAILING = {
    "failed, not committed": ("storage.places:fail_trial", "after", 1),
    "failed": (FINISH, "after", 1),
}
LEAVING = {
    "before it is handed back": (HAND_BACK, "before", 1),
    "handed back, not committed": ("storage.places:fail_trial", "after", 1),
    "handed back": (HAND_BACK, "after", 1),
}


def faults_of_workers(case):
    """The faults of each worker of a case but the last one; none of the case without a name."""
    if case in FAILING:
        return [{"raise_at_step": 2, "kill": FAILING[case]}]
    if case in LEAVING:
        return [{"terminate_at_step": 5, "kill": LEAVING[case]}]
    return [{"kill": kill} for kill in BOUNDARIES.get(case, ())]


@pytest.fixture(scope="module")
def boundaries(server, tmp_path_factory, request):
    """The cases, six at a time: exit codes of their workers, tallies, and how their trials ended."""
    folder = tmp_path_factory.mktemp("boundaries")
    folder.chmod(0o711)

    def play(case):
        name, faults = f"boundary_{abs(hash(case))}", faults_of_workers(case)
        trials = 1 if len(faults) > 1 else 2  # with one place, the second worker has but the first one's trial to take
        with FaultyStudy(
            folder / name, server.make_database(name), trials=trials, epochs=3, step_seconds=0.02
        ) as study:
            codes = [study.worker(**each).end() for each in [*faults, {}]]
            return codes, study.tally(), study.ends()

    asked = [item for item in request.session.items if "boundaries" in item.fixturenames]
    cases = ["", *(item.callspec.params["case"] for item in asked)]
    with ThreadPoolExecutor(6) as pool:
        return dict(zip(cases, pool.map(play, cases), strict=True))


@pytest.mark.parametrize("case", [*BOUNDARIES, *FAILING, *LEAVING])
def test_a_kill_at_any_boundary_loses_nothing(case, boundaries):
    """A worker that is killed in the instant between any two steps of a trial's life leaves a study that goes on."""
    codes, tally, ends = boundaries[case]
    assert codes == [*(KILLED for _ in faults_of_workers(case)), 0]
    assert tally.problems == ()
    if case == "failed":
        assert tally.failures == ("place 0: ValueError: the loss had enough",)
    else:
        assert tally.states == {"complete": tally.budget}
    assert changed(ends, boundaries[""][2]) == []


def test_a_trial_that_hangs_goes_on_in_another_process(faulty_study):
    """A step that does not end costs its worker; the trial goes on from its checkpoint, and its log says why."""
    study = faulty_study(trials=1, epochs=3)
    study.file.path.write_text(study.file.path.read_text().replace("[study]", "[study]\nhang_minutes = 0.1"))
    hanging = study.worker(hang_at_step=8)
    assert hanging.end() == 1
    assert "trial 0 hung: a step has taken" in hanging.printed
    assert "hung: a step has taken" in study.log(0)
    place = study.places[0]
    assert (place.state, place.reason.partition(":")[0]) == ("waiting", "hung")
    assert study.worker().end() == 0
    assert study.tally().problems == ()
    assert study.places[0].state == "complete"
