"""The command line: read options and environment variables, which nothing else reads, and call one command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from hpo.argument_types import THREADS, folds, header_value, port, positive, price, proxy, repeats
from hpo.bundle.options import add_bundle_commands
from hpo.check.commands import run_check
from hpo.dashboard.commands import run_dashboard
from hpo.demo import run_demo
from hpo.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, HpoError, exit_code
from hpo.hardware import cores
from hpo.nested.commands import run_nested
from hpo.report.commands import run_report
from hpo.study.commands import (
    run_delete,
    run_init,
    run_list,
    run_pause,
    run_prune_artifacts,
    run_resume,
    run_status,
    run_stop,
    run_try,
)
from hpo.supervision.commands import run_confirm, run_search, run_workers
from hpo.version import VERSION
from hpo.worker.commands import run_logs, run_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trainer.extensions import Extensions

STARTED = time.perf_counter()  # the start-up of a worker counts from here


def main(
    arguments: Sequence[str] | None = None, *, extensions: Extensions | None = None, parts: Extensions | None = None
) -> NoReturn:
    """Run a command and exit, with a code of `hpo.errors`.

    Args:
        arguments: those of the command line where not given.
        extensions: losses, augmentations and models of one's own. A script that calls `main(extensions=…)` is an
            `hpo` of its own: its `search` starts workers that run the same script.
        parts: the name that `extensions` had before; it goes with the next release.
    """
    if parts:
        warnings.warn("main(parts=…) is main(extensions=…) now", DeprecationWarning, stacklevel=2)
        extensions = parts
    options = parse(arguments, extensions)
    # As an exception, so that what was begun is cleaned up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(exit_code(signal.SIGTERM)))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as it is under nohup
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(exit_code(signal.SIGHUP)))
    try:
        sys.exit(run(options))
    except KeyboardInterrupt:
        sys.exit(exit_code(signal.SIGINT))
    except BrokenPipeError:  # the reader of our output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_DONE)


def parse(arguments: Sequence[str] | None = None, extensions: Extensions | None = None) -> argparse.Namespace:
    """The options of a command, as `main` describes them, with what this process and its environment add."""
    options = parser().parse_args(arguments)
    options.extensions, options.script = extensions, sys.argv[0] if extensions else None
    options.started, options.cuda_visible_devices = STARTED, os.environ.get("CUDA_VISIBLE_DEVICES")
    return options


def run(options: argparse.Namespace) -> int:
    """Call the command; a foreseen failure becomes its line on stderr."""
    from storage.errors import StorageError
    from trainer.errors import TrainerError

    try:
        if "storage" in options:
            options.url = given_storage(options)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except (HpoError, StorageError, TrainerError) as error:
        print(f"hpo: {error}", file=sys.stderr)
        return EXIT_FAILED
    except Exception as error:
        from storage.outage_retry import cause_of, is_outage, is_refusal

        if is_outage(error):
            problem = "the database stopped answering; the same command goes on later"
        elif is_refusal(error):
            problem = "the database refuses; use the role that owns its tables, or give this one the right"
        else:
            raise
        print(f"hpo: storage: {problem}: {cause_of(error)}", file=sys.stderr)
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    root = argparse.ArgumentParser(
        prog="hpo",
        description="Hyperparameter search for image classification, on every GPU you point at one Postgres.",
    )
    root.add_argument("--version", action="version", version=f"hpo {VERSION}")
    root.set_defaults(artifacts=os.environ.get("HPO_ARTIFACTS") or None, notify=_notify)
    subparsers = root.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(command=command)
        return added

    def add_for_study(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = add(name, command, text)
        added.add_argument("study", metavar="STUDY", type=Path, help="a study file, study.toml")
        _add_storage(added)
        return added

    added = add_for_study(
        "search", run_search, "check, create or resume the study, and search to the end of the budget"
    )
    _add_workers(added)
    added = add_for_study(
        "confirm", run_confirm, "train the best recipes and the default one again on fresh folds, and name the winner"
    )
    added.add_argument(
        "--top", type=positive, metavar="K", help="how many of the best recipes; default: as [confirm] says, else 3"
    )
    added.add_argument(
        "--repeats", type=repeats, metavar="R", help="folds for each, 2 or more; default: as [confirm] says, else 4"
    )
    _add_workers(added)
    added = add_for_study(
        "nested", run_nested, "search without each outer fold, test its winner there: one number over all images"
    )
    added.add_argument("--folds", type=folds, metavar="K", default=5, help="outer folds, 2 to 20; default: 5")
    added.add_argument("--json", action="store_true", help="the result as JSON; what goes on goes to stderr")
    _add_workers(added)
    added = add_for_study("init", run_init, "create the tables and the study, nothing else; safe to repeat")
    added.add_argument(
        "--from",
        dest="old",
        metavar="OLD",
        help="name of a study in the same storage, whose finished trials are taken over as far as they still fit",
    )
    added = add_for_study(
        "try", run_try, "queue recipes of your own, which are tried before any that the search proposes"
    )
    added.add_argument(
        "recipes",
        metavar="RECIPE.toml",
        type=Path,
        nargs="+",
        help="a file with the fields that differ from the default recipe, such as learning_rate = 3e-3",
    )
    added = add_for_study("check", run_check, "find what could fail or mislead later: images, backbones, storage, GPUs")
    added.add_argument("--json", action="store_true", help="as JSON, with every case")
    added.add_argument(
        "--groups",
        metavar="FILE.csv",
        type=Path,
        help="write a list of the images whose column group keeps near copies together, for [data] path",
    )
    added.add_argument(
        "--label-errors",
        metavar="FILE.csv",
        type=Path,
        help="write the labels that may be wrong, after a search or, of all images, `hpo confirm`",
    )
    added = add_for_study("worker", run_worker, "run one worker on the first visible GPU, or on the CPU")
    added.add_argument("--name", default=None, help="of the worker; default: made up")
    added.add_argument("--threads", type=positive, metavar="N", default=cores(), help=f"{THREADS}; default: all cores")
    added.add_argument("--confirm", action="store_true", help="only do what `hpo confirm` has queued")
    added.add_argument("--parent", type=int, metavar="PID", help="end when this is no longer the parent process")
    added = add_for_study(
        "workers",
        run_workers,
        "run a worker on each GPU to the end of the search; one that dies is started again",
    )
    _add_workers(added)
    added = add_for_study("status", run_status, "show counts, the best so far, the budget used, and the workers")
    added.add_argument("--json", action="store_true", help="as JSON")
    added.add_argument("--watch", action="store_true", help="show it again and again until the search is over")
    added = add_for_study("dashboard", run_dashboard, "show the study in a browser: optuna-dashboard behind a password")
    added.add_argument("--host", default="127.0.0.1", help="address to listen at; default: 127.0.0.1, for this machine")
    added.add_argument("--port", type=port, metavar="N", default=8080, help="default: 8080; 0 takes one that is free")
    added.add_argument("--read-only", action="store_true", help="refuse whatever changes a study")
    added.add_argument(
        "--proxy",
        type=proxy,
        metavar="ADDRESS",
        help="IP address of a reverse proxy that is believed when it says who asks, and how; * for any",
    )
    added.add_argument(
        "--editors",
        type=header_value,
        metavar="HEADER=VALUE",
        help="with --proxy: only those whom the proxy names so may change something, such as X-Forwarded-Groups=lab",
    )
    added.set_defaults(
        password=lambda: _password("HPO_DASHBOARD_PASSWORD", "HPO_DASHBOARD_PASSWORD_FILE"),
        viewer_password=lambda: _password("HPO_DASHBOARD_VIEWER_PASSWORD", "HPO_DASHBOARD_VIEWER_PASSWORD_FILE"),
    )
    added = add_for_study("pause", run_pause, "have all workers everywhere hand their trials back, and wait")
    added.add_argument("--host", metavar="HOST", help="only those on this host, as `hpo status` names it")
    added = add_for_study("resume", run_resume, "let a paused or stopped study go on")
    added.add_argument("--host", metavar="HOST", help="let the workers on this host go on, which was paused by itself")
    add_for_study("stop", run_stop, "have all workers everywhere hand their trials back, and end")
    add_bundle_commands(add, add_for_study, _add_storage)
    added = add_for_study("logs", run_logs, "show what a trial printed, wherever it ran")
    added.add_argument("trial", metavar="TRIAL", type=int, help="number of the trial")
    added.add_argument("--confirm", action="store_true", help="of a training of `hpo confirm`, by its number there")
    added = add_for_study("report", run_report, "write what was found, and how sure that is, as one HTML page")
    added.add_argument(
        "-o", "--output", metavar="FILE.html", type=Path, required=True, help="where to write; written over"
    )
    added.add_argument("--gpu-hour-price", type=price, metavar="P", help="what an hour of a GPU costs, in any currency")
    added = add("list", run_list, "list the studies of a storage")
    added.add_argument("study", metavar="STUDY", type=Path, nargs="?", help="a study file whose storage is meant")
    _add_storage(added)
    added.add_argument("--json", action="store_true", help="as JSON")
    added = add_for_study("delete", run_delete, "delete the study with its trials and files, after asking")
    added.add_argument("--yes", action="store_true", help="do not ask")
    added = add_for_study(
        "prune-artifacts", run_prune_artifacts, "remove the files of trials that are no longer needed"
    )
    added.add_argument("--dry-run", action="store_true", help="only show what would be removed")
    added = add("demo", _demo, "search, confirm, export and test on scikit-learn's digits, in minutes on a CPU")
    added.add_argument(
        "folder", metavar="DIR", type=Path, nargs="?", default=Path("hpo-demo"), help="default: hpo-demo"
    )
    added.add_argument("--workers", type=positive, metavar="N", default=2, help="processes; default: 2")
    added.add_argument("--seed", type=int, default=0, help="of the search; default: 0")
    added.add_argument("--trials", type=positive, metavar="N", default=20, help="default: 20")
    added.add_argument("--epochs", type=positive, metavar="N", default=14, help="of a trial; default: 14")
    added.add_argument(
        "--repeats", type=repeats, metavar="R", default=3, help="folds that confirm the best, 2 or more; default: 3"
    )
    added.add_argument("--write-only", action="store_true", help="write the images and the study file, no more")
    return root


def _add_workers(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--workers", type=positive, metavar="N", help="processes; default: one a GPU, on a CPU one a core, at most 4"
    )
    to.add_argument(
        "--per-gpu",
        type=positive,
        metavar="N",
        default=1,
        help="workers that share a GPU, for small models; default: 1",
    )


def _add_storage(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--storage",
        metavar="URL",
        help="postgresql://USER@HOST/DATABASE without a password (PGPASSFILE or HPO_STORAGE carry that); default:"
        " HPO_STORAGE, HPO_STORAGE_FILE, the study file's, else a private Postgres beside the study file",
    )


def given_storage(options: argparse.Namespace) -> str | None:
    """The URL that the user gives, in the order of the documentation; None where none is given."""
    from storage.database import parse_url

    if options.storage:
        url = parse_url(options.storage)
        if url.password is not None or "sslpassword" in url.query:
            print(
                "hpo: --storage: a password would stand in the process list; put the URL into HPO_STORAGE, or into"
                " a file named by HPO_STORAGE_FILE, or the password into a PGPASSFILE",
                file=sys.stderr,
            )
            sys.exit(EXIT_USAGE)
        return str(options.storage)
    if named := os.environ.get("HPO_STORAGE"):
        return named
    if name := os.environ.get("HPO_STORAGE_FILE"):
        return _secret("storage: HPO_STORAGE_FILE", name).strip()
    return None


def _notify() -> str | None:
    """The URL that is told how a search goes, which the user gives outside of the study file; None where none is."""
    name = os.environ.get("HPO_NOTIFY_FILE")
    return os.environ.get("HPO_NOTIFY") or (_secret("notify: HPO_NOTIFY_FILE", name).strip() if name else None)


def _password(variable: str, variable_of_file: str) -> str | None:
    """A password of the dashboard that the user gives, in a file or in a variable; None where none is given."""
    name = os.environ.get(variable_of_file)
    if name is None:
        return os.environ.get(variable)
    return _secret(f"dashboard: {variable_of_file}", name).rstrip("\r\n")


def _secret(variable: str, name: str) -> str:
    """What the file holds that a variable names."""
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise HpoError(f"{variable} = {name} cannot be read: {why}") from None


def _demo(options: argparse.Namespace) -> int:
    def run_step(arguments: list[str]) -> int:
        step_options = parser().parse_args(arguments)
        for name in ("extensions", "script", "started", "cuda_visible_devices"):
            setattr(step_options, name, getattr(options, name))
        return run(step_options)

    return run_demo(options, run_step)
