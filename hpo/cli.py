"""The command line: parse, call one function, print. The only place that reads environment variables."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hpo.study_file import StudyFile
    from trainer.parts import Parts

THREADS = "of torch on a CPU; beside a GPU, processes that augment; default: all cores"
STARTED = time.perf_counter()  # the start-up of a worker counts from here

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


def main(arguments: Sequence[str] | None = None, *, parts: Parts | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 a foreseen failure, 2 wrong usage, 130 interrupted, 143 terminated.

    Args:
        arguments: those of the command line where not given.
        parts: losses, augmentations and models of one's own. A script that calls `main(parts=…)` is an `hpo` of its
            own: its `search` starts workers that run the same script.
    """
    options = parser().parse_args(arguments)
    options.parts, options.script = parts, sys.argv[0] if parts else None
    try:
        sys.exit(run(options))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_DONE)


def run(options: argparse.Namespace) -> int:
    """Call the command; a foreseen failure becomes its line on stderr."""
    from hpo.errors import HpoError
    from storage.errors import StorageError
    from trainer.errors import TrainerError

    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except (HpoError, StorageError, TrainerError) as error:
        print(f"hpo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        from storage.database import OUTAGES

        if not isinstance(error, OUTAGES):
            raise
        cause = " ".join(str(error.__cause__ or error).split())
        print(f"hpo: storage: the database stopped answering; the same command goes on later: {cause}", file=sys.stderr)
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog="hpo",
        description="Hyperparameter search for image classification, on every GPU you point at one Postgres.",
    )
    root.add_argument("--version", action="version", version=f"hpo {version('hpo')}")
    commands = root.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(command=command)
        return added

    def add_for_study(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = add(name, command, text)
        added.add_argument("study", metavar="STUDY", type=Path, help="a study file, study.toml")
        _add_storage(added)
        return added

    added = add_for_study("search", _search, "check, create or resume the study, and search to the end of the budget")
    added.add_argument(
        "--workers", type=_positive, metavar="N", help="processes; default: one a GPU, on a CPU one a core, at most 4"
    )
    add_for_study("init", _init, "create the tables and the study, nothing else; safe to repeat")
    added = add_for_study("worker", _worker, "run one worker on the first visible GPU, or on the CPU")
    added.add_argument("--name", default=None, help="of the worker; default: made up")
    added.add_argument("--threads", type=_positive, metavar="N", default=os.cpu_count() or 1, help=THREADS)
    added = add_for_study("status", _status, "show counts, the best so far, the budget used, and the workers")
    added.add_argument("--json", action="store_true", help="as JSON")
    added = add_for_study(
        "export-best", _export_best, "retrain the winner, test it on the held-out images, write a bundle"
    )
    added.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder of the bundle, to be made"
    )
    added.add_argument("--no-retrain", action="store_true", help="take the winning trial's own weights")
    added = add("predict", _predict, "write classes and probabilities of images to a CSV")
    added.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder that export-best wrote")
    added.add_argument(
        "images", metavar="IMAGES", nargs="+", help="folders, image files, patterns, or a CSV with a column path"
    )
    added.add_argument("-o", "--output", metavar="FILE.csv", type=Path, required=True, help="where to write")
    added.add_argument("--json", action="store_true", help="metrics as JSON")
    added = add_for_study("logs", _logs, "show what a trial printed, wherever it ran")
    added.add_argument("trial", metavar="TRIAL", type=int, help="number of the trial")
    added = add("list", _list, "list the studies of a storage")
    added.add_argument("study", metavar="STUDY", type=Path, nargs="?", help="a study file whose storage is meant")
    _add_storage(added)
    added.add_argument("--json", action="store_true", help="as JSON")
    added = add_for_study("delete", _delete, "delete the study with its trials and files, after asking")
    added.add_argument("--yes", action="store_true", help="do not ask")
    added = add("demo", _demo, "search, export and test on scikit-learn's digits, in minutes on a CPU")
    added.add_argument(
        "folder", metavar="DIR", type=Path, nargs="?", default=Path("hpo-demo"), help="default: hpo-demo"
    )
    added.add_argument("--workers", type=_positive, metavar="N", default=2, help="processes; default: 2")
    added.add_argument("--seed", type=int, default=0, help="of the search; default: 0")
    added.add_argument("--trials", type=_positive, metavar="N", default=20, help="default: 20")
    added.add_argument("--epochs", type=_positive, metavar="N", default=14, help="of a trial; default: 14")
    return root


def _add_storage(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--storage",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE without a password (PGPASSFILE or HPO_STORAGE carry that); default:"
        " HPO_STORAGE, HPO_STORAGE_FILE, the study file's, else a private Postgres beside the study file",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _storage(options: argparse.Namespace) -> str | None:
    """The URL that the user gives, in the order of the documentation; None where none is given."""
    from hpo.errors import HpoError
    from storage.database import parse_url

    if options.storage:
        if parse_url(options.storage).password is not None:
            print(
                "hpo: --storage: a password would stand in the process list; put the URL into HPO_STORAGE, or into"
                " a file named by HPO_STORAGE_FILE, or the password into a PGPASSFILE",
                file=sys.stderr,
            )
            sys.exit(EXIT_USAGE)
        return str(options.storage)
    if url := os.environ.get("HPO_STORAGE"):
        return url
    if name := os.environ.get("HPO_STORAGE_FILE"):
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise HpoError(f"storage: HPO_STORAGE_FILE = {name} cannot be read: {error.strerror}") from None
    return None


def _file(options: argparse.Namespace) -> StudyFile:
    from hpo.study_file import read_study_file

    _quiet_optuna()
    return read_study_file(options.study, options.parts)


def _quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _search(options: argparse.Namespace) -> int:
    from rich.console import Console

    from hpo.launcher import own_command, visible_gpus
    from hpo.progress import Progress
    from hpo.search import check, search
    from hpo.study import storage_url

    file, given = _file(options), _storage(options)
    gpus = visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    command = [*own_command(options.script), "worker", str(file.path)]
    if options.storage:
        command += ["--storage", options.storage]
    workers = options.workers or len(gpus) or min(4, os.cpu_count() or 1)
    progress = Progress(Console())
    data = check(file, progress)
    with storage_url(file, given) as url:
        return search(file, url, data, progress, command=command, workers=workers, gpus=gpus)


def _init(options: argparse.Namespace) -> int:
    from hpo.study import create_study, storage_url
    from storage.database import public_url

    file = _file(options)
    data = file.data.load(file.folder / "pixels")
    with storage_url(file, _storage(options)) as url:
        create_study(file, url, data)
        print(f'the study "{file.name}" is ready in {public_url(url)}')
    return EXIT_DONE


def _worker(options: argparse.Namespace) -> int:
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

    torch.set_num_threads(options.threads)
    with storage_url(file, _storage(options)) as url:
        opened, data = load_study(file, url), file.data.load(file.folder / "pixels")
        check_settings(opened.study, file, data)
        worker = Worker(
            file,
            opened,
            data,
            name=options.name or str(uuid.uuid4()),
            loaders=min(8, options.threads) if torch.cuda.is_available() else 0,
            watch=Stopwatch(STARTED),
            stop=stop,
        )
        worker.run()
    if not received:
        return EXIT_DONE
    return EXIT_INTERRUPTED if received[0] == signal.SIGINT else EXIT_TERMINATED


def _status(options: argparse.Namespace) -> int:
    from rich.console import Console

    from hpo.progress import render
    from hpo.status import take_snapshot
    from hpo.study import load_study, storage_url

    file = _file(options)
    with storage_url(file, _storage(options)) as url:
        snapshot = take_snapshot(file, url, load_study(file, url))
    if options.json:
        print(json.dumps(snapshot.as_json(), indent=2, ensure_ascii=False))
    else:
        Console().print(render(snapshot))
    return EXIT_DONE


def _export_best(options: argparse.Namespace) -> int:
    from hpo.export import export_best
    from hpo.study import load_study, storage_url

    file = _file(options)
    with storage_url(file, _storage(options)) as url:
        info = export_best(
            file,
            load_study(file, url),
            options.output,
            retrain=not options.no_retrain,
            say=lambda line: print(line, flush=True),
        )
    if test := info["metrics"]["test"]:
        print(
            f"test macro-F1 {test['macro_f1']:.4f}, accuracy {test['accuracy']:.4f}, on {test['images']} images that"
            f" the search never saw (use {info['test_uses']} of the test split)"
        )
        print(f"  hpo predict {options.output} {options.output / 'test.csv'} -o predictions.csv")
    print(f"written: {options.output}")
    return EXIT_DONE


def _predict(options: argparse.Namespace) -> int:
    from hpo.bundle import read_bundle
    from hpo.prediction import find_images, predict_to_csv
    from trainer.parts import Parts

    bundle = read_bundle(options.bundle)
    images = find_images(options.images, bundle.classes)
    metrics = predict_to_csv(bundle, images, options.output, options.parts or Parts())
    if options.json:
        print(json.dumps({"images": len(images.files), "metrics": metrics}, indent=2, ensure_ascii=False))
        return EXIT_DONE
    print(f"{len(images.files)} images -> {options.output}")
    if metrics:
        print(f"macro-F1 {metrics['macro_f1']:.4f}, accuracy {metrics['accuracy']:.4f}, by the classes that are known")
        for name, of_class in metrics["per_class"].items():
            print(f"  {name}: F1 {of_class['f1']:.4f}, {of_class['images']} images")
    return EXIT_DONE


def _logs(options: argparse.Namespace) -> int:
    from hpo.errors import HpoError
    from hpo.study import load_study, storage_url
    from storage import logs

    file = _file(options)
    with storage_url(file, _storage(options)) as url:
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


def _list(options: argparse.Namespace) -> int:
    from hpo.errors import HpoError
    from hpo.study import list_studies, storage_url

    given = _storage(options)
    if options.study:
        with storage_url(_file(options), given) as url:
            studies = list_studies(url)
    elif given:
        _quiet_optuna()
        studies = list_studies(given)
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


def _delete(options: argparse.Namespace) -> int:
    from hpo.study import delete_study, load_study, storage_url

    file = _file(options)
    with storage_url(file, _storage(options)) as url:
        opened = load_study(file, url)
        count = len(opened.study.get_trials(deepcopy=False))
        if not options.yes and not _agrees(f'delete the study "{file.name}" with its {count} trials and their files?'):
            print("nothing was deleted")
            return EXIT_FAILED
        delete_study(opened)
    print(f'the study "{file.name}" is deleted')
    return EXIT_DONE


def _agrees(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print("(nobody answers; --yes does not ask)")
        return False


def _demo(options: argparse.Namespace) -> int:
    from hpo.demo import write_demo

    study = write_demo(options.folder, seed=options.seed, trials=options.trials, epochs=options.epochs)
    bundle, predictions = options.folder / "bundle", options.folder / "predictions.csv"
    steps = [["search", str(study), "--workers", str(options.workers)]]
    if not bundle.exists():
        steps.append(["export-best", str(study), "-o", str(bundle)])
    steps.append(["predict", str(bundle), str(bundle / "test.csv"), "-o", str(predictions)])
    for step in steps:
        print(f"$ hpo {' '.join(step)}", flush=True)
        step_options = parser().parse_args(step)
        step_options.parts, step_options.script = options.parts, options.script
        if code := run(step_options):
            return code
        print()
    return EXIT_DONE
