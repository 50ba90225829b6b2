"""What a trial costs the database, and many workers on one study: the workers of the benchmark, which do not train."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from benchmarks.bare_worker import EPOCHS, SPACE, BareWorker, create_study, study_file, work
from tests.support.tally import count
from trainer.space import suggest

pytestmark = pytest.mark.integration


@pytest.fixture
def shared(ready_database, tmp_path):
    """Makes the file of a new study."""

    def make(**settings):
        file = study_file(tmp_path, "shared", **settings)
        create_study(file, ready_database)
        return file

    return make


def test_four_workers_share_a_budget_without_a_duplicate(shared, ready_database):
    """Four workers that begin at once run each trial of the budget once, and leave none behind."""
    file = shared(trials=24, sampler="random")
    workers = [BareWorker(file, ready_database, f"worker {number}") for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda worker: work(worker, lambda _: None), workers))
    tally = count(file, ready_database)
    assert tally.problems == ()
    assert sum(done) == tally.runs == 24
    assert set(tally.states) == {"complete", "pruned"}


@pytest.mark.parametrize(("pruner", "statements", "transactions"), [("median", 95, 72), ("hyperband", 100, 78)])
def test_a_trial_of_a_worker_takes_few_statements(shared, ready_database, pruner, statements, transactions):
    """All that a worker asks in a trial of 15 fields and 10 epochs is some 100 statements, in 70 transactions."""
    worker = BareWorker(shared(pruner=pruner, sampler="random"), ready_database, "worker")
    counted = Counter()
    event.listen(worker.storage.engine, "before_cursor_execute", lambda *_: counted.update(["statements"]))
    event.listen(worker.storage.engine, "checkout", lambda *_: counted.update(["transactions"]))
    for number in range(8):  # the median begins to prune when five are complete
        counted.clear()
        trial = worker.ask()
        suggest(trial, SPACE)
        for epoch in range(1, EPOCHS + 1):
            worker.report(trial, number + epoch / 100, epoch)
            assert not trial.should_prune()
        worker.tell(trial, number + 1)
    worker.leave()
    assert 80 < counted["statements"] <= statements, counted
    assert 50 < counted["transactions"] <= transactions
