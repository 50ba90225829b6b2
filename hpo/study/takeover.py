"""`hpo init --from`: a study takes over what still fits of an old one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from hpo.errors import HpoError
from hpo.study.earlier import refuse_unknown
from hpo.study.images import with_kept_ranges
from hpo.study.interruptions import successors_of
from hpo.study.metric_settings import refuse_undefined
from hpo.study.model_limits import ModelCheck, ModelLimits
from hpo.study.open_study import begin_study, find_study, give_id, only_waits
from hpo.study.settings import check_settings, differences, listed, space_of
from storage.artifacts.artifacts import copy_file
from storage.database import connect, initialize, one_at_a_time
from storage.keys import (
    CHECKPOINT_KEY,
    CONTROL_KEY,
    DEFAULT_KEY,
    FIRST_RUN_KEY,
    ORIGIN_KEY,
    PICTURES,
    QUEUED_KEY,
    REPEATS_KEY,
    SAME_RECIPE_KEY,
    SETTINGS_KEY,
    SPEED_KEY,
    TAKEN_OVER_KEY,
    TEST_USE_KEY,
    WAY_KEY,
    WEIGHTS_NAME,
)
from trainer.errors import RecipeError
from trainer.recipe import nearest, used_fields
from trainer.space import misfits, suggest
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from trainer.data import Data
    from trainer.recipe import Recipe

NOT_TAKEN_OVER = (
    CHECKPOINT_KEY,
    CONTROL_KEY,
    REPEATS_KEY,
    FIRST_RUN_KEY,
    DEFAULT_KEY,
    QUEUED_KEY,
    WAY_KEY,
)  # user attributes that hold for the old study only
UNKNOWN = "no known recipe"


@dataclass(frozen=True)
class Fit:
    """Which trials of an old study fit the space of a new one.

    Attributes:
        finished: how many have come to a result.
        fitting: those that fit, each with its recipe, by number.
        reasons: the fields that keep the others from it, each with a number of trials; one may have several reasons.
    """

    finished: int
    fitting: Sequence[tuple[FrozenTrial, Recipe]]
    reasons: Counter[str]


@dataclass(frozen=True)
class TakenOver:
    """What was taken over.

    Attributes:
        old: name of the old study.
        fit: which of its trials fit.
        weightless: how many complete ones should have brought weights, which the store does not hold.
        begun: what else was queued and learned where the new study was begun now, as `create_study` says it.
    """

    old: str
    fit: Fit
    weightless: int
    begun: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The lines that `hpo init` prints."""
        finished, others = self.fit.finished, self.fit.finished - len(self.fit.fitting)
        fit = "still fits and was" if finished - others == 1 else "still fit and were"
        line = f'{finished - others} of {counted(finished, "finished trial")} of "{self.old}" {fit} taken over'
        if others:
            line += "; " + ("1 does not: " if others == 1 else f"{others} do not: ")
            line += ", ".join(f"{name} ({count})" for name, count in self.fit.reasons.most_common())
        if not self.weightless:
            return [line, *self.begun]
        came = counted(self.weightless, "of them came without its weights", "of them came without their weights")
        return [line, f"{came}, which this store does not hold", *self.begun]


def take_over(study_file: StudyFile, url: str, data: Data, old_name: str) -> TakenOver:
    """Make the study of a study file, where it is not there yet, and give it the trials of an old one that fit.

    Safe to repeat, and safe in parallel: what is there is not added again, what the old study has finished since is.
    The trials take no places in the budget.

    Args:
        study_file: of the new study.
        url: of the storage of both.
        data: the images.
        old_name: of the old study.

    Raises:
        StorageError: the database or the artifact store cannot be used.
        HpoError: there is no such old study, or its scores cannot be compared with those of the new one; or the metric
            is not defined for the images; or the new one has begun without it, or with other settings.
    """
    refuse_undefined(study_file.metric, data, study_file.path)
    initialize(url)
    old = _load_old(study_file, url, data, old_name)
    with one_at_a_time(url):
        new = _prepare(study_file, url, data, old)
    fit, begun = _fit(old, study_file, len(data.index.classes)), list[str]()
    artifacts, weightless = _copy_files(old, new, fit, study_file.keep_weights)
    with one_at_a_time(url):
        there = _origins(new)
        for trial, recipe in fit.fitting:
            if trial.number not in there:
                new.study.add_trial(_renewed(trial, recipe, study_file, old_name, artifacts.get(trial.number, {})))
        for key, value in old.study.user_attrs.items():  # the test images and the models are the same
            if key.startswith((TEST_USE_KEY, SPEED_KEY)):
                new.study.set_user_attr(key, value)
        if SETTINGS_KEY not in new.study.user_attrs:
            data = with_kept_ranges(data, old.study)  # whose scores it goes on with
            begun = begin_study(new.study, study_file, data)
    return TakenOver(old_name, fit, weightless, begun)


def _load_old(study_file: StudyFile, url: str, data: Data, name: str) -> OpenStudy:
    """The study to take over from, whose scores can be compared with those of the new one."""
    if name == study_file.name:
        raise HpoError(f'study: "{name}" cannot take over from itself; give the new study another name in [study] name')
    names = optuna.get_all_study_names(connect(url))
    if name not in names:
        raise HpoError(
            f'study: "{name}" is not in this storage{nearest(name, names)}; `hpo list {study_file.path.name}` shows'
            " what is"
        )
    old = find_study(replace(study_file, name=name), url)
    if SETTINGS_KEY not in old.study.user_attrs:
        raise HpoError(f'study: "{name}" was not created by hpo, or not to the end: nothing can be taken over from it')
    changed = differences(old.study, study_file, data)
    for table in ("recipe", "limits"):  # only what fits of it is taken over
        changed.pop(table, None)
    if changed:
        raise HpoError(
            f'study: the scores of "{name}" cannot be compared with those of "{study_file.name}"; put back what has'
            f" changed, or begin without --from:{listed(changed)}"
        )
    return old


def _prepare(study_file: StudyFile, url: str, data: Data, old: OpenStudy) -> OpenStudy:
    """The new study, not begun yet unless it was taken over before, marked with where it comes from."""
    source = {"study": old.study.study_name, "id": old.owner, "recipe": study_file.space.as_dict()}
    storage = connect(url)
    refuse_unknown(study_file, storage)
    study = optuna.create_study(study_name=study_file.name, storage=storage, direction="maximize", load_if_exists=True)
    attributes = study.user_attrs
    if SETTINGS_KEY in attributes:
        check_settings(study, study_file, data)
    if TAKEN_OVER_KEY not in attributes and only_waits(study):
        study.set_user_attr(TAKEN_OVER_KEY, source)
    elif attributes.get(TAKEN_OVER_KEY) != source:
        raise HpoError(
            f'study: "{study_file.name}" has begun otherwise than from "{old.study.study_name}" with this [recipe];'
            " give the new study another name in [study] name"
        )
    give_id(study)
    return find_study(study_file, url)


def _fit(old: OpenStudy, study_file: StudyFile, classes: int) -> Fit:
    """Find the finished trials whose recipe the new space could suggest, with a model within the new limits."""
    models = ModelCheck(study_file.model_limits, study_file.space, classes, partial(_slowest, old))
    try:
        space = space_of(old.study, study_file.space.extensions)
    except RecipeError as error:
        raise HpoError(
            f'study: the recipes of "{old.study.study_name}" name functions that are not here: {error}; use the script'
            " that knows them"
        ) from None
    fitting, reasons, finished = [], Counter[str](), 0
    trials = old.study.get_trials(deepcopy=False)
    later = successors_of(trials)
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or trial.number in later:
            continue
        if trial.state is TrialState.PRUNED and not trial.intermediate_values:
            continue  # nothing to learn from
        if SAME_RECIPE_KEY in trial.user_attrs:
            continue  # the trial whose result it was given comes along
        finished += 1
        try:
            recipe = suggest(FixedTrial(trial.params), space)
        except ValueError:  # told from outside, with other parameters or none
            reasons[UNKNOWN] += 1
            continue
        if fields := misfits(recipe, study_file.space):
            reasons.update(fields)
        elif study_file.model_limits != ModelLimits() and models.excess(asdict(recipe)):
            reasons["limits"] += 1
        else:
            fitting.append((trial, recipe))
    return Fit(finished, fitting, reasons)


def _slowest(old: OpenStudy, recipe: Recipe) -> float:
    """Milliseconds an image on the slowest device on which the old study has measured a model; endless if on none."""
    speeds = [
        speed["milliseconds"]
        for key, speed in old.study.user_attrs.items()
        if key.startswith(SPEED_KEY)
        and (speed["backbone"], speed["image_size"]) == (recipe.backbone, recipe.image_size)
    ]
    return max(speeds, default=math.inf)


def _copy_files(old: OpenStudy, new: OpenStudy, fit: Fit, keep: int) -> tuple[dict[int, dict[str, str]], int]:
    """Copy the files of the trials that are to be added: the pictures of all, the weights of the best complete ones.

    Files that people have uploaded to a trial stay with the old study. A copy that exists already is not made again.

    Returns:
        by number of the old trial the system attributes that name the copies; how many trials name weights that the
        store does not hold.
    """
    fitting, there = {trial.number for trial, _ in fit.fitting}, _origins(new)
    named = [kept for kept in old.rows.kept_files() if kept.number in fitting]
    best = [kept for kept in named if kept.state is TrialState.COMPLETE and kept.name == WEIGHTS_NAME][:keep]
    wanted = [*best, *(kept for kept in named if kept.name in PICTURES)]
    held = {file.artifact_id for file in new.artifacts.files(f"{new.owner}-")}
    copies, weightless = defaultdict[int, dict[str, str]](dict), 0
    with TemporaryDirectory(prefix="hpo-") as folder:
        path = Path(folder) / "file"
        for kept in wanted:
            if kept.number not in there:
                names = copy_file(new.artifacts, kept, new.owner, path, held)
                copies[kept.number].update(names)
                weightless += kept.name == WEIGHTS_NAME and not names
    return copies, weightless


def _origins(new: OpenStudy) -> set[int | None]:
    """The numbers that the trials which were taken over had in the old study."""
    return {trial.user_attrs.get(ORIGIN_KEY, {}).get("trial") for trial in new.study.get_trials(deepcopy=False)}


def _renewed(
    trial: FrozenTrial, recipe: Recipe, study_file: StudyFile, old_name: str, artifacts: dict[str, str]
) -> FrozenTrial:
    """A trial of the old study as a trial of the new one, with the parameters that the new space would have suggested.

    Of its system attributes only the names of its files come along: the others are notes of samplers and pruners
    on the old study. (Hyperband's brackets depend on a study's name and a trial's number.)
    """
    fixed = FixedTrial(asdict(recipe))
    suggest(fixed, study_file.space)
    user_attrs = {key: value for key, value in trial.user_attrs.items() if key not in NOT_TAKEN_OVER}
    user_attrs[ORIGIN_KEY] = {"study": old_name, "trial": trial.number}
    if used_fields(recipe) == used_fields(suggest(FixedTrial(study_file.space.default_parameters()), study_file.space)):
        user_attrs[DEFAULT_KEY] = True
    return FrozenTrial(
        number=-1,  # the storage gives it one
        trial_id=-1,
        state=trial.state,
        value=trial.value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=fixed.params,
        distributions=fixed.distributions,
        user_attrs=user_attrs,
        system_attrs=artifacts,
        intermediate_values=trial.intermediate_values,
    )
