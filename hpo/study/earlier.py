"""What earlier studies of the storage have found, for one that learns from them: `[study] learn_from`.

It is read once, when the study is made, and kept with it: all workers know the same, whatever becomes of those studies.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from hpo.errors import HpoError
from hpo.study.interruptions import successors_of
from hpo.study.metric_settings import metric_of_study
from hpo.study.model_limits import check_of
from hpo.study.queued import queue_new, trials_of
from hpo.study.settings import space_of
from hpo.study.transfer import shares_below
from storage.keys import BEST_EPOCH_KEY, CONFIRMATION_KEY, EARLIER_KEY, SAME_RECIPE_KEY, SETTINGS_KEY
from storage.optuna_internals import cache_of
from trainer.enumeration import digest_of
from trainer.errors import RecipeError
from trainer.objective_metric import MACRO_F1, metric_of
from trainer.rules import nearest
from trainer.space import nearest_parameters, suggest
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from optuna.storages import BaseStorage

    from hpo.study.study_file import StudyFile
    from trainer.extensions import Extensions
    from trainer.recipe import Recipe
    from trainer.space import Space

EVERY = "all"  # in place of a list of names: every study of the storage
MOST_STUDIES = 20  # of these: the last ones that were made
MOST_RESULTS = 200  # that are kept of all studies together: half of them the best ones, the others over all ranks
TRIED_FIRST = 5  # of earlier studies, which are tried first; fewer where that is more than a quarter of the trials


@dataclass(frozen=True)
class Result:
    """What an earlier study has found of a recipe.

    Attributes:
        trial: its number there.
        score: the highest of its epochs.
        rank: of that among all recipes of that study which fit, in [0, 1], 1 for the best.
        complete: whether it was trained to its end.
        params: the parameters of the recipe in this study's space.
    """

    trial: int
    score: float
    rank: float
    complete: bool
    params: dict[str, Any]


@dataclass(frozen=True)
class EarlierStudy:
    """What an earlier study has found of recipes that fit the space of this study.

    Attributes:
        name: of the study.
        finished: how many of its recipes had come to a result.
        fitting: how many of these fit.
        misfits: the fields that keep the others from it, each with a number of recipes; one may have several.
        results: of those that fit, the best first, at most so many as are to be kept.
        first: numbers of its trials whose recipes this study tries first.
        metric: name of that which gives its scores.
    """

    name: str
    finished: int
    fitting: int
    misfits: dict[str, int]
    results: list[Result]
    first: list[int] = field(default_factory=list)
    metric: str = MACRO_F1.name

    def line(self) -> str:
        """What came from it, as search, status and report say it."""
        line = f'from the earlier study "{self.name}": {self.fitting} of {counted(self.finished, "recipe")} fit'
        if self.misfits:
            fields = sorted(self.misfits.items(), key=lambda each: -each[1])
            line += f" (not in the search space: {', '.join(f'{name} of {count}' for name, count in fields)})"
        if self.first:
            trials = "that of its trial" if len(self.first) == 1 else "those of its trials"
            line += f", tried first: {trials} {', '.join(map(str, self.first))}"
        return line

    def queued_by(self, result: Result) -> str:
        """Who has queued the recipe of one of its results."""
        value = metric_of(self.metric).text(result.score)
        return f'[study] learn_from, after trial {result.trial} of "{self.name}" ({value})'


def refuse_unknown(study_file: StudyFile, storage: BaseStorage) -> None:
    """Raise HpoError where a study file names an earlier study that is not in the storage, nor was read before."""
    wanted = study_file.learn_from
    if wanted == EVERY or not wanted:
        return
    studies = {study.study_name: study for study in storage.get_all_studies()}
    here = studies.get(study_file.name)
    known = {each["name"] for each in here.system_attrs.get(EARLIER_KEY, {}).get("studies", [])} if here else set()
    problems = []
    for name in wanted:
        if name not in studies and name not in known:
            others = studies.keys() - {study_file.name}
            problems.append(
                f'study.learn_from: "{name}" is not in this storage{nearest(name, others)}; `hpo list'
                f" {study_file.path.name}` shows what is"
            )
        elif name in studies and SETTINGS_KEY not in studies[name].user_attrs:
            problems.append(f'study.learn_from: "{name}" was not created by hpo, or not to the end: it teaches nothing')
    if problems:
        raise HpoError("\n".join(f"{study_file.path.name}: {problem}" for problem in problems))


def learn(study: optuna.Study, study_file: StudyFile, classes: int) -> list[str]:
    """Read the earlier studies that a study file names and that were not read yet, and queue their best recipes.

    To be called by one process at a time. A study without a result is read again the next time; of `EVERY` study those
    are read that the storage holds at the first time.

    Args:
        study: that learns.
        study_file: of the study.
        classes: of its images.

    Returns:
        a line for each study that was read now or has no result yet, and one where the sampler does not learn from it.
    """
    if not study_file.learn_from:
        return []
    storage = cache_of(study)
    study_id = storage.get_study_id_from_name(study.study_name)
    kept = storage.get_study_system_attrs(study_id).get(EARLIER_KEY, {"all": False, "studies": []})
    known = [_from_json(each) for each in kept["studies"]]
    new: list[EarlierStudy] = []
    if not (kept["all"] and study_file.learn_from == EVERY):
        new = _read(study_file, storage, {each.name for each in known} | {study.study_name})
        _choose_first(new, study, study_file, classes)
    if new:
        every = kept["all"] or study_file.learn_from == EVERY
        written = {"all": every, "studies": [asdict(each) for each in (*known, *new)]}
        storage.set_study_system_attr(study_id, EARLIER_KEY, written)
    for each in (*known, *new):
        queue_new(study, _first_recipes(each, study_file.space), study_file.space)
    lines = [each.line() for each in new] + _without_result(study_file, {each.name for each in (*known, *new)})
    if new and study_file.sampler != "forest":
        lines.append(f'sampler = "{study_file.sampler}" takes no more from them; "forest" learns from all that fit')
    return lines


def _without_result(study_file: StudyFile, read: set[str]) -> list[str]:
    """A line for each earlier study that a study file names and that was not read, as it has no result yet."""
    later = "yet; it is read at the next `hpo search` that finds one"
    if study_file.learn_from == EVERY:
        return [] if read else [f'learn_from = "all": no other study of this storage has a result {later}']
    return [f'from the earlier study "{name}": no result {later}' for name in study_file.learn_from if name not in read]


def earlier_studies(study_file: StudyFile, storage: BaseStorage, study_id: int) -> list[EarlierStudy]:
    """What was read of the earlier studies that a study file names by now; nothing of those that it names no more."""
    wanted = study_file.learn_from
    if not wanted:
        return []
    kept = storage.get_study_system_attrs(study_id).get(EARLIER_KEY, {}).get("studies", [])
    return [_from_json(each) for each in kept if wanted == EVERY or each["name"] in wanted]


def _from_json(kept: dict[str, Any]) -> EarlierStudy:
    # Studies keep for months what earlier versions have written, which called a score by the only metric there was.
    results = [{"score" if key == "macro_f1" else key: it for key, it in each.items()} for each in kept["results"]]
    return EarlierStudy(**{**kept, "results": [Result(**result) for result in results]})


def _read(study_file: StudyFile, storage: BaseStorage, known: set[str]) -> list[EarlierStudy]:
    """The earlier studies with results that are not known yet."""
    every = study_file.learn_from == EVERY
    made = {
        study.study_name: study.user_attrs[SETTINGS_KEY]
        for study in storage.get_all_studies()
        if SETTINGS_KEY in study.user_attrs and CONFIRMATION_KEY not in study.user_attrs
    }
    if every:  # but those of `hpo nested`: what the search of one fold has seen, another study may hold out
        names = [name for name in made.keys() - known if not made[name].get("data", {}).get("test_fold")]
        names = sorted(names, key=storage.get_study_id_from_name, reverse=True)[:MOST_STUDIES]
    else:
        names = [name for name in study_file.learn_from if name in made.keys() - known]
    found = []
    for name in names:
        try:
            old = optuna.load_study(study_name=name, storage=storage)
            results = list(_results(old, study_file.space.extensions))
        except (KeyError, RecipeError) as error:
            if every:  # it was deleted just now, or names functions that are not here
                continue
            raise HpoError(f'study.learn_from: "{name}" cannot be read: {error}') from None
        if results:
            fit = _fit(name, results, study_file.space, MOST_RESULTS // len(names))
            found.append(replace(fit, metric=metric_of_study(old.user_attrs).name))
    return found


def _results(old: optuna.Study, extensions: Extensions) -> Iterator[tuple[FrozenTrial, Recipe, float]]:
    """The trials of a study with a result that hpo has trained, with their recipes and highest scores."""
    space, trials = space_of(old, extensions), old.get_trials(deepcopy=False)
    later = successors_of(trials)
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or trial.number in later:
            continue
        if BEST_EPOCH_KEY not in trial.user_attrs or SAME_RECIPE_KEY in trial.user_attrs:
            continue
        scores = [score for score in trial.intermediate_values.values() if np.isfinite(score)]
        try:
            recipe = suggest(FixedTrial(trial.params), space)
        except ValueError:  # told from outside, with other parameters
            continue
        if scores:
            yield trial, recipe, max(scores)


def _fit(name: str, results: Sequence[tuple[FrozenTrial, Recipe, float]], space: Space, most: int) -> EarlierStudy:
    """What the results of a study say of recipes of this space; of equal recipes the best one."""
    misfits, fitting = Counter[str](), dict[str, tuple[FrozenTrial, dict[str, Any], float]]()
    count = 0
    for trial, recipe, score in sorted(results, key=lambda each: (-each[2], each[0].number)):
        params, missing = nearest_parameters(recipe, space)
        misfits.update(missing)
        if not missing:
            count += 1
            fitting.setdefault(digest_of(params, space), (trial, params, score))
    ranks = shares_below(np.array([score for *_, score in fitting.values()]))
    found = [
        Result(trial.number, score, float(rank), trial.state is TrialState.COMPLETE, params)
        for (trial, params, score), rank in zip(fitting.values(), ranks, strict=True)
    ]
    if len(found) > most:
        best, others = found[: most // 2], found[most // 2 :]
        evenly = np.linspace(0, len(others) - 1, most - len(best)).round().astype(int)
        found = [*best, *(others[at] for at in evenly)]
    return EarlierStudy(name, len(results), count, dict(misfits), found)


def _choose_first(studies: Sequence[EarlierStudy], study: optuna.Study, study_file: StudyFile, classes: int) -> None:
    """Note whose recipes are tried first: the best of each study in turn that were trained to their end."""
    space, trials = study_file.space, study_file.limits.trials
    most = TRIED_FIRST if trials is None else min(TRIED_FIRST, max(1, trials // 4))
    ranked = [[(each, result) for result in each.results if result.complete] for each in studies]
    models, chosen = check_of(study_file.model_limits, space, classes), set[str]()
    for each, result in _in_turn(ranked):
        digest = digest_of(result.params, space)
        if len(chosen) == most:
            return
        if digest in chosen or trials_of(_recipe(result, space), study, space):
            continue
        if models is None or models.excess(result.params) is None:
            chosen.add(digest)
            each.first.append(result.trial)


def _in_turn(lists: Sequence[Sequence[tuple[EarlierStudy, Result]]]) -> Iterator[tuple[EarlierStudy, Result]]:
    for row in zip_longest(*lists):
        yield from (each for each in row if each)


def _first_recipes(earlier: EarlierStudy, space: Space) -> dict[Recipe, str]:
    by_trial = {result.trial: result for result in earlier.results}
    first: Iterable[Result] = (by_trial[trial] for trial in earlier.first)
    return {_recipe(result, space): earlier.queued_by(result) for result in first}


def _recipe(result: Result, space: Space) -> Recipe:
    return suggest(FixedTrial(result.params), space)
