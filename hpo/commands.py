"""What each command does with its options: call, print, exit code. Imports what it needs, and no more, when called."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

from hpo.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED, HpoError

PLAIN_WIDTH = 120  # characters of a table that does not go to a terminal

if TYPE_CHECKING:
    import argparse

    from hpo.study_file import StudyFile


def _file(options: argparse.Namespace) -> StudyFile:
    from hpo.study_file import read_study_file

    _quiet_optuna()
    return read_study_file(options.study, options.parts)


def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def run_search(options: argparse.Namespace) -> int:
    """`hpo search`: check, create or resume, search to the end of the budget."""
    from rich.console import Console

    from hpo.launcher import cores, own_command, visible_gpus
    from hpo.progress import Progress
    from hpo.search import check, search
    from hpo.study import storage_url
    from storage.database import ping

    file = _file(options)
    gpus = visible_gpus(options.cuda_visible_devices)
    command = [*own_command(options.script), "worker", str(file.path)]
    if options.storage:
        command += ["--storage", options.storage]
    if options.per_gpu > 1 and not gpus:
        raise HpoError("search: --per-gpu needs a GPU, and there is none here; --workers says how many processes")
    workers = options.workers or options.per_gpu * len(gpus) or min(4, cores())
    progress = Progress(Console())
    if url := options.url or file.storage:
        ping(url)  # before the long checks; the embedded one is started after them, where nothing is wrong
    data = check(file, progress)
    with storage_url(file, options.url) as url:
        return search(file, url, data, progress, command=command, workers=workers, gpus=gpus)


def run_check(options: argparse.Namespace) -> int:
    """`hpo check`: what could fail or mislead later; an error is a foreseen failure."""
    from rich.console import Console

    from hpo.check import run_checks, write_groups
    from hpo.findings import render
    from hpo.launcher import visible_gpus
    from hpo.progress import Progress

    file = _file(options)
    report = run_checks(file, options.url, visible_gpus(options.cuda_visible_devices), Progress(Console(stderr=True)))
    if options.json:
        print(json.dumps(report.as_json(), indent=2))  # in ASCII, so that it holds any name of a file
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
    """`hpo init`: tables and study."""
    from hpo.study import create_study, storage_url
    from storage.database import public_url

    file = _file(options)
    data = file.data.load(file.folder / "pixels")
    with storage_url(file, options.url) as url:
        create_study(file, url, data)
        print(f'the study "{file.name}" is ready in {public_url(url)}')
    return EXIT_DONE


def run_worker(options: argparse.Namespace) -> int:
    """`hpo worker`: one worker in this process; signals hand its trial back."""
    stop = threading.Event()
    received: list[int] = []

    def on_signal(number: int, _frame: Any) -> None:
        if signal.SIGINT in received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)

    file = _file(options)
    import torch

    from hpo.stopwatch import Stopwatch
    from hpo.study import check_settings, load_study, storage_url
    from hpo.worker import Worker
    from trainer.device import choose_device
    from trainer.loaders import loaders_for

    torch.set_num_threads(options.threads)
    with storage_url(file, options.url, create=False) as url:
        opened, data = load_study(file, url), file.data.load(file.folder / "pixels")
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
        worker.run()
    if not received:
        return EXIT_DONE
    return EXIT_INTERRUPTED if received[0] == signal.SIGINT else EXIT_TERMINATED


def run_status(options: argparse.Namespace) -> int:
    """`hpo status`: one snapshot."""
    from rich.console import Console

    from hpo.progress import render
    from hpo.status import take_snapshot
    from hpo.study import load_study, storage_url

    file = _file(options)
    with storage_url(file, options.url, create=False) as url:
        snapshot = take_snapshot(file, url, load_study(file, url))
    if options.json:
        print(json.dumps(snapshot.as_json(), indent=2, ensure_ascii=False))
    else:
        Console().print(render(snapshot))
    return EXIT_DONE


def run_export_best(options: argparse.Namespace) -> int:
    """`hpo export-best`: the winner as a bundle."""
    from hpo.export import export_best
    from hpo.pseudo_labels import CONFIDENCE
    from hpo.study import load_study, storage_url

    if options.confidence is not None and not options.unlabelled:
        raise HpoError("export: --confidence says which images of --unlabelled are learned; give --unlabelled, too")
    file = _file(options)
    with storage_url(file, options.url, create=False) as url:
        info = export_best(
            file,
            load_study(file, url),
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
    from hpo.prediction import find_bundles, find_images, predict_to_csv
    from trainer.parts import Parts

    bundles, inputs = find_bundles([options.bundle, *options.images])
    images = find_images(inputs, bundles[0].classes)
    metrics = predict_to_csv(
        bundles, images, options.output, options.parts or Parts(), voting=options.voting, tta=options.tta
    )
    if options.json:
        used = {"bundles": [str(bundle.folder) for bundle in bundles], "voting": options.voting, "tta": options.tta}
        print(json.dumps({"images": len(images.files), **used, "metrics": metrics}, indent=2, ensure_ascii=False))
        return EXIT_DONE
    voted = f", {len(bundles)} bundles by {options.voting} voting" if len(bundles) > 1 else ""
    print(f"{len(images.files)} images -> {options.output}{voted}")
    if metrics:
        print(f"macro-F1 {metrics['macro_f1']:.4f}, accuracy {metrics['accuracy']:.4f}, by the classes that are known")
        for name, of_class in metrics["per_class"].items():
            print(f"  {name}: F1 {of_class['f1']:.4f}, {of_class['images']} images")
    return EXIT_DONE


def run_logs(options: argparse.Namespace) -> int:
    """`hpo logs`: what a trial printed, and how it ended."""
    from hpo.study import load_study, storage_url
    from storage import logs

    file = _file(options)
    with storage_url(file, options.url, create=False) as url:
        opened = load_study(file, url)
        with opened.storage.engine.connect() as connection:
            lines = logs.read(connection, opened.study_id, options.trial)
        trials = opened.study.get_trials(deepcopy=False)
        if not 0 <= options.trial < len(trials):
            raise HpoError(f'logs: "{file.name}" has no trial {options.trial}; it has {len(trials)}, the first is 0')
    trial = trials[options.trial]
    for at, line in lines:
        print(f"{at:%Y-%m-%d %H:%M:%S}  {line}")
    why = f": {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
    print(f"trial {trial.number} is {trial.state.name.lower()}{why}")
    return EXIT_DONE


def run_list(options: argparse.Namespace) -> int:
    """`hpo list`: the studies of a storage."""
    from hpo.study import list_studies, storage_url

    if options.study:
        with storage_url(_file(options), options.url, create=False) as url:
            studies = list_studies(url)
    elif options.url:
        _quiet_optuna()
        studies = list_studies(options.url)
    else:
        raise HpoError("list: name a study file, or give --storage, to say which storage is meant")
    if options.json:
        print(json.dumps(studies, indent=2, ensure_ascii=False))
        return EXIT_DONE
    for study in studies:
        best = "none complete" if study["best_macro_f1"] is None else f"best macro-F1 {study['best_macro_f1']:.4f}"
        print(f"{study['name']}: {study['trials']} trials, {best}")
    if not studies:
        print("no studies")
    return EXIT_DONE


def run_delete(options: argparse.Namespace) -> int:
    """`hpo delete`: a study with all that is its own."""
    from hpo.study import delete_study, load_study, refuse_if_at_work, storage_url
    from hpo.tensorboard import folder_of

    file = _file(options)
    with storage_url(file, options.url, create=False) as url:
        opened = load_study(file, url)
        refuse_if_at_work(opened)
        count = len(opened.study.get_trials(deepcopy=False))
        if not options.yes and not _agrees(f'delete the study "{file.name}" with its {count} trials and their files?'):
            print("nothing was deleted")
            return EXIT_FAILED
        delete_study(opened)
        shutil.rmtree(folder_of(file), ignore_errors=True)
    print(f'the study "{file.name}" is deleted')
    return EXIT_DONE


def _agrees(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("(nobody answers; --yes does not ask)")
        return False
