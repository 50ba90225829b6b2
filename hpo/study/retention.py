"""Which files of a study are kept, and which are no longer needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from hpo.study.paused_checkpoints import checkpoints_of, paused_trials, surplus_checkpoints
from storage.artifacts.artifact_store import discard
from storage.keys import CHECKPOINT_KEY, END_STATES, WEIGHTS_NAME
from storage.outage_retry import retry_outages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.trial import FrozenTrial

    from hpo.study.open_study import OpenStudy
    from storage.artifacts.artifact_store import StoredFile
    from storage.artifacts.artifacts import KeptFile
    from storage.study_rows import SearchState

STRAY_SECONDS = 86_400.0  # a file that no trial names after so long will not be named any more


@dataclass(frozen=True)
class Surplus:
    """A file that is no longer needed, and why."""

    file: StoredFile
    why: str


@dataclass(frozen=True)
class Inventory:
    """A study's files in its store: those that are needed, and those that are not."""

    kept: tuple[StoredFile, ...]
    surplus: tuple[Surplus, ...]


def take_inventory(opened: OpenStudy, keep: int) -> Inventory:
    """List the files of a study, whose workers may be at work; those of other studies in the same store are left out.

    Needed are the weights of the best complete trials, the other files of complete and pruned ones, and the last
    checkpoint of each trial whose place in the budget has not ended, whatever has become of the trial itself; of those
    that are paused, as many as may still go on and as the study file has room for. A file that nothing names may be
    about to be named, until it is a day old.

    Args:
        opened: the study.
        keep: how many complete trials keep their weights.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    files = list(opened.artifacts.files(f"{opened.owner}-"))  # before the names: what is named meanwhile is young
    named = opened.rows.kept_files()
    state = opened.rows.read()
    trials = opened.study.get_trials(deepcopy=False)
    paused = _surplus_of_paused(opened, state, trials, files)
    at_work = {place.trial for place in state.places if place.state not in END_STATES} - paused.keys()
    needed = _needed_checkpoints(trials, at_work)
    reasons: dict[str, str] = {}
    for trial in trials:
        checkpoint = trial.user_attrs.get(CHECKPOINT_KEY)
        if checkpoint is not None and checkpoint not in needed:
            reasons[checkpoint] = f"checkpoint of trial {trial.number}, which has ended"
    for number, line in paused.items():
        reasons.update(dict.fromkeys(checkpoints_of(trials, number), f"of trial {number}, which is paused: {line}"))
    for each in named:
        if each.state is TrialState.FAIL or (each.state is TrialState.PRUNED and each.name == WEIGHTS_NAME):
            reasons[each.artifact_id] = f"{each.name} of trial {each.number}, which did not complete"
    for each in _surplus_weights(named, keep):
        reasons[each.artifact_id] = f"weights of trial {each.number}, which is not among the best {keep}"
    known = needed | {each.artifact_id for each in named}
    kept, surplus = [], []
    for file in files:
        stray = file.artifact_id not in known and file.age_seconds > STRAY_SECONDS
        if why := reasons.get(file.artifact_id) or ("no trial names it" if stray else None):
            surplus.append(Surplus(file, why))
        else:
            kept.append(file)
    return Inventory(tuple(kept), tuple(surplus))


def prune_artifacts(opened: OpenStudy, surplus: Iterable[Surplus]) -> None:
    """Remove files that an inventory has found to be no longer needed.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    named = {kept.artifact_id: kept for kept in opened.rows.kept_files()}
    for one in surplus:
        if kept := named.get(one.file.artifact_id):
            opened.rows.drop_file(opened.artifacts, kept)
        else:
            discard(opened.artifacts, one.file.artifact_id)


def drop_surplus_weights(opened: OpenStudy, keep: int) -> None:
    """Remove the weights of the complete trials that are not among the best; for workers, after each complete trial.

    Makes one query where there is nothing to remove. Several workers may do this at the same time: a trial that is not
    among the best now will not be among them later.

    Raises:
        StorageError: the store refuses, or does not answer.
    """

    def drop() -> None:
        for kept in _surplus_weights(opened.rows.kept_files(WEIGHTS_NAME), keep):
            opened.rows.drop_file(opened.artifacts, kept)

    retry_outages(opened.outage_retry, drop)


def _surplus_weights(named: Sequence[KeptFile], keep: int) -> Sequence[KeptFile]:
    return [kept for kept in named if kept.state is TrialState.COMPLETE and kept.name == WEIGHTS_NAME][keep:]


def _needed_checkpoints(trials: Sequence[FrozenTrial], at_work: set[int | None]) -> set[str]:
    """The checkpoints of the trials at work, and of those that they repeat and so go on with."""
    needed = set()
    for trial in trials:
        if trial.number in at_work or not trial.state.is_finished():
            needed |= set(checkpoints_of(trials, trial.number))
    return needed


def _surplus_of_paused(
    opened: OpenStudy, state: SearchState, trials: Sequence[FrozenTrial], files: Sequence[StoredFile]
) -> dict[int, str]:
    """The paused trials whose checkpoints are not to be kept, each with the reason."""
    if opened.file.pruner != "asha":
        return {}
    held = {file.artifact_id: file.size_bytes for file in files}
    paused = paused_trials(state)
    sizes = {each.trial: sum(held.get(key, 0) for key in checkpoints_of(trials, each.trial)) for each in paused}
    sizes = {trial: size for trial, size in sizes.items() if size}
    return surplus_checkpoints(paused, sizes, opened.file.checkpoints_gb)
