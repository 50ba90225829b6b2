"""The study as JSON for optuna-dashboard's page: the answer of its own route, with our notes in it, and faster."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from hpo.dashboard.internals import StudyEncoder, find_study, trial_as_json
from hpo.dashboard.notes import study_note, trial_note, with_ours
from hpo.study.confirmed import read_confirmed
from hpo.study.ranking import ranked
from hpo.study.settings import space_of
from hpo.study.status import take_snapshot
from storage.keys import ARTIFACT_KEY, METRICS_KEY
from storage.optuna_internals import trial_id_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from hpo.study.interruptions import FailedTrial
    from hpo.study.open_study import OpenStudy

IN_THE_NOTE = METRICS_KEY  # left out of a trial's attributes: its note shows them, in full they are a third of it all
CURVES = 25  # of the best trials, and of the latest: optuna-dashboard draws all that it is given, for many seconds
TRIAL_ATTRIBUTE = re.compile(r"dashboard:(?:artifacts:)?(\d+):")  # how those of a trial begin among those of its study


@dataclass(frozen=True)
class _Changing:
    """What of a trial that has ended may still change.

    Attributes:
        files: ids of the files of the trial that are still there.
        attributes: those of the study that belong to the trial, such as its note.
        curve: whether the JSON has the values of its epochs.
        failed: how it ended, where it has failed for Optuna.
        paused: what has become of it, where it is or was paused.
    """

    files: frozenset[str]
    attributes: dict[str, Any]
    curve: bool
    failed: FailedTrial | None
    paused: str | None


class StudyPage:
    """A study as JSON, for GET /api/studies/ID of optuna-dashboard; safe from any thread.

    Trials that have ended are turned to JSON once. optuna-dashboard does it for each request, looks through all
    attributes of the study for each trial, and through all trials for what they have in common.

    Args:
        opened: the study; its storage remembers trials that have ended.

    Raises:
        RecipeError: the study names functions of one's own that the file's extensions do not hold.
    """

    def __init__(self, opened: OpenStudy) -> None:
        self._opened = opened
        self._space = space_of(opened.study, opened.file.space.extensions)
        # The JSON of trials that have ended, and what it was made from, by the id of the trial.
        self._known: dict[int, tuple[_Changing, str]] = {}
        self._encoder = StudyEncoder()
        self._lock = threading.Lock()  # one at a time turns trials to JSON

    def answer(self, after: int) -> str:
        """The study with its trials but for the first `after`; raises KeyError where it was deleted."""
        opened = self._opened
        study = find_study(opened.storage, opened.study_id)
        if study is None:
            raise KeyError(f"there is no study with the id {opened.study_id}")
        snapshot = take_snapshot(opened)
        trials = opened.study.get_trials(deepcopy=False)
        files = defaultdict(set)  # those that are still there, by the id of the trial
        for kept in opened.rows.kept_files():
            files[kept.trial_id].add(kept.artifact_id)
        attributes: dict[int, dict[str, Any]] = defaultdict(dict)
        for key, value in study.system_attrs.items():
            if match := TRIAL_ATTRIBUTE.match(key):
                attributes[int(match[1])][key] = value

        best_first = list(islice(ranked(trials, self._space), CURVES))
        with_curve = {trial.number for trial in (*best_first, *trials[-CURVES:])}

        def text_of(trial: FrozenTrial) -> str:
            trial_id = trial_id_of(trial)
            curve = trial.number in with_curve or not trial.state.is_finished()
            fate = snapshot.failed.get(trial.number), snapshot.paused.get(trial.number)
            return self._text(trial, _Changing(frozenset(files[trial_id]), attributes[trial_id], curve, *fate))

        with self._lock:
            # The trials that the encoder was given and that had ended by then do not change any more.
            new = [trial for trial in trials if trial_id_of(trial) not in self._known]
            head = self._encoder.encode(study, opened.study_id, new, hidden=IN_THE_NOTE)
            texts = [text_of(trial) for trial in trials]
        note = study_note(snapshot, opened.study_id, read_confirmed(opened))
        head["note"]["body"] = with_ours(head["note"]["body"], note)
        del head["trials"], head["best_trials"]
        best = ",".join(texts[trial.number] for trial in best_first[:1])
        return f'{_json(head)[:-1]},"best_trials":[{best}],"trials":[{",".join(texts[after:])}]}}'

    def shown_note(self, trial_id: int | None, theirs: str) -> str:
        """The note of a trial, or of the study, as it is shown."""
        snapshot = take_snapshot(self._opened)
        if trial_id is None:
            note = study_note(snapshot, self._opened.study_id, read_confirmed(self._opened))
            return with_ours(theirs, note)
        trial = self._opened.storage.get_trial(trial_id)
        fate = snapshot.failed.get(trial.number), snapshot.paused.get(trial.number)
        return with_ours(theirs, trial_note(trial, self._space, *fate, metric=self._opened.metric))

    def _text(self, trial: FrozenTrial, changing: _Changing) -> str:
        trial_id = trial_id_of(trial)
        known = self._known.get(trial_id)
        if known and known[0] == changing:
            return known[1]
        shown = trial_as_json(self._opened.study_id, trial, changing.attributes)
        shown["user_attrs"] = [each for each in shown["user_attrs"] if each["key"] != IN_THE_NOTE]
        # A trial that has ended is remembered with the files that it named then, and some may be gone.
        gone = {key.removeprefix(ARTIFACT_KEY) for key in trial.system_attrs if key.startswith(ARTIFACT_KEY)}
        gone -= changing.files
        shown["artifacts"] = [each for each in shown["artifacts"] if each["artifact_id"] not in gone]
        note = trial_note(trial, self._space, changing.failed, changing.paused, self._opened.metric)
        shown["note"]["body"] = with_ours(shown["note"]["body"], note)
        if not changing.curve:
            shown["intermediate_values"] = []
        text = _json(shown)
        if trial.state.is_finished():
            self._known[trial_id] = changing, text
        return text


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
