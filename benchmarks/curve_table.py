"""A table of learning curves, which `search_replay.py` has searched.

A file of one task, `*.json.gz`, is a list of configurations, each with `hp` (name -> number) and `valid_loss`, one
value an epoch, null where it is not finite. Such tables of real trainings are those of TaskSet (Metz et al. 2020) that
the authors of DyHPO (Wistuba et al. 2022) publish. Those of `record_curves.py` will do, too: they begin with the
default recipe, as all searches then do, and say how long each epoch took. Losses above the median of the first epochs
count as that.
"""

from __future__ import annotations

import copy
import gzip
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.study.encoding import Encoding
from hpo.study.portfolio import portfolio
from trainer.space import Range, Space, parameters_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class Table:
    """The curves of one task.

    Args:
        path: of the table.
        noise: standard deviation of what is added to each score that a search sees, as a share of the spread.
        mislead: whether the first third of each curve is given to another configuration.

    Attributes:
        encoding: of its configurations.
        scores: what a search sees, float64 [configurations, epochs], the higher the better.
        seconds: of the epochs, float64 [configurations, epochs]; 1 where the table does not say.
        full: seconds of a full training: of the default recipe, where there is one.
        default: parameters of the default recipe, None where there is none.
        first: scores after which a training has had one epoch: TaskSet begins with that of the untrained network.
        own: the first epoch whose score is the configuration's own.
    """

    def __init__(self, path: Path, noise: float = 0.0, *, mislead: bool = False) -> None:
        found = json.loads(gzip.decompress(path.read_bytes()))
        self.space: Space | None = None
        self.default: dict[str, Any] | None
        if isinstance(found, dict):
            rows, space = found["rows"], Space(found["space"])
            epochs = int(max(space.values("epochs")))
            self.space, self.encoding, self.default, self.first = space, Encoding.of(space), rows[0]["hp"], 1
            self._true = np.array([[*row["valid_macro_f1"], *[0.0] * epochs][:epochs] for row in rows])
            self.seconds = np.array([[*row["seconds"], *[1.0] * epochs][:epochs] for row in rows])
        else:
            rows, self.default, self.first = found, None, 2
            losses = np.array([[math.inf if loss is None else loss for loss in row["valid_loss"]] for row in rows])
            self._true = -np.minimum(losses, np.median(losses[:, 0]))
            self.seconds = np.ones_like(self._true)
            points = {name: [row["hp"][name] for row in rows] for name in rows[0]["hp"]}
            log = {name: min(values) > 0 and max(values) > 100 * min(values) for name, values in points.items()}
            self.encoding = Encoding({name: Range(min(each), max(each), log[name]) for name, each in points.items()})
        self._known = np.stack([self.encoding.coordinates(row["hp"]) for row in rows])
        self._features = self.encoding.features(self._known)
        self.full = float(self.seconds[0].sum())
        self.ends = self._true.max(axis=1)
        self._best, self._median = float(self.ends.max()), float(np.median(self.ends))
        rng, self.scores = np.random.default_rng(0), self._true.copy()
        self.own = -(-self.epochs // 3) if mislead else 0
        if mislead:
            self.scores[:, : self.own] = self.scores[rng.permutation(len(rows)), : self.own]
        self.scores += noise * (self._best - self._median) * rng.normal(size=self.scores.shape)

    @property
    def epochs(self) -> int:
        """Of a full training."""
        return int(self._true.shape[1])

    def nearest(self, coordinates: NDArray[np.float64], tried: Sequence[int] = ()) -> int:
        """Number of the configuration that is nearest to a recipe, of those that were not tried."""
        distances = ((self._features - self.encoding.features(coordinates[None])) ** 2).sum(axis=1)
        distances[list(tried)] = math.inf
        return int(np.argmin(distances))

    def negated(self) -> Table:
        """The same configurations to a search that looks for the worst ones."""
        other = copy.copy(self)
        other.scores = -self.scores
        return other

    def portfolio(self) -> list[NDArray[np.float64]]:
        """Coordinates [fields] of the recipes of the portfolio; none where the table is not of hpo's own trainer."""
        if self.space is None:
            return []
        recipes = portfolio(self.space, trials=None)
        return [self.encoding.coordinates(parameters_of(recipe, self.space)) for recipe in recipes]

    def coordinates(self, row: int) -> NDArray[np.float64]:
        """Coordinates [fields] of a configuration."""
        found: NDArray[np.float64] = self._known[row]
        return found

    def params(self, row: int) -> dict[str, Any]:
        """The parameters of a configuration."""
        return self.encoding.params(self._known[row])

    def regret(self, row: int, epochs: int) -> float:
        """Of a configuration after so many epochs, by what is true: 0 of the best one, 1 of the median one."""
        return (self._best - float(self._true[row, :epochs].max())) / (self._best - self._median)
