"""What the service costs a trial, and how that grows with the study, against plain Optuna.

    python benchmarks/storage_scale.py [--trials 100 1000 10000] [--rounds N] [--pruner hyperband] [--storage URL]

For each number of finished trials a study of that size is written, then trials are run in turn by

    stock   Optuna's RDBStorage as `study.optimize` uses it: ask, suggest, report, should_prune, tell
    ours    the same by `storage.database.connect`

so that both meet the same study and the same moments of the machine. A trial has 15 fields and 10 epochs and no
training. Printed are the medians over the trials: milliseconds of each call, all of a trial's calls of it added up;
their sum without `suggest`, which is the sampler's; SQL statements and transactions a trial; and the seconds of a join:
a process that is new to the study up to its first trial. Without a URL it runs on a private Postgres of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import TrialState, create_trial
from sqlalchemy import event, text

from hpo.pruning import BracketPruner, RunningMedianPruner
from storage.database import connect, initialize, parse_url
from storage.embedded import embedded_postgres
from storage.patience import Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import Engine

EPOCHS = 10
CALLS = ("ask", "suggest", "report", "should_prune", "tell")
FIELDS: dict[str, BaseDistribution] = {
    **{f"choice_{n}": CategoricalDistribution([f"{n}-{option}" for option in range(2 + n)]) for n in range(6)},
    **{f"rate_{n}": FloatDistribution(1e-5, 1e-1, log=True) for n in range(3)},
    **{f"share_{n}": FloatDistribution(0, 1) for n in range(3)},
    **{f"count_{n}": IntDistribution(1, 64, log=n == 0) for n in range(3)},
}
METRICS = json.dumps(
    {
        "per_class": {
            f"class {n}": {"precision": 0.9123 + n / 1e4, "recall": 0.8876, "f1": 0.8998, "images": 36}
            for n in range(24)
        }
    }
)  # about 2 kB, as the objective keeps them
# By the way that uses it: stock Optuna's, then ours, which decides the same.
PRUNERS: dict[str, dict[str, Callable[[], BasePruner]]] = {
    "hyperband": {
        "stock": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3),
        "ours": lambda: BracketPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3),
    },
    "median": {
        "stock": lambda: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
        "ours": lambda: RunningMedianPruner(n_startup_trials=5, n_warmup_steps=3),
    },
    "none": dict.fromkeys(("stock", "ours"), optuna.pruners.NopPruner),
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

    def ask(self) -> optuna.Trial:
        """A new trial that runs."""

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """The end of a trial; None where it was pruned."""


class Stock:
    """Optuna as it comes."""

    def __init__(self, url: str, name: str, pruner: BasePruner) -> None:
        self.storage = optuna.storages.RDBStorage(url)
        self.study = optuna.load_study(study_name=name, storage=self.storage, sampler=_sampler(), pruner=pruner)

    def ask(self) -> optuna.Trial:
        """A new trial that runs."""
        return self.study.ask()

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """The end of a trial; None where it was pruned."""
        self.study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)


class Ours:
    """Our storage, with trials that are made waiting and then set to run."""

    def __init__(self, url: str, name: str, pruner: BasePruner) -> None:
        self.storage = connect(url, Patience())
        self.study = optuna.load_study(study_name=name, storage=self.storage, sampler=_sampler(), pruner=pruner)

    def ask(self) -> optuna.Trial:
        """A new trial that runs."""
        storage, study = self.study._storage, self.study  # noqa: SLF001 - Optuna's cache, which has no public name
        trial_id = storage.create_new_trial(study._study_id, create_trial(state=TrialState.WAITING))  # noqa: SLF001
        storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        study._thread_local.cached_all_trials = None  # noqa: SLF001 - as `study.ask` does
        return optuna.Trial(study, trial_id)

    def tell(self, trial: optuna.Trial, value: float | None) -> None:
        """The end of a trial; None where it was pruned."""
        self.study.tell(trial, value, state=TrialState.PRUNED if value is None else TrialState.COMPLETE)


WAYS: dict[str, Callable[[str, str, BasePruner], Way]] = {"stock": Stock, "ours": Ours}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10000], help="finished trials of a study")
    parser.add_argument("--rounds", type=int, default=20, help="trials that each way runs; default: 20")
    parser.add_argument("--pruner", choices=PRUNERS, default="hyperband")
    parser.add_argument("--storage", metavar="URL", help="of an empty database; default: a private Postgres")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        url = options.storage
        if url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpo-bench-")))
            folder.chmod(0o711)  # the account that runs root's Postgres has to get through
            url = stack.enter_context(embedded_postgres(folder / "private"))
        url = parse_url(url).render_as_string(hide_password=False)
        initialize(url)
        print(
            f"{'trials':>7} {'way':>6}" + "".join(f"{call:>13}" for call in CALLS),
            *("without suggest", "statements", "transactions", "join s"),
            sep="  ",
        )
        for trials in options.trials:
            fill(url, f"of {trials}", trials)
            measure(url, f"of {trials}", trials, options.rounds, PRUNERS[options.pruner])


def fill(url: str, name: str, trials: int) -> None:
    """Write a study with that many finished trials, six in ten of them complete and the others pruned."""
    storage = connect(url)
    study_id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], name)
    with storage.engine.begin() as connection:
        for statement in FILLING:
            values = {"study": study_id, "trials": trials, "epochs": EPOCHS, "metrics": METRICS}
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


def measure(url: str, name: str, trials: int, rounds: int, pruners: dict[str, Callable[[], BasePruner]]) -> None:
    """Run trials of one study in all ways in turn, and print a line for each."""
    ways, joins, counts = {}, {}, {}
    for label, make in WAYS.items():
        before = time.perf_counter()
        way = ways[label] = make(url, name, pruners[label]())
        way.tell(way.ask(), None)
        way.study.get_trials(deepcopy=False)
        joins[label] = time.perf_counter() - before
        counts[label] = _counted(way.storage.engine)
    times: dict[str, list[dict[str, float]]] = {label: [] for label in ways}
    for counted in counts.values():
        counted.clear()
    for number in range(rounds):
        for label, way in ways.items():
            times[label].append(_trial(way, number))
    for label, way in ways.items():
        medians = {call: statistics.median(seconds[call] for seconds in times[label]) for call in CALLS}
        rest = statistics.median(sum(seconds.values()) - seconds["suggest"] for seconds in times[label])
        print(
            f"{trials:>7} {label:>6}"
            + "".join(f"{1000 * medians[call]:>13.1f}" for call in CALLS)
            + f"{1000 * rest:>17.1f}{counts[label]['statements'] / rounds:>12.0f}"
            f"{counts[label]['transactions'] / rounds:>14.0f}{joins[label]:>8.2f}",
            flush=True,
        )
        way.storage.engine.dispose()


def _trial(way: Way, number: int) -> dict[str, float]:
    """Run a trial that learns nothing, and say how many seconds its calls took."""
    seconds = dict.fromkeys(CALLS, 0.0)

    @contextmanager
    def timed(call: str) -> Iterator[None]:
        before = time.perf_counter()
        yield
        seconds[call] += time.perf_counter() - before

    with timed("ask"):
        trial = way.ask()
    with timed("suggest"):
        for field, distribution in FIELDS.items():
            trial._suggest(field, distribution)  # noqa: SLF001 - what suggest_float and its like call
    # Good enough to be pruned by none of the pruners, so that every trial makes the same calls.
    for epoch in range(1, EPOCHS + 1):
        with timed("report"):
            trial.report(1.0 + epoch / 100 + number / 1e4, epoch)
        with timed("should_prune"):
            assert not trial.should_prune(), "the best trial of all is pruned"
    with timed("tell"):
        way.tell(trial, 2.0)
    return seconds


def _counted(engine: Engine) -> Counter[str]:
    """What an engine does from now on, counted."""
    counted: Counter[str] = Counter()
    event.listen(engine, "before_cursor_execute", lambda *_: counted.update(["statements"]))
    event.listen(engine, "checkout", lambda *_: counted.update(["transactions"]))
    return counted


def _sampler() -> BaseSampler:
    return optuna.samplers.TPESampler(seed=0)


if __name__ == "__main__":
    main()
