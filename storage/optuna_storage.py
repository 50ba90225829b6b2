"""Optuna's storage on Postgres, made to wait for the database and to ask it less often."""

from __future__ import annotations

import copy
import functools
import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DataError

from storage import trial_statements as sql
from storage.autocommit import autocommit
from storage.keys import MADE_KEY
from storage.optuna_internals import set_trial_id, trial_id_of
from storage.outage_retry import retry_outages
from storage.trial_rows import frozen_trial, to_utc

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from sqlalchemy import TextClause
    from sqlalchemy.engine import Connection

    from storage.outage_retry import OutageRetry

T = TypeVar("T")

# The methods that Optuna calls on its cache, and those that the cache calls on the storage behind it.
CALLS = (
    "create_new_study",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "set_study_user_attr",
    "set_study_system_attr",
    "create_new_trial",
    "set_trial_param",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "get_trial_params",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_all_trials",
    "_get_trials",
    "get_n_trials",
    "get_best_trial",
    "_get_best_trial_id",
)


def _retry_outages_in_calls(storage: type[StudyStorage]) -> type[StudyStorage]:
    """Have each method that CALLS names wait for a database that does not answer."""

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def call_and_wait(self: StudyStorage, *arguments: Any, **options: Any) -> Any:
            return self._wait(functools.partial(call, self, *arguments, **options))

        return call_and_wait

    for name in CALLS:
        setattr(storage, name, wrap(getattr(storage, name)))
    return storage


@_retry_outages_in_calls
class StudyStorage(RDBStorage):
    """Optuna's storage on a Postgres whose tables exist; its calls wait for the database where it has an `OutageRetry`.

    It returns what Optuna's RDBStorage would return. Trials share their distributions, which nobody is to change.
    """

    def __init__(self, url: str, engine_settings: dict[str, Any], outage_retry: OutageRetry | None) -> None:
        # Optuna's check of its tables' version takes two connections at once: many processes that begin together would
        # wait for each other where the server allows few connections.
        super().__init__(url, engine_settings, skip_compatibility_check=True, skip_table_creation=True)
        self._outage_retry = outage_retry

    def delete_study(self, study_id: int) -> None:
        """Delete a study; raises KeyError where there is none."""
        delete, repeated = super().delete_study, False

        def attempt() -> None:
            nonlocal repeated
            try:
                delete(study_id)
            except KeyError:
                if not repeated:  # else an earlier attempt has deleted it, and its answer was lost
                    raise
            finally:
                repeated = True

        self._wait(attempt)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set the state of a trial and, at its end, its values.

        Returns False where the trial is to be set running and is not waiting: another process runs it, or, after an
        outage, an earlier attempt of this call has set it running and its answer was lost.
        """
        now, repeated = datetime.now(tz=UTC).replace(tzinfo=None), False
        given = {
            "trial": trial_id,
            "state": state.name,
            "before": ["WAITING"] if state is TrialState.RUNNING else ["WAITING", "RUNNING"],
            "start": now if state is TrialState.RUNNING else None,
            "complete": now if state.is_finished() else None,
            "values": [float(value) for value in values or ()],
        }

        def attempt() -> bool:
            nonlocal repeated
            earlier, repeated = repeated, True
            with autocommit(self.engine) as connection:
                if connection.execute(sql.SET_STATE, given).scalar_one():
                    return True
                found = connection.execute(sql.STATE, {"trial": trial_id}).scalar_one_or_none()
            if earlier and found == state.name and state.is_finished():
                return True
            self._refuse(trial_id, found)
            return False

        return self._wait(attempt)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write what an unfinished trial reports at a step (an epoch)."""
        self._write(trial_id, sql.SET_INTERMEDIATE_VALUES, keys=[step], values=[float(intermediate_value)])

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a user attribute of an unfinished trial, as JSON."""
        self._write(trial_id, sql.SET_USER_ATTRS, keys=[key], values=[json.dumps(value)])

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute of an unfinished trial, as JSON."""
        self._write(trial_id, sql.SET_SYSTEM_ATTRS, keys=[key], values=[json.dumps(value)])

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        try:
            if previous_distribution is None:
                with autocommit(self.engine) as connection:
                    _refuse_incompatible(connection, trial_id, {param_name: distribution})
            else:
                check_distribution_compatibility(previous_distribution, distribution)
        except ValueError:
            with autocommit(self.engine) as connection:
                found = connection.execute(sql.STATE, {"trial": trial_id}).scalar_one_or_none()
            self._refuse(trial_id, found)  # a trial that has finished takes no value, whatever its distribution is
            raise
        self._write(
            trial_id,
            sql.SET_PARAMS,
            keys=[param_name],
            values=[float(param_value_internal)],
            distributions=[distribution_to_json(distribution)],
        )

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial with this id; raises KeyError where there is none."""
        with autocommit(self.engine) as connection:
            row = connection.execute(sql.ONE_TRIAL, {"trial": trial_id}).one_or_none()
        if row is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return frozen_trial(row)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """The system attributes of a trial; raises KeyError where there is no such trial."""
        with autocommit(self.engine) as connection:
            row = connection.execute(sql.SYSTEM_ATTRS, {"trial": trial_id}).one_or_none()
        if row is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return json.loads(row.attrs) if row.attrs else {}

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        given = {"study": study_id, "after": trial_id_greater_than, "included": list(included_trial_ids)}
        with autocommit(self.engine) as connection:
            rows = connection.execute(sql.TRIALS_OF_STUDY, given).all()
        if not rows:
            self.get_study_name_from_id(study_id)  # raises KeyError where there is no such study
        trials = [frozen_trial(row) for row in rows]
        return trials if states is None else [trial for trial in trials if trial.state in states]

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        made = copy.deepcopy(template_trial) if template_trial else create_trial(state=TrialState.RUNNING)
        mark, repeated = uuid.uuid4().hex, False
        if self._outage_retry:  # without it there is one attempt, and nothing to recognise
            made.system_attrs[MADE_KEY] = mark
        given = {
            "study": study_id,
            # Nothing can be written to a finished trial, so it is made as a running one and finished at the end.
            "state": "RUNNING" if made.state.is_finished() else made.state.name,
            "start": to_utc(made.datetime_start),
            "complete": to_utc(made.datetime_complete),
        }

        def attempt() -> FrozenTrial:
            nonlocal repeated
            earlier, repeated = repeated, True
            with self.engine.begin() as connection:
                if connection.execute(sql.LOCK_STUDY, {"study": study_id}).one_or_none() is None:
                    raise KeyError(f"there is no study with the id {study_id}")
                # An earlier attempt held the lock; now that we have it, that attempt has either succeeded or failed.
                mine = {"study": study_id, "mark": json.dumps(mark)}
                there = connection.execute(sql.MADE_TRIAL, mine).one_or_none() if earlier else None
                row = there or connection.execute(sql.MAKE_TRIAL, given).one()
                made.number = row.number
                set_trial_id(made, row.trial_id)
                if not there:
                    _refuse_incompatible(connection, row.trial_id, made.distributions)
                    self._fill(connection, made)
            return made

        return self._wait(attempt)

    def _wait(self, attempt: Callable[[], T]) -> T:
        try:
            return retry_outages(self._outage_retry, attempt)
        except DataError as error:
            raise StorageInternalError("the database does not take this, which may be too long or too large") from error

    def _fill(self, connection: Connection, trial: FrozenTrial) -> None:
        """Write the parameters, attributes, reports and end of a new trial."""
        trial_id, distributions = trial_id_of(trial), trial.distributions
        params = {name: distributions[name].to_internal_repr(value) for name, value in trial.params.items()}
        user, system, reports = trial.user_attrs, trial.system_attrs, trial.intermediate_values
        for statement, keys, values in (
            (sql.SET_PARAMS, params, [float(value) for value in params.values()]),
            (sql.SET_USER_ATTRS, user, [json.dumps(value) for value in user.values()]),
            (sql.SET_SYSTEM_ATTRS, system, [json.dumps(value) for value in system.values()]),
            (sql.SET_INTERMEDIATE_VALUES, reports, [float(value) for value in reports.values()]),
        ):
            if keys:
                given = {"trial": trial_id, "keys": list(keys), "values": values}
                if statement is sql.SET_PARAMS:
                    given["distributions"] = [distribution_to_json(distributions[name]) for name in params]
                connection.execute(statement, given)
        if trial.state.is_finished():
            times = {"start": None, "complete": None}  # they were written when the trial was made
            ended = {"trial": trial_id, "state": trial.state.name, "before": ["RUNNING"], **times}
            connection.execute(sql.SET_STATE, {**ended, "values": [float(value) for value in trial.values or ()]})

    def _write(self, trial_id: int, statement: TextClause, **given: list[Any]) -> None:
        """Write to an unfinished trial.

        Raises:
            KeyError: there is no such trial.
            UpdateFinishedTrialError: it has finished.
        """
        with autocommit(self.engine) as connection:
            if connection.execute(statement, {"trial": trial_id, **given}).rowcount:
                return
            found = connection.execute(sql.STATE, {"trial": trial_id}).scalar_one_or_none()
        self._refuse(trial_id, found)

    def _refuse(self, trial_id: int, found: str | None) -> None:
        """Raise the reason why nothing was written to a trial, if its state, or that there is no such trial, is one."""
        if found is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        self.check_trial_is_updatable(trial_id, TrialState[found])


def _refuse_incompatible(connection: Connection, trial_id: int, distributions: dict[str, BaseDistribution]) -> None:
    """Raise ValueError where another trial of the same study has an incompatible distribution for a parameter."""
    if distributions:
        for row in connection.execute(sql.EARLIER_DISTRIBUTIONS, {"trial": trial_id, "names": list(distributions)}):
            check_distribution_compatibility(json_to_distribution(row.distribution_json), distributions[row.name])
