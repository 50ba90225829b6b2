"""Images at URLs: whether they are still what was fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.fetched import FETCHED
from trainer.images.remote_source import changed_source
from trainer.quality.checks import Case, Finding
from trainer.remote.answer import FetchError
from trainer.remote.urls import shown
from trainer.wording import counted

if TYPE_CHECKING:
    from hpo.study.study_file import StudyFile
    from hpo.supervision.progress import Progress
    from trainer.images.index import Index


def check_sources(study_file: StudyFile, index: Index, progress: Progress) -> list[Finding]:
    """Ask for the state of everything that was fetched; no finding where nothing was."""
    source, cache, cases = study_file.data.path, study_file.folder / "pixels", list[Case]()
    if isinstance(source, str):
        try:
            changes = changed_source(source, cache)
        except (FetchError, DataError) as error:
            changes = str(error)
        if changes:
            cases.append(Case((shown(source),), changes))
    elif not index.checksums:
        return []
    if index.checksums and index.fetched:
        with progress.counting("asking for changes at URLs") as count:
            cases += [Case((url,), note) for url, note in index.fetched.changed(count)]
    if not cases:
        return [Finding("images at URLs", "ok", "what was fetched is still the same at its source")]
    line = f"{counted(len(cases), 'source has', 'sources have')} changed since then, or cannot be asked"
    remedy = (
        f"a search keeps to what was fetched; to have the images as they are now, remove {cache / FETCHED} and give"
        " the study another name"
    )
    return [Finding("images at URLs", "warning", line, remedy, tuple(cases))]
