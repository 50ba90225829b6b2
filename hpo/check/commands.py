"""The command `hpo check`. Its imports are in the function, so that `hpo --help` is fast."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError
from hpo.study.from_options import study_file_from

PLAIN_WIDTH = 120  # characters of a table that does not go to a terminal

if TYPE_CHECKING:
    import argparse


def run_check(options: argparse.Namespace) -> int:
    """`hpo check`: what could fail or mislead later; an error is a foreseen failure."""
    from rich.console import Console

    from hpo.check.label_errors import write_label_errors
    from hpo.check.render import render
    from hpo.check.run import run_checks, write_groups
    from hpo.hardware import visible_gpus
    from hpo.output import refuse_bad_file
    from hpo.supervision.progress import Progress

    for output in (options.groups, options.label_errors):
        if output is not None:
            refuse_bad_file("check", output, new=True)
    study_file = study_file_from(options)
    report = run_checks(
        study_file, options.url, visible_gpus(options.cuda_visible_devices), Progress(Console(stderr=True))
    )
    if options.json:
        print(json.dumps(report.as_json(), indent=2, allow_nan=False))  # in ASCII, so that it holds any name of a file
    else:
        Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(render(report.findings))
    if options.groups is not None:
        if report.index is None or report.pairs is None:
            raise HpoError(f"check: {options.groups} is not written: the images were not compared; see above")
        write_groups(report.index, report.pairs, options.groups, study_file.data.group or "group")
    if options.label_errors is not None:
        if report.index is None or report.doubted is None:
            raise HpoError(
                f"check: {options.label_errors} is not written: no model has looked at the labels; see above"
            )
        write_label_errors(report.index, report.doubted, options.label_errors)
    if errors := report.count("error"):
        raise HpoError(f"check: {errors} of the checks failed; the lines marked `error` say why and what to do")
    return EXIT_DONE
