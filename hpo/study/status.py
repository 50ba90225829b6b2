"""How a search stands: a snapshot of its trials, its budget and its workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.trial import FixedTrial

from hpo.errors import HpoError
from hpo.study.earlier import earlier_studies
from hpo.study.early_ranks import early_ranks
from hpo.study.expected_gain import expected_gain
from hpo.study.interruptions import failed_trials, pauses
from hpo.study.paused_checkpoints import noted_sizes
from hpo.study.pruners import rung_epochs
from hpo.study.ranking import find_best
from hpo.study.settings import space_of
from hpo.study.speed_front import front_of, speeds_of
from hpo.study.stop_rules import check_rules
from storage.budget import StopRules
from storage.database import public_url
from storage.keys import END_STATES, METRICS_KEY, NO_RECIPE_LEFT_KEY, PLACE_STATES
from storage.rungs import rungs_with_room
from trainer.objective_metric import MACRO_F1
from trainer.space import suggest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.trial import FrozenTrial

    from hpo.study.early_ranks import EarlyRanks
    from hpo.study.expected_gain import ExpectedGain
    from hpo.study.interruptions import FailedTrial
    from hpo.study.open_study import OpenStudy
    from hpo.study.speed_front import FrontTrial, Speeds
    from hpo.study.stop_rules import LastGain
    from storage.budget import Limits, Used
    from storage.halts import Halt
    from storage.keys import PlaceState
    from storage.rungs import RungCount
    from storage.study_rows import PlaceRow, WorkerRow
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe
    from trainer.space import Space

DEAD_SECONDS = 86_400.0  # for which a dead worker is shown
TIME_HEADINGS = {  # what a worker measures its time by -> what people read
    "training": "training",
    "data": "waiting for data",
    "storage": "storage",
    "start_up": "start-up",
    "preparing": "before a trial's first step",
    "between": "between trials",
    "idle": "waiting for the last trials",
}


@dataclass(frozen=True)
class Spent:
    """How much of one limit of the budget is spent: trials that have ended, trainings, or hours."""

    name: str
    amount: float
    limit: float

    def __str__(self) -> str:
        amount, limit = f"{self.amount}", f"{self.limit}"
        if not isinstance(self.amount, int):  # hours
            amount, limit = f"{self.amount:.2f}", f"{self.limit:g}"
        return f"{amount} of {limit}" if self.amount <= self.limit else f"{amount}, above the limit of {limit}"


@dataclass(frozen=True)
class Best:
    """The best complete trial so far.

    Attributes:
        number: of the trial.
        score: its best one on the validation images, the higher the better.
        recipe: by which it trained.
        metric: that gives the score.
        metrics: all of its best epoch; empty where they are unknown.
    """

    number: int
    score: float
    recipe: Recipe
    metric: Metric = MACRO_F1
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The value of the metric as people read it."""
        return self.metric.text(self.score)

    @property
    def macro_f1(self) -> float | None:
        """Whatever the metric is; None where it is not known."""
        return self.score if self.metric == MACRO_F1 else self.metrics.get("macro_f1")

    @property
    def values(self) -> dict[str, float | None]:
        """The value of the metric, and macro-F1 in any case, by their names."""
        return {self.metric.name: self.metric.value(self.score), "macro_f1": self.macro_f1}

    def as_json(self) -> dict[str, Any]:
        """As `hpo status --json` prints it."""
        return {"number": self.number, **self.values, "recipe": asdict(self.recipe)}


@dataclass(frozen=True)
class Snapshot:
    """A search at one moment, as the storage tells it.

    Attributes:
        study: its name.
        storage: URL, without a password.
        limits: of the budget.
        used: of the budget.
        places: of the budget.
        workers: all that it has had.
        best: None before the first complete trial.
        halt: whether it is paused or stopped.
        halts: how often it was.
        from_outside: numbers of better trials that do not count.
        failed: how the trials ended that have failed for Optuna, by number.
        space_used_up: whether every recipe of the search space has been trained.
        no_recipe_left: whether its last workers found no recipe to try: each is trained, failed or beyond the limits.
        stop_rules: what ends it before its budget is used up.
        reason_to_end: why these let no further trial begin; None where they do not.
        gain: the last one beyond the noise; only where the rules ask for patience.
        paused: what has become of the trials that are or were paused, by number.
        rungs: to which trials have come, where those that are paused there may go on.
        expected: what further trials may be expected to bring; None where too few have ended.
        early: what the trials tell that were trained to their end whatever their rank; None before the first.
        checkpoints_gb: that the checkpoints of paused trials may take, in units of 10^9 bytes.
        paused_hosts: those that are paused by themselves.
        earlier: what it learns from earlier studies, a line for each.
        speeds: of the models; None where none was measured.
        front: the complete trials of which no other is both better and faster, the best first.
        metric: by which the trials are compared.
    """

    study: str
    storage: str
    limits: Limits
    used: Used
    places: Sequence[PlaceRow]
    workers: Sequence[WorkerRow]
    best: Best | None
    halt: Halt | None = None
    halts: int = 0
    from_outside: Sequence[int] = ()
    failed: Mapping[int, FailedTrial] = field(default_factory=dict)
    space_used_up: bool = False
    no_recipe_left: bool = False
    stop_rules: StopRules = field(default_factory=StopRules)
    reason_to_end: str | None = None
    gain: LastGain | None = None
    paused: Mapping[int, str] = field(default_factory=dict)
    rungs: Sequence[RungCount] = ()
    expected: ExpectedGain | None = None
    early: EarlyRanks | None = None
    checkpoints_gb: float | None = None
    paused_hosts: Sequence[str] = ()
    earlier: Sequence[str] = ()
    speeds: Speeds | None = None
    front: Sequence[FrontTrial] = ()
    metric: Metric = MACRO_F1

    @property
    def counts(self) -> dict[PlaceState, int]:
        """Trials by state; they add up to the places of the budget that are taken."""
        states = [place.state for place in self.places]
        return {state: states.count(state) for state in PLACE_STATES}

    @property
    def ended(self) -> int:
        """How many trials have ended for good, or are paused."""
        return self.counts["paused"] + sum(self.counts[state] for state in END_STATES)

    @property
    def spent(self) -> list[Spent]:
        """How much of each limit is spent."""
        limits, used = self.limits, self.used
        amounts = (
            ("trials", self.ended, limits.trials),
            ("hours", used.hours, limits.hours),
            ("GPU hours", used.gpu_hours, limits.gpu_hours),
            ("without a gain", self.gain.trainings if self.gain else 0, self.stop_rules.patience),
        )
        return [Spent(name, amount, limit) for name, amount, limit in amounts if limit is not None]

    @property
    def finished(self) -> bool:
        """Whether enough is found, or budget or recipes are used up, and nothing runs, or may still run."""
        return self.needs_no_worker or (self.no_recipe_left and self._nothing_goes_on)

    @property
    def needs_no_worker(self) -> bool:
        """Whether a worker that starts now has nothing to do; it tries a recipe again that has failed before."""
        if self.reason_to_end:
            return not self.counts["running"]
        used_up = self.space_used_up or not self.used.within(self.limits)
        return used_up and self._nothing_goes_on

    @property
    def recipes_used_up(self) -> str | None:
        """That no recipe is left to try, and why, as one clause; None where some are, or nobody has found so yet."""
        if self.space_used_up:
            return "every recipe of it has been trained"
        if self.no_recipe_left:
            return "every recipe of it has been trained, has failed or is beyond [limits]"
        return None

    @property
    def _nothing_goes_on(self) -> bool:
        """Whether no trial runs, and none that has begun may run on."""
        more = self.counts["waiting"] or rungs_with_room(self.rungs, closing=True)
        return not self.counts["running"] and not (more and self.used.hours_within(self.limits))

    @property
    def paused_checkpoints(self) -> list[int]:
        """Bytes of the checkpoints that paused trials keep, as far as they were noted."""
        return list(noted_sizes(self.places).values())

    @property
    def present(self) -> list[WorkerRow]:
        """The workers that have not left."""
        return [worker for worker in self.workers if not worker.gone]

    @property
    def dead(self) -> list[WorkerRow]:
        """The workers that have died during the last day."""
        return [worker for worker in self.workers if worker.died and worker.beat_seconds_ago < DEAD_SECONDS]

    def place_of(self, worker: WorkerRow) -> PlaceRow | None:
        """What a worker is doing."""
        return next((row for row in self.places if row.worker == worker.id and row.state == "running"), None)

    def as_json(self) -> dict[str, Any]:
        """The snapshot as `hpo status --json` prints it."""
        workers = []
        for worker in self.present:
            place = self.place_of(worker)
            workers.append(
                {
                    "host": worker.host,
                    "pid": worker.pid,
                    "device": worker.device,
                    "trial": place.trial if place else None,
                    "epoch": place.epoch if place else None,
                    **_beat(worker),
                }
            )
        return {
            "study": self.study,
            "storage": self.storage,
            "trials": self.counts,
            "budget": {**asdict(self.limits), **asdict(self.stop_rules), "used": asdict(self.used)},
            "reason_to_end": self.reason_to_end,
            "metric": self.metric.name,
            "last_gain": self.gain and self.gain.as_json(),
            "expected_gain": self.expected and self.expected.as_json(),
            "best": self.best and self.best.as_json(),
            "workers": workers,
            "dead_workers": [
                {"host": worker.host, "pid": worker.pid, "device": worker.device, **_beat(worker)}
                for worker in self.dead
            ],
            "halt": self.halt,
            "early_ranks": self.early and self.early.as_json(),
            "paused_checkpoints": {
                "count": len(self.paused_checkpoints),
                "bytes": sum(self.paused_checkpoints),
                "limit_gb": self.checkpoints_gb,
            },
            "paused_hosts": list(self.paused_hosts),
            "earlier_studies": list(self.earlier),
            "front": self.speeds
            and {"device": self.speeds.device, "trials": [trial.as_json() for trial in self.front]},
        }


def _beat(worker: WorkerRow) -> dict[str, float]:
    return {"beat_seconds_ago": round(worker.beat_seconds_ago, 1)}


def take_snapshot(opened: OpenStudy) -> Snapshot:
    """Read how a study stands now; raises HpoError where it was deleted."""
    study_file = opened.file
    try:
        trials = opened.study.get_trials(deepcopy=False)
        space = space_of(opened.study, study_file.space.extensions)
    except KeyError:
        raise HpoError(f'study: "{study_file.name}" was deleted') from None
    attributes = opened.study.user_attrs
    speeds = speeds_of(attributes)
    trial, from_outside = find_best(trials, space)
    metric, best = opened.metric, None
    if trial and trial.value is not None:
        metrics = trial.user_attrs.get(METRICS_KEY, {})
        best = Best(trial.number, trial.value, suggest(FixedTrial(trial.params), space), metric, metrics)
    reason, gain = check_rules(trials, space, study_file.stop_rules, metric)
    state = opened.rows.read()
    return Snapshot(
        study=study_file.name,
        storage=public_url(opened.url),
        limits=study_file.limits,
        used=state.used,
        places=state.places,
        workers=state.workers,
        best=best,
        halt=state.halt,
        halts=state.halts,
        from_outside=from_outside,
        failed=failed_trials(trials, state.places),
        space_used_up=opened.trained.are_all(trials),
        no_recipe_left=attributes.get(NO_RECIPE_LEFT_KEY) == len(state.workers),
        stop_rules=study_file.stop_rules,
        reason_to_end=reason,
        gain=gain,
        paused=pauses(trials, state.places, study_file.pruner),
        rungs=state.rungs if study_file.pruner == "asha" else (),
        expected=expected_gain(state.places, state.used, study_file.limits, trial, metric),
        early=_early_ranks(trials, space, metric) if study_file.pruner == "asha" else None,
        checkpoints_gb=study_file.checkpoints_gb,
        paused_hosts=state.paused_hosts,
        earlier=[each.line() for each in earlier_studies(study_file, opened.storage, opened.study_id)],
        speeds=speeds,
        front=front_of(trials, space, speeds, metric),
        metric=metric,
    )


def _early_ranks(trials: Sequence[FrozenTrial], space: Space, metric: Metric) -> EarlyRanks | None:
    return early_ranks(trials, rung_epochs(int(max(space.values("epochs")))), metric)
