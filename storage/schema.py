"""Our own tables, in the schema `hpo` beside Optuna's: made, and brought up to date, in numbered steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from storage.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

# `place` is a place in the budget: one trial, however often it has to be started. `worker` is a process. A place holds
# the id of its worker. The worker's beat is a number that grows: others see that it grows and need not compare clocks.
_FIRST = """
CREATE SCHEMA IF NOT EXISTS hpo;
CREATE TABLE IF NOT EXISTS hpo.worker (
    id          text PRIMARY KEY,
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    host        text NOT NULL,
    pid         integer NOT NULL,
    device      text NOT NULL,
    started     timestamptz NOT NULL DEFAULT now(),
    beat        bigint NOT NULL DEFAULT 0,
    beaten      timestamptz NOT NULL DEFAULT now(),
    gone        timestamptz,
    seconds     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS worker_study ON hpo.worker (study_id);
CREATE TABLE IF NOT EXISTS hpo.place (
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    number      integer NOT NULL,
    state       text NOT NULL CHECK (state IN ('running', 'waiting', 'complete', 'pruned', 'failed')),
    worker      text REFERENCES hpo.worker (id) ON DELETE SET NULL,
    trial       integer,
    deaths      integer NOT NULL DEFAULT 0,
    reason      text,
    epoch       integer NOT NULL DEFAULT 0,
    epochs      integer,
    macro_f1    double precision,
    best        double precision,
    taken       timestamptz NOT NULL DEFAULT now(),
    ended       timestamptz,
    busy_seconds double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (study_id, number)
);
CREATE TABLE IF NOT EXISTS hpo.log (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    trial       integer NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    line        text NOT NULL
);
CREATE INDEX IF NOT EXISTS log_trial ON hpo.log (study_id, trial, id);
"""

# A `halt` without an end is in force. The indexes find the open places, and those of a worker, without reading all.
_HALTS = """
CREATE TABLE hpo.halt (
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    kind        text NOT NULL CHECK (kind IN ('pause', 'stop')),
    began       timestamptz NOT NULL DEFAULT now(),
    ended       timestamptz
);
CREATE UNIQUE INDEX halt_in_force ON hpo.halt (study_id) WHERE ended IS NULL;
ALTER TABLE hpo.worker ADD COLUMN died boolean NOT NULL DEFAULT false;
ALTER TABLE hpo.place RENAME COLUMN deaths TO failed_runs;
CREATE INDEX place_open ON hpo.place (study_id, number) WHERE state IN ('running', 'waiting');
CREATE INDEX place_worker ON hpo.place (worker) WHERE state = 'running';
CREATE INDEX place_trial ON hpo.place (study_id, trial);
CREATE INDEX place_ended ON hpo.place (study_id, ended);
"""

# The recipe that the trial of a place is trained by, as a digest: no two places of a study may have the same one.
_RECIPES = """
ALTER TABLE hpo.place ADD COLUMN recipe text;
CREATE INDEX place_recipe ON hpo.place (study_id, recipe);
"""

# `rungs` maps the epoch of each rung that the trial of a place has come to, to its best score until then, and
# `paused_after` is the one from which it has not gone on. `promoted`: the trial that the place
# names was paused, and another is to go on.
_RUNGS = """
ALTER TABLE hpo.place ADD COLUMN rungs jsonb NOT NULL DEFAULT '{}';
ALTER TABLE hpo.place ADD COLUMN paused_after integer;
ALTER TABLE hpo.place ADD COLUMN promoted boolean NOT NULL DEFAULT false;
ALTER TABLE hpo.place DROP CONSTRAINT place_state_check;
ALTER TABLE hpo.place ADD CONSTRAINT place_state_check
    CHECK (state IN ('running', 'waiting', 'paused', 'complete', 'pruned', 'failed'));
"""

# A halt with a host is for the workers there alone.
_HOST_HALTS = """
ALTER TABLE hpo.halt ADD COLUMN host text;
DROP INDEX hpo.halt_in_force;
CREATE UNIQUE INDEX halt_in_force ON hpo.halt (study_id, coalesce(host, '')) WHERE ended IS NULL;
"""

# Of which events somebody was told by `[study] notify`; who writes the row sends the message.
_NOTIFICATIONS = """
CREATE TABLE hpo.notification (
    study_id    integer NOT NULL REFERENCES studies (study_id) ON DELETE CASCADE,
    event       text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (study_id, event)
);
"""

# How large the checkpoint of a paused trial is; NULL where there is none any more, or none was noted.
_CHECKPOINTS = """
ALTER TABLE hpo.place ADD COLUMN checkpoint_bytes bigint;
"""

STEPS = (_FIRST, _HALTS, _RECIPES, _RUNGS, _HOST_HALTS, _CHECKPOINTS, _NOTIFICATIONS)


def version(connection: Connection) -> int:
    """How many of the steps a database has taken; 0 where it holds none of our tables."""
    there = "SELECT to_regclass('hpo.version') IS NOT NULL, to_regclass('hpo.log') IS NOT NULL"
    numbered, first = connection.execute(text(there)).one()
    if numbered:
        return int(connection.execute(text("SELECT number FROM hpo.version")).scalar_one())
    return 1 if first else 0


def bring_up_to_date(connection: Connection) -> None:
    """Take the steps that a database has not taken yet, all or none of them; one caller at a time."""
    done = version(connection)
    if done >= len(STEPS):
        return  # tables of a newer program are refused by `refuse_other_version`
    for step in STEPS[done:]:
        connection.execute(text(step))
    connection.execute(text("CREATE TABLE IF NOT EXISTS hpo.version (number integer NOT NULL)"))
    connection.execute(text("DELETE FROM hpo.version"))
    connection.execute(text("INSERT INTO hpo.version (number) VALUES (:number)"), {"number": len(STEPS)})


def refuse_other_version(connection: Connection, shown_url: str) -> None:
    """Raise StorageError unless the tables are those that this program was written for."""
    there = version(connection)
    if there == 0:
        raise StorageError(f"storage: {shown_url} is not initialised; run `hpo init STUDY` first")
    if there < len(STEPS):
        raise StorageError(f"storage: {shown_url} was made by an older hpo; stop all workers and run `hpo init STUDY`")
    if there > len(STEPS):
        raise StorageError(f"storage: {shown_url} is used by a newer hpo; install that one here, too")
