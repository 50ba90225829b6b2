"""`hpo check`: finds what could make a search fail, or its scores too good, before it begins."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpo.check.label_errors import find_label_errors
from hpo.check.machine import check_disk, check_gpus, check_memory
from hpo.check.sources import check_sources
from hpo.errors import HpoError
from hpo.output import new_csv
from hpo.study.images import read_images, with_kept_ranges
from hpo.study.interruptions import count_trials
from hpo.study.metric_settings import metric_problem
from hpo.study.model_limits import ModelLimits, check_of, models_of
from hpo.study.open_study import find_study, probe_artifacts, storage_url
from hpo.study.settings import check_settings
from hpo.supervision.search import readings_of, refuse_tries
from hpo.units import show_bytes
from storage.database import is_initialized, public_url, try_to_initialize
from storage.embedded.server import has_postgres
from storage.errors import StorageError
from storage.outage_retry import DATABASE_ERRORS
from trainer.data import list_images
from trainer.errors import DataError, RecipeError, TrainerError, WeightsError
from trainer.image_size import shape_of
from trainer.images.cache import PixelCache
from trainer.images.duplicates import Sets
from trainer.images.sides import SIDES
from trainer.images.split import split
from trainer.images.spreadsheets import cell_of, write_rows
from trainer.quality.checks import Case, Finding, broken_files, odd_sizes, passed_over, small_test, tiny_classes
from trainer.quality.classes import class_counts, given_sides, similar_classes
from trainer.quality.folders import odd_folders
from trainer.quality.leaks import copy_sets, exact_copies, leaks, near_copies, torn_groups
from trainer.quality.near_duplicates import find_pairs
from trainer.quality.survey import look_at
from trainer.quality.values import little_contrast, several_pages, value_ranges
from trainer.space import Space
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hpo.check.label_errors import LabelErrors
    from hpo.study.study_file import StudyFile
    from hpo.supervision.progress import Progress
    from trainer.data import Data
    from trainer.images.index import Index
    from trainer.images.split import Split
    from trainer.quality.checks import DoubtedLabel
    from trainer.quality.near_duplicates import Pair
    from trainer.quality.survey import Survey


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        study: name of the study.
        findings: in the order of the table.
        index: the images; None where they cannot be listed.
        pairs: those that are nearly the same; None where they were not looked for.
        doubted: the labels that may be wrong; None where they were not looked for.
    """

    study: str
    findings: tuple[Finding, ...]
    index: Index | None
    pairs: Sequence[Pair] | None
    doubted: Sequence[DoubtedLabel] | None

    def count(self, level: str) -> int:
        """How many findings are of a level."""
        return sum(finding.level == level for finding in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as `hpo check --json` prints it."""
        return {
            "study": self.study,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "findings": [finding.as_json() for finding in self.findings],
        }


def run_checks(study_file: StudyFile, url: str | None, gpus: Sequence[str], progress: Progress) -> Report:
    """Check images, backbones, machine, storage and study; where one check fails, the others are made all the same.

    Nothing is written beside the study file but images that are fetched or unpacked. Pretrained weights that are not
    here yet are downloaded, as a search does.

    Args:
        study_file: of the study.
        url: of the storage, as the user gives it; None for the study file's or the embedded one.
        gpus: those of this machine.
        progress: takes how far the images are.
    """
    findings: list[Finding] = []
    data: Data | None = None
    index: Index | None = None
    try:
        with progress.counting("getting images") as count:
            data = read_images(study_file, count)
        index = data.index
    except DataError as error:
        findings.append(Finding("data", "error", str(error)))
        settings = study_file.data
        with suppress(DataError):  # the finding above says it already
            index = list_images(settings.path, settings.grouping, PixelCache(study_file.folder / "pixels"))
    survey: Survey | None = None
    pairs: Sequence[Pair] | None = None
    if index is not None:
        findings += check_sources(study_file, index, progress)
        with progress.counting("looking at images") as count:
            survey = look_at(index, study_file.data.ranges, count)
        data = data and data.with_ranges(survey.ranges)
        if survey.thumbnails is not None:
            with progress.counting("comparing images") as count:
                pairs = find_pairs(survey.thumbnails, index.labels, count)
        findings += _check_images(study_file, index, data.split if data else None, survey, pairs)
    if data and (undefined := metric_problem(study_file.metric, data)):
        findings.append(Finding("metric", "error", undefined))
    findings.append(_check_fields(study_file.space))
    findings.append(_check_backbones(study_file, 2 if index is None else len(index.classes)))
    if study_file.model_limits != ModelLimits() and findings[-1].level == "ok":
        findings.append(_check_limits(study_file, 2 if index is None else len(index.classes)))
    findings += _check_machine(study_file, data, gpus)
    findings += _check_artifacts(study_file)
    of_storage, labels = _check_storage(study_file, url, data, survey, progress)
    return Report(study_file.name, (*findings, *of_storage), index, pairs, labels.doubted if labels else None)


def write_groups(index: Index, pairs: Sequence[Pair], file: Path, column: str) -> None:
    """Write the images as a CSV with path, label and group: what is nearly the same, or of one group, is one group.

    A group keeps its name; groups that become one have that of the first image. Where the data give sides of the split
    the CSV has them, too.

    Args:
        index: of all images.
        pairs: those that are nearly the same.
        file: to be made.
        column: heading of the groups.

    Raises:
        HpoError: the file exists, or cannot be written.
    """
    sets = Sets(len(index.paths))
    sets.join_equal(index.groups)
    sets.join_equal(copy_sets(index, pairs))
    with new_csv("check", file) as opened:
        headings = ("path", "label", column, *(() if index.sides is None else ("split",)))
        write_rows(opened, [map(cell_of, headings)])
        for image, first in enumerate(sets.numbers()):
            path = index.reference(index.paths[image], file.parent)
            side = [] if index.sides is None else [SIDES[index.sides[image]]]
            label, group = index.classes[index.labels[image]], index.group_names[index.groups[first]]
            write_rows(opened, [[cell_of(path), cell_of(label), cell_of(group), *side]])


def _check_images(
    study_file: StudyFile, index: Index, sides: Split | None, survey: Survey, pairs: Sequence[Pair] | None
) -> list[Finding]:
    unaware = None
    if sides is not None:
        settings = study_file.data
        with suppress(DataError):  # there is no such split, and so no copies across it
            unaware = split(index, valid=settings.valid, test=settings.test, seed=settings.seed)
    findings = [class_counts(index), similar_classes(index), *odd_folders(index), broken_files(index, survey)]
    findings += [value_ranges(index, survey), little_contrast(index, survey), several_pages(index, survey)]
    findings.append(passed_over(index))
    findings += [*exact_copies(index, unaware), *near_copies(index, pairs)]
    if sides is not None:
        leak = leaks(index, pairs, sides)
        if leak.level == "error":
            listed = f"`hpo check {study_file.path.name} --groups FILE.csv` writes a list that does so, for [data] path"
            leak = replace(leak, remedy=f"{leak.remedy}: {listed}")
        findings += [given_sides(index, sides), leak, *torn_groups(index, sides)]
        findings.append(tiny_classes(index, sides))
        findings += [] if study_file.data.test_fold else [small_test(index, sides)]
    return [*findings, *_odd_sizes(study_file.space, index, survey)]


def _odd_sizes(space: Space, index: Index, survey: Survey) -> list[Finding]:
    return odd_sizes(index, survey, min(space.values("image_size"), key=shape_of), space.values("resize"))


def _check_fields(space: Space) -> Finding:
    if not (lines := space.useless_fields()):
        return Finding("recipe", "ok", "every field that is given can be used")
    given = counted(len(lines), "field is given that no trial can use", "fields are given that no trial can use")
    return Finding(
        "recipe", "warning", given, "take it out, or allow what it needs", tuple(Case((), line) for line in lines)
    )


def _check_backbones(study_file: StudyFile, classes: int) -> Finding:
    from trainer.model.feasibility import check_backbones

    names, problems = study_file.space.values("backbone"), []
    for name in names:
        try:
            check_backbones(
                Space({**study_file.space.as_dict(), "backbone": name}, study_file.space.extensions),
                classes,
                study_file.weights,
            )
        except RecipeError as error:
            problems += error.problems
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        line = "it cannot be used" if len(names) == 1 else f"not all {len(names)} can be used"
        return Finding("backbones", "error", line, cases=tuple(Case((), problem) for problem in problems))
    loaded = ", and their weights are here" if True in study_file.space.values("pretrained") else ""
    every = "it exists and can" if len(names) == 1 else f"all {len(names)} exist and can"
    return Finding("backbones", "ok", f"{every} do what the recipe asks{loaded}")


def _check_limits(study_file: StudyFile, classes: int) -> Finding:
    from trainer.device import choose_device, device_name
    from trainer.model.size import image_milliseconds

    space, device = study_file.space, choose_device()
    try:
        models = check_of(
            study_file.model_limits,
            space,
            classes,
            lambda recipe: image_milliseconds(recipe, classes, space.extensions, device),
        )
        refuse_tries(study_file, models)
    except HpoError as error:
        return Finding("limits", "error", str(error).removeprefix("limits: "))
    assert models, "the study file has limits"
    beyond = [why for values in models_of(space) if (why := models.excess(values))]
    within = counted(len(models_of(space)) - len(beyond), "model is", "models are")
    here = "" if study_file.model_limits.milliseconds is None else f" on this machine's {device_name(device)}"
    line = f"{within} within [limits]{here}, {len(beyond)} beyond"
    return Finding("limits", "ok", line, cases=tuple(Case((), why) for why in beyond))


def _check_machine(study_file: StudyFile, data: Data | None, gpus: Sequence[str]) -> list[Finding]:
    findings = [check_gpus(gpus)]
    if data is None:
        return findings
    images, cache = len(data.index.paths), data.cache
    pixels = {reading: images * reading.image_bytes for reading in readings_of(study_file.space)}
    missing = sum(
        needed for reading, needed in pixels.items() if (file := data.pixels_file(reading)) is None or not file.exists()
    )
    findings += [check_memory(sum(pixels.values())), check_disk(study_file.folder, missing)]
    if cache and cache.limit_bytes and sum(pixels.values()) > cache.limit_bytes:
        limit = (
            f"decoded images need {show_bytes(sum(pixels.values()))}, [data] pixels_gb = {study_file.data.pixels_gb:g}"
        )
        findings.append(Finding("pixels", "error", limit, "raise it, or choose smaller or fewer image_size"))
    return findings


def _check_artifacts(study_file: StudyFile) -> list[Finding]:
    if study_file.artifacts is None:  # the folder beside the study file, of which the check of the disk speaks
        return []
    try:
        probe_artifacts(study_file)
    except StorageError as error:
        return [Finding("artifacts", "error", str(error))]
    return [Finding("artifacts", "ok", f"{study_file.artifacts} can be written to and read")]


def _check_storage(
    study_file: StudyFile, given: str | None, data: Data | None, survey: Survey | None, progress: Progress
) -> tuple[list[Finding], LabelErrors | None]:
    """Check the storage, the study and, after a search, the labels: None where nothing was found out about these."""
    not_yet = Finding("wrong labels", "ok", "not looked for: that takes models, so check again after the search")
    if not (given or study_file.storage or has_postgres(study_file.folder)):
        line = f"a private Postgres will be made in {study_file.folder} when the search begins"
        return [Finding("storage", "ok", line), not_yet], None
    findings = []
    with ExitStack() as held:
        try:
            url = held.enter_context(storage_url(study_file, given, create=False))
            initialized = is_initialized(url)
        except (StorageError, HpoError, *DATABASE_ERRORS) as error:
            return [Finding("storage", "error", " ".join(str(error).split()))], None
        findings.append(Finding("storage", "ok", f"{public_url(url)} answers"))
        if not initialized:
            try:
                try_to_initialize(url)
            except StorageError as error:
                return [Finding("storage", "error", str(error))], None
            return [*findings, Finding("study", "ok", "not begun: the storage has no tables yet"), not_yet], None
        try:
            opened = find_study(study_file, url)
        except HpoError:
            missing = f'not begun: the storage has no study "{study_file.name}"'
            return [*findings, Finding("study", "ok", missing), not_yet], None
        except (StorageError, *DATABASE_ERRORS) as error:
            return [*findings, Finding("study", "error", " ".join(str(error).split()))], None
        try:
            check_settings(opened.study, study_file, data)
        except HpoError as error:
            return [*findings, Finding("study", "error", str(error))], None
        if data is None:
            return findings, None
        trials = counted(count_trials(opened.study.get_trials(deepcopy=False)), "trial")
        findings.append(Finding("study", "ok", f'"{study_file.name}" was begun with these settings; {trials}'))
        try:
            seen, broken = with_kept_ranges(data, opened.study), survey.broken if survey else {}
            with progress.counting("asking the best models") as count:
                found = find_label_errors(opened, seen, broken, count)
            return [*findings, found.finding if found else not_yet], found
        except (StorageError, HpoError, TrainerError, *DATABASE_ERRORS) as error:
            findings.append(Finding("wrong labels", "warning", f"not looked for: {' '.join(str(error).split())}"))
    return findings, None
