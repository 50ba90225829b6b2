"""The SQL statements by which trials are read from Optuna's tables and written to them."""

from __future__ import annotations

from sqlalchemy import text

from storage.keys import MADE_KEY

# A trial is one row of the answer, where stock Optuna asks six tables: Postgres joins names and JSON texts into one
# text, so that Python has few values to read. '{' || … || '}' is one JSON object of all attributes.
TRIALS = """
SELECT trial_id, number, state, datetime_start, datetime_complete, distributions, param_values, user_attrs,
    system_attrs, steps, step_values, objectives
FROM trials
LEFT JOIN LATERAL (
    SELECT '{' || string_agg(to_json(param_name)::text || ':' || distribution_json, ',' ORDER BY param_id) || '}'
        AS distributions, array_agg(param_value ORDER BY param_id) AS param_values
    FROM trial_params WHERE trial_params.trial_id = trials.trial_id) AS joined_params ON true
LEFT JOIN LATERAL (
    SELECT '{' || string_agg(to_json(key)::text || ':' || value_json, ',') || '}' AS user_attrs
    FROM trial_user_attributes AS attributes WHERE attributes.trial_id = trials.trial_id) AS joined_user ON true
LEFT JOIN LATERAL (
    SELECT '{' || string_agg(to_json(key)::text || ':' || value_json, ',') || '}' AS system_attrs
    FROM trial_system_attributes AS attributes WHERE attributes.trial_id = trials.trial_id) AS joined_system ON true
LEFT JOIN LATERAL (
    SELECT array_agg(step) AS steps, array_agg(CASE intermediate_value_type WHEN 'FINITE' THEN intermediate_value
        WHEN 'INF_POS' THEN 'Infinity' WHEN 'INF_NEG' THEN '-Infinity' ELSE 'NaN' END) AS step_values
    FROM trial_intermediate_values AS reports WHERE reports.trial_id = trials.trial_id) AS joined_steps ON true
LEFT JOIN LATERAL (
    SELECT array_agg(CASE value_type WHEN 'FINITE' THEN value WHEN 'INF_POS' THEN 'Infinity' ELSE '-Infinity' END
        ORDER BY objective) AS objectives
    FROM trial_values WHERE trial_values.trial_id = trials.trial_id) AS joined_values ON true
"""
ONE_TRIAL = text(f"{TRIALS} WHERE trial_id = :trial")
TRIALS_BY_ID = text(f"{TRIALS} WHERE trial_id = ANY(:trials)")
TRIALS_OF_STUDY = text(
    f"{TRIALS} WHERE study_id = :study AND (trial_id > :after OR trial_id = ANY(:included)) ORDER BY trial_id"
)
SYSTEM_ATTRS = text(
    "SELECT (SELECT '{' || string_agg(to_json(key)::text || ':' || value_json, ',') || '}'"
    " FROM trial_system_attributes WHERE trial_id = :trial) AS attrs FROM trials WHERE trial_id = :trial"
)
STATE = text("SELECT state FROM trials WHERE trial_id = :trial")
# For each of the names, the distribution that a parameter of this name has in the study: all must be compatible.
EARLIER_DISTRIBUTIONS = text(
    "SELECT name, distribution_json FROM unnest(CAST(:names AS text[])) AS name, LATERAL ("
    " SELECT distribution_json FROM trial_params JOIN trials USING (trial_id) WHERE param_name = name"
    " AND study_id = (SELECT study_id FROM trials WHERE trial_id = :trial) LIMIT 1) AS earlier"
)

# A new trial's number is the number of trials that the study has. So one process at a time may add a trial. (Rows of
# our own tables, which have a foreign key to the study, do not wait for this lock.)
LOCK_STUDY = text("SELECT study_id FROM studies WHERE study_id = :study FOR NO KEY UPDATE")
MAKE_TRIAL = text(
    "INSERT INTO trials (number, study_id, state, datetime_start, datetime_complete)"
    " SELECT count(*), :study, CAST(:state AS trialstate), :start, :complete FROM trials WHERE study_id = :study"
    " RETURNING trial_id, number"
)
# The trial that an earlier attempt of the same call has made, if that attempt succeeded.
MADE_TRIAL = text(
    "SELECT trial_id, number FROM trials JOIN trial_system_attributes AS mark USING (trial_id)"  # noqa: S608 - ours
    f" WHERE study_id = :study AND key = '{MADE_KEY}' AND value_json = :mark"
)

# The values to be written come as arrays, for one row or many; nothing is written to a trial that has finished.
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
# Of a number that is not finite, Optuna's tables hold its kind, and NULL for the number.
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
