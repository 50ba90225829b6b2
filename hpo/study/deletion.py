"""Deleting a study with all that is its own."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from hpo.errors import HpoError
from hpo.study.open_study import study_that_confirms
from hpo.study.study_name import CONFIRM_SUFFIX
from storage.heartbeat import GRACE_SECONDS
from trainer.wording import counted

if TYPE_CHECKING:
    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile


def refuse_if_at_work(opened: OpenStudy) -> None:
    """Raise HpoError while a worker of the study beats."""
    there = [row for row in opened.rows.read().workers if not row.gone]
    if any(row.beat_seconds_ago < GRACE_SECONDS for row in there):
        many = counted(len(there), "worker is", "workers are")
        raise HpoError(f"study: {many} at work on it; stop them first (Ctrl-C in `hpo search`)")


def delete_study(opened: OpenStudy, *, with_files: bool = True) -> None:
    """Delete a study with its trials, our own rows and, if so wished, its files, for good, whoever has made it.

    Raises:
        HpoError: the role may not delete it, and nothing was.
    """
    if not opened.rows.may_delete():  # asked before the files are gone
        raise HpoError("study: the role may not delete it; use the role that owns the tables")
    if with_files:
        opened.rows.remove_files(opened.artifacts, opened.owner)
    opened.storage.delete_study(opened.study_id)


def delete_idle_study(opened: OpenStudy) -> None:
    """Delete the study of a study file, as `delete_study` does, what confirms it, and the TensorBoard logs of both.

    Raises:
        HpoError: a worker is at work on it, or the role may not delete it; nothing was deleted.
    """
    confirmation = study_that_confirms(opened)
    for study in (confirmation, opened):
        if study:
            refuse_if_at_work(study)
    for study in (confirmation, opened):
        if study:
            delete_study(study)
    _remove_tensorboard(opened.file)
    _remove_tensorboard(replace(opened.file, name=opened.file.name + CONFIRM_SUFFIX))


def _remove_tensorboard(study_file: StudyFile) -> None:
    folder = study_file.tensorboard_folder
    if not folder.parent.is_symlink():  # one that came from elsewhere may lead to anywhere
        shutil.rmtree(folder, ignore_errors=True)
