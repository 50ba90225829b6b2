"""What a list of studies shows of each: found by two statements, however many studies and trials a database has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from storage import trial_statements as sql
from storage.autocommit import autocommit
from storage.keys import BEST_EPOCH_KEY, CONFIRMATION_KEY, REPEATS_KEY, SAME_RECIPE_KEY, SETTINGS_KEY
from storage.trial_rows import frozen_trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from sqlalchemy.engine import Engine

    from storage.halts import Halt


@dataclass(frozen=True)
class StudySummary:
    """A study of a database.

    Attributes:
        name: of the study.
        settings: that hpo keeps with it; None where hpo has not made it, or not to the end.
        confirms: whether it is to confirm another study.
        trials: how many have begun; what continues an interrupted one counts with it.
        workers: how many are there.
        halt: whether it is paused or stopped; None where it is neither.
        best: the complete trial of the highest finite value, of equals the first, of those that hpo has trained.
    """

    name: str
    settings: dict[str, Any] | None
    confirms: bool
    trials: int
    workers: int
    halt: Halt | None
    best: FrozenTrial | None


def study_summaries(engine: Engine) -> list[StudySummary]:
    """All studies of a database, by name."""
    with autocommit(engine) as connection:
        rows = connection.execute(_STUDIES).all()
        ids = [row.best for row in rows if row.best is not None]
        best = {row.trial_id: frozen_trial(row) for row in connection.execute(sql.TRIALS_BY_ID, {"trials": ids})}
    return [
        StudySummary(
            row.study_name,
            None if row.settings is None else json.loads(row.settings),
            row.confirms,
            row.trials,
            row.workers,
            row.halt,
            best.get(row.best),
        )
        for row in sorted(rows, key=lambda row: str(row.study_name))
    ]


def _marked(key: str) -> str:
    return f"EXISTS (SELECT FROM trial_user_attributes AS mark WHERE mark.trial_id = trials.trial_id AND key = '{key}'"


_BEGUN = (
    "SELECT study_id, count(*) AS trials FROM trials WHERE datetime_start IS NOT NULL"  # noqa: S608 - ours
    rf" AND NOT {_marked(REPEATS_KEY)} AND value_json ~ '^\d+$') AND NOT {_marked(SAME_RECIPE_KEY)}) GROUP BY study_id"
)
_BEST = (
    "SELECT DISTINCT ON (study_id) study_id, trial_id AS best FROM trials JOIN trial_values USING (trial_id)"  # noqa: S608 - ours
    f" WHERE state = 'COMPLETE' AND objective = 0 AND value_type = 'FINITE' AND {_marked(BEST_EPOCH_KEY)})"
    f" AND NOT {_marked(SAME_RECIPE_KEY)}) ORDER BY study_id, value DESC, number"
)
_STUDIES = text(
    "SELECT study_name, settings.value_json AS settings, plan.key IS NOT NULL AS confirms,"  # noqa: S608 - ours
    " coalesce(trials, 0) AS trials, coalesce(workers, 0) AS workers, kind AS halt, best FROM studies"
    " LEFT JOIN study_user_attributes AS settings"
    f" ON settings.study_id = studies.study_id AND settings.key = '{SETTINGS_KEY}'"
    " LEFT JOIN study_user_attributes AS plan"
    f" ON plan.study_id = studies.study_id AND plan.key = '{CONFIRMATION_KEY}'"
    f" LEFT JOIN ({_BEGUN}) AS begun ON begun.study_id = studies.study_id"
    f" LEFT JOIN ({_BEST}) AS ranked ON ranked.study_id = studies.study_id"
    " LEFT JOIN (SELECT study_id, count(*) AS workers FROM hpo.worker WHERE gone IS NULL GROUP BY study_id) AS present"
    " ON present.study_id = studies.study_id"
    " LEFT JOIN hpo.halt ON halt.study_id = studies.study_id AND halt.host IS NULL AND halt.ended IS NULL"
)
