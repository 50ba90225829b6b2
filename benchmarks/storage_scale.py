"""What the service costs a trial, how that grows with the study and with the workers, against plain Optuna.

    python benchmarks/storage_scale.py [--trials 100 1000] [--rounds N] [--pruners median] [--storage URL]
    python benchmarks/storage_scale.py --workers 1 4 16 64 [--budget N] [--storage URL]

For each number of finished trials a study of that size is written, then trials are run in turn by

    stock    Optuna's RDBStorage as `study.optimize` uses it: ask, suggest, report, should_prune, tell
    service  all that a worker of hpo's asks for: its place in the budget and its beat with `ask`, how far it has come
             and what it printed with `report`, metrics, log and the file of its weights with `tell`

so that both meet the same study and the same moments of the machine. A trial has 15 fields and 10 epochs and no
training. Printed are the medians over the trials: milliseconds of each call, all of a trial's calls of it added up;
their sum without `suggest`, which is the sampler's; SQL statements and transactions a trial; and the seconds of a join:
a process that is new to the study up to its first trial. Ratios of the sums follow.

With `--workers` that many processes share a new study and its budget, with recipes drawn at random and scores that are
pruned by the median; what they have left behind is checked. Without a URL all runs on a private Postgres of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import optuna
from bare_worker import EPOCHS, FIELDS, METRICS, SPACE, BareWorker, create_study, study_file, work
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState
from sqlalchemy import event, text

from hpo.worker.recipes import Recipes
from storage.database import connect, initialize, parse_url
from storage.embedded.server import embedded_postgres
from storage.study_rows import places
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.synchronize import Barrier

    from optuna.pruners import BasePruner
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Engine

    from hpo.study.study_file import StudyFile

CALLS = ("ask", "suggest", "report", "should_prune", "tell")
WARM_UP = 2  # trials that are not counted
FORK = multiprocessing.get_context("fork")  # processes start at once; each has connections of its own
START_SECONDS = 120.0  # in which all processes are to have joined
PRUNERS: dict[str, Callable[[], BasePruner]] = {  # as `hpo.study.samplers.make_pruner` has them
    "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3),
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
    "none": optuna.pruners.NopPruner,
}

FILLING = (
    (
        "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)"
        " SELECT n, :study, CASE WHEN n % 10 < 6 THEN 'COMPLETE' ELSE 'PRUNED' END::trialstate,"
        " timezone('UTC', now()), timezone('UTC', now()) FROM generate_series(0, :trials - 1) AS n"
    ),
    (
        "INSERT INTO trial_user_attributes (trial_id, key, value_json)"
        " SELECT trial_id, 'metrics', :metrics FROM trials WHERE study_id = :study"
    ),
    (
        "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"
        " SELECT trial_id, step, (1 - exp(-step / 3.0)) * (0.5 + 0.5 * random()), 'FINITE'"
        " FROM trials, generate_series(1, CASE state WHEN 'COMPLETE' THEN :epochs ELSE 3 END) AS step"
        " WHERE study_id = :study"
    ),
    (
        "INSERT INTO trial_system_attributes (trial_id, key, value_json)"
        " SELECT trial_id, 'completed_rung_' || step / 3, intermediate_value::text"
        " FROM trials JOIN trial_intermediate_values USING (trial_id) WHERE study_id = :study AND step IN (1, 3)"
    ),
    (
        "INSERT INTO trial_values (trial_id, objective, value, value_type)"
        " SELECT DISTINCT ON (trial_id) trial_id, 0, intermediate_value, 'FINITE'::trialvaluetype"
        " FROM trials JOIN trial_intermediate_values USING (trial_id) WHERE study_id = :study"
        " ORDER BY trial_id, step DESC"
    ),
    (
        "INSERT INTO hpo.worker (id, study_id, host, pid, device, gone)"
        " VALUES ('of ' || :study, :study, 'host', 1, 'none', now())"
    ),
    (
        "INSERT INTO hpo.place (study_id, number, state, worker, trial, epoch, epochs, ended, busy_seconds)"
        " SELECT :study, number, lower(state::text), 'of ' || :study, number, :epochs, :epochs, now(), 60"
        " FROM trials WHERE study_id = :study"
    ),
    (
        "INSERT INTO hpo.log (study_id, trial, line)"
        " SELECT :study, number, 'epoch ' || step FROM trials, generate_series(1, 3) AS step WHERE study_id = :study"
    ),
    (
        "INSERT INTO trial_system_attributes (trial_id, key, value_json)"
        " SELECT trial_id, 'artifacts:' || trial_id, to_json(json_build_object('artifact_id', 'file-' || trial_id,"
        " 'filename', 'weights.safetensors', 'mimetype', '-', 'encoding', null)::text)::text"
        " FROM trials JOIN trial_values USING (trial_id) WHERE study_id = :study AND state = 'COMPLETE'"
        " ORDER BY value DESC LIMIT 20"
    ),
)
DRAWING = (
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)"
    " SELECT trial_id, :field, CASE WHEN :whole THEN round(value) ELSE value END, :distribution FROM ("
    " SELECT trial_id, CASE WHEN :log THEN exp(ln(:low) + random() * (ln(:high) - ln(:low)))"
    " ELSE :low + random() * (:high - :low) END AS value FROM trials WHERE study_id = :study) AS drawn"
)


class Way(Protocol):
    """One way of running trials of a study."""

    storage: RDBStorage
    study: optuna.Study

    def ask(self) -> optuna.Trial | None:
        """A new trial that runs."""

    def report(self, trial: optuna.Trial, value: float, epoch: int) -> None:
        """An epoch of that trial."""

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """The end of that trial; None where it was pruned."""


class Stock:
    """Optuna as it comes."""

    def __init__(self, url: str, name: str, pruner: BasePruner) -> None:
        sampler = optuna.samplers.TPESampler(seed=0)
        self.storage = optuna.storages.RDBStorage(url)
        self.study = optuna.load_study(study_name=name, storage=self.storage, sampler=sampler, pruner=pruner)

    def ask(self) -> optuna.Trial:
        """A new trial that runs."""
        return self.study.ask()

    def report(self, trial: optuna.Trial, value: float, epoch: int) -> None:
        """An epoch of that trial."""
        trial.report(value, epoch)

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """The end of that trial; None where it was pruned."""
        self.study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000], help="finished trials of a study")
    parser.add_argument("--rounds", type=int, default=20, help="trials that each way runs; default: 20")
    parser.add_argument("--pruners", nargs="+", choices=PRUNERS, default=["hyperband", "median"])
    parser.add_argument("--workers", type=int, nargs="+", metavar="N", help="processes that share a study")
    parser.add_argument("--budget", type=int, default=128, help="trials that they share; default: 128")
    parser.add_argument("--storage", metavar="URL", help="of an empty database; default: a private Postgres")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpo-bench-")))
        folder.chmod(0o711)  # the account that runs root's Postgres has to get through
        url = options.storage or stack.enter_context(embedded_postgres(folder / "private"))
        url = parse_url(url).render_as_string(hide_password=False)
        initialize(url)
        if options.workers:
            share(url, folder, options.workers, options.budget)
        else:
            compare(url, folder, options.trials, options.rounds, options.pruners)


def compare(url: str, folder: Path, sizes: list[int], rounds: int, pruners: list[str]) -> None:
    """Print a table of what a trial costs in studies of these sizes, and then the ratios."""
    print(
        f"{'trials':>7}  {'way':<18}"
        + "".join(f"{call:>14}" for call in (*CALLS, "but suggest"))
        + f"{'statements':>12}{'transactions':>14}{'join s':>8}"
    )
    for trials in sizes:
        fill(url, study_file(folder, f"of {trials}"), trials)
        rest = {pruner: measure(url, folder, trials, rounds, pruner) for pruner in pruners}
        for ours in pruners:
            for stock in pruners:
                ratio = rest[ours]["service"] / rest[stock]["stock"]
                print(f"{trials:>7}  service, {ours} / stock, {stock}: {ratio:.2f}, without suggest", flush=True)


def fill(url: str, file: StudyFile, trials: int) -> None:
    """Write a study with that many finished trials, six in ten of them complete and the others pruned."""
    study_id, storage = create_study(file, url), connect(url)
    with storage.engine.begin() as connection:
        for statement in FILLING:
            values = {"study": study_id, "trials": trials, "epochs": EPOCHS, "metrics": json.dumps(METRICS)}
            connection.execute(text(statement), values)
        for field, distribution in FIELDS.items():
            values = {"study": study_id, "field": field, "distribution": distribution_to_json(distribution)}
            connection.execute(text(DRAWING), {**values, **_bounds(distribution)})
    with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))
    storage.engine.dispose()


def _bounds(distribution: BaseDistribution) -> dict[str, object]:
    """What a field's stored value is drawn from: a number between the bounds, its logarithm, or a whole number."""
    if isinstance(distribution, CategoricalDistribution):
        return {"low": 0, "high": len(distribution.choices) - 1, "log": False, "whole": True}
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    whole = isinstance(distribution, IntDistribution)
    return {"low": distribution.low, "high": distribution.high, "log": distribution.log, "whole": whole}


def measure(url: str, folder: Path, trials: int, rounds: int, pruner: str) -> dict[str, float]:
    """Run trials of one study both ways in turn, and print a line for each; seconds a trial without `suggest`."""
    file = study_file(folder, f"of {trials}", pruner=pruner)
    of_ways: dict[str, list[Turn]] = {"stock": [], "service": []}
    with ExitStack() as stack:
        # Each in a process of its own, as workers are: neither waits while the other's garbage is collected.
        processes = {
            label: stack.enter_context(
                ProcessPoolExecutor(1, FORK, initializer=_open, initargs=(label, pruner, url, file))
            )
            for label in of_ways
        }
        for _ in range(WARM_UP + rounds):
            for label, process in processes.items():
                of_ways[label].append(process.submit(_turn).result())
    rest = {}
    for label, turns in of_ways.items():
        times = [turn.seconds for turn in turns[WARM_UP:]]
        medians = {call: statistics.median(seconds[call] for seconds in times) for call in CALLS}
        rest[label] = statistics.median(sum(seconds.values()) - seconds["suggest"] for seconds in times)
        counted = sum((turn.counted for turn in turns[WARM_UP:]), Counter[str]())
        print(
            f"{trials:>7}  {label + ', ' + pruner:<18}"
            + "".join(f"{1000 * medians[call]:>14.1f}" for call in CALLS)
            + f"{1000 * rest[label]:>14.1f}{counted['statements'] / rounds:>12.0f}"
            f"{counted['transactions'] / rounds:>14.0f}{turns[0].join:>8.2f}",
            flush=True,
        )
    return rest


@dataclass(frozen=True)
class Turn:
    """A trial of one way.

    Attributes:
        seconds: of its calls.
        counted: its statements and transactions.
        join: seconds from nothing to the first trial of this process.
    """

    seconds: dict[str, float]
    counted: Counter[str]
    join: float


class _Process:
    """What a process that takes turns keeps between them."""

    way: Way
    counted: Counter[str]
    join: float
    drawing = 0.0  # seconds that the service has drawn recipes for, which it does as it asks


def _time_drawing() -> None:
    """Have `_Process.drawing` count from now on."""
    draw = Recipes.draw

    def timed(*given: Any) -> optuna.Trial:
        before = time.perf_counter()
        try:
            return draw(*given)
        finally:
            _Process.drawing += time.perf_counter() - before

    Recipes.draw = timed  # type: ignore[method-assign]


def _open(label: str, pruner: str, url: str, file: StudyFile) -> None:
    """Join the study, and run one trial that is not counted."""
    before = time.perf_counter()
    way: Way = (
        Stock(url, file.name, PRUNERS[pruner]())
        if label == "stock"
        else BareWorker(file, url, f"{file.name}, {pruner}")
    )
    _time_drawing()
    first = way.ask()
    _Process.join = time.perf_counter() - before
    assert first
    way.tell(first, None)
    _Process.way, _Process.counted = way, count_statements(way.storage.engine)


def _turn() -> Turn:
    """Run a trial that learns nothing."""
    way, seconds = _Process.way, dict.fromkeys(CALLS, 0.0)
    _Process.counted.clear()

    @contextmanager
    def timed(call: str) -> Iterator[None]:
        before = time.perf_counter()
        yield
        seconds[call] += time.perf_counter() - before

    drawn_before = _Process.drawing
    with timed("ask"):
        trial = way.ask()
    assert trial
    with timed("suggest"):
        suggest(trial, SPACE)
    for call, sign in (("ask", -1), ("suggest", 1)):
        seconds[call] += sign * (_Process.drawing - drawn_before)
    # Good enough to be pruned by none of the pruners, so that every trial makes the same calls.
    for epoch in range(1, EPOCHS + 1):
        with timed("report"):
            way.report(trial, 1.0 + trial.number + epoch / EPOCHS, epoch)
        with timed("should_prune"):
            assert not trial.should_prune(), "the best trial of all is pruned"
    with timed("tell"):
        way.tell(trial, 2.0 + trial.number)
    return Turn(seconds, Counter(_Process.counted), _Process.join)


def count_statements(engine: Engine) -> Counter[str]:
    """What an engine does from now on, counted."""
    counted: Counter[str] = Counter()
    event.listen(engine, "before_cursor_execute", lambda *_: counted.update(["statements"]))
    event.listen(engine, "checkout", lambda *_: counted.update(["transactions"]))
    return counted


@dataclass(frozen=True)
class Shift:
    """What one of several workers did.

    Attributes:
        began: time.monotonic(), the same for all processes, when all had joined.
        ended: when the budget was used up.
        join: seconds to load the study and become known.
        calls: seconds of each call.
        counted: statements and transactions.
        trials: that it ran.
    """

    began: float
    ended: float
    join: float
    calls: list[float]
    counted: Counter[str]
    trials: int


def share(url: str, folder: Path, crowds: list[int], budget: int) -> None:
    """Print how fast studies of this budget go through the hands of so many workers, and whether all is in order."""
    print(
        f"{'workers':>7}{'trials a s':>12}{'against 1':>11}{'statements':>12}{'transactions':>14}",
        *("call p50 ms", "p99", "longest", "join s"),
        sep="  ",
    )
    one = None
    for workers in crowds:
        file = study_file(folder, f"by {workers}", trials=budget, sampler="random")
        create_study(file, url)
        shifts = _together(file, url, workers)
        check(file, url, shifts)
        seconds = max(shift.ended for shift in shifts) - min(shift.began for shift in shifts)
        one = one or budget / seconds
        calls = statistics.quantiles([call for shift in shifts for call in shift.calls], n=100, method="inclusive")
        counted = sum((shift.counted for shift in shifts), Counter())
        print(
            f"{workers:>7}{budget / seconds:>12.1f}{budget / seconds / one:>11.2f}"
            f"{counted['statements'] / budget:>12.0f}{counted['transactions'] / budget:>14.0f}"
            f"{1000 * calls[49]:>13.1f}{1000 * calls[98]:>5.0f}"
            f"{1000 * max(max(shift.calls) for shift in shifts):>9.0f}{max(shift.join for shift in shifts):>8.2f}",
            flush=True,
        )


def _together(file: StudyFile, url: str, workers: int) -> list[Shift]:
    barrier = FORK.Barrier(workers)
    with ProcessPoolExecutor(workers, FORK, initializer=_begin_at, initargs=(barrier,)) as pool:
        return list(pool.map(_shift, *zip(*((file, url, str(number)) for number in range(workers)), strict=True)))


def _begin_at(barrier: Barrier) -> None:
    """Have the workers of this process begin when all have joined, so that none does the work of two."""
    global _barrier  # noqa: PLW0603 - a barrier reaches a process of a pool by no other way
    _barrier = barrier


def _shift(file: StudyFile, url: str, name: str) -> Shift:
    assert "torch" not in sys.modules, "a process without torch is measured"
    before = time.monotonic()
    worker = BareWorker(file, url, f"{file.name}, {name}")
    counted, calls = count_statements(worker.storage.engine), list[float]()
    join = time.monotonic() - before
    _barrier.wait(START_SECONDS)
    began = time.monotonic()
    trials = work(worker, calls.append)
    return Shift(began, time.monotonic(), join, calls, counted, trials)


def check(file: StudyFile, url: str, shifts: list[Shift]) -> None:
    """Raise AssertionError unless every trial of the budget was run once, and has ended."""
    storage = connect(url)
    trials = optuna.load_study(study_name=file.name, storage=storage).get_trials(deepcopy=False)
    with storage.engine.connect() as connection:
        rows = places(connection, storage.get_study_id_from_name(file.name))
    storage.engine.dispose()
    numbers = list(range(file.limits.trials or 0))
    assert sum(shift.trials for shift in shifts) == len(numbers), "workers ran another number of trials"
    assert [row.number for row in rows] == numbers, "places are missing"
    assert sorted(row.trial or 0 for row in rows) == numbers, "a trial has two places"
    assert [trial.number for trial in trials] == numbers, "trials are missing"
    assert all(trials[row.trial or 0].state.name.lower() == row.state for row in rows), "place and trial differ"
    assert {row.state for row in rows} <= {"complete", "pruned"}, "some run, or have failed"


if __name__ == "__main__":
    main()
