"""The commands `hpo search`, `confirm` and `workers`. Imports are in the functions, so that `hpo --help` is fast."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hpo.errors import HpoError
from hpo.study.from_options import study_file_from

if TYPE_CHECKING:
    import argparse

    from hpo.study.study_file import StudyFile
    from hpo.supervision.progress import Progress
    from hpo.supervision.supervisor import WorkerPlan


def run_search(options: argparse.Namespace) -> int:
    """`hpo search`: check, create or resume, search to the end of the budget."""
    from rich.console import Console

    from hpo.supervision.progress import Progress

    return search_study(options, study_file_from(options), Progress(Console(force_jupyter=False)))


def search_study(options: argparse.Namespace, study_file: StudyFile, progress: Progress) -> int:
    """Check, create or resume the study of a study file that options name, and search; returns the exit code.

    Raises as `hpo.supervision.search.search` does.
    """
    from hpo.study.open_study import probe_artifacts, refusing_changes, storage_url
    from hpo.supervision.search import prepare, search
    from storage.database import ping

    plan = _plan(options, study_file)
    if url := options.url or study_file.storage:
        ping(url)  # before the long checks; a new embedded one is made after them, where nothing is wrong
    with refusing_changes(study_file, options.url) as study:
        probe_artifacts(study_file)
        data = prepare(study_file, progress, study)
        with storage_url(study_file, options.url) as url:
            return search(study_file, url, data, progress, plan)


def run_confirm(options: argparse.Namespace) -> int:
    """`hpo confirm`: the best recipes again, on fresh folds."""
    from rich.console import Console

    from hpo.study.confirmation import begin_confirmation
    from hpo.study.images import load_images
    from hpo.study.open_study import load_study, probe_artifacts, storage_url
    from hpo.study.settings import check_settings
    from hpo.supervision.confirmation import confirm
    from hpo.supervision.progress import Progress

    study_file = study_file_from(options)
    plan, progress = _plan(options, study_file).confirming(), Progress(Console(force_jupyter=False))
    probe_artifacts(study_file)
    with storage_url(study_file, options.url, create=False) as url:
        opened = load_study(study_file, url)
        check_settings(opened.study, study_file, None)  # what needs no image, before these are listed
        study_file.make_folder()
        data = load_images(study_file, opened.study)
        check_settings(opened.study, study_file, data)
        confirmation = begin_confirmation(opened, data, top=options.top, repeats=options.repeats)
        return confirm(opened, confirmation, progress, plan)


def run_workers(options: argparse.Namespace) -> int:
    """`hpo workers`: the workers of this machine, without checks of the images and without the winner."""
    from rich.console import Console

    from hpo.study.confirmation import confirmation_after_search
    from hpo.study.images import load_images
    from hpo.study.open_study import load_study, probe_artifacts, storage_url
    from hpo.study.settings import check_settings
    from hpo.study.status import take_snapshot
    from hpo.supervision.confirmation import announcement
    from hpo.supervision.pauses import pauses_here
    from hpo.supervision.progress import Progress
    from hpo.supervision.supervisor import supervise

    study_file = study_file_from(options)
    plan, progress = _plan(options, study_file), Progress(Console(force_jupyter=False))
    probe_artifacts(study_file)
    with storage_url(study_file, options.url, create=False) as url:
        opened = load_study(study_file, url)
        check_settings(opened.study, study_file, None)  # each worker compares the images, too
        name = study_file.path.name
        if (halt := opened.rows.halt()) == "stop":
            raise HpoError(f"workers: the study is stopped; `hpo resume {name}` lets workers begin again")
        for line in pauses_here(opened, halt):
            progress.say(line)
        done = supervise(opened, progress, plan, tell_starts=True)
        confirmation = None
        if done.snapshot and done.snapshot.halt != "stop":
            confirmation = confirmation_after_search(opened, lambda: load_images(study_file, opened.study))
        if confirmation and not take_snapshot(confirmation).finished:
            progress.say(announcement(opened, confirmation))
            done = supervise(confirmation, progress, plan.confirming(), tell_starts=True)
    if done.snapshot:
        if done.snapshot.halt == "stop":
            progress.say(
                f"the study was stopped: trials that ran are back in the queue; `hpo resume {name}` lets it go on"
            )
        elif not done.names:
            used_up = f"the {'search space' if done.snapshot.space_used_up else 'budget'} is used up"
            progress.say(f"{done.snapshot.reason_to_end or used_up}: no worker was started")
        states = ", ".join(f"{count} {state}" for state, count in done.snapshot.counts.items() if count)
        progress.say(f"all workers have ended: {states or 'no trials'}")
    return done.code


def _plan(options: argparse.Namespace, study_file: StudyFile) -> WorkerPlan:
    """The workers that a command is to run."""
    from hpo.hardware import cores, visible_gpus
    from hpo.study.notify_url import notify_problem
    from hpo.study.open_study import storage_url
    from hpo.supervision.launcher import own_command
    from hpo.supervision.supervisor import WorkerPlan

    gpus = visible_gpus(options.cuda_visible_devices)
    if options.per_gpu > 1 and not gpus:
        raise HpoError("workers: --per-gpu needs a GPU, and there is none here; --workers says how many processes")
    notify = options.notify()
    if notify and (problem := notify_problem(notify)):
        raise HpoError(f"notify: the URL of HPO_NOTIFY {problem}")
    command = [*own_command(options.script), "worker", str(study_file.path)]
    if options.storage:
        command += ["--storage", options.storage]
    return WorkerPlan(
        command,
        options.workers or options.per_gpu * len(gpus) or min(4, cores()),
        gpus,
        reopen=partial(storage_url, study_file, options.url),
        notify=notify or study_file.notify,
    )
