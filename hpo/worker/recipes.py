"""Which recipes a worker may train: none that its study has trained, or that another worker trains now."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FixedTrial, TrialState

from hpo.study.trained import TrainedRecipes
from storage.keys import DEFAULT_KEY, REASON_KEY, REPEATS_KEY, SAME_RECIPE_KEY
from storage.optuna_internals import cache_of, given_parameters, latest_trials, trial_id_of
from trainer.enumeration import digest_of, is_finite, recipes
from trainer.space import suggest
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from hpo.study.model_limits import ModelCheck
    from hpo.study.open_study import OpenStudy
    from storage.places import Lease
    from storage.taking import Place

DRAWS = 10  # of the sampler, for one trial, before any recipe that was not tried will do
DRAWS_WITHIN_LIMITS = 100  # beyond the limits, before any within them will do
UNUSABLE = (TypeError, ValueError)  # what values raise that somebody else has given and no recipe can have


class Recipes:
    """The recipes of a study, as one worker knows them: those of finished trials by itself, the others by its lease.

    Args:
        opened: the study in the storage.
        lease: of the worker.
        models: tells which models may be trained; None where all may.

    Attributes:
        used_up: whether `choose` has found none.
    """

    def __init__(self, opened: OpenStudy, lease: Lease, models: ModelCheck | None = None) -> None:
        self._study, self._storage, self._lease, self._models = opened.study, opened.storage, lease, models
        self._cache = cache_of(opened.study)
        self._space, self._seed = opened.file.space, opened.file.seed
        self._trained = TrainedRecipes(self._space)
        self.used_up = False
        self.choose: Callable[[set[str]], str | None] | None = self._choose if is_finite(self._space) else None
        """Chooses a recipe for a new place, as `Lease.take` asks; None where the space always holds another one."""

    def read(self) -> None:
        """Take in the trials that have finished, and settle those that wait and are not to be trained.

        One that asks for a trained recipe is given its result, and one that asks for a model beyond the limits fails.
        """
        trials = latest_trials(self._study)
        self._trained.read(trials.values())
        for trial in [trial for trial in trials.values() if trial.state is TrialState.WAITING and _given(trial)]:
            if (same := self._trained_as(trial)) is not None:
                self._give_result(trial, trials[same])
            elif why := self._excess_of_given(trial):
                self._refuse(trial, why)

    def reserve(self, place: Place, trial: FrozenTrial) -> bool:
        """Reserve a recipe for a trial that waits, whatever the sampler will draw; False where none is left that fits.

        Raises:
            LostPlaceError: the place is no longer this worker's.
        """
        given = _given(trial)
        try:
            return not given or self._claim_untried(place, given) is not None
        except UNUSABLE:  # the trial fails with the reason when it is trained
            return True

    def draw(self, trial_id: int, place: Place) -> optuna.Trial:
        """The running trial with this id and a recipe of its own, drawn by the sampler of the study.

        Raises:
            LostPlaceError: the place is no longer this worker's.
        """
        draws, refused = 0, list[str]()
        while draws < DRAWS and len(refused) < DRAWS_WITHIN_LIMITS:
            trial = optuna.Trial(self._study, trial_id)
            storage, there = trial.storage, trial.params
            trial.storage = cast("BaseStorage", _Unwritten(storage))
            try:
                suggest(trial, self._space)
                recipe = digest_of(trial.params, self._space)
            except UNUSABLE:
                self._lease.claim(place, None)
                return optuna.Trial(self._study, trial_id)
            trial.storage = storage
            goes_on = trial.params.keys() == there.keys()
            if self._models and not goes_on and (why := self._models.excess(trial.params)):
                refused.append(why)
                continue
            draws += 1
            if recipe not in self._trained.numbers and self._lease.claim(place, recipe, failed=not goes_on):
                self._write(trial_id, trial.params, trial.distributions, there)
                self._tell_refused(trial.number, refused)
                return trial
            if goes_on:
                return trial
        trial = optuna.Trial(self._study, trial_id)
        chosen = self._claim_untried(place, given_parameters(self._storage.get_trial(trial_id)))
        if chosen is not None:
            fixed = FixedTrial(chosen)
            suggest(fixed, self._space)
            self._write(trial_id, fixed.params, fixed.distributions, trial.params)
        self._tell_refused(trial.number, refused)
        return optuna.Trial(self._study, trial_id)

    def _choose(self, tried: set[str]) -> str | None:
        chosen = self._untried(tried, {})
        self.used_up = chosen is None
        return None if chosen is None else digest_of(chosen, self._space)

    def _claim_untried(self, place: Place, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Give a place a recipe with these values that was not tried; None where there is none.

        One that has failed may be asked for again, and is not chosen again where nobody asks for any.
        """
        failed = not given
        while (chosen := self._untried(self._lease.tried_recipes(place, failed=failed), given)) is not None:
            if self._lease.claim(place, digest_of(chosen, self._space), failed=failed):
                return chosen
        return None

    def _untried(self, tried: set[str], given: Mapping[str, Any]) -> dict[str, Any] | None:
        order = random.Random(f"{self._seed} {len(tried)} {len(self._trained.numbers)}")  # noqa: S311 - no secret
        models = [{}] if self._models is None else list(self._models.within(given))
        order.shuffle(models)
        for model in models:
            for recipe in recipes(self._space, order, {**given, **model}):
                digest = digest_of(recipe, self._space)
                if digest not in tried and digest not in self._trained.numbers:
                    return recipe
        return None

    def _trained_as(self, trial: FrozenTrial) -> int | None:
        """The number of a trial with a recipe that this one asks for; None where not all of these are trained."""
        found: int | None = None
        with suppress(*UNUSABLE):
            for recipe in recipes(self._space, random.Random(trial.number), _given(trial)):  # noqa: S311 - no secret
                number = self._trained.numbers.get(digest_of(recipe, self._space))
                if number is None:
                    return None
                found = number if found is None else found
        return found

    def _give_result(self, trial: FrozenTrial, same: FrozenTrial) -> None:
        """End a trial that waits as another one with its recipe has ended; other workers may do so at the same time."""
        storage, trial_id = self._storage, trial_id_of(trial)
        with suppress(UpdateFinishedTrialError):
            self._write(trial_id, same.params, same.distributions, trial.params)
            for step, value in same.intermediate_values.items():
                storage.set_trial_intermediate_value(trial_id, step, value)
            storage.set_trial_user_attr(trial_id, SAME_RECIPE_KEY, same.number)
            storage.set_trial_state_values(trial_id, same.state, same.values)

    def _excess_of_given(self, trial: FrozenTrial) -> str | None:
        """Why a trial that waits asks for a model beyond the limits; None where it does not."""
        if self._models is None:
            return None
        given = _given(trial)
        return None if next(self._models.within(given), None) is not None else self._models.excess(given)

    def _refuse(self, trial: FrozenTrial, why: str) -> None:
        """Fail a trial that waits, which takes no place in the budget; for the default recipe a smaller one waits."""
        if DEFAULT_KEY in trial.user_attrs and self._models:
            smaller = next(self._models.within({}), {})
            self._study.enqueue_trial(
                {**self._space.default_parameters(), **smaller}, user_attrs={DEFAULT_KEY: True}, skip_if_exists=True
            )
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial_id_of(trial), REASON_KEY, f"limits: {why}")
            self._storage.set_trial_state_values(trial_id_of(trial), TrialState.FAIL)

    def _tell_refused(self, trial: int, refused: Sequence[str]) -> None:
        """Say in the log of a trial that recipes were drawn before its own that are beyond the limits."""
        if refused:
            many = counted(len(refused), "proposal was", "proposals were")
            self._lease.log(trial, [f"{many} not taken, the last since {refused[-1]}"])

    def _write(
        self,
        trial_id: int,
        parameters: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        there: Mapping[str, Any],
    ) -> None:
        """Write the parameters of a trial that are not there yet."""
        for name, value in parameters.items():
            if name not in there:
                distribution = distributions[name]
                self._cache.set_trial_param(trial_id, name, distribution.to_internal_repr(value), distribution)


class _Unwritten:
    """A storage for a trial whose parameters are not to be written yet."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def set_trial_param(self, *_: Any) -> None:
        """Forget it: the trial itself remembers."""


def _given(trial: FrozenTrial) -> dict[str, Any]:
    """What somebody has given a trial; nothing where the sampler is to draw all of it, or where it repeats another."""
    if REPEATS_KEY in trial.user_attrs:
        return {}
    return given_parameters(trial)
