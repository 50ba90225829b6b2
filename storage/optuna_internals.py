"""Every use of private members of Optuna, which it may rename in any release.

`tests/unit/test_optuna_internals.py` fails with the first release that moves or changes one of them. Two classes
override private methods of Optuna's own classes, and have to name these themselves: `StudyStorage` in
`storage/optuna_storage.py`, `BracketPruner` in `hpo/study/pruners.py`. The same test holds those names.
"""

# ruff: noqa: SLF001 - this module is here for it

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from alembic.script import ScriptDirectory

if TYPE_CHECKING:
    from collections.abc import Callable

    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


def trial_id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The number of a trial in the whole database; `trial.number` counts within one study."""
    return trial._trial_id


def set_trial_id(trial: FrozenTrial, trial_id: int) -> None:
    """Give a trial that was just written to the database its number in the whole database."""
    trial._trial_id = trial_id


def forget_cached_trials(study: optuna.Study) -> None:
    """Have the sampler of a study read all trials again at its next question, as `Study.ask` does for each trial."""
    study._thread_local.cached_all_trials = None


def fixed_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What `Study.enqueue_trial` was given for a trial that waits."""
    return dict(trial.system_attrs.get("fixed_params", {}))


def given_parameters(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial is to be trained by, as far as that is known: what it was given in the queue, and what was drawn."""
    return {**fixed_parameters(trial), **trial.params}


@cache
def newest_tables() -> str | None:
    """The version of the tables that this Optuna makes; its storage reads all migrations each time that it is asked."""
    return ScriptDirectory(str(files("optuna.storages._rdb") / "alembic")).get_current_head()


def cache_of(study: optuna.Study) -> BaseStorage:
    """The storage of a study with Optuna's cache around it, which knows the distributions that were written last."""
    return study._storage


def share_cached_trials(study: optuna.Study, copy: optuna.Study) -> None:
    """Let a copy of a study use the trials that the study has read in this thread."""
    copy._thread_local = study._thread_local


def latest_trials(study: optuna.Study) -> dict[int, FrozenTrial]:
    """All trials of a study by number, with what the database holds of the unfinished ones now.

    `Study.get_trials` sorts and copies all of them at each call; this is the dictionary that Optuna's cache keeps, and
    nobody is to change it. The study's storage must be one with a database, around which Optuna puts its cache.
    """
    cache: Any = study._storage
    cache._read_trials_from_remote_storage(study._study_id)
    trials: dict[int, FrozenTrial] = cache._studies[study._study_id].trials
    return trials


class StudyView:
    """A study as Optuna's pruners for one bracket see it, with only some of its trials.

    Args:
        study: whose direction and storage it has. The pruner marks in the storage which rungs a trial has reached.
        trials: called for the trials that the study is to show, when the pruner asks for them.
    """

    def __init__(self, study: optuna.Study, trials: Callable[[], list[FrozenTrial]]) -> None:
        self.direction, self._storage, self._trials = study.direction, study._storage, trials

    def get_trials(self, *, deepcopy: bool) -> list[FrozenTrial]:
        """The trials that it shows, which are not copied: nobody is to change them."""
        assert not deepcopy
        return self._trials()
