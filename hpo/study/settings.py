"""What must stay as it is while a study lives, kept with it."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from storage.keys import SETTINGS_KEY, TAKEN_OVER_KEY

if TYPE_CHECKING:
    import optuna

    from hpo.study.study_file import StudyFile
    from trainer.data import Data

PACKAGES = ("albumentations", "numpy", "optuna", "timm", "torch")  # whose major version can change a training


def settings(study_file: StudyFile, data: Data) -> dict[str, Any]:
    """What must stay as it is while a study lives, since its trials could not be compared otherwise."""
    return {
        "recipe": study_file.space.as_dict(),
        "data": {
            "valid": study_file.data.valid,
            "test": study_file.data.test,
            "seed": study_file.data.seed,
            "group": study_file.data.group,
            "group_pattern": study_file.data.group_pattern,
        },
        "images": {"count": len(data.index.paths), "digest": data.index.digest, "split_digest": data.split.digest},
        "major versions": {package: version(package).split(".")[0] for package in PACKAGES},
    }


def check_settings(study: optuna.Study, study_file: StudyFile, data: Data) -> None:
    """Compare the study's settings with those of this study file, these images and this machine.

    Raises:
        HpoError: they differ; the text names each difference, and the way on.
    """
    refuse_foreign(study, study_file)
    changed = differences(study, study_file, data)
    if not changed:
        return
    way_on = "give the study another name in [study] name"
    if changed.keys() == {"recipe"}:
        command = command_to_take_over(study_file, study_file.name)
        way_on += f", and `{command}` takes over the finished trials that still fit"
    listed = "; ".join(line for lines in changed.values() for line in lines)
    raise HpoError(
        f'study: "{study_file.name}" was begun with other settings, and its trials could not be compared: {listed}.'
        f" Put that back, or {way_on}"
    )


def refuse_foreign(study: optuna.Study, study_file: StudyFile) -> None:
    """Raise HpoError where hpo has not made a study, or not to the end; the text names the way on."""
    attributes = study.user_attrs
    if SETTINGS_KEY in attributes:
        return
    if source := attributes.get(TAKEN_OVER_KEY):
        again = command_to_take_over(study_file, source["study"])
        raise HpoError(f'study: the making of "{study_file.name}" was broken off; `{again}` goes on with it')
    raise HpoError(f'study: "{study_file.name}" was not created by hpo; give another [study] name')


def differences(study: optuna.Study, study_file: StudyFile, data: Data) -> dict[str, list[str]]:
    """What differs between a study's settings and those of this study file, these images and this machine, by table."""
    kept, here = study.user_attrs[SETTINGS_KEY], json.loads(json.dumps(settings(study_file, data)))
    found: dict[str, list[str]] = {}
    for table, values in here.items():
        for key, value in values.items():
            was = kept.get(table, {}).get(key)
            if was != value:
                found.setdefault(table, []).append(f"{table}.{key} was {json.dumps(was)}, is now {json.dumps(value)}")
    return found


def command_to_take_over(study_file: StudyFile, old: str) -> str:
    """The command that lets the study of a study file take over what fits of an old one, whatever that is called."""
    return shlex.join(["hpo", "init", study_file.path.name, f"--from={old}"])
