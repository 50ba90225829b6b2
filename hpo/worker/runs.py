"""The runs of one worker: places in the budget are taken, their trials asked for, and both brought to their ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial

from hpo.study.earlier import earlier_studies
from hpo.study.early_ranks import is_control
from hpo.study.forest_sampler import ForestSampler, TrialForest
from hpo.study.interruptions import TOLD_FROM_OUTSIDE
from hpo.study.samplers import make_pruner, make_sampler
from hpo.study.stop_rules import check_rules
from hpo.worker.recipes import Recipes
from storage.budget import StopRules
from storage.keys import (
    ARTIFACT_KEY,
    BEST_EPOCH_KEY,
    CONFIRMS_KEY,
    CONTROL_KEY,
    DEFAULT_KEY,
    DEVICE_KEY,
    FIRST_RUN_KEY,
    HOST_KEY,
    QUEUED_KEY,
    REASON_KEY,
    REPEATS_KEY,
    RESUMED_KEY,
    WAY_KEY,
)
from storage.optuna_internals import forget_cached_trials, trial_id_of
from storage.places import LostPlaceError
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna
    from optuna.trial import FrozenTrial

    from hpo.study.model_limits import ModelCheck
    from hpo.study.open_study import OpenStudy
    from storage.keys import EndState
    from storage.places import Lease
    from storage.taking import Place

PLACE_STATE_AT_END: dict[TrialState, EndState] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

# User attributes that a trial shares with those that continue it.
MARKS = (CONFIRMS_KEY, CONTROL_KEY, DEFAULT_KEY, QUEUED_KEY, WAY_KEY)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One run of a trial.

    Attributes:
        place: in the budget, held by this worker.
        trial: running.
        earlier: the trials that were run in this place before with the same recipe, the last one first.
    """

    place: Place
    trial: optuna.Trial
    earlier: Sequence[FrozenTrial]


@dataclass(frozen=True)
class Share:
    """The epochs of a result that one run has done.

    Attributes:
        trial: number of the run's trial.
        host: where it ran.
        device: on which.
        first: its first epoch, 1 for that of the training.
        last: the last one of which anything was kept; less than `first` where none was.
    """

    trial: int
    host: str
    device: str
    first: int
    last: int


def shares(trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> list[Share]:
    """Which run has done which epochs of what a trial has reached, the first run first.

    Args:
        trial: the last run.
        trials: all of the study, by number.
    """
    found: list[Share] = []
    last = max(trial.intermediate_values, default=0)
    run: FrozenTrial | None = trial
    while run:
        attributes = run.user_attrs
        done_before = attributes.get(RESUMED_KEY, 0)
        found.append(
            Share(run.number, attributes.get(HOST_KEY, "?"), attributes.get(DEVICE_KEY, "?"), done_before + 1, last)
        )
        last = done_before
        run = trials[attributes[REPEATS_KEY]] if done_before else None
    return found[::-1]


class Runs:
    """Begins and ends the runs of one worker.

    Args:
        opened: the study in the storage.
        lease: of the worker.
        about: what each of its trials keeps as user attributes.
        models: tells which models may be trained; None where all may.
    """

    def __init__(
        self, opened: OpenStudy, lease: Lease, about: Mapping[str, Any], models: ModelCheck | None = None
    ) -> None:
        self._opened, self._lease, self._about = opened, lease, dict(about)
        self._file, self._study = opened.file, opened.study
        self._study.pruner = make_pruner(self._file, lease.reach_rung)
        earlier = earlier_studies(self._file, opened.storage, opened.study_id)
        self._forest = TrialForest(self._file.space, earlier, self._opened.metric)
        lease.promotion = self._file.pruner == "asha"
        self._recipes = Recipes(opened, lease, models)

    def begin(self) -> Run | None:
        """Begin the next run; None where no place is left to take at the moment.

        Raises:
            StudyGoneError: the study was deleted.
        """
        self._recipes.read()
        while self.reason_to_end() is None and (place := self._lease.take(self._file.limits, self._recipes.choose)):
            try:
                if run := self._begin_in(place):
                    return run
            except (LostPlaceError, UpdateFinishedTrialError):
                continue  # it was ended elsewhere just now; the next attempt sees how
        return None

    @property
    def space_is_used_up(self) -> bool:
        """Whether no recipe was found for a new place at the last look: all were tried or are in training."""
        return self._recipes.used_up

    def may_begin_a_trial(self) -> bool:
        """Whether budget and space hold a trial that nobody has begun, and that this worker would begin."""
        return self._lease.may_make_a_place(self._file.limits, self._recipes.choose)

    def reason_to_end(self) -> str | None:
        """Why the study file's rules let no further run begin; None where they do not."""
        rules = self._file.stop_rules
        if rules == StopRules():
            return None
        trials = self._study.get_trials(deepcopy=False)
        return check_rules(trials, self._file.space, rules, self._opened.metric)[0]

    def complete(self, run: Run, value: float) -> None:
        """Tell the value of a run.

        Raises:
            LostPlaceError: its place is no longer this worker's.
        """
        self._tell(run, TrialState.COMPLETE, value)

    def prune(self, run: Run, reason: str | None = None) -> None:
        """Tell that a run was pruned, and why where that was not the pruner; raises LostPlaceError likewise."""
        self._tell(run, TrialState.PRUNED, reason=reason)

    def fail(self, run: Run, reason: str) -> None:
        """End a run as failed, for good; raises LostPlaceError likewise."""
        self._lease.finish(run.place, "failed", reason)

    def hand_back(self, run: Run, reason: str, *, failed: bool = False) -> None:
        """Leave the place of a run to whoever takes it next; `failed` counts the run against `retries`."""
        self._lease.hand_back(run.place, reason, failed=failed)

    def give_up(self, run: Run, reason: str) -> None:
        """Leave a run that hangs to another worker, or to this one once it has started again."""
        self._lease.log(run.trial.number, [reason])
        self.hand_back(run, reason, failed=True)

    def drop(self, run: Run) -> str:
        """Let go of a run that no longer counts, and close its place if that is ours to do; returns what happened."""
        try:
            trial = self._opened.storage.get_trial(trial_id_of(run.trial))
        except KeyError:
            return "was deleted"
        if not trial.state.is_finished() or REASON_KEY in trial.user_attrs:
            return "was given to another worker"
        try:
            self._settle(run.place, trial)
        except LostPlaceError:
            return "was settled by another worker"
        return f"was told {PLACE_STATE_AT_END[trial.state]} elsewhere"

    def _begin_in(self, place: Place) -> Run | None:
        """Begin a run in a place; None where no run is to begin in it now."""
        if place.earlier_trial is None:
            trial_id = self._name_waiting_trial(place)
        else:
            named = self._get_trial(place.earlier_trial)
            if not place.promoted and self._has_ended(place, named):
                return None
            if self._is_given_up(place, named):
                return None
            waits = named.state is TrialState.WAITING  # the worker that named it died before it ran
            if waits and REPEATS_KEY in named.user_attrs:
                trial_id = trial_id_of(named)
            else:  # whether the recipe of one that waits was reserved is not known
                trial_id = self._name_waiting_trial(place, repeats=None if waits else named)
        if not self._opened.storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            # It runs already: begun by an attempt of ours whose answer was lost, or by whoever got the place meanwhile.
            self._lease.hold(place)
        trial = self._ask(trial_id, place)
        return Run(place, trial, self._earlier_runs(trial))

    def _has_ended(self, place: Place, named: FrozenTrial) -> bool:
        """Close a place whose named trial has ended; whether it has."""
        ended = named.state in (TrialState.COMPLETE, TrialState.PRUNED) or (
            named.state is TrialState.FAIL and REASON_KEY not in named.user_attrs
        )
        if ended:
            self._settle(place, named)
        return ended

    def _is_given_up(self, place: Place, named: FrozenTrial) -> bool:
        """Close a place that is given up, or hand back one whose run broke off; whether one of these."""
        if place.failed_runs > self._file.retries:
            reason = f"given up after {counted(place.failed_runs, 'run')}, the last: {place.reason}"
            self._lease.finish(place, "failed", reason)
        elif named.state is TrialState.RUNNING:  # a run of ours that broke off
            self._lease.hand_back(place, "broken off", failed=True)
        else:
            return False
        return True

    def _ask(self, trial_id: int, place: Place) -> optuna.Trial:
        """The running trial of this id with its recipe, as `Study.ask` gives one, which would choose a trial itself."""
        self._study.sampler = sampler = make_sampler(self._file, place.number, self._forest)
        forget_cached_trials(self._study)
        self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        trial = self._recipes.draw(trial_id, place)
        about = dict(self._about)
        if isinstance(sampler, ForestSampler) and sampler.way:
            about[WAY_KEY] = sampler.way
        new = REPEATS_KEY not in trial.user_attrs and DEFAULT_KEY not in trial.user_attrs
        if new and self._file.pruner == "asha" and is_control(self._file.seed, place.number, self._file.control_share):
            about[CONTROL_KEY] = True
            self._lease.log(trial.number, ["trained to its end whatever its rank, to see what pausing costs"])
        for key, value in about.items():
            if trial.user_attrs.get(key) != value:
                trial.set_user_attr(key, value)
        return trial

    def _earlier_runs(self, trial: optuna.Trial) -> list[FrozenTrial]:
        """The trials whose recipe a trial repeats, the last one first."""
        earlier = []
        repeated = trial.user_attrs.get(REPEATS_KEY)
        while repeated is not None:
            earlier.append(self._get_trial(repeated))
            repeated = earlier[-1].user_attrs.get(REPEATS_KEY)
        return earlier

    def _name_waiting_trial(self, place: Place, repeats: FrozenTrial | None = None) -> int:
        """The id of the waiting trial that the place now names, made where there is none."""
        number = None if repeats is None else repeats.number
        passing: list[int] = []  # those whose recipe is tried elsewhere: they wait for its result
        while True:
            trial_id = self._lease.name_trial(place, repeats=number, passing=passing)
            if trial_id is None:
                self._study.add_trial(self._repetition(repeats) if repeats else _waiting_trial(user_attrs=self._about))
                continue
            trial = self._opened.storage.get_trial(trial_id)
            if self._recipes.reserve(place, trial):
                return trial_id
            passing.append(trial.number)

    def _repetition(self, earlier: FrozenTrial) -> FrozenTrial:
        """A trial with the parameters of an earlier one, and what the pruner has noted of it."""
        marks = {key: value for key, value in earlier.user_attrs.items() if key in MARKS}
        first = earlier.user_attrs.get(FIRST_RUN_KEY, earlier.number)
        return _waiting_trial(
            params=earlier.params,
            distributions=earlier.distributions,
            user_attrs={**marks, **self._about, REPEATS_KEY: earlier.number, FIRST_RUN_KEY: first},
            system_attrs={
                key: value for key, value in earlier.system_attrs.items() if not key.startswith(ARTIFACT_KEY)
            },
        )

    def _tell(self, run: Run, state: TrialState, value: float | None = None, reason: str | None = None) -> None:
        self._lease.hold(run.place)
        self._study.tell(run.trial, value, state=state, skip_if_finished=True)
        self._settle(run.place, self._opened.storage.get_trial(trial_id_of(run.trial)), reason)

    def _settle(self, place: Place, trial: FrozenTrial, reason: str | None = None) -> None:
        """Close a place as its trial ended, whoever told it."""
        state = PLACE_STATE_AT_END[trial.state]
        if state == "failed":
            self._lease.finish(place, state, TOLD_FROM_OUTSIDE)
        else:
            self._lease.finish(place, state, reason, from_outside=BEST_EPOCH_KEY not in trial.user_attrs)

    def _get_trial(self, number: int) -> FrozenTrial:
        return self._opened.storage.get_trial(
            self._opened.storage.get_trial_id_from_study_id_trial_number(self._opened.study_id, number)
        )


def _waiting_trial(**fields: Any) -> FrozenTrial:
    return create_trial(state=TrialState.WAITING, **fields)
