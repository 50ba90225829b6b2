"""What plain `study.optimize` on a stock RDBStorage makes of the faults that this service survives."""

from __future__ import annotations

import os
import signal
import time
import uuid

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, download_artifact, upload_artifact
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from storage.database import parse_url
from tests.support.fork_server import PROCESSES
from tests.support.small_disk import fill
from tests.support.waiting import limit, paced, wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]

STEPS, STEP_SECONDS = 10, 0.1
HELD_STEP = 3  # after which a trial is held that something is to happen to before it ends
GRACE_SECONDS, PAST_GRACE_SECONDS = 2, 3  # Optuna wants whole numbers; counted by the database's clock
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STORED = b"0" * 100_000  # what a trial keeps


def plain_storage(url, grace_seconds=None):
    """Stock storage, with the heartbeat and the retries that Optuna has where there is a grace period."""
    url = parse_url(url).render_as_string(hide_password=False)
    if grace_seconds is None:
        return RDBStorage(url)
    return RDBStorage(
        url,
        heartbeat_interval=1,
        grace_period=grace_seconds,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True),
    )


def optimize(url, trials, grace_seconds, variables, store, die_asked, held):
    """What a user of plain Optuna runs in each process."""
    os.environ.update(variables)
    time.tzset()
    study = optuna.load_study(study_name="plain", storage=plain_storage(url, grace_seconds))

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        for step in range(STEPS):
            time.sleep(paced(STEP_SECONDS))
            trial.report(trial.params["x"], step)
            trial.set_user_attr("steps", step + 1)
            if held and step + 1 == HELD_STEP:
                held.wait()
        if store:
            (store / "file").write_bytes(STORED)
            upload_artifact(study_or_trial=trial, file_path=str(store / "file"), artifact_store=kept_in(store))
        return trial.params["x"]

    if die_asked:
        ask = study.ask
        study.ask = lambda *given, **named: (ask(*given, **named), os.kill(os.getpid(), signal.SIGKILL))
    study.optimize(objective, callbacks=[MaxTrialsCallback(trials, FINISHED)])


def kept_in(store):
    """Optuna's store of files in a folder."""
    return FileSystemArtifactStore(str(store / "kept"))


class Plain:
    """A study of plain Optuna, and processes that optimize it."""

    def __init__(self, server):
        self.url = server.make_database(f"plain_{uuid.uuid4().hex}")
        self.study = optuna.create_study(study_name="plain", storage=plain_storage(self.url))
        self._processes = []

    def optimize(self, *, trials=1, grace_seconds=None, variables=None, store=None, **more):
        """Start a process; `more` are further arguments of the function above."""
        given = {"die_asked": False, "held": None, **more}
        arguments = (self.url, trials, grace_seconds, variables or {}, store)
        process = PROCESSES.Process(target=optimize, args=arguments, kwargs=given)
        process.start()
        self._processes.append(process)
        return process

    def optimize_and_hold(self, **more):
        """Start a process whose trials are held after some steps, until an event is set; returns both once one is."""
        go_on = PROCESSES.Event()
        process = self.optimize(held=go_on, **more)
        wait_until(lambda: self.trials and self.trials[0].user_attrs.get("steps") == HELD_STEP)
        return process, go_on

    @property
    def trials(self):
        """All trials."""
        return self.study.get_trials()

    @property
    def states(self):
        """The state of each trial."""
        return [trial.state for trial in self.trials]

    def end(self):
        """End all processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self.study._storage._backend.engine.dispose()


@pytest.fixture
def plain(server):
    """A study of plain Optuna."""
    plain = Plain(server)
    yield plain
    plain.end()


def code_of(process, seconds=60):
    """The exit code of a process that ends by itself."""
    process.join(limit(seconds))
    return process.exitcode


def test_a_killed_trial_begins_anew(plain):
    """Plain Optuna's heartbeat has a killed trial retried, but from its first step: there is no checkpoint."""
    killed, _ = plain.optimize_and_hold(grace_seconds=GRACE_SECONDS)
    killed.kill()
    killed.join()
    time.sleep(PAST_GRACE_SECONDS)
    begun = time.monotonic()
    assert code_of(plain.optimize(trials=2, grace_seconds=GRACE_SECONDS)) == 0
    assert time.monotonic() - begun > STEPS * paced(STEP_SECONDS)
    assert plain.states[:2] == [TrialState.FAIL, TrialState.COMPLETE]
    assert plain.trials[1].user_attrs["steps"] == STEPS


def test_a_trial_killed_before_its_first_beat_runs_for_ever(plain):
    """Kill -9 between ask and the first heartbeat: plain Optuna never finds out, with all of its remedies."""
    assert code_of(plain.optimize(grace_seconds=GRACE_SECONDS, die_asked=True)) == -signal.SIGKILL
    time.sleep(PAST_GRACE_SECONDS)
    assert code_of(plain.optimize(grace_seconds=GRACE_SECONDS)) == 0
    assert plain.states == [TrialState.RUNNING, TrialState.COMPLETE]


def test_a_terminated_trial_runs_for_ever(plain):
    """SIGTERM: plain Optuna hands nothing back; without its heartbeat the trial runs for ever."""
    terminated, _ = plain.optimize_and_hold()
    terminated.terminate()
    assert code_of(terminated) == -signal.SIGTERM
    assert code_of(plain.optimize()) == 0
    assert plain.states == [TrialState.RUNNING, TrialState.COMPLETE]


@pytest.mark.parametrize("fault", ["fast", "immediate", "cut"])
def test_a_database_that_goes_away_kills_the_worker(plain, server, fault):
    """Postgres restarted, crashed or its connections cut: the worker of plain Optuna dies, and its trial is lost."""
    worker, go_on = plain.optimize_and_hold(trials=2)
    plain.study._storage._backend.engine.dispose()
    if fault == "cut":
        server.cut()
    else:
        server.restart(fault)
    go_on.set()
    assert code_of(worker) == 1
    [state] = plain.states
    assert state in (TrialState.RUNNING, TrialState.FAIL)  # by whether the database was back when the worker died


def test_a_frozen_worker_dies_when_it_comes_back(plain):
    """Frozen past the grace period: the trial is retried by another, and the worker's own `optimize` raises."""
    frozen, go_on = plain.optimize_and_hold(trials=9, grace_seconds=GRACE_SECONDS)
    os.kill(frozen.pid, signal.SIGSTOP)
    time.sleep(PAST_GRACE_SECONDS)
    assert code_of(plain.optimize(trials=2, grace_seconds=GRACE_SECONDS)) == 0
    os.kill(frozen.pid, signal.SIGCONT)
    go_on.set()
    assert code_of(frozen) == 1
    assert plain.states == [TrialState.FAIL, TrialState.COMPLETE]


def test_another_time_zone_fails_a_living_trial(plain):
    """A process with another PGTZ takes living trials for dead at its first look, and their worker dies of it."""
    living, go_on = plain.optimize_and_hold(trials=9, grace_seconds=60, variables={"PGTZ": "UTC"})
    other = plain.optimize(trials=2, grace_seconds=60, variables={"PGTZ": "Asia/Tokyo"})
    wait_until(lambda: plain.states[0] is TrialState.FAIL)
    go_on.set()
    assert [code_of(living), code_of(other)] == [1, 0]
    assert plain.states[0] is TrialState.FAIL


def test_a_full_disk_leaves_the_name_of_a_file_that_is_not_whole(plain, mount_small_disk, tmp_path):
    """No room for an artifact: its worker dies, and the trial names a file of which a part is there."""
    store = tmp_path / "store"
    (store / "kept").mkdir(parents=True)
    mount_small_disk(store / "kept")
    filler = fill(store / "kept")
    os.truncate(filler, filler.stat().st_size - len(STORED) // 2)
    assert code_of(plain.optimize(store=store)) == 1
    [trial] = plain.trials
    assert trial.state is TrialState.FAIL
    [meta] = optuna.artifacts.get_all_artifact_meta(trial, storage=plain.study._storage)
    download_artifact(artifact_store=kept_in(store), artifact_id=meta.artifact_id, file_path=str(tmp_path / "got"))
    assert (tmp_path / "got").stat().st_size < len(STORED)


def test_an_artifact_store_that_is_away_fails_the_trial(plain, tmp_path):
    """The store is away when a trial is done: plain Optuna fails the trial, its worker dies, and nothing retries it."""
    assert code_of(plain.optimize(store=tmp_path, grace_seconds=GRACE_SECONDS)) == 1
    (tmp_path / "kept").mkdir()
    time.sleep(PAST_GRACE_SECONDS)
    assert code_of(plain.optimize(trials=2, store=tmp_path, grace_seconds=GRACE_SECONDS)) == 0
    assert plain.states == [TrialState.FAIL, TrialState.COMPLETE]
    assert plain.trials[1].system_attrs.get("failed_trial") is None


def test_two_workers_overshoot_the_budget(plain):
    """Two processes with one MaxTrialsCallback run more trials than it allows."""
    workers = [plain.optimize(trials=3) for _ in range(2)]
    assert [code_of(worker) for worker in workers] == [0, 0]
    assert len(plain.trials) > 3
