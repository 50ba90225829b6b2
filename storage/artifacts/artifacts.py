"""Files that trials keep: their bytes lie in a store, and a row of the database names them. The bytes come first."""

from __future__ import annotations

import json
import mimetypes
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from optuna.artifacts import ArtifactMeta
from optuna.trial import TrialState
from sqlalchemy import text

from storage.artifacts.artifact_store import discard, get, put
from storage.errors import FileGoneError
from storage.keys import ARTIFACT_KEY
from storage.optuna_internals import trial_id_of

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    import optuna
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy.engine import Connection

    from storage.artifacts.artifact_store import ArtifactFiles


@dataclass(frozen=True)
class KeptFile:
    """A file that a trial names.

    Attributes:
        trial_id: Optuna's number of the trial in the database.
        number: of the trial in the study.
        state: of the trial.
        value: of the trial; None where it has none.
        artifact_id: of the file.
        name: of the file.
    """

    trial_id: int
    number: int
    state: TrialState
    value: float | None
    artifact_id: str
    name: str


def checkpoint_id(owner: str) -> str:
    """A new id for a checkpoint.

    Args:
        owner: what the ids of the study's files begin with, in a store that other studies may use, too.
    """
    return f"{owner}-checkpoint-{uuid.uuid4().hex}"


def keep_file(store: ArtifactFiles, trial: optuna.Trial, file: Path, owner: str) -> None:
    """Keep a file of a running trial under its own name.

    Optuna's `upload_artifact` names the file first, so that a crash in between leaves a name without a file.

    Args:
        store: that is to hold it.
        trial: whose file it is.
        file: the file; its content may be anything.
        owner: what the id begins with, in hexadecimal digits: optuna-dashboard serves no other ids.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    artifact_id = f"{owner}-{uuid.uuid4()}"
    put(store, artifact_id, file)
    storage, trial_id = trial.storage, trial_id_of(trial)
    for key, value in naming(artifact_id, file.name).items():
        storage.set_trial_system_attr(trial_id, key, value)


def naming(artifact_id: str, name: str) -> dict[str, str]:
    """The system attributes by which a trial names a file."""
    kind, encoding = mimetypes.guess_type(name)
    meta = ArtifactMeta(artifact_id, name, kind or "application/octet-stream", encoding)
    return {ARTIFACT_KEY + artifact_id: json.dumps(asdict(meta))}


def fetch_file(store: ArtifactFiles, storage: BaseStorage, trial: FrozenTrial, name: str, to: Path) -> None:
    """Copy the file of this name that a complete trial kept.

    Raises:
        FileGoneError: it was removed, or this store does not hold it.
        StorageError: the store refuses, or does not answer.
    """
    attributes = storage.get_trial_system_attrs(trial_id_of(trial))
    metas = [json.loads(value) for key, value in attributes.items() if key.startswith(ARTIFACT_KEY)]
    # optuna-dashboard writes null for what was removed there.
    kept = [meta["artifact_id"] for meta in metas if meta and meta["filename"] == name]
    if not kept:
        raise FileGoneError(
            f"artifacts: trial {trial.number} no longer has its {name}: only the best trials keep theirs, as many as"
            " [study] keep_weights says; its recipe can be trained again"
        )
    if not any(get(store, artifact_id, to) for artifact_id in kept):
        raise FileGoneError(
            f"artifacts: {name} of trial {trial.number} is not in this store; was it run on another machine, or has"
            " [study] artifacts changed?"
        )


def copy_file(store: ArtifactFiles, kept: KeptFile, owner: str, by: Path, there: Container[str] = ()) -> dict[str, str]:
    """Copy a file that a trial names within the store, for a trial that is to be made in another study.

    The id of the copy depends only on that of the original and on the owner: repeated, it makes no second copy.

    Args:
        store: of both.
        kept: the file.
        owner: what the id of the copy begins with.
        by: a temporary file for the bytes; what it holds is replaced.
        there: ids that the store holds; a copy among them is not made again.

    Returns:
        the system attributes by which the other trial names its copy; none where the store does not hold the file.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    artifact_id = f"{owner}-{uuid.uuid5(uuid.NAMESPACE_OID, kept.artifact_id)}"
    if artifact_id not in there:
        if not get(store, kept.artifact_id, by):
            return {}
        put(store, artifact_id, by)
    return naming(artifact_id, kept.name)


def kept_files(connection: Connection, study_id: int, name: str | None = None) -> list[KeptFile]:
    """The files that trials of a study name, all or those of one file name.

    Those of the trial with the highest value come first, of equal values those of the earlier trial. This asks the
    database, since Optuna's cache remembers finished trials with the files that they had then.
    """
    rows = connection.execute(
        text(
            "SELECT t.trial_id, t.number, t.state::text, v.value, a.value_json"
            " FROM trials t JOIN trial_system_attributes a ON a.trial_id = t.trial_id"
            " LEFT JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0"
            " WHERE t.study_id = :study_id AND a.key LIKE :key AND strpos(a.value_json, :name) > 0"
            " ORDER BY v.value DESC NULLS LAST, t.number"
        ),
        {"study_id": study_id, "key": f"{ARTIFACT_KEY}%", "name": name or ""},
    )
    found = []
    for trial_id, number, state, value, encoded in rows:
        meta = json.loads(json.loads(encoded))
        if meta and name in (None, meta["filename"]):
            found.append(KeptFile(trial_id, number, TrialState[state], value, meta["artifact_id"], meta["filename"]))
    return found


def drop_file(store: ArtifactFiles, connection: Connection, kept: KeptFile) -> None:
    """Remove a file that a trial names: first the name, so that no name is ever without its file.

    By SQL, because Optuna changes no attributes of a finished trial. The row is deleted, while optuna-dashboard would
    set it to null, because Optuna's `get_all_artifact_meta` fails where it finds null.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    connection.execute(
        text("DELETE FROM trial_system_attributes WHERE trial_id = :trial_id AND key = :key"),
        {"trial_id": kept.trial_id, "key": ARTIFACT_KEY + kept.artifact_id},
    )
    connection.commit()
    discard(store, kept.artifact_id)


def remove_files(store: ArtifactFiles, connection: Connection, study_id: int, owner: str) -> None:
    """Remove from a store all files that a study or its trials name, and all whose ids begin with the study's owner.

    Raises:
        StorageError: the store refuses, or does not answer.
    """
    study_files = connection.execute(
        text("SELECT value_json FROM study_system_attributes WHERE study_id = :study_id AND key LIKE :key"),
        {"study_id": study_id, "key": f"{ARTIFACT_KEY}%"},
    )
    metas = [json.loads(json.loads(encoded)) for (encoded,) in study_files]
    named = [meta["artifact_id"] for meta in metas if meta]
    named += [kept.artifact_id for kept in kept_files(connection, study_id)]
    for artifact_id in dict.fromkeys([*named, *(file.artifact_id for file in store.files(f"{owner}-"))]):
        discard(store, artifact_id)
