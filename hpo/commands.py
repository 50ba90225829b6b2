"""What each command does with its options: call, print, exit code. Imports what it needs, and no more, when called."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, EXIT_FAILED, HpoError, exit_code
from storage.keys import ORIGIN_KEY

WATCH_SECONDS = 2.0  # between two looks of `status --watch`
PLAIN_WIDTH = 120  # characters of a table that does not go to a terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from hpo.search.supervisor import Staff
    from hpo.study.open_study import OpenStudy
    from hpo.study.study_file import StudyFile
    from storage.halts import Halt
    from storage.outage_retry import OutageRetry


def _file(options: argparse.Namespace) -> StudyFile:
    from hpo.study.study_file import read_study_file

    _quiet_optuna()
    file = read_study_file(options.study, options.extensions)
    return replace(file, artifacts=options.artifacts) if options.artifacts else file


def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def _study(
    options: argparse.Namespace, outage_retry: OutageRetry | None = None
) -> Iterator[tuple[StudyFile, str, OpenStudy]]:
    """The study file, the URL of its storage and the study in it, which exists."""
    from hpo.study.open_study import load_study, storage_url

    file = _file(options)
    with storage_url(file, options.url, create=False) as url:
        yield file, url, load_study(file, url, outage_retry)


def run_search(options: argparse.Namespace) -> int:
    """`hpo search`: check, create or resume, search to the end of the budget."""
    from rich.console import Console

    from hpo.search.progress import Progress
    from hpo.search.search import check, search
    from hpo.study.open_study import probe_artifacts, storage_url
    from storage.database import ping

    file = _file(options)
    staff, progress = _staff(options, file), Progress(Console())
    if url := options.url or file.storage:
        ping(url)  # before the long checks; the embedded one is started after them, where nothing is wrong
    probe_artifacts(file)
    data = check(file, progress)
    with storage_url(file, options.url) as url:
        return search(file, url, data, progress, staff)


def run_workers(options: argparse.Namespace) -> int:
    """`hpo workers`: the workers of this machine, without checks of the images and without the winner."""
    from rich.console import Console

    from hpo.search.progress import Progress
    from hpo.search.supervisor import supervise
    from hpo.study.open_study import load_study, probe_artifacts, storage_url

    file = _file(options)
    staff, progress = _staff(options, file), Progress(Console())
    probe_artifacts(file)
    with storage_url(file, options.url, create=False) as url:
        done = supervise(file, url, load_study(file, url), progress, staff, tell_starts=True)
    if done.snapshot:
        states = ", ".join(f"{count} {state}" for state, count in done.snapshot.counts.items() if count)
        progress.say(f"all workers have ended: {states or 'no trials'}")
    return done.code


def _staff(options: argparse.Namespace, file: StudyFile) -> Staff:
    """The workers that `hpo search` or `hpo workers` is to run."""
    from hpo.hardware import cores, visible_gpus
    from hpo.search.launcher import own_command
    from hpo.search.supervisor import Staff
    from hpo.study.open_study import storage_url

    gpus = visible_gpus(options.cuda_visible_devices)
    if options.per_gpu > 1 and not gpus:
        raise HpoError("workers: --per-gpu needs a GPU, and there is none here; --workers says how many processes")
    command = [*own_command(options.script), "worker", str(file.path)]
    if options.storage:
        command += ["--storage", options.storage]
    return Staff(
        command,
        options.workers or options.per_gpu * len(gpus) or min(4, cores()),
        gpus,
        reopen=partial(storage_url, file, options.url),
    )


def run_check(options: argparse.Namespace) -> int:
    """`hpo check`: what could fail or mislead later; an error is a foreseen failure."""
    from rich.console import Console

    from hpo.check.render import render
    from hpo.check.run import run_checks, write_groups
    from hpo.hardware import visible_gpus
    from hpo.search.progress import Progress

    file = _file(options)
    report = run_checks(file, options.url, visible_gpus(options.cuda_visible_devices), Progress(Console(stderr=True)))
    if options.json:
        print(json.dumps(report.as_json(), indent=2, allow_nan=False))  # in ASCII, so that it holds any name of a file
    else:
        Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(render(report.findings))
    if options.groups is not None:
        if report.index is None or report.pairs is None:
            raise HpoError(f"check: {options.groups} is not written: the images were not compared; see above")
        write_groups(report.index, report.pairs, options.groups)
    if errors := report.count("error"):
        raise HpoError(f"check: {errors} of the checks failed; the lines marked `error` say why and what to do")
    return EXIT_DONE


def run_init(options: argparse.Namespace) -> int:
    """`hpo init`: tables and study, with the trials of an old one that still fit."""
    from hpo.study.open_study import create_study, storage_url
    from hpo.study.takeover import take_over
    from storage.database import public_url

    file = _file(options)
    data = file.data.load(file.folder / "pixels")
    with storage_url(file, options.url, create=options.old is None) as url:
        if options.old is None:
            create_study(file, url, data)
        else:
            print("\n".join(take_over(file, url, data, options.old).lines()))
        print(f'the study "{file.name}" is ready in {public_url(url)}')
    return EXIT_DONE


def run_worker(options: argparse.Namespace) -> int:
    """`hpo worker`: one worker in this process; signals hand its trial back."""
    file = _file(options)
    import torch

    from hpo.study.open_study import load_study, storage_url
    from hpo.study.settings import check_settings
    from hpo.worker.shutdown import Shutdown, asked_by_signals
    from hpo.worker.stopwatch import Stopwatch
    from hpo.worker.worker import Worker
    from storage.outage_retry import OutageRetry
    from trainer.device import choose_device
    from trainer.loaders import loaders_for

    stop = Shutdown()
    torch.set_num_threads(options.threads)
    with storage_url(file, options.url, create=False) as url:
        opened, data = load_study(file, url, OutageRetry(stop.given_up)), file.data.load(file.folder / "pixels")
        check_settings(opened.study, file, data)
        worker = Worker(
            file,
            opened,
            data,
            name=options.name or str(uuid.uuid4()),
            loaders=loaders_for(choose_device(), options.threads),
            watch=Stopwatch(options.started),
            stop=stop,
            parent=options.parent,
        )
        with asked_by_signals(stop) as received:  # until here they end the process at once
            worker.run()
    return exit_code(received[0]) if received else EXIT_DONE


def run_pause(options: argparse.Namespace) -> int:
    """`hpo pause`: all workers hand their trials back, and wait."""
    return _halt(options, "pause")


def run_stop(options: argparse.Namespace) -> int:
    """`hpo stop`: all workers hand their trials back, and end."""
    return _halt(options, "stop")


def _halt(options: argparse.Namespace, kind: Halt) -> int:
    from hpo.study.status import take_snapshot
    from storage.halts import begin_halt

    with _study(options) as (file, url, opened):
        with opened.storage.engine.begin() as connection:
            begin_halt(connection, opened.study_id, kind)
        count = len(take_snapshot(file, url, opened).present)
    done, then = ("paused", "wait") if kind == "pause" else ("stopped", "end")
    print(
        f'the study "{file.name}" is {done}: its {count} workers leave their trials in the queue within seconds,'
        f" and {then}; `hpo resume {options.study}` lets it go on"
    )
    return EXIT_DONE


def run_resume(options: argparse.Namespace) -> int:
    """`hpo resume`: a paused or stopped study goes on."""
    from storage.halts import end_halt, halt_in_force

    with _study(options) as (file, _, opened), opened.storage.engine.begin() as connection:
        halt = halt_in_force(connection, opened.study_id)
        end_halt(connection, opened.study_id)
    ways = {
        "pause": "its workers go on",
        "stop": "start workers again (`hpo search`, `hpo workers`)",
        None: "as it did",
    }
    print(f'the study "{file.name}" goes on: {ways[halt]}')
    return EXIT_DONE


def run_status(options: argparse.Namespace) -> int:
    """`hpo status`: one snapshot, or one after the other."""
    from rich.console import Console
    from rich.live import Live

    from hpo.study.status import take_snapshot
    from hpo.study.status_table import render
    from storage.outage_retry import OutageRetry

    if options.watch and options.json:
        raise HpoError("status: --watch shows a table that changes; ask for --json as often as you like")
    console = Console()
    with _study(options, OutageRetry() if options.watch else None) as (file, url, opened):
        snapshot = take_snapshot(file, url, opened)
        if options.json:
            print(json.dumps(snapshot.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
        elif not options.watch:
            console.print(render(snapshot))
        else:
            with Live(render(snapshot), console=console, auto_refresh=False) as live:
                while not snapshot.finished:
                    time.sleep(WATCH_SECONDS)
                    snapshot = take_snapshot(file, url, opened)
                    live.update(render(snapshot), refresh=True)
    return EXIT_DONE


def run_dashboard(options: argparse.Namespace) -> int:
    """`hpo dashboard`: the study in a browser, until a signal ends it."""
    from hpo.dashboard.access import check_password, make_password

    given = options.password()
    password = make_password() if given is None else check_password(given)
    from hpo.dashboard.server import is_local, serve

    def tell(address: str) -> None:
        print(f"the dashboard of the study: {address}")
        if given is None:
            print(f"password, for this time: {password}")
        if not is_local(options.host):
            print("others can read along: see docs/dashboard.md for TLS", file=sys.stderr)
        print("Ctrl-C ends it", flush=True)

    with _study(options) as (file, url, opened):
        return serve(
            file,
            url,
            opened,
            password,
            host=options.host,
            port=options.port,
            proxy=options.proxy,
            read_only=options.read_only,
            started=tell,
        )


def run_export_best(options: argparse.Namespace) -> int:
    """`hpo export-best`: the winner as a bundle."""
    from hpo.bundle.export import export_best
    from hpo.bundle.pseudo_labels import CONFIDENCE

    if options.confidence is not None and not options.unlabelled:
        raise HpoError("export: --confidence says which images of --unlabelled are learned; give --unlabelled, too")
    with _study(options) as (file, _, opened):
        info = export_best(
            file,
            opened,
            options.output,
            retrain=not options.no_retrain,
            unlabelled=options.unlabelled or (),
            confidence=CONFIDENCE if options.confidence is None else options.confidence,
            say=lambda line: print(line, flush=True),
        )
    if test := info["metrics"]["test"]:
        print(
            f"test macro-F1 {test['macro_f1']:.4f}, accuracy {test['accuracy']:.4f}, on {test['images']} images that"
            f" the search never saw (use {info['test_uses']} of the test split)"
        )
        shown = shlex.join(["hpo", "predict", str(options.output), str(options.output / "test.csv")])
        print(f"  {shown} -o predictions.csv")
    print(f"written: {options.output}")
    return EXIT_DONE


def run_predict(options: argparse.Namespace) -> int:
    """`hpo predict`: classes and probabilities to a CSV."""
    from hpo.bundle.prediction import find_bundles, find_images, predict_to_csv
    from trainer.extensions import Extensions

    bundles, inputs = find_bundles([options.bundle, *options.images])
    images = find_images(inputs, bundles[0].classes)
    metrics = predict_to_csv(
        bundles, images, options.output, options.extensions or Extensions(), voting=options.voting, tta=options.tta
    )
    if options.json:
        used = {"bundles": [str(bundle.folder) for bundle in bundles], "voting": options.voting, "tta": options.tta}
        shown = {"images": len(images.files), **used, "metrics": metrics}
        print(json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False))
        return EXIT_DONE
    voted = f", {len(bundles)} bundles by {options.voting} voting" if len(bundles) > 1 else ""
    print(f"{len(images.files)} images -> {options.output}{voted}")
    if metrics:
        print(f"macro-F1 {metrics['macro_f1']:.4f}, accuracy {metrics['accuracy']:.4f}, by the classes that are known")
        for name, of_class in metrics["per_class"].items():
            print(f"  {name}: F1 {of_class['f1']:.4f}, {of_class['images']} images")
    return EXIT_DONE


def run_logs(options: argparse.Namespace) -> int:
    """`hpo logs`: what a trial printed, which run did which epochs, and how it ended."""
    from hpo.worker.runs import shares
    from storage import logs

    with _study(options) as (file, _, opened):
        with opened.storage.engine.connect() as connection:
            lines = logs.read(connection, opened.study_id, options.trial)
        trials = opened.study.get_trials(deepcopy=False)
        if not 0 <= options.trial < len(trials):
            raise HpoError(f'logs: "{file.name}" has no trial {options.trial}; it has {len(trials)}, the first is 0')
    trial = trials[options.trial]
    for at, line in lines:
        print(f"{at:%Y-%m-%d %H:%M:%S}  {line}")
    runs = shares(trial, trials)
    for run in runs if len(runs) > 1 else ():
        print(f"epochs {run.first} to {run.last}: trial {run.trial} on {run.host} ({run.device})")
    why = f": {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
    if origin := trial.user_attrs.get(ORIGIN_KEY):
        why = f'; it ran as trial {origin["trial"]} of "{origin["study"]}", where its log is'
    print(f"trial {trial.number} is {trial.state.name.lower()}{why}")
    return EXIT_DONE


def run_report(options: argparse.Namespace) -> int:
    """`hpo report`: what was found, as one page."""
    from datetime import UTC, datetime

    from hpo.report.page import make_report, refuse_bad_path, write_report

    refuse_bad_path(options.output)
    with _study(options) as (_, _, opened):
        report = make_report(opened, datetime.now(UTC), options.gpu_hour_price)
    write_report(report, options.output)
    print("\n".join([*report.headline, f"written: {options.output}"]))
    return EXIT_DONE


def run_list(options: argparse.Namespace) -> int:
    """`hpo list`: the studies of a storage."""
    from hpo.study.open_study import storage_url
    from hpo.study.study_list import list_studies
    from trainer.extensions import Extensions

    extensions = options.extensions or Extensions()
    if options.study:
        with storage_url(_file(options), options.url, create=False) as url:
            studies = list_studies(url, extensions)
    elif options.url:
        _quiet_optuna()
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
    from hpo.study.open_study import delete_study, find_study, refuse_if_at_work, storage_url

    file = _file(options)
    with storage_url(file, options.url, create=False) as url:
        opened = find_study(file, url)
        refuse_if_at_work(opened)
        count = len(opened.study.get_trials(deepcopy=False))
        if not options.yes and not _agrees(f'delete the study "{file.name}" with its {count} trials and their files?'):
            print("nothing was deleted")
            return EXIT_FAILED
        delete_study(opened)
        shutil.rmtree(file.tensorboard_folder, ignore_errors=True)
    print(f'the study "{file.name}" is deleted')
    return EXIT_DONE


def run_prune_artifacts(options: argparse.Namespace) -> int:
    """`hpo prune-artifacts`: clears what is no longer needed."""
    from hpo.study.retention import prune_artifacts, take_inventory
    from hpo.units import show_bytes

    with _study(options) as (file, _, opened):
        inventory = take_inventory(opened, file.keep_weights)
        if not options.dry_run:
            prune_artifacts(opened, inventory.surplus)
    removed, kept = [one.file.size_bytes for one in inventory.surplus], [one.size_bytes for one in inventory.kept]
    for one in inventory.surplus:
        print(f"{one.file.artifact_id}, {show_bytes(one.file.size_bytes)}: {one.why}")
    done = "would be removed" if options.dry_run else "removed"
    print(f"{done}: {len(removed)} files, {show_bytes(sum(removed))}; kept: {len(kept)}, {show_bytes(sum(kept))}")
    return EXIT_DONE


def _agrees(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("(nobody answers; --yes does not ask)")
        return False
