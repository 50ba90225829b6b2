"""The command `hpo report`. Its imports are in the function, so that `hpo --help` is fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE
from hpo.study.from_options import open_study_from

if TYPE_CHECKING:
    import argparse


def run_report(options: argparse.Namespace) -> int:
    """`hpo report`: what was found, as one page."""
    from datetime import UTC, datetime

    from hpo.output import refuse_bad_file
    from hpo.report.page import make_report, write_report

    refuse_bad_file("report", options.output)
    with open_study_from(options) as opened:
        report = make_report(opened, datetime.now(UTC), options.gpu_hour_price)
    write_report(report, options.output)
    print("\n".join([*report.headline, f"written: {options.output}"]))
    return EXIT_DONE
