"""The study file and the study that the options of a command name. Optuna is imported when a function is called."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from storage.outage_retry import OutageRetry


def study_file_from(options: argparse.Namespace) -> StudyFile:
    """Read the study file that a command was given; HPO_ARTIFACTS comes before its own [study] artifacts.

    What is kept beside it is closed to other users, and a line says so where it was not.

    Raises:
        StudyFileError: it cannot be read, or has mistakes.
    """
    from hpo.study.study_file import read_study_file
    from storage.private_folder import narrow

    quiet_optuna()
    study_file = read_study_file(options.study, options.extensions)
    if line := narrow(study_file.folder):
        print(f"hpo: {line}", file=sys.stderr)
    return replace(study_file, artifacts=options.artifacts) if options.artifacts else study_file


@contextmanager
def open_study_from(options: argparse.Namespace, outage_retry: OutageRetry | None = None) -> Iterator[OpenStudy]:
    """Open the study that a command was given, which must exist; its storage is open as long as the block lasts.

    Args:
        options: of the command.
        outage_retry: waits for the database where it does not answer; None does not wait.

    Raises:
        StudyFileError: the study file cannot be read, or has mistakes.
        StorageError: the database cannot be used.
        HpoError: there is no such study, or hpo has not made it.
    """
    from hpo.study.open_study import load_study, storage_url

    study_file = study_file_from(options)
    with storage_url(study_file, options.url, create=False) as url:
        yield load_study(study_file, url, outage_retry)


def quiet_optuna() -> None:
    """Have Optuna log warnings only."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
