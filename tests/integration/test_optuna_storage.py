"""Our storage beside Optuna's own, and through outages."""

from __future__ import annotations

import inspect
import math
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime

import optuna
import psycopg2
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from hpo.study.pruners import BracketPruner
from storage.database import connect
from storage.optuna_storage import CALLS
from storage.outage_retry import OutageRetry
from tests.support.waiting import limit, paced

pytestmark = pytest.mark.integration

MAXIMIZE = [optuna.study.StudyDirection.MAXIMIZE]
FIELDS = {
    "z": FloatDistribution(1e-5, 1, log=True),
    'choice "of" {ä}': CategoricalDistribution(["a", None, True, 3, 0.1, "ü\n"]),
    "steps": FloatDistribution(0, 1, step=0.25),
    "count": IntDistribution(1, 64, log=True),
    "b": IntDistribution(0, 10, step=2),
}
PARAMS = {"z": 0.1 + 0.2, 'choice "of" {ä}': "ü\n", "steps": 0.75, "count": 7, "b": 4}
ATTRS = {"key 'ö' {}": {"nested": [1, None, "\u2028\0"]}, "nan": math.nan, "empty": {}, "text": 'a "quoted" \\ one'}


@pytest.fixture
def stock(ready_database, storage):
    """Optuna's own on the same database."""
    made = RDBStorage(ready_database)
    yield made
    made.engine.dispose()


@pytest.fixture
def study_id(storage):
    """An empty study."""
    return storage.create_new_study(MAXIMIZE, "study")


def told(trial):
    """All there is to know of a trial; as text, because NaN does not equal itself."""
    values = dict(vars(trial))
    for name in ("_user_attrs", "_system_attrs", "intermediate_values"):  # sets of things, in no order
        values[name] = sorted(values[name].items())
    return repr(sorted(values.items()))


def templates():
    """Trials of every state and with everything that a trial can have."""
    reports = {0: 0.1 + 0.2, 3: math.nan, 4: math.inf, 1: -math.inf, 10: 1e-300}
    full = {"params": PARAMS, "distributions": FIELDS, "user_attrs": ATTRS, "system_attrs": ATTRS}
    for state in TrialState:
        values = {"value": 0.1 + 0.2} if state is TrialState.COMPLETE else {}
        yield create_trial(state=state, **values)
        yield create_trial(state=state, **values, **full, intermediate_values=reports)
    for value in (math.inf, -math.inf, 1e308, 0.0):
        yield create_trial(value=value)


@pytest.mark.parametrize("maker", ["stock", "storage"])
def test_what_is_read_equals_what_optuna_reads(stock, storage, study_id, maker, request):
    """Trials of every kind, whoever wrote them, are read in all their fields as stock Optuna reads them."""
    writer = request.getfixturevalue(maker)
    for template in templates():
        writer.create_new_trial(study_id, template)
    theirs = stock.get_all_trials(study_id)
    assert [told(trial) for trial in storage.get_all_trials(study_id)] == [told(trial) for trial in theirs]
    assert len(theirs) == 2 * len(TrialState) + 4
    for trial in theirs:
        assert told(storage.get_trial(trial._trial_id)) == told(trial)
        assert list(storage.get_trial(trial._trial_id).params) == list(trial.params)
        attrs = storage.get_trial_system_attrs(trial._trial_id)
        assert repr(sorted(attrs.items())) == repr(sorted(trial.system_attrs.items()))


def test_the_two_hours_of_one_name_are_told_apart(stock, storage, study_id, monkeypatch):
    """Where clocks go back, a trial of the second hour is not taken for one of the first."""
    times = [datetime(2026, 10, 25, hour, 30, 0, 123_456, tzinfo=UTC) for hour in (0, 1, 2)]
    for start in times:
        template = create_trial(state=TrialState.RUNNING)
        template.datetime_start = start
        storage.create_new_trial(study_id, template)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # Berlin's
            time.tzset()
            trials, theirs = storage.get_all_trials(study_id), stock.get_all_trials(study_id)
            found = [trial.datetime_start.astimezone(UTC) for trial in trials]
    finally:
        time.tzset()
    assert found == times
    assert trials == theirs


def test_what_is_written_equals_what_optuna_writes(stock, storage, study_id):
    """The same trial, made by our storage and by stock Optuna, differs only in its number and its times."""

    def without_identity(trial):
        trial.number, trial._trial_id, trial.datetime_start, trial.datetime_complete = 0, 0, None, None
        return told(trial)

    for template in templates():
        made = [writer.create_new_trial(study_id, template) for writer in (stock, storage)]
        ours, theirs = (without_identity(stock.get_trial(trial_id)) for trial_id in made)
        assert ours == theirs


def run_of_calls(storage, study_id):
    """What the calls of a trial's life, right ones and wrong ones, return or raise."""
    trial_id = storage.create_new_trial(study_id)
    waiting = storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))
    rate = FloatDistribution(0, 1)
    misfit = create_trial(value=1, params={"rate": 1}, distributions={"rate": IntDistribution(0, 1)})
    calls = [
        lambda: storage.set_trial_param(trial_id, "rate", 0.5, rate),
        lambda: storage.set_trial_param(trial_id, "rate", 0.7, rate),
        lambda: storage.set_trial_param(waiting, "rate", 0.7, IntDistribution(0, 1)),
        lambda: storage.set_trial_param(waiting, "kind", 0, CategoricalDistribution(["a", "b"])),
        lambda: storage.set_trial_param(trial_id, "kind", 0, CategoricalDistribution(["a", "c"])),
        lambda: storage.create_new_trial(study_id, misfit),
        lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5),
        lambda: storage.set_trial_intermediate_value(trial_id, 1, math.nan),
        lambda: storage.set_trial_user_attr(trial_id, "key", [1]),
        lambda: storage.set_trial_user_attr(trial_id, "key", {"a": None}),
        lambda: storage.set_trial_system_attr(trial_id, "key", "ö"),
        lambda: storage.set_trial_user_attr(trial_id, "key", object()),
        lambda: storage.set_trial_state_values(trial_id, TrialState.RUNNING),
        lambda: storage.set_trial_state_values(waiting, TrialState.RUNNING),
        lambda: storage.set_trial_state_values(waiting, TrialState.RUNNING),
        lambda: storage.set_trial_state_values(waiting, TrialState.FAIL),
        lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.25]),
        lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5]),
        lambda: storage.set_trial_state_values(trial_id, TrialState.RUNNING),
        lambda: storage.set_trial_intermediate_value(trial_id, 2, 0.5),
        lambda: storage.set_trial_user_attr(trial_id, "late", 1),
        lambda: storage.set_trial_param(trial_id, "late", 0.5, rate),
        lambda: storage.set_trial_param(trial_id, "rate", 1, IntDistribution(0, 1)),
        lambda: storage._set_trial_param(trial_id, "rate", 1, IntDistribution(0, 1), rate),
        lambda: storage._set_trial_param(10**9, "rate", 1, IntDistribution(0, 1), rate),
        lambda: storage.get_trial(10**9),
        lambda: storage.get_trial_system_attrs(10**9),
        lambda: storage.set_trial_user_attr(10**9, "key", 1),
        lambda: storage.set_trial_state_values(10**9, TrialState.FAIL),
        lambda: storage.create_new_trial(10**9),
        lambda: storage.get_all_trials(10**9),
        lambda: storage.get_best_trial(study_id).value,
        lambda: storage.get_n_trials(study_id),
    ]  # fmt: skip
    ends = []
    for call in calls:
        try:
            ends.append(call())
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            ends.append(type(error))
    trials = storage.get_all_trials(study_id)
    for trial in trials:
        started, ended = trial.datetime_start is not None, trial.datetime_complete is not None
        trial._trial_id, trial.datetime_start, trial.datetime_complete = 0, None, None
        ends.append((told(trial), started, ended))
    return ends


def test_every_call_ends_as_optunas(stock, storage):
    """Calls that are right, repeated, too late or about nothing end as in stock Optuna."""
    ends = [run_of_calls(each, each.create_new_study(MAXIMIZE)) for each in (stock, storage)]
    assert ends[0] == ends[1]
    assert {KeyError, TypeError, ValueError, UpdateFinishedTrialError, True, False} <= set(ends[1][:-3])


def test_a_storage_that_waits_goes_to_other_processes(ready_database, storage, study_id):
    """A storage that waits for its database can be pickled, as spawned processes need it; the copy waits, too."""
    patient = connect(ready_database, OutageRetry(threading.Event()))
    copy = pickle.loads(pickle.dumps(patient))  # noqa: S301 - it was just made
    trial_id = copy.create_new_trial(study_id)
    with ThreadPoolExecutor(1) as pool:
        with closed_to_all(ready_database):
            written = pool.submit(copy.set_trial_user_attr, trial_id, "key", 1)
            with pytest.raises(TimeoutError):
                written.result(paced(0.3))
        written.result(limit(30))
    assert patient.get_trial(trial_id).user_attrs == {"key": 1}
    for each in (patient, copy):
        each.engine.dispose()


def test_trials_made_at_once_have_numbers_without_gaps(stock, storage, study_id):
    """Whoever makes trials at the same time, with our storage or Optuna's own, no number is given twice."""
    makers = [connect(storage.url), connect(storage.url), stock, storage]
    with ThreadPoolExecutor(len(makers)) as pool:
        list(pool.map(lambda maker: [maker.create_new_trial(study_id) for _ in range(8)], makers))
    trials = storage.get_all_trials(study_id)
    assert [trial.number for trial in trials] == list(range(32))
    for maker in makers[:2]:
        maker.engine.dispose()


def test_a_trial_takes_few_statements(storage):
    """A trial of 15 fields and 10 epochs, sampled and pruned, asks the database at most 70 times."""
    study = optuna.create_study(storage=storage, direction="maximize", pruner=BracketPruner(1, 10, 3))
    counted = []
    event.listen(storage.engine, "before_cursor_execute", lambda *_: counted.append(1))
    for _ in range(2):  # the first of all also asks what each field was drawn from before
        counted.clear()
        trial = study.ask()
        for field in range(15):
            trial.suggest_float(f"field {field}", 0, 1)
        for epoch in range(1, 11):
            trial.report(epoch, epoch)
            assert not trial.should_prune()
        study.tell(trial, 1)
    assert 40 < len(counted) <= 70


@contextmanager
def closed_to_all(database):
    """Nobody gets into the database, and whoever was in is thrown out."""
    url = make_url(database)
    engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false"))
        connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": url.database}
        )
        try:
            yield
        finally:
            connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true"))
    engine.dispose()


def test_work_goes_on_after_an_outage(ready_database, storage, study_id):
    """Trials that run in several threads while the database is away all come to their end, each once."""
    retrying = connect(ready_database, OutageRetry())
    study = optuna.load_study(study_name="study", storage=retrying, sampler=optuna.samplers.RandomSampler(0))
    running, closed = threading.Barrier(4), threading.Event()

    def run():
        for number in range(3):
            trial = study.ask()
            trial.suggest_float("x", 0, 1)
            if number == 1:
                running.wait(limit(30))
                assert closed.wait(limit(30))
            trial.report(number, number)
            study.tell(trial, number)

    with ThreadPoolExecutor(3) as pool:
        threads = [pool.submit(run) for _ in range(3)]
        running.wait(limit(30))
        with closed_to_all(ready_database):
            closed.set()
            time.sleep(1)  # an outage has a length
        for thread in threads:
            thread.result(limit(60))
    trials = study.get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 9
    assert all(len(trial.params) == len(trial.intermediate_values) == 1 for trial in trials)
    retrying.engine.dispose()


def test_giving_up_ends_a_call_that_waits(ready_database, storage, study_id):
    """A worker that is asked to stop while the database is away is not held up by it."""
    given_up = threading.Event()
    retrying = connect(ready_database, OutageRetry(given_up))
    with closed_to_all(ready_database):
        threading.Timer(0.5, given_up.set).start()
        begun = time.monotonic()
        with pytest.raises(OperationalError):
            retrying.create_new_trial(study_id)
        assert time.monotonic() - begun < limit(5)
    assert storage.get_n_trials(study_id) == 0
    retrying.engine.dispose()


def fails_after(call):
    """The call, but at its first time its answer is lost on the way."""
    times = []

    def failing(*arguments, **options):
        result = call(*arguments, **options)
        times.append(1)
        if len(times) == 1:
            raise OperationalError("", {}, psycopg2.OperationalError("server closed the connection unexpectedly"))
        return result

    return failing


def loses_an_answer(storage, statement):
    """The next answer to this statement, whose effect is committed, is lost."""
    lost = []

    @event.listens_for(storage.engine, "after_cursor_execute")
    def lose(_connection, _cursor, sql, *_):
        if statement in sql and not lost:
            lost.append(sql)
            raise OperationalError("", {}, psycopg2.OperationalError("server closed the connection unexpectedly"))

    return lost


def test_the_end_of_a_trial_whose_answer_was_lost_is_told_once(ready_database, storage, study_id):
    """A connection that breaks between the commit of a trial's end and the answer loses nothing and raises nothing."""
    retrying = connect(ready_database, OutageRetry())
    trial_id = retrying.create_new_trial(study_id)
    lost = loses_an_answer(retrying, "WITH changed")
    assert retrying.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert lost
    assert storage.get_trial(trial_id).values == [0.5]
    with pytest.raises(UpdateFinishedTrialError):
        retrying.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    retrying.engine.dispose()


def test_a_trial_that_another_ended_during_an_outage_keeps_that_end(ready_database, storage, study_id):
    """A repeated call does not take another's end of a trial for its own."""
    retrying = connect(ready_database, OutageRetry())
    trial_id = retrying.create_new_trial(study_id)
    storage.set_trial_state_values(trial_id, TrialState.FAIL)
    lost = loses_an_answer(retrying, "WITH changed")
    with pytest.raises(UpdateFinishedTrialError):
        retrying.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    assert lost
    retrying.engine.dispose()


@pytest.mark.parametrize("lost", ["INSERT INTO trials", "COMMIT"])
def test_a_trial_whose_making_lost_its_answer_is_made_once(ready_database, storage, study_id, monkeypatch, lost):
    """A trial that has to be made again, because nobody knows whether it was, is there once and complete."""
    retrying = connect(ready_database, OutageRetry())
    study = optuna.load_study(study_name="study", storage=retrying)
    if lost == "COMMIT":
        monkeypatch.setattr(retrying.engine.dialect, "do_commit", fails_after(retrying.engine.dialect.do_commit))
    else:
        loses_an_answer(retrying, lost)
    study.enqueue_trial({"x": 1}, user_attrs={"mine": True})
    [trial] = storage.get_all_trials(study_id)
    assert (trial.number, trial.state, trial.user_attrs) == (0, TrialState.WAITING, {"mine": True})
    assert trial.system_attrs["fixed_params"] == {"x": 1}
    asked = study.ask()
    assert asked.number == 0
    study.tell(asked, 1)
    assert study.ask().number == 1
    retrying.engine.dispose()


def test_what_the_database_cannot_take_is_optunas_error(stock, storage, study_id):
    """A name that is too long is the same error as in stock Optuna, which its callers know."""
    for each in (stock, storage):
        trial_id = each.create_new_trial(study_id)
        with pytest.raises(StorageInternalError):
            each.set_trial_user_attr(trial_id, "k" * 513, 1)


def test_a_study_whose_deletion_lost_its_answer_is_deleted(ready_database, storage, study_id, monkeypatch):
    """A deletion that has to be repeated is content with what the first attempt did; one of nothing is an error."""
    retrying = connect(ready_database, OutageRetry())
    monkeypatch.setattr(RDBStorage, "delete_study", fails_after(RDBStorage.delete_study))
    retrying.delete_study(study_id)
    assert storage.get_all_studies() == []
    with pytest.raises(KeyError):
        retrying.delete_study(study_id)
    retrying.engine.dispose()


def test_every_call_of_optunas_waits():
    """No call that Optuna or its cache makes is left out."""
    own = {name for name, call in vars(BaseStorage).items() if callable(call) and not name.startswith("__")}
    of_cache = set(re.findall(r"_backend\.(\w+)\(", inspect.getsource(_CachedStorage)))
    assert {"_create_new_trial", "_get_trials", "_set_trial_param"} <= of_cache
    waiting = {*CALLS, "delete_study", "set_trial_state_values", "_create_new_trial"}
    # These ask nothing of a database, or belong to Optuna's heartbeat, which is not used.
    assert (own | of_cache) - waiting == {
        "check_trial_is_updatable",
        "remove_session",
        "record_heartbeat",
        "_get_stale_trial_ids",
        "get_heartbeat_interval",
        "get_heartbeat_stale_trial_callback",
    }
