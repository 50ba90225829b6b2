"""Who runs which trial: places in a study's budget, each held by at most one worker that beats."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection, Engine

BEAT_SECONDS = 5.0
GRACE_SECONDS = 60.0  # without a beat, on the watcher's own clock, before a worker counts as dead


@dataclass(frozen=True)
class Limits:
    """How much a search may use; None is without limit. The first that is used up ends it."""

    trials: int | None = None
    hours: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class Used:
    """What a search has used so far.

    Attributes:
        trials: places taken; a trial that has to be started again counts once.
        hours: wall-clock hours with at least one worker there.
        gpu_hours: hours that trials have run, added up over all workers.
    """

    trials: int
    hours: float
    gpu_hours: float

    def within(self, limits: Limits) -> bool:
        """Whether another trial may begin."""
        return (
            (limits.trials is None or self.trials < limits.trials)
            and (limits.hours is None or self.hours < limits.hours)
            and (limits.gpu_hours is None or self.gpu_hours < limits.gpu_hours)
        )


@dataclass(frozen=True)
class Place:
    """A place in the budget that this worker holds.

    Attributes:
        number: 0 for the first of the study.
        interrupted_trial: number of the trial that was run in it before and did not come to its end.
        deaths: how many workers have died over it.
    """

    number: int
    interrupted_trial: int | None
    deaths: int


@dataclass(frozen=True)
class PlaceRow:
    """A place as everybody sees it; times are those of the database."""

    number: int
    state: str
    worker: str | None
    trial: int | None
    reason: str | None
    epoch: int
    epochs: int | None
    macro_f1: float | None
    best: float | None
    seconds: float


@dataclass(frozen=True)
class WorkerRow:
    """A worker as everybody sees it; `seconds` says where its time went, by heading."""

    id: str
    host: str
    pid: int
    device: str
    started: datetime
    beat_seconds_ago: float
    gone: bool
    seconds: dict[str, float] = field(default_factory=dict)


class LostPlaceError(Exception):
    """The place was given to somebody else: this worker's run no longer counts."""


class Lease:
    """One worker's hold on the places of a study. Every method is one transaction, safe from any thread."""

    def __init__(self, engine: Engine, study_id: int, worker: str) -> None:
        self.worker = worker
        self._engine, self._study_id = engine, study_id
        self._watched: dict[str, tuple[int, float]] = {}  # worker -> (its beat, when this one first saw it)

    def join(self, host: str, pid: int, device: str) -> None:
        """Make this worker known."""
        self._execute(
            "INSERT INTO hpo.worker (id, study_id, host, pid, device) VALUES (:worker, :study, :host, :pid, :device)",
            host=host,
            pid=pid,
            device=device,
        )

    def leave(self) -> None:
        """Say that this worker ends; a place that it still holds, since something broke, goes to the next."""
        self._execute("UPDATE hpo.worker SET beaten = now() WHERE id = :worker")
        bury(self._engine, self.worker)

    def beat(self, seconds: dict[str, float]) -> None:
        """Say that this worker lives, and where its time went so far."""
        self._execute(
            "UPDATE hpo.worker SET beat = beat + 1, beaten = now(), gone = NULL, seconds = CAST(:seconds AS jsonb)"
            " WHERE id = :worker",
            seconds=json.dumps(seconds),
        )

    def take(self, limits: Limits) -> Place | None:
        """Take a place that was handed back, or a new one; None where nothing is left to take at the moment."""
        with self._engine.begin() as connection:
            _lock_study(connection, self._study_id)
            waiting = connection.execute(
                text(
                    "SELECT number, trial, deaths FROM hpo.place WHERE study_id = :study AND state = 'waiting'"
                    " ORDER BY number LIMIT 1"
                ),
                {"study": self._study_id},
            ).one_or_none()
            spent = used(connection, self._study_id)
            if waiting:
                # Its place in the number of trials is taken already; only the hours can forbid it.
                if not Used(0, spent.hours, spent.gpu_hours).within(limits):
                    return None
                place = Place(waiting.number, waiting.trial, waiting.deaths)
                connection.execute(
                    text(
                        "UPDATE hpo.place SET state = 'running', worker = :worker, taken = now(), epoch = 0,"
                        " macro_f1 = NULL, best = NULL WHERE study_id = :study AND number = :number"
                    ),
                    {"worker": self.worker, "study": self._study_id, "number": place.number},
                )
                return place
            if not spent.within(limits):
                return None
            connection.execute(
                text(
                    "INSERT INTO hpo.place (study_id, number, state, worker)"
                    " VALUES (:study, :number, 'running', :worker)"
                ),
                {"worker": self.worker, "study": self._study_id, "number": spent.trials},
            )
            return Place(spent.trials, None, 0)

    def begin(self, place: Place, trial: int) -> None:
        """Name the trial that runs in a place."""
        self._update(place, "trial = :trial, epochs = NULL", trial=trial)

    def progress(self, place: Place, epoch: int, epochs: int, macro_f1: float, best: float) -> None:
        """Keep how far the trial in a place has come."""
        self._update(
            place,
            "epoch = :epoch, epochs = :epochs, macro_f1 = :macro_f1, best = :best",
            epoch=epoch,
            epochs=epochs,
            macro_f1=macro_f1,
            best=best,
        )

    def finish(self, place: Place, state: str, reason: str | None = None) -> None:
        """Say how the trial in a place ended: complete, pruned or failed."""
        self._update(place, f"state = :state, reason = :reason, {_ENDED}", state=state, reason=reason)

    def hand_back(self, place: Place) -> None:
        """Leave a place to the next worker that takes one."""
        self._update(place, f"state = 'waiting', worker = NULL, {_ENDED}")

    def hold(self, place: Place) -> None:
        """Make sure that a place is still this worker's."""
        self._update(place, "worker = worker")

    def others_run(self) -> bool:
        """Whether another worker holds a place, which may come back."""
        with self._engine.connect() as connection:
            others: bool = connection.execute(
                text("SELECT EXISTS (SELECT FROM hpo.place WHERE study_id = :study AND state = 'running')"),
                {"study": self._study_id},
            ).scalar_one()
            return others

    def first_ends(self, count: int) -> list[tuple[str, str | None]]:
        """State and reason of the first places that came to an end since this worker joined."""
        with self._engine.connect() as connection:
            rows = connection.execute(
                text(
                    "SELECT state, reason FROM hpo.place WHERE study_id = :study"
                    " AND state IN ('complete', 'pruned', 'failed')"
                    " AND ended >= (SELECT started FROM hpo.worker WHERE id = :worker) ORDER BY ended LIMIT :count"
                ),
                {"study": self._study_id, "worker": self.worker, "count": count},
            )
            return [(row.state, row.reason) for row in rows]

    def reap(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """Hand back the places of workers whose beat this one has watched stand still for the grace time.

        Only what this process has seen on its own monotonic clock counts: no other clock, no outage of the database and
        no time zone can make a living worker look dead.
        """
        with self._engine.begin() as connection:
            rows = connection.execute(
                text("SELECT id, beat FROM hpo.worker WHERE study_id = :study AND gone IS NULL AND id <> :worker"),
                {"study": self._study_id, "worker": self.worker},
            ).all()
        now = time.monotonic()
        # A beat that has moved starts the watch anew.
        self._watched = {
            row.id: seen if (seen := self._watched.get(row.id)) and seen[0] == row.beat else (row.beat, now)
            for row in rows
        }
        for worker, (_, since) in self._watched.items():
            if now - since > grace_seconds:
                bury(self._engine, worker)

    def _update(self, place: Place, assignments: str, **values: Any) -> None:
        changed = self._execute(
            f"UPDATE hpo.place SET {assignments}"  # noqa: S608 - the assignments are written above
            " WHERE study_id = :study AND number = :number AND worker = :worker AND state = 'running'",
            number=place.number,
            **values,
        )
        if not changed:
            raise LostPlaceError(f"place {place.number} was given to another worker")

    def _execute(self, statement: str, **values: Any) -> int:
        with self._engine.begin() as connection:
            result = connection.execute(text(statement), {"worker": self.worker, "study": self._study_id, **values})
            return result.rowcount


_ENDED = "ended = now(), busy_seconds = busy_seconds + extract(epoch FROM now() - taken)"


def bury(engine: Engine, worker: str, *, by_us: bool = False) -> None:
    """Hand back the places of a worker that is known to have ended; one that we ended is no death of its trial's."""
    with engine.begin() as connection:
        connection.execute(
            text(
                # It has run until its last beat: what came after that is no time of the GPU's.
                "UPDATE hpo.place SET state = 'waiting', worker = NULL, deaths = deaths + :deaths, ended = now(),"
                " busy_seconds = busy_seconds + greatest(0, extract(epoch FROM"
                " (SELECT beaten FROM hpo.worker WHERE id = :worker) - taken))"
                " WHERE worker = :worker AND state = 'running'"
            ),
            {"worker": worker, "deaths": 0 if by_us else 1},
        )
        connection.execute(
            text("UPDATE hpo.worker SET gone = beaten WHERE id = :worker AND gone IS NULL"), {"worker": worker}
        )


def used(connection: Connection, study_id: int) -> Used:
    """What the study's search has used so far, places that run now included."""
    trials, busy = connection.execute(
        text(
            "SELECT count(*), coalesce(sum(busy_seconds + CASE WHEN state = 'running'"
            " THEN greatest(0, extract(epoch FROM beaten - taken)) ELSE 0 END), 0)"
            " FROM hpo.place LEFT JOIN hpo.worker ON id = worker WHERE place.study_id = :study"
        ),
        {"study": study_id},
    ).one()
    # The union of the workers' lives, so that hours of pause do not count and two workers at once count once.
    hours = connection.execute(
        text(
            "SELECT coalesce(sum(extract(epoch FROM upper(span) - lower(span))), 0) / 3600 FROM ("
            " SELECT unnest(range_agg(tstzrange(started, greatest(started, coalesce(gone, beaten))))) AS span"
            " FROM hpo.worker WHERE study_id = :study) AS spans"
        ),
        {"study": study_id},
    ).scalar_one()
    return Used(trials=int(trials), hours=float(hours), gpu_hours=float(busy) / 3600)


def places(connection: Connection, study_id: int) -> list[PlaceRow]:
    """All places of a study, the first first."""
    rows = connection.execute(
        text(
            "SELECT number, state, worker, trial, reason, epoch, epochs, macro_f1, best, (busy_seconds"
            " + CASE WHEN state = 'running' THEN extract(epoch FROM now() - taken) ELSE 0 END)::float AS seconds"
            " FROM hpo.place WHERE study_id = :study ORDER BY number"
        ),
        {"study": study_id},
    )
    return [PlaceRow(**row) for row in rows.mappings()]


def workers(connection: Connection, study_id: int) -> list[WorkerRow]:
    """All workers that a study has had, the first first."""
    rows = connection.execute(
        text(
            "SELECT id, host, pid, device, started, seconds, gone IS NOT NULL AS gone,"
            " extract(epoch FROM now() - beaten)::float AS beat_seconds_ago"
            " FROM hpo.worker WHERE study_id = :study ORDER BY started, id"
        ),
        {"study": study_id},
    )
    return [WorkerRow(**row) for row in rows.mappings()]


def _lock_study(connection: Connection, study_id: int) -> None:
    """One taker at a time, until the end of the transaction: the budget is exact because of it."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('hpo.place'), :study)"), {"study": study_id})
