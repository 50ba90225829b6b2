"""Recipes of the user's own, which wait in a study's queue: they are tried before any that the sampler proposes."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from hpo.errors import HpoError
from storage.keys import QUEUED_KEY
from storage.optuna_internals import given_parameters
from trainer.errors import RecipeError
from trainer.recipe import used_fields
from trainer.rules import show
from trainer.space import parameters_of, recipe_near_default

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import optuna
    from optuna.trial import FrozenTrial

    from trainer.recipe import Recipe
    from trainer.space import Space

STUDY_FILE = "the study file"


def queue_new(study: optuna.Study, recipes: Mapping[Recipe, str], space: Space) -> int:
    """Queue recipes that no trial of the study has, in their order; returns how many.

    To be called by one process at a time.

    Args:
        study: that is to try them.
        recipes: of its space, each with who queues it.
        space: of the study.
    """
    new = [recipe for recipe in recipes if not trials_of(recipe, study, space)]
    for recipe in new:
        study.enqueue_trial(parameters_of(recipe, space), user_attrs={QUEUED_KEY: recipes[recipe]})
    return len(new)


def queue_recipe(study: optuna.Study, recipe: Recipe, space: Space, by: str) -> tuple[FrozenTrial, bool]:
    """Queue a recipe, unless a trial has it that waits, runs or has a result; returns its trial, and whether it is new.

    To be called by one process at a time; `by` says who has queued it.
    """
    for trial in reversed(trials_of(recipe, study, space)):  # the last one goes on with those before it
        if trial.state is not TrialState.FAIL:
            return trial, False
    study.enqueue_trial(parameters_of(recipe, space), user_attrs={QUEUED_KEY: by})
    return trials_of(recipe, study, space)[-1], True


def trials_of(recipe: Recipe, study: optuna.Study, space: Space) -> list[FrozenTrial]:
    """The trials of a recipe, in any state, by number."""
    wanted = parameters_of(recipe, space).items()
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if wanted <= given_parameters(trial).items()]


def read_tries(tables: Any, space: Space, problems: list[str]) -> tuple[Recipe, ...]:
    """The recipes of a study file's tables [[try]]; what is wrong with them goes to `problems`."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append("try: is no list of tables; write [[try]] on a line of its own before each recipe")
        return ()
    numbers: dict[Recipe, int] = {}
    for number, fields in enumerate(tables, start=1):
        try:
            recipe = recipe_near_default(fields, space)
        except RecipeError as error:
            problems += [f"try {number}: {problem}" for problem in error.problems]
            continue
        if recipe in numbers:
            problems.append(f"try {number}: is the same recipe as try {numbers[recipe]}; remove one of them")
        numbers.setdefault(recipe, number)
    return tuple(numbers)


def read_own_recipe(path: Path, space: Space) -> Recipe:
    """Read a TOML file with those fields of a recipe that differ from the default one; a complete recipe will do, too.

    They may stand in a table [recipe], as the report and the notes of the dashboard show a recipe.

    Raises:
        HpoError: it cannot be read, or has mistakes; all of them are named.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
        in_table = fields.keys() == {"recipe"} and isinstance(fields["recipe"], dict)
        return recipe_near_default(fields["recipe"] if in_table else fields, space)
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8"
        raise HpoError(f"try: {path} cannot be read: {why}") from None
    except tomllib.TOMLDecodeError as error:
        raise HpoError(f"try: {path} is no TOML: {error}") from None
    except RecursionError:
        raise HpoError(f"try: {path} is nested too deeply; a recipe has a line a field") from None
    except RecipeError as error:
        raise HpoError("\n".join(f"try: {path.name}: {problem}" for problem in error.problems)) from None


def show_own(recipe: Recipe, space: Space) -> str:
    """How a recipe differs from the default one, in one line."""
    default = used_fields(recipe_near_default({}, space))
    own = {name: value for name, value in used_fields(recipe).items() if default.get(name) != value}
    return ", ".join(f"{name} = {show(value)}" for name, value in own.items()) or "the default recipe"
