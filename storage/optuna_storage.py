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
from sqlalchemy import text
from sqlalchemy.exc import DataError

from storage.autocommit import autocommit
from storage.keys import MADE_KEY
from storage.outage_retry import retry_outages

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from sqlalchemy import TextClause
    from sqlalchemy.engine import Connection, Row

    from storage.outage_retry import OutageRetry

T = TypeVar("T")

# A trial is one row here, where stock Optuna asks six tables: Postgres puts names and JSON texts together, so that
# Python has few values to take in. '{' || … || '}' is one JSON object of all attributes.
TRIALS = """
SELECT trial_id, number, state, datetime_start, datetime_complete, fields, field_values, user_attrs, system_attrs,
    steps, step_values, objectives
FROM trials
LEFT JOIN LATERAL (
    SELECT '{' || string_agg(to_json(param_name)::text || ':' || distribution_json, ',' ORDER BY param_id) || '}'
        AS fields, array_agg(param_value ORDER BY param_id) AS field_values
    FROM trial_params WHERE trial_params.trial_id = trials.trial_id) AS of_params ON true
LEFT JOIN LATERAL (
    SELECT '{' || string_agg(to_json(key)::text || ':' || value_json, ',') || '}' AS user_attrs
    FROM trial_user_attributes AS attributes WHERE attributes.trial_id = trials.trial_id) AS of_user ON true
LEFT JOIN LATERAL (
    SELECT '{' || string_agg(to_json(key)::text || ':' || value_json, ',') || '}' AS system_attrs
    FROM trial_system_attributes AS attributes WHERE attributes.trial_id = trials.trial_id) AS of_system ON true
LEFT JOIN LATERAL (
    SELECT array_agg(step) AS steps, array_agg(CASE intermediate_value_type WHEN 'FINITE' THEN intermediate_value
        WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity' ELSE 'NaN' END) AS step_values
    FROM trial_intermediate_values AS reports WHERE reports.trial_id = trials.trial_id) AS of_steps ON true
LEFT JOIN LATERAL (
    SELECT array_agg(CASE value_type WHEN 'FINITE' THEN value WHEN 'INF_POS' THEN 'Infinity' ELSE '-Infinity' END
        ORDER BY objective) AS objectives
    FROM trial_values WHERE trial_values.trial_id = trials.trial_id) AS of_values ON true
"""
ONE_TRIAL = text(f"{TRIALS} WHERE trial_id = :trial")
TRIALS_OF_STUDY = text(
    f"{TRIALS} WHERE study_id = :study AND (trial_id > :after OR trial_id = ANY(:included)) ORDER BY trial_id"
)
SYSTEM_ATTRS = text(
    "SELECT (SELECT '{' || string_agg(to_json(key)::text || ':' || value_json, ',') || '}'"
    " FROM trial_system_attributes WHERE trial_id = :trial) AS attrs FROM trials WHERE trial_id = :trial"
)
STATE = text("SELECT state FROM trials WHERE trial_id = :trial")
# What a field was drawn from in the study of a trial, by any of its trials: all must be compatible.
EARLIER_DISTRIBUTIONS = text(
    "SELECT name, distribution_json FROM unnest(CAST(:names AS text[])) AS name, LATERAL ("
    " SELECT distribution_json FROM trial_params JOIN trials USING (trial_id) WHERE param_name = name"
    " AND study_id = (SELECT study_id FROM trials WHERE trial_id = :trial) LIMIT 1) AS earlier"
)

# The number of a trial is how many the study has, so that one maker at a time counts. (A foreign key to the study, as
# our own tables have one, does not wait for this lock.)
LOCK_STUDY = text("SELECT study_id FROM studies WHERE study_id = :study FOR NO KEY UPDATE")
MAKE_TRIAL = text(
    "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)"
    " SELECT count(*), :study, CAST(:state AS trialstate), :start, :complete FROM trials WHERE study_id = :study"
    " RETURNING trial_id, number"
)

MADE_TRIAL = text(
    "SELECT trial_id, number FROM trials JOIN trial_system_attributes AS mark USING (trial_id)"  # noqa: S608 - ours
    f" WHERE study_id = :study AND key = '{MADE_KEY}' AND value_json = :mark"
)

# What is written to a trial comes as arrays, for one row or many, and only to one that is not finished.
GIVEN = "AS given WHERE trial_id = :trial AND state IN ('RUNNING', 'WAITING')"
SET_PARAMS = text(
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)"  # noqa: S608 - all of it is written here
    " SELECT trial_id, given.* FROM trials,"
    f" unnest(CAST(:keys AS text[]), CAST(:values AS float8[]), CAST(:distributions AS text[])) {GIVEN}"
    " ON CONFLICT (trial_id, param_name) DO NOTHING"
)
SET_ATTRS = (
    "INSERT INTO {table} (trial_id, key, value_json)"  # noqa: S608 - all of it is written here
    f" SELECT trial_id, given.* FROM trials, unnest(CAST(:keys AS text[]), CAST(:values AS text[])) {GIVEN}"
    " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
)
SET_USER_ATTRS = text(SET_ATTRS.format(table="trial_user_attributes"))
SET_SYSTEM_ATTRS = text(SET_ATTRS.format(table="trial_system_attributes"))
# Numbers that are not finite are kept by their name beside a NULL.
FINITE = "CASE WHEN value IN ('Infinity', '-Infinity') THEN NULL ELSE value END"
KIND = "CASE value WHEN 'Infinity' THEN 'INF_POS' WHEN '-Infinity' THEN 'INF_NEG' ELSE 'FINITE' END"
SET_INTERMEDIATE_VALUES = text(
    "INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)"  # noqa: S608
    f" SELECT trial_id, step, nullif({FINITE}, 'NaN'),"
    f" CAST(CASE value WHEN 'NaN' THEN 'NAN' ELSE {KIND} END AS trialintermediatevaluetype)"
    " FROM trials, unnest(CAST(:keys AS integer[]), CAST(:values AS float8[]))"
    f" {GIVEN.replace('given', 'given (step, value)')} ON CONFLICT (trial_id, step) DO UPDATE SET"
    " intermediate_value = excluded.intermediate_value, intermediate_value_type = excluded.intermediate_value_type"
)
SET_STATE = text(
    "WITH changed AS ("  # noqa: S608 - all of it is written here
    " UPDATE trials SET state = CAST(:state AS trialstate), datetime_start = coalesce(:start, datetime_start),"
    " datetime_complete = coalesce(:complete, datetime_complete)"
    " WHERE trial_id = :trial AND state = ANY (CAST(:before AS trialstate[])) RETURNING trial_id"
    "), valued AS ("
    " INSERT INTO trial_values (trial_id, objective, value, value_type)"
    f" SELECT trial_id, objective - 1, {FINITE}, CAST({KIND} AS trialvaluetype)"
    " FROM changed, unnest(CAST(:values AS float8[])) WITH ORDINALITY AS given (value, objective)"
    " ON CONFLICT (trial_id, objective) DO UPDATE SET value = excluded.value, value_type = excluded.value_type"
    ") SELECT count(*) FROM changed"
)

# The calls of Optuna's, and those of its cache on the storage behind it.
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


def _patient(storage: type[StudyStorage]) -> type[StudyStorage]:
    """Let the calls of a class wait for the database."""

    def patient(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def waiting(self: StudyStorage, *arguments: Any, **options: Any) -> Any:
            return self._wait(functools.partial(call, self, *arguments, **options))

        return waiting

    for name in CALLS:
        setattr(storage, name, patient(getattr(storage, name)))
    return storage


@_patient
class StudyStorage(RDBStorage):
    """Optuna's storage on a Postgres whose tables exist; every call of it waits for the database as its patience says.

    What comes out of it equals what stock Optuna's gives. Trials share their distributions, which nobody is to change.
    """

    def __init__(self, url: str, engine_settings: dict[str, Any], outage_retry: OutageRetry | None) -> None:
        # Optuna's check of its tables' version takes two connections at once: many that begin together would wait for
        # each other where connections are few.
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
                if not repeated:  # else it was an earlier attempt that deleted it, and could not say so
                    raise
            finally:
                repeated = True

        self._wait(attempt)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Set the state of a trial and, at its end, its values.

        Returns False where the trial was to run and is not waiting: because another runs it or, after an outage,
        because an attempt of this very call has had its effect.
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
                if connection.execute(SET_STATE, given).scalar_one():
                    return True
                found = connection.execute(STATE, {"trial": trial_id}).scalar_one_or_none()
            if earlier and found == state.name and state.is_finished():
                return True
            self._refuse(trial_id, found)
            return False

        return self._wait(attempt)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Keep what an unfinished trial reports."""
        self._write(trial_id, SET_INTERMEDIATE_VALUES, keys=[step], values=[float(intermediate_value)])

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep an attribute of an unfinished trial, as JSON."""
        self._write(trial_id, SET_USER_ATTRS, keys=[key], values=[json.dumps(value)])

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Keep an attribute that Optuna gives an unfinished trial, as JSON."""
        self._write(trial_id, SET_SYSTEM_ATTRS, keys=[key], values=[json.dumps(value)])

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is None:
            with autocommit(self.engine) as connection:
                _refuse_incompatible(connection, trial_id, {param_name: distribution})
        else:
            check_distribution_compatibility(previous_distribution, distribution)
        self._write(
            trial_id,
            SET_PARAMS,
            keys=[param_name],
            values=[float(param_value_internal)],
            distributions=[distribution_to_json(distribution)],
        )

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial; raises KeyError where there is none."""
        with autocommit(self.engine) as connection:
            row = connection.execute(ONE_TRIAL, {"trial": trial_id}).one_or_none()
        if row is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        return _frozen(row)

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """What Optuna keeps with a trial; raises KeyError where there is none."""
        with autocommit(self.engine) as connection:
            row = connection.execute(SYSTEM_ATTRS, {"trial": trial_id}).one_or_none()
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
            rows = connection.execute(TRIALS_OF_STUDY, given).all()
        if not rows:
            self.get_study_name_from_id(study_id)  # raises KeyError where there is no such study
        trials = [_frozen(row) for row in rows]
        return trials if states is None else [trial for trial in trials if trial.state in states]

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        made = copy.deepcopy(template_trial) if template_trial else create_trial(state=TrialState.RUNNING)
        mark, repeated = uuid.uuid4().hex, False
        if self._outage_retry:  # without it nothing is repeated
            made.system_attrs[MADE_KEY] = mark
        given = {
            "study": study_id,
            # A finished trial takes nothing more: it is finished at the end.
            "state": "RUNNING" if made.state.is_finished() else made.state.name,
            "start": _utc(made.datetime_start),
            "complete": _utc(made.datetime_complete),
        }

        def attempt() -> FrozenTrial:
            nonlocal repeated
            earlier, repeated = repeated, True
            with self.engine.begin() as connection:
                if connection.execute(LOCK_STUDY, {"study": study_id}).one_or_none() is None:
                    raise KeyError(f"there is no study with the id {study_id}")
                # An earlier attempt that comes through has done so by now: it had the lock.
                mine = {"study": study_id, "mark": json.dumps(mark)}
                there = connection.execute(MADE_TRIAL, mine).one_or_none() if earlier else None
                row = there or connection.execute(MAKE_TRIAL, given).one()
                made.number, made._trial_id = row.number, row.trial_id  # noqa: SLF001 - as Optuna's own storages do
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
        """Write what a new trial brings along."""
        trial_id, distributions = trial._trial_id, trial.distributions  # noqa: SLF001 - as Optuna's own storages do
        params = {name: distributions[name].to_internal_repr(value) for name, value in trial.params.items()}
        user, system, reports = trial.user_attrs, trial.system_attrs, trial.intermediate_values
        for statement, keys, values in (
            (SET_PARAMS, params, [float(value) for value in params.values()]),
            (SET_USER_ATTRS, user, [json.dumps(value) for value in user.values()]),
            (SET_SYSTEM_ATTRS, system, [json.dumps(value) for value in system.values()]),
            (SET_INTERMEDIATE_VALUES, reports, [float(value) for value in reports.values()]),
        ):
            if keys:
                given = {"trial": trial_id, "keys": list(keys), "values": values}
                if statement is SET_PARAMS:
                    given["distributions"] = [distribution_to_json(distributions[name]) for name in params]
                connection.execute(statement, given)
        if trial.state.is_finished():
            times = {"start": None, "complete": None}  # were written already
            ended = {"trial": trial_id, "state": trial.state.name, "before": ["RUNNING"], **times}
            connection.execute(SET_STATE, {**ended, "values": [float(value) for value in trial.values or ()]})

    def _write(self, trial_id: int, statement: TextClause, **given: list[Any]) -> None:
        """Write to a trial; raises KeyError where there is none, and Optuna's UpdateFinishedTrialError."""
        with autocommit(self.engine) as connection:
            if connection.execute(statement, {"trial": trial_id, **given}).rowcount:
                return
            found = connection.execute(STATE, {"trial": trial_id}).scalar_one_or_none()
        self._refuse(trial_id, found)

    def _refuse(self, trial_id: int, found: str | None) -> None:
        """Say why a trial, found in this state, was not written to, unless it could have been."""
        if found is None:
            raise KeyError(f"there is no trial with the id {trial_id}")
        self.check_trial_is_updatable(trial_id, TrialState[found])


def _refuse_incompatible(connection: Connection, trial_id: int, distributions: dict[str, BaseDistribution]) -> None:
    """Raise ValueError where earlier trials of a trial's study have drawn one of these fields from something else."""
    if distributions:
        for row in connection.execute(EARLIER_DISTRIBUTIONS, {"trial": trial_id, "names": list(distributions)}):
            check_distribution_compatibility(json_to_distribution(row.distribution_json), distributions[row.name])


def _frozen(row: Row[Any]) -> FrozenTrial:
    """The trial of a row of TRIALS."""
    distributions = _distributions(row.fields) if row.fields else {}
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None,
        values=row.objectives,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={
            name: distribution.to_external_repr(value)
            for (name, distribution), value in zip(distributions.items(), row.field_values or (), strict=True)
        },
        distributions=dict(distributions),
        user_attrs=json.loads(row.user_attrs) if row.user_attrs else {},
        system_attrs=json.loads(row.system_attrs) if row.system_attrs else {},
        intermediate_values=dict(zip(row.steps or (), row.step_values or (), strict=True)),
        trial_id=row.trial_id,
    )


@functools.lru_cache(maxsize=10_000)
def _distributions(fields: str) -> dict[str, BaseDistribution]:
    """Read what the fields of a trial were drawn from; few trials of a study differ in that."""
    return {name: json_to_distribution(json.dumps(distribution)) for name, distribution in json.loads(fields).items()}


def _local(utc: datetime | None) -> datetime | None:
    """Optuna stores times in UTC and gives them out in local time, both without a zone.

    `fold` tells the two hours apart that have one name where clocks go back; `astimezone` would lose it.
    """
    return utc and datetime.fromtimestamp(utc.replace(tzinfo=UTC).timestamp())  # noqa: DTZ006 - local, as Optuna's is


def _utc(local: datetime | None) -> datetime | None:
    return local and local.astimezone(UTC).replace(tzinfo=None)
