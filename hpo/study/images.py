"""The images of a study, by the value ranges that it was begun with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.errors import HpoError
from storage.keys import SETTINGS_KEY, VALUE_RANGES_KEY
from trainer.images.archives import archive_of
from trainer.images.remote_source import fetch_source
from trainer.images.value_range import ranges_from_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import optuna

    from hpo.study.study_file import StudyFile
    from trainer.data import Data


def read_images(study_file: StudyFile, on_progress: Callable[[int, int], None] | None = None) -> Data:
    """List and split the images of a study file; those at URLs are fetched, packed ones are unpacked, beside it.

    on_progress: called with the files done and the files in all meanwhile.

    Raises:
        DataError: as `load_data` does.
    """
    if _needs_folder(study_file.data.path):
        study_file.make_folder()
    return study_file.data.load(study_file.folder / "pixels", on_progress)


def load_images(
    study_file: StudyFile, study: optuna.Study | None, on_progress: Callable[[int, int], None] | None = None
) -> Data:
    """The images of a study file, as `read_images` has them; what its study has kept holds where that has begun.

    A study that begins gets a data set at a URL as it is there now, one that has begun as it was fetched then.
    """
    if study is not None and SETTINGS_KEY in study.user_attrs:
        return with_kept_ranges(read_images(study_file, on_progress), study)
    source = study_file.data.path
    if isinstance(source, str):
        study_file.make_folder()
        fetch_source(source, study_file.folder / "pixels", on_progress, ask_again=True)
    return read_images(study_file, on_progress)


def _needs_folder(source: Path | str) -> bool:
    """Whether images are fetched or unpacked before they can be listed."""
    if isinstance(source, str) or archive_of(source):
        return True
    try:
        return source.suffix.lower() == ".csv" and b"://" in source.read_bytes()
    except OSError:  # who lists the images says so
        return False


def with_kept_ranges(data: Data, study: optuna.Study) -> Data:
    """The same images by the ranges of a study that has begun; one of before ranges were kept has none.

    Raises:
        HpoError: what is kept are no ranges.
    """
    kept = study.user_attrs.get(VALUE_RANGES_KEY)
    try:
        return data.with_ranges(None if kept is None else ranges_from_json(kept))
    except ValueError as error:
        raise HpoError(f'study: "{study.study_name}" cannot be read: {error}; begin another study') from error


def keep_ranges(study: optuna.Study, data: Data) -> None:
    """Keep the value ranges of the images with a study that begins."""
    if (ranges := data.ranges()) is not None:
        study.set_user_attr(VALUE_RANGES_KEY, ranges.as_json())
