"""The commands about a study: init, try, status, pause, resume, stop, list, delete, prune-artifacts.

Their imports are in the functions, so that `hpo --help` is fast.
"""

from __future__ import annotations

import json
import shlex
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, EXIT_FAILED, HpoError
from hpo.study.from_options import open_study_from, quiet_optuna, study_file_from

FEWEST_CLASSES = 2  # of a data set whose images are not listed
WATCH_SECONDS = 2.0  # between two snapshots of `status --watch`
HALTED: dict[Halt, str] = {"pause": "paused", "stop": "stopped"}

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from rich.console import Console

    from hpo.study.open_study import OpenStudy
    from storage.halts import Halt


def run_init(options: argparse.Namespace) -> int:
    """`hpo init`: tables and study, with the trials of an old one that still fit."""
    from hpo.study.images import load_images
    from hpo.study.open_study import create_study, refusing_changes, storage_url
    from hpo.study.takeover import take_over
    from storage.database import public_url

    study_file = study_file_from(options)
    with refusing_changes(study_file, options.url) as study:
        data = load_images(study_file, study)
        with storage_url(study_file, options.url, create=options.old is None) as url:
            if options.old is None:
                lines = create_study(study_file, url, data)
            else:
                lines = take_over(study_file, url, data, options.old).lines()
            for line in lines:
                print(line)
            print(f'the study "{study_file.name}" is ready in {public_url(url)}')
    return EXIT_DONE


def run_try(options: argparse.Namespace) -> int:
    """`hpo try`: recipes of one's own, before any that the sampler proposes."""
    from optuna.trial import TrialState

    from hpo.study.interruptions import pauses
    from hpo.study.model_limits import check_of
    from hpo.study.queue_outlook import queue_lines
    from hpo.study.queued import queue_recipe, read_own_recipe, show_own
    from hpo.study.settings import space_of
    from hpo.study.status import take_snapshot
    from storage.database import one_at_a_time

    with open_study_from(options) as opened:
        space = space_of(opened.study, opened.file.space.extensions)
        recipes = [(path, read_own_recipe(path, space)) for path in options.recipes]  # all, before one is queued
        models = check_of(opened.file.model_limits, space, FEWEST_CLASSES)
        for path, recipe in recipes:
            if models and (why := models.excess(asdict(recipe))):
                raise HpoError(f"try: {path}: {why}")
        waits, metric = False, opened.metric
        for path, recipe in recipes:
            with one_at_a_time(opened.url):
                trial, is_new = queue_recipe(opened.study, recipe, space, f"hpo try {path.name}")
            waits = waits or trial.state is TrialState.WAITING
            if is_new:
                print(f"{path}: queued as trial {trial.number}: {show_own(recipe, space)}")
            else:
                value = "" if trial.value is None else f", {metric.title} {metric.text(trial.value)}"
                paused = pauses([trial], opened.rows.read().places, opened.file.pruner).get(trial.number)
                stands = paused or f"is {trial.state.name.lower()}{value}"
                print(f"{path}: trial {trial.number} has this recipe, and {stands}; it is not queued again")
        if waits:
            print("\n".join(queue_lines(take_snapshot(opened), options.study)))
    return EXIT_DONE


def run_status(options: argparse.Namespace) -> int:
    """`hpo status`: one snapshot, or one after the other."""
    from rich.console import Console
    from rich.live import Live

    from hpo.study.confirmed import read_confirmed
    from hpo.study.status import take_snapshot
    from hpo.study.status_table import render
    from storage.outage_retry import OutageRetry

    if options.watch and options.json:
        raise HpoError("status: --watch shows a table that changes; ask for --json as often as you like")
    console = Console()
    with open_study_from(options, OutageRetry() if options.watch else None) as opened:
        snapshot = take_snapshot(opened)
        if options.json:
            confirmed = read_confirmed(opened)
            shown = {**snapshot.as_json(), "confirmation": confirmed and confirmed.as_json()}
            print(json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False))
        elif not options.watch:
            console.print(render(snapshot))
            _show_confirmation(opened, console)
        else:
            with Live(render(snapshot), console=console, auto_refresh=False) as live:
                while not snapshot.finished:
                    time.sleep(WATCH_SECONDS)
                    snapshot = take_snapshot(opened)
                    live.update(render(snapshot), refresh=True)
    return EXIT_DONE


def _show_confirmation(opened: OpenStudy, console: Console) -> None:
    """Show how the confirmation of a study stands, where it has begun: its workers while it runs, and its result."""
    from hpo.study.confirmation import find_confirmation
    from hpo.study.confirmed import confirmed_by
    from hpo.study.confirmed_table import confirmed_lines
    from hpo.study.status import take_snapshot
    from hpo.study.status_table import render

    confirmation = find_confirmation(opened)
    if confirmation is None:
        return
    console.print("\nconfirmation:")
    if not (snapshot := take_snapshot(confirmation)).finished:
        console.print(render(snapshot))
    for line in confirmed_lines(confirmed_by(opened, confirmation)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def run_pause(options: argparse.Namespace) -> int:
    """`hpo pause`: all workers, or those on one host, hand their trials back, and wait."""
    return _halt(options, "pause") if options.host is None else _pause_host(options)


def run_stop(options: argparse.Namespace) -> int:
    """`hpo stop`: all workers hand their trials back, and end."""
    return _halt(options, "stop")


def _halt(options: argparse.Namespace, kind: Halt) -> int:
    from hpo.study.confirmation import with_confirmation
    from hpo.study.status import take_snapshot
    from trainer.wording import counted

    with open_study_from(options) as opened:
        count = 0
        for study in with_confirmation(opened):
            study.rows.begin_halt(kind)
            count += len(take_snapshot(study).present)
    then = "wait" if kind == "pause" else "end"
    leave = counted(count, "worker leaves its trial", "workers leave their trials")
    how = (
        f"its {leave} in the queue within seconds, and {then}{'s' * (count == 1)}" if count else "no worker is at work"
    )
    print(f'the study "{opened.file.name}" is {HALTED[kind]}: {how}; `hpo resume {options.study}` lets it go on')
    return EXIT_DONE


def _pause_host(options: argparse.Namespace) -> int:
    from hpo.study.confirmation import with_confirmation
    from trainer.wording import counted

    host = options.host
    with open_study_from(options) as opened:
        studies = with_confirmation(opened)
        workers = [worker for study in studies for worker in study.rows.read().workers]
        hosts = sorted({worker.host for worker in workers})
        if host not in hosts:
            there = f"its workers were on {', '.join(hosts)}" if hosts else "it has had no worker yet"
            raise HpoError(f'pause: no worker of the study "{opened.file.name}" was on {host}; {there}')
        for study in studies:
            study.rows.pause_host(host)
        count = sum(worker.host == host and not worker.gone for worker in workers)
    leave = counted(count, "worker leaves its trial", "workers leave their trials")
    waits = f"its {leave} to others within seconds, and wait{'s' * (count == 1)}"
    how = waits if count else "no worker is at work there"
    print(f"{host} is paused: {how}; `{_resume_host(options, host)}` lets it go on")
    return EXIT_DONE


def _resume_host(options: argparse.Namespace, host: str) -> str:
    return shlex.join(["hpo", "resume", str(options.study), "--host", host])


def run_resume(options: argparse.Namespace) -> int:
    """`hpo resume`: a paused or stopped study goes on, or a host that was paused by itself."""
    from hpo.study.confirmation import with_confirmation

    with open_study_from(options) as opened:
        studies = with_confirmation(opened)
        hosts = opened.rows.paused_hosts()
        if options.host is not None:
            if options.host not in hosts:
                paused = f"paused are {', '.join(hosts)}" if hosts else "no host is"
                raise HpoError(f"resume: {options.host} is not paused by itself; {paused}")
            for study in studies:
                study.rows.resume_host(options.host)
            then = f" when the study does, which is {HALTED[halt]}" if (halt := opened.rows.halt()) else ""
            print(f"{options.host} goes on{then}")
            return EXIT_DONE
        halts = [study.rows.end_halt() for study in studies]
        halt = halts[0]
    ways = {
        "pause": "its workers go on",
        "stop": "start workers again (`hpo search`, `hpo workers`)",
        None: "as it did",
    }
    print(f'the study "{opened.file.name}" goes on: {ways[halt]}')
    for host in hosts:
        print(f"{host} stays paused; `{_resume_host(options, host)}` lets it go on")
    return EXIT_DONE


def run_list(options: argparse.Namespace) -> int:
    """`hpo list`: the studies of a storage."""
    from hpo.study.open_study import storage_url
    from hpo.study.study_list import list_studies
    from trainer.extensions import Extensions

    extensions = options.extensions or Extensions()
    if options.study:
        with storage_url(study_file_from(options), options.url, create=False) as url:
            studies = list_studies(url, extensions)
    elif options.url:
        quiet_optuna()
        studies = list_studies(options.url, extensions)
    else:
        raise HpoError("list: name a study file, or give --storage, to say which storage is meant")
    if options.json:
        listed = [study.as_json() for study in studies]
        print(json.dumps(listed, indent=2, ensure_ascii=False, allow_nan=False))
        return EXIT_DONE
    for study in studies:
        print(study.line())
    if not studies:
        print("no studies")
    return EXIT_DONE


def run_delete(options: argparse.Namespace) -> int:
    """`hpo delete`: a study with all that is its own."""
    import optuna

    from hpo.study.deletion import delete_idle_study, refuse_if_at_work
    from hpo.study.interruptions import count_trials
    from hpo.study.open_study import find_study, storage_url
    from hpo.units import show_bytes
    from storage.embedded.server import folders_of
    from trainer.wording import counted

    study_file = study_file_from(options)
    with storage_url(study_file, options.url, create=False) as url:
        opened = find_study(study_file, url)
        refuse_if_at_work(opened)
        count = count_trials(opened.study.get_trials(deepcopy=False))
        question = (
            f'delete the study "{study_file.name}" with {counted(count, "trial and its", "trials and their")} files?'
        )
        if not options.yes and not _agrees(question):
            print("nothing was deleted")
            return EXIT_FAILED
        delete_idle_study(opened)
        others = optuna.get_all_study_names(opened.storage)
    print(f'the study "{study_file.name}" is deleted')
    left = [] if others else [folder for folder in folders_of(study_file.folder) if folder.exists()]
    if left:
        size, take = show_bytes(sum(map(_size_of, left))), "takes" if len(left) == 1 else "take"
        print(
            f"{' and '.join(map(str, left))} still {take} {size}, which no study in the storage needs any more;"
            " delete that, too, where no other study file lies beside"
        )
    return EXIT_DONE


def run_prune_artifacts(options: argparse.Namespace) -> int:
    """`hpo prune-artifacts`: clears what is no longer needed."""
    from hpo.study.confirmation import with_confirmation
    from hpo.study.retention import prune_artifacts, take_inventory
    from hpo.units import show_bytes
    from trainer.images.archives import UNPACKED
    from trainer.images.fetched import FETCHED
    from trainer.wording import counted

    with open_study_from(options) as opened:
        pixels, inventories = opened.file.folder / "pixels", []
        for study in with_confirmation(opened):
            inventories.append(take_inventory(study, study.file.keep_weights))
            if not options.dry_run:
                prune_artifacts(study, inventories[-1].surplus)
    surplus = [one for inventory in inventories for one in inventory.surplus]
    removed = [one.file.size_bytes for one in surplus]
    kept = [one.size_bytes for inventory in inventories for one in inventory.kept]
    for one in surplus:
        print(f"{one.file.artifact_id}, {show_bytes(one.file.size_bytes)}: {one.why}")
    done = "would be removed" if options.dry_run else "removed"
    files = counted(len(removed), "file")
    print(f"{done}: {files}, {show_bytes(sum(removed))}; kept: {len(kept)}, {show_bytes(sum(kept))}")
    for folder, source in ((pixels / FETCHED, "from URLs"), (pixels / UNPACKED, "out of archives")):
        if folder.is_dir():
            print(
                f"{folder} has {show_bytes(_size_of(folder))} of images {source}, for all study files beside it: remove"
                " it where nothing runs and none needs them; what is missing comes again"
            )
    return EXIT_DONE


def _size_of(folder: Path) -> int:
    """How many bytes the files below a folder have together; links are not followed."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a server that still runs removes some
            size += 0 if file.is_dir() else file.lstat().st_size
    return size


def _agrees(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("(nobody answers; --yes does not ask)")
        return False
