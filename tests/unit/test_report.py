"""The page of a report as a file, and what it takes from others."""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from hpo.cli import parser
from hpo.errors import HpoError
from hpo.report.page import Report, division, embedded, write_report
from tests.support.small_disk import NoSmallDiskError, small_disk

pytestmark = pytest.mark.unit


def test_a_report_is_written_over_and_a_link_stays_one(tmp_path):
    """A new page takes the place of the old one, also behind a link, and nothing else is left in the folder."""
    file, link = tmp_path / "report.html", tmp_path / "latest.html"
    link.symlink_to(file)
    for path, text in ((file, "old"), (link, "né")):
        write_report(Report(text, ()), path)
    assert file.read_text(encoding="utf-8") == "né"
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_a_name_of_any_bytes_is_written(tmp_path):
    """A class whose folder has a name that is not UTF-8 is shown by its bytes."""
    write_report(Report(os.fsdecode(b"caf\xe9"), ()), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "caf\\udce9"


def test_a_report_that_is_broken_off_leaves_nothing(tmp_path, monkeypatch):
    """Ctrl-C while a page is written leaves no half of it."""

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        write_report(Report("page", ()), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "20 % to validate, 15 % held out, the rest to train; split by seed 3"),
        (["train", "valid", "test"], "the sides train, valid, test as the data give them"),
        (["train", "test"], "the sides train, test as the data give them, 20 % of train to validate"),
    ],
)
def test_the_division_of_the_images_is_told_as_it_is(given, words):
    """Sides that the data give are not told as shares, and of what is cut from train it is said so."""
    images = {"count": 9} if given is None else {"count": 9, "given_sides": given}
    assert division({"images": images, "data": {"valid": 0.2, "test": 0.15, "seed": 3}}) == words


def test_a_fold_that_is_held_out_is_told():
    """Of a study whose test split is one of several folds the report says which."""
    shares = {"valid": 0.2, "test": 0.0, "seed": 3, "test_fold": [2, 5]}
    expected = "fold 2 of 5 held out, 20 % of the rest to validate; split by seed 3"
    assert division({"images": {"count": 9}, "data": shares}) == expected


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(tmp_path / "disk"))
        except NoSmallDiskError as error:
            pytest.skip(f"no small disk can be mounted here: {error}")
        yield tmp_path / "disk"


def test_a_report_that_does_not_fit_leaves_the_old_one(disk):
    """On a full disk the old page stays whole, and one line says why there is no new one."""
    file = disk / "report.html"
    write_report(Report("old", ()), file)
    with pytest.raises(HpoError, match=r"^report: .*report\.html cannot be written: No space left on device$"):
        write_report(Report("x" * 5_000_000, ()), file)
    assert file.read_text() == "old"
    assert list(disk.iterdir()) == [file]


def test_no_text_ends_the_script_that_holds_it():
    """A chart with tags in its names stands in a page as JSON without any tag, and is read back as it was."""
    chart = {"data": [{"name": "</script><!--<script>"}], "layout": {}}
    assert not re.search("[<]", embedded(chart))
    assert json.loads(embedded(chart)) == chart


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("-o", "x.html", "--gpu-hour-price", "nan"), "nan is no price"),
        (("-o", "x.html", "--gpu-hour-price", "-1"), "-1.0 is no price"),
        ((), "required: -o/--output"),
    ],
)
def test_wrong_usage_has_a_line(words, problem, capsys):
    """A price that is none, or no file to write to, is wrong usage."""
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["report", "study.toml", *words])
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err
