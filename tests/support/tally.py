"""What became of each trial of a study's budget, counted in its database and its artifact store."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from optuna.trial import TrialState

from hpo.study.open_study import load_study
from hpo.study.retention import take_inventory
from storage.artifacts.artifacts import kept_files
from storage.keys import CHECKPOINT_KEY, REASON_KEY, REPEATS_KEY, RESUMED_KEY, WEIGHTS_NAME
from storage.study_rows import places, workers

ENDS = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Tally:
    """A study, counted.

    Attributes:
        budget: how many trials it may have.
        states: places of the budget by state.
        runs: trials in Optuna's tables: one for each run.
        resumed: runs that went on from a checkpoint.
        workers: processes that have worked on it.
        leftovers: files that `hpo prune-artifacts` has to clear, now or when they are a day old.
        failures: what each failed place says, with its number.
        problems: what must not be.
    """

    budget: int
    states: dict[str, int]
    runs: int
    resumed: int
    workers: int
    leftovers: int
    failures: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            ("trials of the budget", self.budget),
            *((f"  {state}", count) for state, count in sorted(self.states.items())),
            ("runs", self.runs),
            ("  that went on from a checkpoint", self.resumed),
            ("workers", self.workers),
            ("files to be pruned", self.leftovers),
        ]
        lines = [f"{name:<36}{count:>6}" for name, count in rows]
        lines += [f"failed: {failure}" for failure in self.failures]
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems or ("none",))])


def count(file, url):
    """Count a study that has come to its end.

    Args:
        file: its study file.
        url: of its database.
    """
    opened = load_study(file, url)
    try:
        with opened.storage.engine.connect() as connection:
            rows, worker_rows = places(connection, opened.study_id), workers(connection, opened.study_id)
            named = kept_files(connection, opened.study_id)
        trials = opened.study.get_trials()
        inventory = take_inventory(opened, file.keep_weights)
        stored = {each.artifact_id for each in opened.artifacts.files("")}
    finally:
        opened.storage.engine.dispose()
    weights = Counter(each.number for each in named if each.name == WEIGHTS_NAME and each.artifact_id in stored)
    checkpoints = {each.user_attrs.get(CHECKPOINT_KEY) for each in trials} & stored
    strays = stored - {each.artifact_id for each in named} - checkpoints
    return Tally(
        budget=file.limits.trials,
        states=Counter(place.state for place in rows),
        runs=len(trials),
        resumed=sum(RESUMED_KEY in trial.user_attrs for trial in trials),
        workers=len(worker_rows),
        leftovers=len(inventory.surplus) + len(strays - {each.file.artifact_id for each in inventory.surplus}),
        failures=tuple(f"place {place.number}: {place.reason}" for place in rows if place.state == "failed"),
        problems=(
            *_problems_of_places(file, rows, trials),
            *_problems_of_trials(rows, trials),
            *_problems_of_weights(file, trials, weights),
            *(
                f"checkpoint {each.artifact_id} would be kept for ever"
                for each in inventory.kept
                if each.artifact_id in checkpoints
            ),
        ),
    )


def _problems_of_places(file, rows, trials):
    """Every place has ended, with the end of its own trial and, where that is a failure, with a reason of its own."""
    if [place.number for place in rows] != list(range(file.limits.trials)):
        yield f"{len(rows)} places were taken, and the budget is {file.limits.trials}"
    if twice := [trial for trial, times in Counter(place.trial for place in rows).items() if times > 1]:
        yield f"trials {twice} are named by two places"
    for place in rows:
        if place.state not in ENDS or place.trial is None:
            yield f"place {place.number} is {place.state} with trial {place.trial}"
        elif trials[place.trial].state is not ENDS[place.state]:
            yield f"place {place.number} is {place.state}, and its trial {trials[place.trial].state.name}"
        elif place.state == "failed" and not place.reason:
            yield f"place {place.number} failed without a reason"


def _problems_of_trials(rows, trials):
    """Every trial has ended; those with one recipe are runs of one place, of which the last alone may have a result."""
    last_of = {place.trial: place.number for place in rows}
    repeated = [trial.user_attrs[REPEATS_KEY] for trial in trials if REPEATS_KEY in trial.user_attrs]
    for number, times in Counter(repeated).items():
        if times > 1:
            yield f"trial {number} was repeated {times} times"
    for trial in trials:
        if not trial.state.is_finished():
            yield f"trial {trial.number} is {trial.state.name} for ever"
        elif (trial.number in repeated) == (trial.number in last_of):
            yield f"trial {trial.number} is {'both' if trial.number in repeated else 'neither'} repeated and a result"
        elif trial.number in repeated and (trial.state is not TrialState.FAIL or REASON_KEY not in trial.user_attrs):
            yield f"trial {trial.number} is {trial.state.name}, and was repeated"
        earlier = trial.user_attrs.get(REPEATS_KEY)
        if earlier is not None and not trials[earlier].params.items() <= trial.params.items():
            yield f"trial {trial.number} has another recipe than trial {earlier}, which it repeats"


def _problems_of_weights(file, trials, weights):
    """The best complete trials have their weights, and no other trial has."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: (-trial.value, trial.number))[: file.keep_weights]
    for trial in best:
        if weights[trial.number] != 1:
            yield f"trial {trial.number} is complete and keeps its weights {weights[trial.number]} times"
