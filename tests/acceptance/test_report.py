"""`hpo report` as a user runs it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.acceptance


def test_a_report_is_one_page_from_the_storage_alone(faulty_study):
    """The command writes a page and says what it tells, also without images and artifacts; a bad path has a line."""
    study = faulty_study(trials=2, epochs=2)

    def report(*words):
        process = study.begin("report", *words)
        return process.end(), process.printed

    code, printed = report("-o", "early.html")
    assert (code, printed) == (0, "0 trials: none has begun\nwritten: early.html\n")

    assert study.worker().end() == 0
    for folder in ("photos", "disk/artifacts"):
        (study.folder / folder).rename(study.folder / f"{folder} away")
    best = max(trial.value for trial in study.trials)
    code, printed = report("-o", "report.html", "--gpu-hour-price", "2.5")
    assert code == 0
    assert printed.startswith(f"2 trials: 2 complete\nbest validation macro-F1 {best:.4f} (trial ")
    assert printed.endswith("written: report.html\n")
    page = (study.folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert f"<b>{best:.4f}</b>" in page
    assert "at 2.5 an hour" in page

    code, printed = report("-o", "report.html/page.html")
    assert code == 1
    assert printed.startswith("hpo: report: report.html/page.html cannot be written: ")
    assert printed.endswith("report.html is no folder; choose another place\n")
