"""The study that confirms another one: its best recipes and the default one, trained again on the same fresh folds."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import optuna

from hpo.errors import HpoError
from hpo.study.confirm_settings import ConfirmSettings
from hpo.study.fresh_folds import fold_count
from hpo.study.images import keep_ranges
from hpo.study.metric_settings import name_metric
from hpo.study.open_study import give_id, recipe_of, study_that_confirms
from hpo.study.ranking import best_of_different_recipes, best_trial
from hpo.study.settings import check_settings, settings, space_of
from hpo.study.study_name import CONFIRM_SUFFIX, NAME_LENGTH
from storage.budget import Limits, StopRules
from storage.database import one_at_a_time
from storage.keys import CONFIRMATION_KEY, CONFIRMS_KEY, DEFAULT_KEY, SETTINGS_KEY
from trainer.space import Space, parameters_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from storage.outage_retry import OutageRetry
    from trainer.data import Data
    from trainer.recipe import Recipe

SEEDS = {"low": 0, "high": 2**31 - 1}  # each fold trains with a seed of its own


@dataclass(frozen=True)
class Plan:
    """What is trained to confirm a study.

    Attributes:
        trials: numbers of the trials whose recipes are trained again.
        default: that of the default recipe among them; None where the search has none.
        repeats: on how many folds each of them is trained.
        folds: of one cross-validation; more repeats than that begin another one.
        parameters: weights and biases of each recipe's model, in the order of the trials.
        seed: by which the folds are drawn, that of the study when it was first confirmed; None, of an earlier version:
            that of the study by now.
    """

    trials: tuple[int, ...]
    default: int | None
    repeats: int
    folds: int
    parameters: tuple[int, ...]
    seed: int | None = None

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Trial and fold of each training, all recipes on one fold before any on the next."""
        return [(trial, fold) for fold in range(self.repeats) for trial in self.trials]

    @property
    def test_share(self) -> float:
        """Images to validate over images to train, in each fold."""
        return 1 / (self.folds - 1)


def plan_of(study: optuna.Study) -> Plan:
    """The plan of a study that confirms another one."""
    kept: dict[str, Any] = study.user_attrs[CONFIRMATION_KEY]
    lists: dict[str, Any] = {key: tuple(value) for key, value in kept.items() if isinstance(value, list)}
    return Plan(**{**kept, **lists})


def find_confirmation(opened: OpenStudy, outage_retry: OutageRetry | None = None) -> OpenStudy | None:
    """The study that confirms this one; None where `hpo confirm` has not begun it.

    Its study file is that of the search, with the budget and the space that the plan needs.
    """
    found = study_that_confirms(opened, outage_retry)
    if found is None or SETTINGS_KEY not in found.study.user_attrs:
        return None
    return replace(found, file=_file_for(opened, plan_of(found.study)))


def with_confirmation(opened: OpenStudy) -> list[OpenStudy]:
    """A study, and the one that confirms it where there is one: what holds for the first holds for both."""
    confirmation = find_confirmation(opened)
    return [opened] if confirmation is None else [opened, confirmation]


def begin_confirmation(
    opened: OpenStudy, data: Data, *, top: int | None = None, repeats: int | None = None
) -> OpenStudy:
    """Queue the trainings that confirm a study, as far as they are not queued yet; safe to repeat, safe in parallel.

    What an earlier call has queued stays: another one can add recipes and folds. While the search is paused, or a host,
    so is what confirms it.

    Args:
        opened: the study, which may still be searching.
        data: its images.
        top: how many of its best trials, each with another recipe; None as the study file's [confirm] says.
        repeats: on how many folds, at least 2; None as [confirm] says.

    Returns:
        the study that confirms it.

    Raises:
        HpoError: no trial is complete yet, the images cannot be divided into folds, or another study has the
            name that this one needs.
    """
    name = opened.file.name + CONFIRM_SUFFIX
    if len(name) > NAME_LENGTH:
        raise HpoError(
            f"confirm: the name of the study is too long to add {CONFIRM_SUFFIX}; the storage takes {NAME_LENGTH}"
        )
    with one_at_a_time(opened.url):
        earlier = find_confirmation(opened)
        wanted = opened.file.confirm or ConfirmSettings()
        wanted = ConfirmSettings(top or wanted.top, repeats or wanted.repeats)
        plan = _plan(opened, data, wanted, plan_of(earlier.study) if earlier else None)
        study = optuna.create_study(study_name=name, storage=opened.storage, direction="maximize", load_if_exists=True)
        if CONFIRMATION_KEY not in study.user_attrs and (SETTINGS_KEY in study.user_attrs or study.get_trials()):
            raise HpoError(f'confirm: another study is called "{name}"; give one of the two another [study] name')
        study_file = _file_for(opened, plan)
        study.set_user_attr(CONFIRMATION_KEY, asdict(plan))
        if earlier is None:
            give_id(study)
            keep_ranges(study, data)
            name_metric(study, opened.metric)
        queued = {mark_of(trial) for trial in study.get_trials(deepcopy=False)}
        for trial, fold in plan.runs:
            if (trial, fold) not in queued:
                recipe = recipe_of_fold(_recipe_of(opened, trial), fold, study_file.seed)
                mark = {"trial": trial, "fold": fold}
                study.enqueue_trial(parameters_of(recipe, study_file.space), user_attrs={CONFIRMS_KEY: mark})
        if earlier is None:
            _hand_on_pauses(opened)
            study.set_user_attr(SETTINGS_KEY, settings(study_file, data))
    confirmation = find_confirmation(opened)
    assert confirmation, "it was made above"
    check_settings(confirmation.study, confirmation.file, data)
    return confirmation


def confirmation_after_search(
    opened: OpenStudy, load: Callable[[], Data], outage_retry: OutageRetry | None = None
) -> OpenStudy | None:
    """The study whose trainings workers take that have found a search at its end; None where there is none.

    Where the study file has the table [confirm] it is begun here, on whichever machine comes first, unless the search
    was stopped, or no trial of it is complete.

    Args:
        opened: the study of the search.
        load: gives its images, where they are needed.
        outage_retry: of the worker; None does not wait for the database.
    """
    if opened.file.confirm and opened.rows.halt() != "stop" and best_trial(opened):
        begin_confirmation(opened, load())
    return find_confirmation(opened, outage_retry)


def mark_of(trial: FrozenTrial | optuna.Trial) -> tuple[int, int] | None:
    """The trial that a training confirms, and its fold; None where it confirms none."""
    mark: Mapping[str, int] | None = trial.user_attrs.get(CONFIRMS_KEY)
    return None if mark is None else (mark["trial"], mark["fold"])


def recipe_of_fold(recipe: Recipe, fold: int, seed: int) -> Recipe:
    """A recipe as it is trained on a fold: with another seed than in a search of this seed, whatever that is."""
    drawn = hashlib.sha256(f"confirm {seed} {fold}".encode()).digest()
    return replace(recipe, seed=int.from_bytes(drawn[:4], "big") >> 1)


def _hand_on_pauses(opened: OpenStudy) -> None:
    """Pause what confirms a study, or a host's part in it, where the study is paused."""
    confirmation = study_that_confirms(opened)
    assert confirmation, "it was made before"
    if opened.rows.halt() == "pause":
        confirmation.rows.begin_halt("pause")
    for host in opened.rows.paused_hosts():
        confirmation.rows.pause_host(host)


def _plan(opened: OpenStudy, data: Data, wanted: ConfirmSettings, earlier: Plan | None) -> Plan:
    from trainer.model.size import model_size

    best = best_of_different_recipes(opened, wanted.top, seeds_differ=False)
    if not best:
        raise HpoError(
            f"confirm: no trial is complete yet; `hpo status {opened.file.path.name}` shows how far the search is"
        )
    default = _default_trial(opened)
    there = [*(earlier.trials if earlier else ()), *(trial.number for trial in best)]
    recipes = {_without_seed(_recipe_of(opened, number)): number for number in reversed(there)}
    if default is not None:
        recipe = _without_seed(_recipe_of(opened, default))
        default = recipes.setdefault(recipe, default)
        there.append(default)
    trials = tuple(number for number in dict.fromkeys(there) if number in recipes.values())
    classes, extensions = len(data.index.classes), opened.file.space.extensions
    seed = opened.file.seed if earlier is None or earlier.seed is None else earlier.seed
    return Plan(
        trials,
        default,
        max(wanted.repeats, earlier.repeats if earlier else 0),
        fold_count(data, seed, opened.metric),
        tuple(model_size(_recipe_of(opened, number), classes, extensions).parameters for number in trials),
        seed,
    )


def _default_trial(opened: OpenStudy) -> int | None:
    """The number of the first trial of the default recipe, however it ended; None where it has not begun."""
    extensions = opened.file.space.extensions
    for trial in opened.study.get_trials(deepcopy=False):
        if DEFAULT_KEY in trial.user_attrs:
            try:
                recipe_of(trial, opened.study, extensions)
            except ValueError:
                continue  # it has no parameters yet
            return trial.number
    return None


def _recipe_of(opened: OpenStudy, number: int) -> Recipe:
    trial = opened.study.get_trials(deepcopy=False)[number]
    return recipe_of(trial, opened.study, opened.file.space.extensions)


def _without_seed(recipe: Recipe) -> Recipe:
    return replace(recipe, seed=0)


def _file_for(opened: OpenStudy, plan: Plan) -> StudyFile:
    """The study file of the search, with the space and the budget that the plan needs."""
    search = opened.file
    space = space_of(opened.study, search.space.extensions)
    return replace(
        search,
        name=search.name + CONFIRM_SUFFIX,
        space=Space({**space.as_dict(), "seed": SEEDS}, search.space.extensions),
        sampler="random",
        pruner="none",
        seed=search.seed if plan.seed is None else plan.seed,
        limits=Limits(len(plan.runs)),
        stop_rules=StopRules(),
        tries=(),
        learn_from=(),
        confirm=None,
    )
