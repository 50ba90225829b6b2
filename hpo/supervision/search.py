"""`hpo search`: check everything, create or resume the study, run workers to the end, tell the result, confirm it."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from itertools import product
from typing import TYPE_CHECKING, Any

from hpo.errors import EXIT_DONE, HpoError
from hpo.study.confirmation import begin_confirmation
from hpo.study.fresh_folds import fold_count
from hpo.study.images import load_images
from hpo.study.metric_settings import refuse_undefined
from hpo.study.model_limits import check_of
from hpo.study.open_study import create_study, load_study
from hpo.study.ranking import best_trial, default_trial
from hpo.study.status import TIME_HEADINGS
from hpo.supervision.confirmation import confirm
from hpo.supervision.pauses import pauses_here
from hpo.supervision.supervisor import supervise
from hpo.units import duration, show_bytes
from storage.keys import END_STATES, METRICS_KEY, ORIGIN_KEY
from trainer.augmentation.random_resized_crop import NAME
from trainer.enumeration import count_recipes
from trainer.errors import DataError
from trainer.objective_metric import MACRO_F1
from trainer.quality.checks import PASSED_OVER, small_test, tiny_classes
from trainer.quality.classes import class_counts, given_sides, similar_classes
from trainer.quality.folders import odd_folders
from trainer.quality.leaks import leaks, torn_groups
from trainer.recipe import recipe_from, show, used_fields
from trainer.remote.urls import shown
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna

    from hpo.study.model_limits import ModelCheck
    from hpo.study.open_study import OpenStudy
    from hpo.study.status import Snapshot
    from hpo.study.study_file import StudyFile
    from hpo.supervision.progress import Progress
    from hpo.supervision.supervisor import WorkerPlan
    from trainer.data import Data
    from trainer.images.pixels import Reading
    from trainer.space import Space

TINY = 5  # classes with few images that the beginning of a search shows
WEAKEST = 5  # classes that the end of a search shows


def prepare(study_file: StudyFile, progress: Progress, study: optuna.Study | None = None) -> Data:
    """Check what could fail later, before anything is begun, and prepare what all workers need; returns the images.

    Args:
        study_file: what to search.
        progress: takes what there is to show.
        study: the one that has begun, if any.

    Raises:
        DataError, RecipeError, WeightsError, HpoError: what was found.
    """
    from trainer.model.feasibility import backbone_problems, check_backbones

    space = study_file.space
    try:
        with progress.counting("getting images") as count:
            data = load_images(study_file, study, count)
    except DataError as error:
        if "backbone" not in space.given or not (problems := backbone_problems(space, 2)):
            raise
        raise HpoError(
            "\n".join([str(error), *(f"{study_file.path.name}: recipe.{each}" for each in problems)])
        ) from None
    for line in space.useless_fields():
        progress.say(f"warning: recipe.{line}")
    progress.say(
        f"{len(data.index.paths)} images of {len(data.index.classes)} classes in {shown(study_file.data.path)}: "
        f"{len(data.split.train)} to train, {len(data.split.valid)} to validate, {len(data.split.test)} held out"
    )
    for line in _lines_on(data, study_file):
        progress.say(line)
    if study_file.sampler == "grid":
        progress.say(f"the grid has {counted(count_recipes(space), 'recipe')}, which are tried in random order")
    refuse_undefined(study_file.metric, data, study_file.path)
    if study_file.confirm:
        fold_count(data, study_file.seed, study_file.metric)  # refuses images that cannot be divided into folds
    check_backbones(space, len(data.index.classes), study_file.weights)
    models = check_of(study_file.model_limits, space, len(data.index.classes))
    refuse_tries(study_file, models)
    with progress.counting("looking for the range of values") as count:
        ranges = data.ranges(count)
    if ranges and ranges.key:
        way_on = "" if study_file.data.ranges else "; [data] value_range sets another range"
        progress.say(f"of images of more than 8 bits {ranges.line()}{way_on}")
    make_pixels(study_file, data, progress)
    return data


def refuse_tries(study_file: StudyFile, models: ModelCheck | None) -> None:
    """Raise HpoError where the study file asks for recipes of its own whose models are beyond its limits."""
    problems = []
    for number, recipe in enumerate(study_file.tries, start=1):
        if models and (why := models.excess(asdict(recipe))):
            problems.append(f"{study_file.path.name}: try {number}: {why}")
    if problems:
        raise HpoError("\n".join(problems))


def _lines_on(data: Data, study_file: StudyFile) -> list[str]:
    """What there is to see or to doubt in the data without decoding an image."""
    index = data.index
    lines = [class_counts(index).message]
    doubts = [similar_classes(index), *odd_folders(index)]
    if index.sides is not None:
        split = given_sides(index, data.split)
        lines.append(f"{split.message}{f'; {split.remedy}' if split.remedy else ''}")
        doubts += [leaks(index, (), data.split), *torn_groups(index, data.split)]
    elif copies := len(index.copies) - len(set(index.copies.tolist())):
        many = counted(copies, "image is an exact copy of another one", "images are exact copies of others")
        lines.append(f"{many}; copies stay on one side of the split")
    more = f"`hpo check {study_file.path.name}` shows more"
    lines += [f"warning: {finding.message}; {more}" for finding in doubts if finding.level != "ok"]
    tiny = tiny_classes(index, data.split)
    if tiny.level != "ok":
        lines += [f"warning: {tiny.message}", *(f"  {case.note}" for case in tiny.cases[:TINY])]
    if len(tiny.cases) > TINY:
        lines.append(f"  and {len(tiny.cases) - TINY:,} more, all of them in `hpo check --json`")
    test = small_test(index, data.split)
    if test.level != "ok" and not study_file.data.test_fold:  # one fold of several is not meant to tell much
        lines.append(f"warning: {test.message}: {test.remedy}")
    if index.ignored:
        examples = ", ".join(index.ignored[:3])
        many = counted(len(index.ignored), "file or folder is", "files or folders are")
        lines.append(f"{many} passed over ({PASSED_OVER}): {examples}")
    return lines


def readings_of(space: Space) -> list[Reading]:
    """The ways in which the trials of a study may ask for its images, the smallest pixels first."""
    from trainer.model.backbones import reading_of, training_reading

    names = ("backbone", "image_size", "resize", "augment")
    found: set[Reading] = set()
    for values in product(*map(space.values, names)):
        recipe = recipe_from(dict(zip(names, values, strict=True)))
        found |= {reading_of(recipe, space.extensions), training_reading(recipe, space.extensions)}
    return sorted(found, key=lambda reading: (reading.shape, reading.interpolation, reading.resize))


def takes_aspects(space: Space) -> bool:
    """Whether trials may ask for the proportions of pictures: for random crops that are not deformed."""
    crops = NAME in space.values("augment") and NAME not in space.extensions.augments
    return crops and any(way != "stretch" for way in space.values("resize"))


def make_pixels(study_file: StudyFile, data: Data, progress: Progress) -> None:
    """Decode the images for every size and interpolation that a trial may ask for, where that is not done yet.

    Raises:
        DataError: images that cannot be read, or pixels that do not fit.
    """
    readings = readings_of(study_file.space)
    sizes = list(dict.fromkeys(str(reading.size) for reading in readings))
    images = len(data.index.paths)
    needed = sum(images * reading.image_bytes for reading in readings)
    each_way = ""
    for ways in ({reading.interpolation for reading in readings}, {reading.resize for reading in readings}):
        each_way += f", {' and '.join(sorted(ways))}" if len(ways) > 1 else ""
    shown = f"{images:,} images at {' and '.join(sizes)} px{each_way}, {show_bytes(needed)}"
    limit_bytes = data.cache.limit_bytes if data.cache else None
    if limit_bytes and needed > limit_bytes:
        raise DataError(
            f"pixels: {shown} are more than [data] pixels_gb = {study_file.data.pixels_gb:g}; raise it, or choose fewer"
            " or smaller image_size"
        )
    study_file.make_folder()
    began, built = time.monotonic(), False
    with progress.counting("decoding") as count:

        def on_progress(done: int, of: int) -> None:
            nonlocal built
            built = True
            count(done, of)

        for reading in readings:
            data.pixels(reading, on_progress)
    if takes_aspects(study_file.space):
        with progress.counting("looking at proportions") as count:
            data.aspects(count)
    seconds = time.monotonic() - began
    took = f", decoded in {f'{seconds:.1f} s' if seconds < 10 else duration(seconds)}" if built else ""
    progress.say(f"pixels: {shown} in {(study_file.folder / 'pixels').relative_to(study_file.path.parent)}{took}")


def search(study_file: StudyFile, url: str, data: Data, progress: Progress, plan: WorkerPlan) -> int:
    """Create or resume the study and run workers to the end of its budget, or until a signal; returns the exit code.

    Where the study file has the table [confirm] they then confirm the best recipes, unless the study was stopped.

    Args:
        study_file: what to search.
        url: of the storage.
        data: what `prepare` returned.
        progress: takes what there is to show.
        plan: the workers to run.

    Raises:
        HpoError: workers were given up before the end, or the budget is used up without a complete trial, or the study
            was begun with other settings, or no recipe could be trained again.
        StorageError: the database cannot be used.
    """
    for line in create_study(study_file, url, data):
        progress.say(line)
    opened = load_study(study_file, url)
    halt = opened.rows.end_halt("stop")  # whoever searches again wants a stopped study to go on
    for line in pauses_here(opened, halt):
        progress.say(line)
    begun = time.monotonic()
    done = supervise(opened, progress, plan)
    if done.snapshot is None:
        return done.code
    if done.snapshot.halt == "stop":
        progress.say("the study was stopped: trials that ran are back in the queue; the same command resumes")
    used_up = _used_up_space(done.snapshot)
    if used_up:
        progress.say(used_up)
    for line in summary_lines(opened, done.snapshot, done.names, plan.workers, time.monotonic() - begun):
        progress.say(line)
    if done.snapshot.best is None and (done.snapshot.finished or used_up):
        raise HpoError(_fruitless(study_file, done.snapshot, "search space" if used_up else "budget"))
    if done.snapshot.best is None:
        return EXIT_DONE
    if study_file.confirm and done.snapshot.halt != "stop":
        progress.say("")
        code = confirm(opened, begin_confirmation(opened, data), progress, plan.confirming())
        if code != EXIT_DONE:
            return code
    for line in _next_commands(study_file):
        progress.say(line)
    return EXIT_DONE


def _fruitless(study_file: StudyFile, snapshot: Snapshot, what: str) -> str:
    """Why a search has no winner, and what to do."""
    if failed := next((place for place in snapshot.places if place.state == "failed"), None):
        why = f"`hpo logs {study_file.path.name} {failed.trial}` shows what the first that failed has printed"
    elif what == "search space":
        why = "give the study another name and its [recipe] more values"
    else:
        why = "raise the limit in [budget] that it has reached, and give the same command again"
    return f"search: the {what} is used up, and no trial is complete; {why}"


def _used_up_space(snapshot: Snapshot) -> str | None:
    """That no recipe is left to train, where the search has ended because of that: the budget allowed more."""
    limits, used = snapshot.limits, snapshot.used
    if not (left := snapshot.recipes_used_up) or snapshot.reason_to_end or not used.within(limits):
        return None
    unspent = "" if limits.trials is None else f"; {limits.trials - used.trials} of {limits.trials} trials are unspent"
    return f"the search space is used up: {left}{unspent}" if snapshot.finished else None


def _pauses(seconds: Sequence[dict[str, float]]) -> list[str]:
    """A line on how long a device waits for the first step of a trial and for the next trial; none before any step."""

    def mean(name: str) -> float | None:
        count = sum(worker.get(f"{name}_count", 0) for worker in seconds)
        return sum(worker.get(name, 0) for worker in seconds) / count if count else None

    first_step, turnover = mean("to_first_step"), mean("turnover")
    if first_step is None:
        return []
    after = "" if turnover is None else f", the next trial {turnover:.2f} s after the end of the one before"
    return [f"on average a trial's first step began {first_step:.2f} s after its start{after}"]


def _weakest(per_class: dict[str, dict[str, Any]]) -> str:
    """A line with the classes that have the lowest F1."""
    worst = sorted(per_class.items(), key=lambda item: item[1]["f1"])[:WEAKEST]
    listed = ", ".join(f"{name} {metrics['f1']:.4f} ({counted(metrics['images'], 'image')})" for name, metrics in worst)
    return f"its F1 by class{'' if len(worst) == len(per_class) else ', the weakest'}: {listed}"


def summary_lines(
    opened: OpenStudy, snapshot: Snapshot, names: frozenset[str], workers: int, wall_seconds: float
) -> list[str]:
    """The winner, its recipe, and the time spent."""
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count or state in END_STATES)
    lines = ["", f"{counted(snapshot.used.trials, 'trial')}: {counts}"]
    if snapshot.reason_to_end:
        lines.append(f"no further trial began: {snapshot.reason_to_end}")
    if snapshot.best is None:
        return lines
    lines.append(f"winner: trial {snapshot.best.number}, validation {snapshot.metric.title} {snapshot.best.text}")
    default = default_trial(opened)
    if default and default.number != snapshot.best.number and default.value is not None:
        lines.append(f"the default recipe (trial {default.number}) reached {snapshot.metric.text(default.value)}")
    winner = best_trial(opened)
    if winner and (origin := winner.user_attrs.get(ORIGIN_KEY)):
        lines.append(f'it was taken over: trial {origin["trial"]} of "{origin["study"]}"')
    if winner and (per_class := winner.user_attrs.get(METRICS_KEY, {}).get("per_class")):
        if (other := snapshot.best.macro_f1) is not None and snapshot.metric != MACRO_F1:
            lines.append(f"its macro-F1: {other:.4f}")
        lines.append(_weakest(per_class))
    lines.append("its recipe:")
    lines += [f"  {name} = {show(value)}" for name, value in used_fields(snapshot.best.recipe).items()]
    totals = dict.fromkeys(TIME_HEADINGS, 0.0)
    for worker in snapshot.workers:
        if worker.id in names:
            for heading in TIME_HEADINGS:
                totals[heading] += worker.seconds.get(heading, 0.0)
    if all_seconds := sum(totals.values()):
        shares = ", ".join(
            f"{TIME_HEADINGS[heading]} {100 * seconds / all_seconds:.1f} %" for heading, seconds in totals.items()
        )
        lines.append(
            f"time: {duration(wall_seconds)} with {counted(workers, 'worker')} ({totals['start_up'] / len(names):.1f} s"
            f" start-up a worker); of all workers' time: {shares}"
        )
        lines += _pauses([worker.seconds for worker in snapshot.workers if worker.id in names])
    return lines


def _next_commands(study_file: StudyFile) -> list[str]:
    """What to do with a winner, two lines a command."""
    lines, path = [], str(study_file.path)
    if study_file.data.test_fold:  # whoever has divided the images tests all of the folds
        return []
    if study_file.confirm is None:
        flatters = "the winner of many flatters itself on the images that chose it"
        lines += [
            f"{flatters}; this trains the best again on fresh folds:",
            "  " + shlex.join(["hpo", "confirm", path]),
        ]
    what = "retrains the winner" if not study_file.data.test else "tests the winner on the held-out images"
    lines.append(f"{'and this' if lines else 'this'} {what}:")
    return [*lines, "  " + shlex.join(["hpo", "export-best", path, "-o", str(study_file.path.parent / "bundle")])]
