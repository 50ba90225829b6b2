"""What a search has found: its trials, the winner and the default recipe, read once from the storage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from optuna.trial import FixedTrial, TrialState

from hpo.report.costs import SECONDS_AN_HOUR, total_hours_by_end
from hpo.report.outcomes import Outcome
from hpo.study.confirmed import read_confirmed
from hpo.study.interruptions import successors_of
from hpo.study.ranking import counts, find_default
from hpo.study.settings import space_of
from hpo.study.status import take_snapshot
from storage.keys import END_STATES, SAME_RECIPE_KEY, SETTINGS_KEY, TEST_SCORE_KEY, TEST_USE_KEY
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from optuna.trial import FrozenTrial

    from hpo.study.confirmed import Confirmed
    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot
    from storage.keys import EndState
    from storage.study_rows import PlaceRow
    from trainer.space import Space

# The states of trials that are results though they have no place here: they were taken over, or come from outside.
FINISHED: dict[TrialState, EndState] = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}


@dataclass(frozen=True)
class Results:
    """What a report tells of a search.

    Attributes:
        snapshot: budget, places and workers.
        space: what is searched.
        settings: what the study was begun with.
        outcomes: by number of the trial.
        winner: the trial that a confirmation has chosen, without one the best as `hpo.study.ranking` has it; None
            before the first that counts.
        default: the trial of the default recipe, if it counts by now.
        from_outside: numbers of trials that were told or added from outside, which are no outcomes.
        repeats: how many runs were broken off and gone on with.
        test_uses: how often the held-out images were looked at.
        test_scores: what these looks gave, the earliest first: `trial`, the value by the name of the metric, `images`,
            and its `interval`, None where all are of one group; that of an earlier version has its `standard_error`.
            Since it is kept: `tells_little`, whether the images are too few. Those of earlier versions are not kept.
        begun: start of the first trial, in UTC; None before that.
        confirmed: what the trainings on fresh folds say; None where there are none.
    """

    snapshot: Snapshot
    space: Space
    settings: Mapping[str, Any]
    outcomes: Sequence[Outcome]
    winner: FrozenTrial | None
    default: FrozenTrial | None
    from_outside: Sequence[int]
    repeats: int
    test_uses: int
    test_scores: Sequence[Mapping[str, Any]]
    begun: datetime | None
    confirmed: Confirmed | None = None

    @property
    def complete(self) -> list[Outcome]:
        """The complete trials."""
        return [outcome for outcome in self.outcomes if outcome.state == "complete"]


def read_results(opened: OpenStudy, now: datetime) -> Results:
    """Read what a study has found so far, once.

    Args:
        opened: the study.
        now: the time until which a running trial has run, with a time zone.

    Raises:
        HpoError: it was deleted.
        RecipeError: it names functions of one's own that are not here.
    """
    snapshot = take_snapshot(opened)
    trials = opened.study.get_trials(deepcopy=False)
    attributes, space = opened.study.user_attrs, space_of(opened.study, opened.file.space.extensions)
    times = {key.removeprefix(TEST_USE_KEY): at for key, at in attributes.items() if key.startswith(TEST_USE_KEY)}
    uses = sorted(times, key=lambda use: times[use])
    placed = [(place, trials[place.trial]) for place in snapshot.places if place.trial is not None]
    begun = min((trial.datetime_start.astimezone(UTC) for _, trial in placed if trial.datetime_start), default=None)
    ends = [_hours_between(begun, _end_of(place, trial, now)) for place, trial in placed]
    gpu_hours = total_hours_by_end(ends, [place.seconds / SECONDS_AN_HOUR for place, _ in placed])
    found = {
        trial.number: _outcome(trial, space, place, ended, by_then)
        for (place, trial), ended, by_then in zip(placed, ends, gpu_hours, strict=True)
    }
    later = successors_of(trials)
    for trial in trials:
        superfluous = trial.number in later or SAME_RECIPE_KEY in trial.user_attrs
        if trial.number not in found and trial.state in FINISHED and not superfluous:
            found[trial.number] = _outcome(trial, space)
    confirmed, best = read_confirmed(opened), snapshot.best
    won = confirmed.winner if confirmed else None
    if won is None and best:
        won = best.number
    return Results(
        snapshot=snapshot,
        space=space,
        settings=attributes[SETTINGS_KEY],
        outcomes=[outcome for _, outcome in sorted(found.items()) if outcome],
        winner=None if won is None else trials[won],
        default=find_default(trials, space),
        from_outside=[number for number, outcome in sorted(found.items()) if outcome is None],
        repeats=sum(trial.state is TrialState.FAIL and trial.number in later for trial in trials),
        test_uses=len(uses),
        test_scores=[attributes[score] for use in uses if (score := TEST_SCORE_KEY + use) in attributes],
        begun=begun,
        confirmed=confirmed,
    )


def _outcome(
    trial: FrozenTrial, space: Space, place: PlaceRow | None = None, ended: float = 0.0, gpu_hours: float = 0.0
) -> Outcome | None:
    """The result of a trial, in its place where it has one; None where it was told or added from outside."""
    try:
        recipe = suggest(FixedTrial(trial.params), space)
    except ValueError:  # it has not been asked for all fields yet, or was told from outside
        recipe = None
    complete = trial.state is TrialState.COMPLETE
    curve = {epoch: score for epoch, score in trial.intermediate_values.items() if math.isfinite(score)}  # ours all are
    if (complete and not counts(trial, space)) or (trial.state is TrialState.PRUNED and recipe is None):
        return None
    value = trial.value if complete else max(curve.values(), default=None)
    if place is None:
        return Outcome(trial.number, FINISHED[trial.state], value, curve, recipe, taken_over=True)
    over = place.state in END_STATES or place.state == "paused"
    return Outcome(
        number=trial.number,
        state=place.state,
        value=value,
        curve=curve,
        recipe=recipe,
        hours=place.seconds / SECONDS_AN_HOUR,
        ended=ended if over else None,
        gpu_hours=gpu_hours if over else None,
        reason=place.reason if place.state == "failed" else None,
    )


def _end_of(place: PlaceRow, trial: FrozenTrial, now: datetime) -> datetime:
    """When a place ended, or `now` where it has not."""
    end = trial.datetime_complete
    return now if place.state == "running" or end is None else end.astimezone(UTC)


def _hours_between(begun: datetime | None, end: datetime) -> float:
    return (end - begun).total_seconds() / SECONDS_AN_HOUR if begun else 0.0
