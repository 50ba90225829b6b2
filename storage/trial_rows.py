"""Trials of Optuna's, made from the rows that the statements of `storage/trial_statements.py` return."""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from sqlalchemy.engine import Row


def frozen_trial(row: Row[Any]) -> FrozenTrial:
    """The trial that a row of ONE_TRIAL or TRIALS_OF_STUDY holds."""
    distributions = _distributions(row.distributions) if row.distributions else {}
    return FrozenTrial(
        number=row.number,
        state=TrialState[row.state],
        value=None,
        values=row.objectives,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={
            name: distribution.to_external_repr(value)
            for (name, distribution), value in zip(distributions.items(), row.param_values or (), strict=True)
        },
        distributions=dict(distributions),
        user_attrs=json.loads(row.user_attrs) if row.user_attrs else {},
        system_attrs=json.loads(row.system_attrs) if row.system_attrs else {},
        intermediate_values=dict(zip(row.steps or (), row.step_values or (), strict=True)),
        trial_id=row.trial_id,
    )


@functools.lru_cache(maxsize=10_000)
def _distributions(encoded: str) -> dict[str, BaseDistribution]:
    """The distributions of a trial's parameters, from their JSON text; most trials of a study have the same text."""
    return {name: json_to_distribution(json.dumps(distribution)) for name, distribution in json.loads(encoded).items()}


def _local(utc: datetime | None) -> datetime | None:
    """The local time of a time in UTC, both without a zone: Optuna stores the one, and its trials have the other.

    `fold` tells apart the two hours that have one name where clocks go back; `astimezone` would lose it.
    """
    return utc and datetime.fromtimestamp(utc.replace(tzinfo=UTC).timestamp())  # noqa: DTZ006 - local, as Optuna's is


def to_utc(local: datetime | None) -> datetime | None:
    """The time in UTC, as Optuna stores it, of a trial's local time; both are without a zone."""
    return local and local.astimezone(UTC).replace(tzinfo=None)
