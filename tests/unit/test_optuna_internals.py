"""Private members of Optuna that we use: they are still there, called the same way, and do the same."""

from __future__ import annotations

import inspect

import optuna
import pytest
from optuna.pruners import HyperbandPruner, SuccessiveHalvingPruner
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState, create_trial

from hpo.study.pruners import BracketPruner
from storage.optuna_internals import (
    StudyView,
    cache_of,
    fixed_parameters,
    forget_cached_trials,
    latest_trials,
    newest_tables,
    set_trial_id,
    share_cached_trials,
    trial_id_of,
)
from storage.optuna_storage import CALLS, StudyStorage

pytestmark = pytest.mark.unit

HOOKS = {
    (RDBStorage, "_create_new_trial"): ["study_id", "template_trial"],
    (RDBStorage, "_get_trials"): ["study_id", "states", "included_trial_ids", "trial_id_greater_than"],
    (RDBStorage, "_set_trial_param"): [
        "trial_id",
        "param_name",
        "param_value_internal",
        "distribution",
        "previous_distribution",
    ],
    (RDBStorage, "_get_best_trial_id"): ["study_id", "direction"],
    (HyperbandPruner, "_get_bracket_id"): ["study", "trial"],
    (HyperbandPruner, "_create_bracket_study"): ["study", "bracket_id"],
    (HyperbandPruner, "_try_initialization"): ["study"],
}
OVERRIDING = {RDBStorage: StudyStorage, HyperbandPruner: BracketPruner}


@pytest.fixture
def study():
    """A study with a database, so that Optuna puts its cache around the storage."""
    return optuna.create_study(storage="sqlite://", direction="maximize")


@pytest.mark.parametrize(("base", "name"), HOOKS, ids=lambda value: getattr(value, "__name__", value))
def test_hooks_that_we_override_or_call_keep_their_arguments(base, name):
    """A private method of Optuna's is there, and takes the arguments that ours takes."""
    assert list(inspect.signature(getattr(base, name)).parameters)[1:] == HOOKS[base, name]
    ours = inspect.signature(getattr(OVERRIDING[base], name))
    assert list(ours.parameters)[1:] == HOOKS[base, name]


def test_no_other_private_method_is_overridden():
    """The hooks above are all private names by which our classes meet Optuna's."""
    for base, ours in OVERRIDING.items():
        functions = {name for name, value in vars(ours).items() if inspect.isfunction(value)}
        private = {name for name in functions if name.startswith("_") and not name.startswith("__")}
        met = {name for name in private if hasattr(base, name)}
        assert met <= {name for known, name in HOOKS if known is base}


def test_all_calls_that_wait_for_the_database_are_there():
    """Each method that is made to wait exists in stock Optuna; one that was renamed would no longer wait."""
    assert [name for name in CALLS if not hasattr(RDBStorage, name)] == []


def test_the_cache_asks_the_storage_by_the_hooks(study, monkeypatch):
    """Optuna's cache reads and makes trials by the hooks that we override, and by no other way."""
    asked = []
    hooks = {"_get_trials", "_create_new_trial", "_set_trial_param"}

    def noting(name, stock):
        def hook(*arguments, **named):
            asked.append(name)
            return stock(*arguments, **named)

        return hook

    for name in hooks:
        monkeypatch.setattr(RDBStorage, name, noting(name, getattr(RDBStorage, name)))
    trial = study.ask()
    trial.suggest_float("rate", 0, 1)
    study.get_trials()
    assert set(asked) == hooks


def test_a_trial_has_its_number_in_the_database(study):
    """`trial_id_of` gives the id by which the storage knows a running and a read trial."""
    optuna.create_study(storage=study._storage).ask()  # so that the id is not the number
    trial = study.ask()
    frozen = study.trials[0]
    wanted = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, trial.number)
    assert (trial_id_of(trial), trial_id_of(frozen)) == (wanted, wanted)
    assert wanted != trial.number


def test_a_written_trial_is_given_its_number():
    """`set_trial_id` changes what `trial_id_of` says."""
    trial = create_trial(state=TrialState.WAITING)
    set_trial_id(trial, 7)
    assert trial_id_of(trial) == 7


def test_a_sampler_sees_the_trials_of_one_moment_until_they_are_forgotten(study):
    """What a sampler reads stays the same until `forget_cached_trials`, as at the beginning of `Study.ask`."""
    study.ask()
    assert len(study._get_trials(deepcopy=False, use_cache=True)) == 1
    study.add_trial(create_trial(value=1.0))
    assert len(study._get_trials(deepcopy=False, use_cache=True)) == 1
    forget_cached_trials(study)
    assert len(study._get_trials(deepcopy=False, use_cache=True)) == 2


def test_a_copy_uses_the_trials_that_the_study_has_read(study, monkeypatch):
    """After `share_cached_trials` a copy of a study does not ask the storage for what the study has read."""
    copy = optuna.load_study(study_name=study.study_name, storage=study._storage)
    share_cached_trials(study, copy)
    forget_cached_trials(study)
    read = study._get_trials(deepcopy=False, use_cache=True)
    monkeypatch.delattr(_CachedStorage, "get_all_trials")
    assert copy._get_trials(deepcopy=False, use_cache=True) == read


def test_the_newest_tables_are_those_that_optuna_makes(study):
    """The version of Optuna's tables that is known without a database is the one that its storage asks for."""
    assert (
        newest_tables() == cache_of(study)._backend.get_head_version() == cache_of(study)._backend.get_current_version()
    )


def test_a_bracket_is_a_study_that_can_share_its_trials(study):
    """Hyperband's study of one bracket lets its cache of trials be replaced by that of the whole study."""
    pruner = HyperbandPruner(min_resource=1, max_resource=9)
    pruner._try_initialization(study)
    assert len(pruner._pruners) == pruner._n_brackets == 3
    assert all(isinstance(each, SuccessiveHalvingPruner) for each in pruner._pruners)
    bracket = pruner._create_bracket_study(study, 0)
    share_cached_trials(study, bracket)
    assert bracket._thread_local is study._thread_local


def test_the_latest_trials_are_those_of_optunas_cache(study):
    """`latest_trials` gives finished and unfinished trials by number, with what another process has just written."""
    assert latest_trials(study) == {}
    trial = study.ask()
    backend = study._storage._backend  # what another process's storage would be
    backend.set_trial_user_attr(trial_id_of(trial), "note", 1)
    study.add_trial(create_trial(value=1.0))
    seen = latest_trials(study)
    assert sorted(seen) == [0, 1]
    assert seen[0].user_attrs == {"note": 1}
    assert seen[1] is latest_trials(study)[1]


def test_what_a_trial_was_enqueued_with_is_known_while_it_waits(study):
    """`fixed_parameters` gives what `Study.enqueue_trial` was given, and nothing for other trials."""
    study.enqueue_trial({"rate": 0.5})
    study.add_trial(create_trial(state=TrialState.WAITING))
    assert [fixed_parameters(trial) for trial in study.trials] == [{"rate": 0.5}, {}]


def test_a_trial_asks_one_storage_whose_place_another_may_take(study):
    """A trial writes its parameters by `trial.storage`, at first its study's cache, and remembers them itself."""
    trial, written = study.ask(), []
    assert trial.storage is cache_of(study)

    class Unwritten:
        def __getattr__(self, name):
            return getattr(cache_of(study), name)

        def set_trial_param(self, *given):
            written.append(given)

    trial.storage = Unwritten()
    value = trial.suggest_float("rate", 0, 1)
    assert trial.suggest_float("rate", 0, 1) == value == trial.params["rate"]
    assert written == [(trial_id_of(trial), "rate", value, trial.distributions["rate"])]
    assert study.trials[0].params == {}


def test_a_pruner_decides_by_the_trials_that_a_view_shows(study):
    """Successive halving asks a view for nothing but its trials and its direction, and marks rungs in the storage."""
    rule = SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    trial = study.ask()
    trial.report(0.1, 1)
    frozen = study._storage.get_trial(trial_id_of(trial))
    better = create_trial(value=0.9, system_attrs={"completed_rung_0": 0.9})
    assert rule.prune(StudyView(study, lambda: [frozen, better]), frozen)
    assert study._storage.get_trial(trial_id_of(trial)).system_attrs == {"completed_rung_0": 0.1}
