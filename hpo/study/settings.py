"""What must stay as it is while a study lives, kept with it."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hpo.errors import HpoError
from hpo.study.metric_settings import metric_settings
from storage.keys import SETTINGS_KEY, TAKEN_OVER_KEY
from trainer.objective_metric import MACRO_F1
from trainer.recipe import DEFAULTS
from trainer.rules import show
from trainer.space import Space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from hpo.study.study_file import StudyFile
    from trainer.data import Data
    from trainer.extensions import Extensions

PACKAGES = ("albumentations", "numpy", "optuna", "timm", "torch")  # whose major version can change a training


def settings(study_file: StudyFile, data: Data) -> dict[str, Any]:
    """What must stay as it is while a study lives, since its trials could not be compared otherwise."""
    images: dict[str, Any] = {
        "count": len(data.index.paths),
        "digest": data.index.digest,
        "split_digest": data.split.digest,
    }
    if data.index.given_sides:
        images["given_sides"] = list(data.index.given_sides)
    return {**_settings_without_images(study_file), "images": images}


def _settings_without_images(study_file: StudyFile) -> dict[str, Any]:
    return {
        "recipe": study_file.space.as_dict(),
        "data": {
            "valid": study_file.data.valid,
            "test": study_file.data.test,
            "seed": study_file.data.seed,
            "group": study_file.data.group,
            "group_pattern": study_file.data.group_pattern,
            "value_range": study_file.data.value_range,
            "test_fold": study_file.data.test_fold,
        },
        "limits": asdict(study_file.model_limits),
        "study": metric_settings(study_file.metric),
        "major versions": {package: version(package).split(".")[0] for package in PACKAGES},
    }


def check_settings(study: optuna.Study, study_file: StudyFile, data: Data | None) -> None:
    """Compare the study's settings with those of this study file, these images and this machine.

    Args:
        study: in the storage.
        study_file: of the study.
        data: the images; None compares what can be known without them, which takes no time.

    Raises:
        HpoError: they differ; the text names the way on, and each difference in a line of its own.
    """
    refuse_foreign(study, study_file)
    changed = differences(study, study_file, data)
    if not changed:
        return
    way_on = "give the study another name in [study] name"
    if changed.keys() <= {"recipe", "limits"}:
        command = command_to_take_over(study_file, study_file.name)
        way_on += f", and `{command}` takes over the finished trials that still fit"
    raise HpoError(
        f'study: "{study_file.name}" was begun with other settings, and its trials could not be compared; put back what'
        f" has changed, or {way_on}:{listed(changed)}"
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


def differences(study: optuna.Study, study_file: StudyFile, data: Data | None) -> dict[str, list[str]]:
    """What differs between a study's settings and those of this study file, these images and this machine, by table.

    What only follows from another difference is left out. Without `data` nothing is said of the images.
    """
    kept = study.user_attrs[SETTINGS_KEY]
    # What is newer than the study has its default.
    older = {"recipe": DEFAULTS, "study": metric_settings(MACRO_F1)}
    kept = {**kept, **{table: {**values, **kept.get(table, {})} for table, values in older.items()}}
    here = _settings_without_images(study_file) if data is None else settings(study_file, data)
    images = here.pop("images", None)
    found: dict[str, list[str]] = {}
    for table, values in json.loads(json.dumps(here)).items():
        for key, value in values.items():
            was = kept.get(table, {}).get(key)
            if was != value:
                found.setdefault(table, []).append(f"{table}.{key} was {_shown(was)}, is now {_shown(value)}")
    if images and (line := _difference_of_images(kept["images"], images, found.get("data", []))):
        found["images"] = [line]
    return found


def listed(changed: Mapping[str, Sequence[str]]) -> str:
    """The differences as the last lines of a message, each in a line of its own."""
    return "".join(f"\n  {line}" for lines in changed.values() for line in lines)


def _difference_of_images(was: Mapping[str, Any], now: Mapping[str, Any], of_data: Sequence[str]) -> str | None:
    """The one line on the images; None where they are the same, or differ through what `of_data` says of [data]."""
    if "given_sides" in now and "given_sides" not in was:
        sides = ", ".join(now["given_sides"])
        return (
            f"images were divided by hpo, and are now on the sides that the data give ({sides}); "
            "splits = false in [data] leaves these unread"
        )
    if was["count"] != now["count"]:
        return f"images were {was['count']:,}, are now {now['count']:,}"
    regrouped = any(line.startswith("data.group") for line in of_data)
    if was["digest"] != now["digest"] and not regrouped:
        return "images were others: some have another path, class, group or size in bytes now"
    if was["split_digest"] != now["split_digest"] and not of_data:
        return "images were divided otherwise into those to train, to validate and to hold out"
    return None


def _shown(value: Any) -> str:
    return "not set" if value is None else show(value)


def command_to_take_over(study_file: StudyFile, old: str) -> str:
    """The command that lets the study of a study file take over what fits of an old one, whatever that is called."""
    return shlex.join(["hpo", "init", study_file.path.name, f"--from={old}"])


def space_of(study: optuna.Study, extensions: Extensions) -> Space:
    """What a study searches, whatever the study file says by now; a field that is newer than the study has its default.

    Raises:
        RecipeError: it names functions of one's own that the extensions do not hold.
    """
    return kept_space(study.user_attrs[SETTINGS_KEY], extensions)


def kept_space(kept: Mapping[str, Any], extensions: Extensions) -> Space:
    """What a study with these settings searches, see `space_of`."""
    return Space({**DEFAULTS, **kept["recipe"]}, extensions)
