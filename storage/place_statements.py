"""The SQL statements on places of the budget; `:study` is the number of their study, `:worker` a worker's name."""

from __future__ import annotations

from storage import logs
from storage.keys import REASON_KEY, REPEATS_KEY
from storage.worker_transactions import UNSYNCED

STUDY_EXISTS = "SELECT EXISTS (SELECT FROM studies WHERE study_id = :study)"
ANY_WAITING = "SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND state = 'waiting')"
HELD = "study_id = :study AND number = :number AND worker = :worker AND state = 'running'"
PLACE_OF_TRIAL = (
    "SELECT number FROM hpo.place WHERE study_id = :study AND worker = :worker AND state = 'running' AND trial = :trial"
)
# A pruned trial that has not gone on from a rung is paused.
END_STATE = (
    "state = CASE WHEN :state = 'pruned' AND paused_after IS NOT NULL THEN 'paused' ELSE :state END,"
    " paused_after = CASE WHEN :state = 'pruned' THEN paused_after END"
)
ENDED = "ended = now(), busy_seconds = busy_seconds + greatest(0, extract(epoch FROM now() - taken))"

COLUMNS = "number, trial, failed_runs, reason, promoted"
# One that this worker holds already comes first: it was taken, and the answer was lost.
FREE_PLACE = (
    f"SELECT {COLUMNS}, state FROM hpo.place WHERE study_id = :study"  # noqa: S608 - ours
    " AND (state = 'waiting' OR (state = 'running' AND worker = :worker)) ORDER BY state = 'waiting', number LIMIT 1"
)
# A waiting place whose trial was ended from outside: a trial that we failed ourselves has a reason.
WAITING_WITH_ENDED_TRIAL = (
    "SELECT place.number, trial, failed_runs, reason, promoted FROM hpo.place JOIN trials"  # noqa: S608 - ours
    " ON trials.study_id = place.study_id AND trials.number = trial"
    " WHERE place.study_id = :study AND place.state = 'waiting' AND NOT promoted"
    " AND (trials.state IN ('COMPLETE', 'PRUNED') OR (trials.state = 'FAIL' AND NOT EXISTS"
    " (SELECT FROM trial_user_attributes AS mark WHERE mark.trial_id = trials.trial_id"
    f" AND key = '{REASON_KEY}'))) LIMIT 1"
)
# A worker that takes a place is alive, also where another one has counted it as dead.
_PRESENT = "WITH present AS (UPDATE hpo.worker SET gone = NULL, died = false WHERE id = :worker AND gone IS NOT NULL)"
TAKE = (
    f"{_PRESENT} UPDATE hpo.place SET state = 'running', worker = :worker, taken = now(), epoch = 0, epochs = NULL,"  # noqa: S608 - ours
    f" macro_f1 = NULL, best = NULL WHERE study_id = :study AND number = :number RETURNING {COLUMNS}"
)
TAKE_PAUSED = (
    f"{_PRESENT} UPDATE hpo.place SET state = 'running', worker = :worker, taken = now(), promoted = true,"  # noqa: S608 - ours
    f" paused_after = NULL, checkpoint_bytes = NULL WHERE study_id = :study AND number = :number RETURNING {COLUMNS}"
)
MAKE = (
    f"{_PRESENT} INSERT INTO hpo.place (study_id, number, state, worker, recipe)"  # noqa: S608 - ours
    f" VALUES (:study, :number, 'running', :worker, :recipe) RETURNING {COLUMNS}"
)

# The places but the one with this number that have tried a recipe, or try it now; one that has failed may run again.
TRIED = "FROM hpo.place WHERE study_id = :study AND recipe IS NOT NULL AND number <> :number AND state <> 'failed'"
# With those that have failed since the worker joined: it is not to try the same ones again and again.
TRIED_OR_FAILED = (
    "FROM hpo.place WHERE study_id = :study AND recipe IS NOT NULL AND number <> :number"
    " AND (state <> 'failed' OR ended >= (SELECT started FROM hpo.worker WHERE id = :worker))"
)

_REPEATING = (
    f"EXISTS (SELECT FROM trial_user_attributes AS mark WHERE mark.trial_id = trials.trial_id AND key = '{REPEATS_KEY}'"
)
# One that this very place has named already is what a lost answer was about.
FIRST_WAITING_TRIAL = (
    "SELECT trial_id, number FROM trials WHERE study_id = :study AND state = 'WAITING'"  # noqa: S608 - ours
    " AND NOT EXISTS (SELECT FROM hpo.place WHERE place.study_id = :study AND trial = trials.number"
    " AND place.number <> :number) AND number <> ALL (CAST(:passing AS integer[]))"
    f" AND CASE WHEN :repeats = 'None' THEN NOT {_REPEATING}) ELSE {_REPEATING} AND value_json = :repeats) END"
    " ORDER BY number IS DISTINCT FROM"
    " (SELECT trial FROM hpo.place WHERE study_id = :study AND number = :number), number LIMIT 1"
)
KEEP_PROGRESS = (
    "WITH held AS (UPDATE hpo.place SET epoch = :epoch, epochs = :epochs, macro_f1 = :score,"  # noqa: S608 - ours
    f" best = :best WHERE {HELD}"
    " AND EXISTS (SELECT FROM trials WHERE trial_id = :trial_id AND state = 'RUNNING') RETURNING number),"
    f" kept AS ({logs.APPEND} WHERE EXISTS (SELECT FROM held) ORDER BY place)"
    f" SELECT EXISTS (SELECT FROM held), {UNSYNCED}"
)
HAND_BACK = (
    "UPDATE hpo.place SET state = 'waiting', worker = NULL, reason = :reason,"  # noqa: S608 - ours
    f" failed_runs = failed_runs + :failed, {ENDED} WHERE {HELD}"
)
FIRST_ENDS = (
    "SELECT state, reason FROM hpo.place WHERE study_id = :study"
    " AND state IN ('complete', 'pruned', 'failed', 'paused')"
    " AND ended >= (SELECT started FROM hpo.worker WHERE id = :worker) ORDER BY ended LIMIT :count"
)
