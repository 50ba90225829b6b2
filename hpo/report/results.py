"""What a search has found, and what that has cost: numbers from the storage alone, for whoever shows them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FixedTrial, TrialState, create_trial

from hpo.study.open_study import space_of
from hpo.study.ranking import counts, find_default
from hpo.study.status import STATES, take_snapshot
from storage.keys import REPEATS_KEY, SETTINGS_KEY, TEST_USE_KEY
from trainer.recipe import used_fields
from trainer.space import Choice, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray
    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot
    from hpo.study.study_file import StudyFile
    from storage.study_rows import PlaceRow
    from trainer.recipe import Recipe
    from trainer.space import Space

OF_OTHERS = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}  # states that trials come with
FEWEST_TRIALS = 10  # complete ones, below which an importance says nothing
TOP_TRIALS = 5  # that PED-ANOVA needs at least among the best, as Optuna's documentation has it
SECONDS_AN_HOUR = 3600


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one place of the budget, or one trial that was taken over, has come to.

    Attributes:
        number: of the trial, the last one that ran in the place.
        state: complete, pruned, failed, running or waiting.
        value: macro-F1 of its best epoch; None before the first.
        curve: macro-F1 by epoch, the first is 1.
        recipe: None where the trial has not got all of it.
        hours: that its runs have taken, all in all; 0 of one that was taken over.
        ended: hours from the start of the search to its end; None while it runs, and of one that was taken over.
        gpu_hours: what all trials together had run by then.
        reason: why it failed.
        taken_over: it was no part of this search.
    """

    number: int
    state: str
    value: float | None
    curve: Mapping[int, float]
    recipe: Recipe | None
    hours: float = 0.0
    ended: float | None = None
    gpu_hours: float | None = None
    reason: str | None = None
    taken_over: bool = False

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields that mean something in its recipe."""
        return {} if self.recipe is None else used_fields(self.recipe)


@dataclass(frozen=True)
class Results:
    """A search as a report tells it.

    Attributes:
        snapshot: budget, places and workers.
        space: what is searched.
        settings: what the study was begun with.
        outcomes: by number of the trial.
        winner: the best trial, which counts; None before the first is complete.
        default: the trial of the default recipe, if it is complete.
        strangers: numbers of trials that were told or added from outside, which are no outcomes.
        repeats: runs that were broken off and begun again.
        test_uses: how often the held-out images were looked at.
        begun: start of the first trial, in UTC; None before that.
    """

    snapshot: Snapshot
    space: Space
    settings: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    winner: FrozenTrial | None
    default: FrozenTrial | None
    strangers: Sequence[int]
    repeats: int
    test_uses: int
    begun: datetime | None

    @property
    def complete(self) -> list[Outcome]:
        """The complete trials."""
        return [outcome for outcome in self.outcomes if outcome.state == "complete"]


def read_results(file: StudyFile, url: str, opened: OpenStudy, now: datetime) -> Results:
    """Look at a study once.

    Args:
        file: of the study.
        url: of its storage.
        opened: the study.
        now: with a zone; a trial that runs has run until then.

    Raises:
        HpoError: it was deleted.
        RecipeError: it names functions of one's own that are not here.
    """
    snapshot = take_snapshot(file, url, opened)
    trials = opened.study.get_trials(deepcopy=False)
    attributes, space = opened.study.user_attrs, space_of(opened.study, file.space.extensions)
    placed = [(place, trials[place.trial]) for place in snapshot.places if place.trial is not None]
    begun = min((trial.datetime_start.astimezone(UTC) for _, trial in placed if trial.datetime_start), default=None)
    ends = [_hours_between(begun, _end_of(place, trial, now)) for place, trial in placed]
    gpu_hours = hours_by(ends, [place.seconds / SECONDS_AN_HOUR for place, _ in placed])
    found = {
        trial.number: _outcome_of(trial, space, place, ended, by_then)
        for (place, trial), ended, by_then in zip(placed, ends, gpu_hours, strict=True)
    }
    for trial in trials:
        if trial.number not in found and trial.state in OF_OTHERS:
            found[trial.number] = _outcome_of(trial, space)
    return Results(
        snapshot,
        space,
        attributes[SETTINGS_KEY],
        [outcome for _, outcome in sorted(found.items()) if outcome],
        trials[snapshot.best.number] if snapshot.best else None,
        find_default(trials, space),
        [number for number, outcome in sorted(found.items()) if outcome is None],
        sum(REPEATS_KEY in trial.user_attrs for trial in trials),
        sum(key.startswith(TEST_USE_KEY) for key in attributes),
        begun,
    )


def _outcome_of(
    trial: FrozenTrial, space: Space, place: PlaceRow | None = None, ended: float = 0.0, gpu_hours: float = 0.0
) -> Outcome | None:
    """What a trial has come to, in its place where it has one; None for a result without a training of this study."""
    try:
        recipe = suggest(FixedTrial(trial.params), space)
    except ValueError:  # it has not been asked for all fields yet, or was told from outside
        recipe = None
    complete = trial.state is TrialState.COMPLETE
    curve = {epoch: f1 for epoch, f1 in trial.intermediate_values.items() if math.isfinite(f1)}  # ours all are
    if (complete and not counts(trial, space)) or (trial.state is TrialState.PRUNED and recipe is None):
        return None
    value = trial.value if complete else max(curve.values(), default=None)
    if place is None:
        return Outcome(trial.number, OF_OTHERS[trial.state], value, curve, recipe, taken_over=True)
    over = place.state in ("complete", "pruned", "failed")
    return Outcome(
        trial.number,
        place.state,
        value,
        curve,
        recipe,
        place.seconds / SECONDS_AN_HOUR,
        ended if over else None,
        gpu_hours if over else None,
        place.reason if place.state == "failed" else None,
    )


def _end_of(place: PlaceRow, trial: FrozenTrial, now: datetime) -> datetime:
    """When a place had run for all of its time so far."""
    end = trial.datetime_complete
    return now if place.state == "running" or end is None else end.astimezone(UTC)


def _hours_between(begun: datetime | None, end: datetime) -> float:
    return (end - begun).total_seconds() / SECONDS_AN_HOUR if begun else 0.0


def hours_by(ends: Sequence[float], hours: Sequence[float]) -> list[float]:
    """What several trials together had run by the end of each.

    Args:
        ends: of the trials, in hours on one clock.
        hours: that each has run, without a pause before its end.

    Returns:
        hours, one for each end; the last end has the sum of all.
    """
    if not ends:
        return []
    starts = np.subtract(ends, hours)
    times = np.concatenate([starts, ends])
    order = np.argsort(times, kind="stable")
    running = np.cumsum(np.repeat([1, -1], len(ends))[order])
    total = np.concatenate([[0.0], np.cumsum(running[:-1] * np.diff(times[order]))])
    by = np.interp(ends, times[order], total)
    return [float(each) for each in by]


def best_so_far(outcomes: Iterable[Outcome], clock: str) -> list[tuple[float, float, int]]:
    """Each time that the best changed: when, the new best macro-F1, the number of its trial.

    Args:
        outcomes: in any order; only complete ones count. Those that were taken over count from the start.
        clock: `ended` or `gpu_hours`.
    """
    found = list[tuple[float, float, int]]()
    complete = [outcome for outcome in outcomes if outcome.state == "complete" and outcome.value is not None]
    for outcome in sorted(complete, key=lambda each: (getattr(each, clock) or 0.0, each.number)):
        if outcome.value is not None and (not found or outcome.value > found[-1][1]):
            found.append((getattr(outcome, clock) or 0.0, outcome.value, outcome.number))
    return found


@dataclass(frozen=True)
class Spread:
    """How values are spread: how many, and their quartiles, of which 0 is the lowest and 4 the highest."""

    count: int
    quartiles: tuple[float, float, float, float, float]

    @property
    def median(self) -> float:
        """Half of the values are at most this."""
        return self.quartiles[2]


def spread(values: Sequence[float]) -> Spread:
    """How these values, at least one, are spread."""
    low, first, median, third, high = (float(each) for each in np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
    return Spread(len(values), (low, first, median, third, high))


def by_value(outcomes: Iterable[Outcome], name: str) -> dict[Any, list[Outcome]]:
    """The complete and pruned trials by their value of a field, those whose recipe uses it; the best median first.

    The median is that of the complete ones: the macro-F1 of a pruned trial is that of a shorter training.
    """
    found: dict[Any, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state in ("complete", "pruned") and outcome.value is not None and name in outcome.fields:
            found.setdefault(outcome.fields[name], []).append(outcome)

    def rank(item: tuple[Any, list[Outcome]]) -> tuple[float, str]:
        values = complete_values(item[1])
        return (-spread(values).median if values else math.inf, str(item[0]))

    return dict(sorted(found.items(), key=rank))


def complete_values(outcomes: Iterable[Outcome]) -> list[float]:
    """Macro-F1 of the complete trials."""
    return [outcome.value for outcome in outcomes if outcome.state == "complete" and outcome.value is not None]


def searched_choices(space: Space) -> list[str]:
    """The fields of which a list was searched."""
    return [name for name, entry in space.fields.items() if isinstance(entry, Choice) and len(entry.values) > 1]


def importances(outcomes: Iterable[Outcome], trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """How much each searched field has to do with being among the best, as shares of 1, the largest first.

    By PED-ANOVA (Watanabe et al., IJCAI 2023), which also rates fields that only some recipes use. The best are the
    best tenth of the complete trials, and at least five.

    Args:
        outcomes: of which the complete ones are compared; empty where these are fewer than `FEWEST_TRIALS`.
        trials: all of the study, by number.
    """
    complete = [trials[outcome.number] for outcome in outcomes if outcome.state == "complete"]
    if len(complete) < FEWEST_TRIALS or not any(trial.params for trial in complete):
        return {}
    # A study of its own: what was told from outside is no evidence.
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        create_trial(params=trial.params, distributions=trial.distributions, value=trial.value) for trial in complete
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, TOP_TRIALS / len(complete)))
    if len({trial.value for trial in complete}) == 1:  # equally good: nothing made a difference
        return {}
    return get_param_importances(study, evaluator=evaluator)


def saved_hours(outcome: Outcome) -> float:
    """What pruning has saved: the epochs that a trial was not trained, at the time that each of its epochs took."""
    done = max(outcome.curve, default=0)
    if outcome.state != "pruned" or outcome.recipe is None or not done:
        return 0.0
    return outcome.hours * (outcome.recipe.epochs - done) / done


def hours_by_state(places: Sequence[PlaceRow]) -> dict[str, float]:
    """GPU hours by the state of the trials, of those states that there are; they add up to what the budget has used."""
    return {
        state: sum(place.seconds for place in places if place.state == state) / SECONDS_AN_HOUR
        for state in STATES
        if any(place.state == state for place in places)
    }


@dataclass(frozen=True)
class Times:
    """What the trials of one backbone have taken: hours, and the epochs that they have trained in them."""

    hours: float
    epochs: int

    @property
    def epoch_seconds(self) -> float:
        """Seconds of an epoch, with all that belongs to a trial."""
        return self.hours * SECONDS_AN_HOUR / self.epochs


def backbone_times(outcomes: Iterable[Outcome]) -> dict[str, Times]:
    """The times of each backbone, the longest first; "not known" where a trial had none yet."""
    found: dict[str, Times] = {}
    for outcome in outcomes:
        if not outcome.taken_over:
            name = outcome.recipe.backbone if outcome.recipe else "not known"
            times = found.get(name, Times(0.0, 0))
            found[name] = Times(times.hours + outcome.hours, times.epochs + max(outcome.curve, default=0))
    return dict(sorted(found.items(), key=lambda item: -item[1].hours))


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one reason: the reason of the first, and their numbers."""

    reason: str
    trials: Sequence[int]


def failures(outcomes: Iterable[Outcome]) -> list[Failure]:
    """The failed trials by reason, the most frequent first; reasons that differ in numbers alone are one."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.state == "failed":
            found.setdefault(re.sub(r"\d+", "#", outcome.reason or ""), []).append(outcome)
    grouped = [
        Failure(same[0].reason or "no reason was kept", [each.number for each in same]) for same in found.values()
    ]
    return sorted(grouped, key=lambda failure: -len(failure.trials))


def standard_error(of_classes: Mapping[str, Mapping[str, float]]) -> float:
    """How far a macro-F1 may be off by the choice of the images alone: the standard error of the macro recall.

    Both average over the classes, so that a class of few images makes both uncertain; that of the recall is known:
    sqrt(sum over the classes of r (1 - r) / n) / classes, with r smoothed by (right + 1) / (n + 2).

    Args:
        of_classes: class -> metrics with `recall` and `images`, as `trainer.metrics.summary` has them.
    """
    images: NDArray[np.float64] = np.array([metrics["images"] for metrics in of_classes.values()], dtype=float)
    recall: NDArray[np.float64] = np.array([metrics["recall"] for metrics in of_classes.values()], dtype=float)
    there = images > 0
    images, recall = images[there], recall[there]
    if not len(images):
        return 0.0
    smoothed = (recall * images + 1) / (images + 2)
    return float(np.sqrt((smoothed * (1 - smoothed) / images).sum()) / len(images))
