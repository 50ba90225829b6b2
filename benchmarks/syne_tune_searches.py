"""The searches of Syne Tune (Salinas et al. 2022) that `search_replay.py` compares where that package is installed."""

from __future__ import annotations

import logging
import sys
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FixedTrial
from searches import Training

from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from curve_table import Table
    from searches import Search

INSTALL = "pip install autograd dill pandas sortedcontainers statsmodels && pip install --no-deps syne-tune==0.13.0"
REFITS = {"opt_skip_init_length": 30, "opt_skip_period": 5}  # of the process of MOBSTER: from 30 scores on, one in five


class SyneTune:
    """A scheduler of Syne Tune, which is told that it proposed the nearest configuration that was not tried.

    Args:
        table: that is searched; the scheduler begins with its default recipe, where there is one.
        scheduler: of Syne Tune's, for `positions` of the table.
    """

    def __init__(self, table: Table, scheduler: Any) -> None:
        self._table, self._scheduler = table, scheduler
        self._trainings: list[Training] = []
        self._trials: list[SimpleNamespace] = []  # the same as Syne Tune sees them
        self._rows: list[int] = []  # of what was proposed
        self._propose: Callable[..., dict[str, Any]] = scheduler.searcher.get_config
        scheduler.searcher.get_config = self._nearest

    def next(self) -> Training:
        """The paused one that its rung lets go on, else a new one."""
        number = len(self._trainings)
        suggestion = self._scheduler.suggest(number)
        if not suggestion.spawn_new_trial_id:
            return self._trainings[suggestion.checkpoint_trial_id]
        self._trials.append(SimpleNamespace(trial_id=number, config=suggestion.config))
        self._scheduler.on_trial_add(self._trials[-1])
        self._trainings.append(Training(number, self._rows[-1]))
        return self._trainings[-1]

    def goes_on(self, training: Training) -> bool:
        """Whether the scheduler neither pauses nor stops it."""
        trial, score = self._trials[training.number], self._table.scores[training.row, training.epoch - 1]
        decision = self._scheduler.on_trial_result(trial, {"score": float(score), "epoch": training.epoch})
        if decision != "CONTINUE":
            self._scheduler.on_trial_remove(trial)
        return bool(decision == "CONTINUE")

    def _nearest(self, **asked: Any) -> dict[str, Any]:
        """What the scheduler proposes, moved to the nearest configuration that was not tried."""
        config = self._propose(**asked)
        names, row = self._table.encoding.names, 0
        if self._rows or self._table.default is None:
            params = self._table.encoding.params(np.array([config[name] for name in names], dtype=np.float64))
            if self._table.space:
                used = FixedTrial(params)
                suggest(used, self._table.space)
                params = used.params
            row = self._table.nearest(self._table.encoding.coordinates(params), self._rows)
        self._rows.append(row)
        known = zip(names, self._table.coordinates(row).tolist(), strict=True)
        return {**config, **{name: type(config[name])(at) for name, at in known if not np.isnan(at)}}


def positions(table: Table) -> dict[str, Any]:
    """The space of a table for Syne Tune: positions in ranges and lists, as its kernel densities know no logarithms."""
    from syne_tune.config_space import choice, ordinal, uniform

    found = {}
    for name, entry in table.encoding.distributions().items():
        if isinstance(entry, CategoricalDistribution):
            values = entry.choices
            ordered = not any(isinstance(value, str | bool) for value in values) and list(values) == sorted(values)
            found[name] = (ordinal if ordered else choice)(list(range(len(values))))
        else:
            found[name] = uniform(0.0, 1.0)
    return found


def promotion(name: str, table: Table, seed: int) -> Search:
    """A search by successive halving with promotion, by a third from the first epoch on, as Syne Tune has it.

    Raises:
        SystemExit: Syne Tune is not installed, or is not the last version that has these searches.
    """
    try:
        with redirect_stdout(sys.stderr):  # it prints what it could not import
            from syne_tune.optimizer.baselines import ASHA, BOHB, MOBSTER
    except ImportError as error:
        message = f"searches of Syne Tune need its version 0.13.0: {INSTALL}"
        raise SystemExit(message) from error
    logging.getLogger("syne_tune").setLevel(logging.ERROR)  # else each scheduler gives advice for real trainings
    space, options = positions(table), dict[str, Any](debug_log=False)
    if name == "bohb":
        options["num_min_data_points"] = len(space) + 1  # Falkner et al. 2018; by default the model begins later
    if name == "mobster":
        rows = np.nan_to_num([table.coordinates(row) for row in range(len(table.ends))]).tolist()
        configs = [{key: space[key].cast(at) for key, at in zip(space, row, strict=True)} for row in rows]
        options |= {"restrict_configurations": configs, **REFITS}
    scheduler = {"asha": ASHA, "bohb": BOHB, "mobster": MOBSTER}[name](
        space,
        metric="score",
        mode="max",
        resource_attr="epoch",
        max_t=table.epochs,
        grace_period=table.first,
        type="promotion",
        random_seed=seed,
        search_options=options,
    )
    return SyneTune(table, scheduler)


SYNE_TUNE: dict[str, Callable[[Table, int], Search]] = {
    f"syne-{name}": partial(promotion, name) for name in ("asha", "bohb", "mobster")
}
"""Searches of Syne Tune."""
