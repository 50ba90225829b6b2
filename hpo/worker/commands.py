"""The commands `hpo worker` and `hpo logs`. Imports are in the functions, so that `hpo --help` is fast."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError, exit_code
from hpo.study.from_options import open_study_from, study_file_from
from storage.keys import ORIGIN_KEY, QUEUED_KEY, SAME_RECIPE_KEY, WAY_KEY

if TYPE_CHECKING:
    import argparse

    from hpo.study.open_study import OpenStudy


def run_worker(options: argparse.Namespace) -> int:
    """`hpo worker`: one worker in this process; signals hand its trial back."""
    study_file = study_file_from(options)
    import torch

    from hpo.study.confirmation import confirmation_after_search, find_confirmation
    from hpo.study.images import load_images
    from hpo.study.open_study import load_study, storage_url
    from hpo.study.settings import check_settings
    from hpo.study.study_name import CONFIRM_SUFFIX
    from hpo.worker.shutdown import Shutdown, asked_by_signals
    from hpo.worker.stopwatch import Stopwatch
    from hpo.worker.worker import Worker
    from storage.outage_retry import OutageRetry
    from trainer.device import choose_device
    from trainer.loaders import loaders_for

    shutdown = Shutdown(parent=options.parent)
    torch.set_num_threads(options.threads)
    with storage_url(study_file, options.url, create=False) as url:
        retry = OutageRetry(shutdown.given_up)
        opened = load_study(study_file, url, retry)
        check_settings(opened.study, study_file, None)  # what needs no image, before these are listed
        study_file.make_folder()
        data = load_images(study_file, opened.study)
        check_settings(opened.study, study_file, data)
        name, received = options.name or str(uuid.uuid4()), list[int]()

        def work_on(study: OpenStudy, name: str, started: float) -> None:
            worker = Worker(
                study,
                data,
                name=name,
                loaders=loaders_for(choose_device(), options.threads),
                stopwatch=Stopwatch(started),
                shutdown=shutdown,
            )
            with asked_by_signals(shutdown) as signals:  # until here they end the process at once
                worker.run()
            received.extend(signals)

        if options.confirm:
            if (confirmation := find_confirmation(opened, retry)) is None:
                raise HpoError(f"worker: there is nothing to confirm; `hpo confirm {study_file.path.name}` begins it")
            work_on(confirmation, name, options.started)
        else:
            work_on(opened, name, options.started)
            # One that another process has started does what it was started for.
            alone = options.parent is None and not received
            if alone and (confirmation := confirmation_after_search(opened, lambda: data, retry)):
                work_on(confirmation, f"{name}{CONFIRM_SUFFIX}", time.perf_counter())
    return exit_code(received[0]) if received else EXIT_DONE


def run_logs(options: argparse.Namespace) -> int:
    """`hpo logs`: what a trial printed, which run did which epochs, and how it ended."""
    from hpo.study.confirmation import find_confirmation
    from hpo.study.interruptions import beginning_of, failed_trials, pauses
    from hpo.worker.runs import shares
    from storage.heartbeat import INTERRUPTED

    with open_study_from(options) as searched:
        opened = find_confirmation(searched) if options.confirm else searched
        if opened is None:
            raise HpoError(f"logs: nothing is confirmed yet; `hpo confirm {searched.file.path.name}` begins it")
        lines = opened.rows.log(options.trial)
        trials = opened.study.get_trials(deepcopy=False)
        places = opened.rows.read().places
        if not 0 <= options.trial < len(trials):
            known = f"its trials are 0 to {len(trials) - 1}" if trials else "it has none yet"
            raise HpoError(f'logs: "{opened.file.name}" has no trial {options.trial}; {known}')
        failed = failed_trials(trials, places).get(options.trial)
    trial = trials[options.trial]
    for at, line in lines:
        print(f"{at:%Y-%m-%d %H:%M:%S}  {line}")
    runs = shares(trial, trials)
    for run in runs if len(runs) > 1 else ():
        print(f"epochs {run.first} to {run.last}: trial {run.trial} on {run.host} ({run.device})")
    if queued_by := trial.user_attrs.get(QUEUED_KEY):
        print(f"its recipe was queued by {queued_by}")
    if way := trial.user_attrs.get(WAY_KEY):
        print(f"its recipe was drawn {way}")
    if began := beginning_of(trial):
        print(f"trial {trial.number} {began}")
    if failed and failed.interrupted:
        why = "" if failed.reason == INTERRUPTED else f": {failed.reason}"
        print(f"trial {trial.number} was interrupted{why}; {failed.continuation}")
        return EXIT_DONE
    why = f": {failed.reason}" if failed else ""
    if origin := trial.user_attrs.get(ORIGIN_KEY):
        why = f'; it ran as trial {origin["trial"]} of "{origin["study"]}", where its log is'
    if (same := trial.user_attrs.get(SAME_RECIPE_KEY)) is not None:
        why = f": its recipe is that of trial {same}, whose result it was given"
    state = "failed" if failed else f"is {trial.state.name.lower()}"
    print(f"trial {trial.number} {pauses(trials, places, opened.file.pruner).get(trial.number, state)}{why}")
    return EXIT_DONE
