"""Ending a run that has no result: its trial fails, in Optuna's tables, and its place waits for another worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy import text

from storage import logs
from storage.keys import REASON_KEY

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

DEATH = "its worker died"
AGAIN = "; run again as another trial"  # how the reason of a trial ends whose place goes on
# A worker that was requeued before may have come back, taken a place, and died.
NOT_REQUEUED = "(gone IS NULL OR EXISTS (SELECT FROM hpo.place WHERE place.worker = worker.id AND state = 'running'))"


def requeue(engine: Engine, worker: str, *, by_us: bool = False) -> None:
    """Fail the run of a worker that is known to have ended, and let its place wait.

    Args:
        engine: of the database.
        worker: the worker's name.
        by_us: we ended it, so that this run does not count among those that failed.
    """
    with engine.begin() as connection:
        if by_us:
            requeue_in(connection, worker, "its worker was ended", died=False, failed=False)
        else:
            requeue_in(connection, worker, DEATH, died=True)


def requeue_in(
    connection: Connection, worker: str, reason: str, *, died: bool, failed: bool = True, beat: int | None = None
) -> None:
    """Note that a worker has gone, and fail its run; given its beat, only if it has not beaten again."""
    values = {"worker": worker, "reason": logs.storable(reason), "died": died, "failed": int(failed), "beat": beat}
    gone = f"UPDATE hpo.worker SET gone = coalesce(gone, beaten), died = :died WHERE id = :worker AND {NOT_REQUEUED}"  # noqa: S608 - ours
    if not connection.execute(text(gone if beat is None else f"{gone} AND beat = :beat"), values).rowcount:
        return
    # The run lasted until the last beat of its worker: the time after that is none of the trial's, and no GPU hours.
    fail_trial(connection, worker, again(reason), only="RUNNING", at_last_beat=True)
    connection.execute(
        text(
            "UPDATE hpo.place SET state = 'waiting', worker = NULL, reason = :reason,"
            " failed_runs = failed_runs + :failed, ended = now(), busy_seconds = busy_seconds"
            " + greatest(0, extract(epoch FROM (SELECT beaten FROM hpo.worker WHERE id = :worker) - taken))"
            " WHERE worker = :worker AND state = 'running'"
        ),
        values,
    )


def again(reason: str) -> str:
    """The reason that the trial of such a run is given."""
    return f"{reason}{AGAIN}"


def without_again(reason: str) -> str:
    """The reason of a run, from that of its trial; a reason of another kind as it is."""
    return reason.removesuffix(AGAIN)


def fail_trial(
    connection: Connection, worker: str, reason: str, *, only: str | None = None, at_last_beat: bool = False
) -> None:
    """Fail the unfinished trial in a worker's place, in Optuna's tables, with its reason.

    It ends now, or `at_last_beat` of a worker that has gone, as what passed since then is no time of the trial's.
    This is SQL, and not a call of Optuna, so that one transaction ends the trial and changes its place.
    """
    states = f"'{only}'" if only else "'RUNNING', 'WAITING'"
    ended = "(SELECT beaten FROM hpo.worker WHERE id = :worker)" if at_last_beat else "now()"
    connection.execute(
        text(
            "WITH failed AS (UPDATE trials SET state = 'FAIL',"  # noqa: S608 - ours
            f" datetime_complete = greatest(datetime_start, {ended} AT TIME ZONE 'utc') FROM hpo.place"
            " WHERE place.worker = :worker AND place.state = 'running' AND trials.study_id = place.study_id"
            f" AND trials.number = place.trial AND trials.state IN ({states}) RETURNING trial_id)"
            " INSERT INTO trial_user_attributes (trial_id, key, value_json)"
            f" SELECT trial_id, '{REASON_KEY}', :reason FROM failed"
            " ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"
        ),
        {"worker": worker, "reason": json.dumps(reason)},
    )
