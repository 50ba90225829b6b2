"""The study files of nested cross-validation: one for each outer fold, which is the test split of an ordinary study."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import tomli_w

from hpo.errors import HpoError
from hpo.study.images import read_images
from hpo.whole_file import whole_file
from trainer.images.split import split_by_fold

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.study.study_file import StudyFile
    from trainer.images.index import Index

MARK = "# Written by hpo nested"
MOST_SEEDS = 2**31  # that a study file may name


def check_outer_folds(study_file: StudyFile, count: int) -> Index:
    """List the images of a study file and divide them into outer folds, each with its training and validation images.

    Raises:
        HpoError: the study file is that of one outer fold.
        DataError: the images cannot be listed or divided.
    """
    if study_file.data.test_fold:
        raise HpoError(
            f"nested: {study_file.path.name} holds out one fold by itself ([data] test_fold); give the study file of an"
            " ordinary search"
        )
    first = replace(study_file.data, test=0.0, test_fold=(1, count))
    index = read_images(replace(study_file, data=first)).index
    for number in range(2, count + 1):
        split_by_fold(index, (number, count), valid=first.valid, seed=first.seed)
    return index


def write_outer_studies(study_file: StudyFile, count: int) -> list[Path]:
    """Write a study file for each outer fold beside this one, whose settings they have; returns their paths.

    They learn from no earlier study, as that may have seen the images of the fold, and each draws with another seed, so
    that the chance of the search is in the result, too.

    Raises:
        HpoError: a file of that name is somebody else's, or cannot be written.
    """
    tables = tomllib.loads(study_file.path.read_text(encoding="utf-8"))
    study, data = tables.get("study", {}), tables["data"]
    study.pop("learn_from", None)
    data.pop("test", None)
    name = shlex.quote(study_file.path.name)
    head = f"{MARK} {name} --folds {count}, and again each time: change {name} in its place.\n\n"
    paths = []
    for number in range(1, count + 1):
        fold = f"outer-{number}-of-{count}"
        own: dict[str, Any] = {
            **tables,
            "study": {**study, "name": f"{study_file.name}/{fold}", "seed": (study_file.seed + number) % MOST_SEEDS},
            "data": {**data, "test_fold": [number, count]},
        }
        path = study_file.path.with_name(f"{study_file.path.stem}.{fold}.toml")
        _write(path, head + tomli_w.dumps(own))
        paths.append(path)
    return paths


def _write(path: Path, text: str) -> None:
    try:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            raise HpoError(f"nested: {path} exists and is not of `hpo nested`, which needs this name; move it away")
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise HpoError(f"nested: {path} cannot be written: {error.strerror}") from error
