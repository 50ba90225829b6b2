"""Where commands write what an option names."""

from __future__ import annotations

import os

import pytest

from hpo.cli import parser
from hpo.errors import HpoError
from hpo.output import refuse_bad_file, refuse_bad_folder
from hpo.report.page import Report, write_report

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("", "is a folder; name a file$"),
        ("pipe", "is no file; name one that may be written over"),
        ("file/below/page", r"page cannot be written: .*file is no folder; choose another place$"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path, path, problem):
    """A folder, a pipe, which would be replaced, and what would lie below a file, each have one clear line."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    with pytest.raises(HpoError, match=f"^report: .*{problem}"):
        refuse_bad_file("report", tmp_path / path)


def test_a_folder_that_one_may_not_write_into_is_named(tmp_path, monkeypatch):
    """Where the nearest folder that is there is closed, the line names it."""
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    for refuse in (refuse_bad_file, refuse_bad_folder):
        with pytest.raises(HpoError, match=f"a/b cannot be written: you may not write into {tmp_path}; choose another"):
            refuse("predict", tmp_path / "a" / "b")


def test_what_may_not_be_replaced_is_refused_at_once(tmp_path):
    """A file that must be new, or a folder, is refused where something has its name, a link to nothing, too."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refuse_bad_file("predict", tmp_path / "file")
    for name in ("file", "link"):
        with pytest.raises(HpoError, match=f"^check: .*{name} exists already; remove it or choose another name$"):
            refuse_bad_file("check", tmp_path / name, new=True)
        with pytest.raises(HpoError, match="exists already"):
            refuse_bad_folder("export", tmp_path / name)


def test_folders_that_are_missing_are_made(tmp_path):
    """A file in folders that are not there yet is written, and they with it."""
    path = tmp_path / "new" / "folder" / "report.html"
    refuse_bad_file("report", path)
    write_report(Report("page", ()), path)
    assert path.read_text() == "page"


@pytest.mark.parametrize(
    "words",
    [
        ("report", "study.toml", "-o", "file/report.html"),
        ("predict", "bundle", "photos", "-o", "file/found.csv"),
        ("check", "study.toml", "--groups", "file/groups.csv"),
        ("check", "study.toml", "--label-errors", "file/labels.csv"),
    ],
)
def test_each_command_refuses_at_once_what_it_cannot_write(tmp_path, monkeypatch, words):
    """Neither the study file nor the bundle is read before an output that cannot be is refused."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    options = parser().parse_args(words)
    with pytest.raises(HpoError, match=f"^{words[0]}: file/.* cannot be written: .*file is no folder"):
        options.command(options)
