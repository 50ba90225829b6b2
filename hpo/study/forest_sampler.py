"""The sampler `forest`: Optuna's trials in, proposals of a `Forest` out."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import TrialState

from hpo.study.candidates import WAYS
from hpo.study.encoding import Encoding
from hpo.study.forest import Forest
from hpo.study.pruners import TrialProgress, rung_epochs
from hpo.study.transfer import FEWEST_LESSONS, Lesson
from storage.keys import FIRST_RUN_KEY, QUEUED_KEY, WAY_KEY
from storage.optuna_internals import given_parameters
from trainer.objective_metric import MACRO_F1
from trainer.space import parameters_of, recipe_near_default

if TYPE_CHECKING:
    from collections.abc import Iterable

    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from hpo.study.candidates import Proposal, Way
    from hpo.study.earlier import EarlierStudy
    from trainer.objective_metric import Metric
    from trainer.space import Space


class TrialForest:
    """A forest that learns from the trials of one study, in one process; each of them it reads once after its end.

    Args:
        space: of the study.
        earlier: what it learns from earlier studies.
        metric: that gives the scores of the study.
    """

    def __init__(self, space: Space, earlier: Iterable[EarlierStudy] = (), metric: Metric = MACRO_F1) -> None:
        self._metric = metric
        self._rungs = rung_epochs(int(max(space.values("epochs"))))
        encoding = Encoding.of(space)
        lessons = [_lesson(each, encoding) for each in earlier if len(each.results) >= FEWEST_LESSONS]
        self._forest = Forest(encoding, len(self._rungs), lessons)
        self._forest.start_at(parameters_of(recipe_near_default({}, space), space))
        self._progress = TrialProgress()

    @property
    def encoding(self) -> Encoding:
        """That of the space."""
        return self._forest.encoding

    def propose(self, study: optuna.Study, seed: int) -> Proposal:
        """The next recipe to try."""
        finished, unfinished = self._progress.read(study)
        for trial in sorted((*finished, *unfinished), key=lambda each: each.number):
            self._observe(trial)
        return self._forest.propose(seed)

    def _observe(self, trial: FrozenTrial) -> None:
        if QUEUED_KEY in trial.user_attrs:
            self._forest.start_at(given_parameters(trial))
        # A trial that goes on with another one is the same recipe, and knows what that has reached.
        first = trial.user_attrs.get(FIRST_RUN_KEY)
        key = first if type(first) is int else trial.number
        reports = sorted((step, value) for step, value in trial.intermediate_values.items() if math.isfinite(value))
        best = dict(zip((step for step, _ in reports), accumulate((value for _, value in reports), max), strict=True))
        way = next((each for each in WAYS if each == trial.user_attrs.get(WAY_KEY)), None)
        for rung, epoch in enumerate(self._rungs):
            if epoch in best:
                self._forest.observe(key, trial.params, rung, self._metric.share(best[epoch]), way)
        if trial.state is TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value):
            self._forest.observe(key, trial.params, len(self._rungs), self._metric.share(trial.value), way)


def _lesson(earlier: EarlierStudy, encoding: Encoding) -> Lesson:
    coordinates = np.stack([encoding.coordinates(result.params) for result in earlier.results])
    return Lesson(encoding.features(coordinates), np.array([result.rank for result in earlier.results]))


class ForestSampler(BaseSampler):
    """Gives one trial the recipe that a forest proposes.

    Args:
        forest: of the study.
        seed: of this trial.
    """

    def __init__(self, forest: TrialForest, seed: int) -> None:
        self._forest, self._seed, self._random = forest, seed, RandomSampler(seed)
        self._draws = 0  # recipes that were proposed; each draw for the trial is another one
        self.way: Way | None = None
        """How the last of them was drawn; None before, and where somebody has given the trial a recipe."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:  # noqa: ARG002 - Optuna's signature
        """Forget how the recipe of the trial before was drawn; one that is given is not drawn."""
        self.way = None

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002 - Optuna's
        """All searched fields."""
        return self._forest.encoding.distributions()

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],  # noqa: ARG002 - Optuna's
    ) -> dict[str, Any]:
        """The recipe; none where the trial has one already, being run again."""
        if trial.params:
            return {}
        self._draws += 1
        proposal = self._forest.propose(study, self._seed + ((self._draws - 1) << 32))
        self.way = None if given_parameters(trial) else proposal.way
        return self._forest.encoding.params(proposal.coordinates)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A field at random, which is asked for by an enqueued recipe alone."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)
