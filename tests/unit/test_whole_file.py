"""Files that others see whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from hpo import demo
from hpo.report.page import Report, write_report
from hpo.whole_file import whole_file, whole_folder
from storage.embedded import server
from trainer.errors import DataError
from trainer.images import cache

pytestmark = pytest.mark.unit


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    """A failure leaves the old file; success leaves the new one with the user's usual permissions, and nothing else."""
    file = tmp_path / "file"
    file.write_text("old")

    def fail():
        with whole_file(file) as half:
            half.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert file.read_text() == "old"
    with whole_file(file) as half:
        half.write(b"new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    mask = os.umask(0)
    os.umask(mask)
    assert file.stat().st_mode & 0o777 == 0o666 & ~mask
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_has_left_goes_and_what_is_being_written_stays(tmp_path):
    """The next file beside it removes what a killed process was writing, and nothing that a living one writes."""
    write = (
        "import pathlib, signal, sys; from hpo.whole_file import whole_file, whole_folder;"
        " first, second = whole_file(pathlib.Path('file')), whole_folder(pathlib.Path('folder'));"
        " first.__enter__().write(b'half'); (second.__enter__() / 'inner').mkdir();"
        " print('ready', flush=True); signal.pause()"
    )
    planted = tmp_path / f".hpo-{'0' * 32}.tmp"
    (tmp_path / "precious").write_text("precious")
    with subprocess.Popen([sys.executable, "-c", write], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "ready\n"
        planted.symlink_to(tmp_path / "precious")
        there = set(tmp_path.iterdir())
        assert len(there) == 4
        with whole_folder(tmp_path / "own") as mine, whole_file(tmp_path / "other"):
            assert mine.is_dir()
            assert there < set(tmp_path.iterdir())
        assert there == set(tmp_path.iterdir()) - {tmp_path / "own", tmp_path / "other"}
        writer.kill()
    with whole_file(tmp_path / "last"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"own", "other", "last", "precious", planted.name}
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_in_the_way_is_replaced(tmp_path):
    """What a link at the output leads to keeps its content."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "precious")
    with whole_file(tmp_path / "out") as half:
        half.write(b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "out").is_symlink()


def test_a_report_does_not_write_through_a_planted_link(tmp_path):
    """A link under the name of the process beside a report is left alone."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".report.html.{os.getpid()}").symlink_to(tmp_path / "precious")
    write_report(Report("page", ()), tmp_path / "report.html")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "report.html").read_text() == "page"


def test_the_demo_does_not_write_through_a_planted_link(tmp_path):
    """A link under a name with the ending of a temporary file beside the demo's images is left alone."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "demo/digits/0").mkdir(parents=True)
    (tmp_path / "demo/digits/0/000.tmp").symlink_to(tmp_path / "precious")
    demo.write_demo(tmp_path / "demo")
    assert (tmp_path / "precious").read_text() == "precious"


def test_the_private_server_does_not_write_through_a_planted_link(tmp_path):
    """A link under the temporary name of a file of the private server is removed, not followed."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "password.new").symlink_to(tmp_path / "precious")
    server._write(tmp_path / "password", "secret")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "password").read_text() == "secret"
    assert not (tmp_path / "password").is_symlink()


def test_the_cache_does_not_write_through_a_planted_link(tmp_path, monkeypatch):
    """A link that appears under the temporary name of a file of pixels ends its writing in one line."""
    file = tmp_path / "pixels.npy"
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr(cache, "_make_room", lambda *_: (tmp_path / "pixels.npy.tmp").symlink_to(tmp_path / "precious"))
    with pytest.raises(DataError, match="cannot be written: File exists"):
        cache.memory_mapped(file, (1, 2, 2, 3), lambda put: put(0, np.zeros((2, 2, 3), np.uint8)))
    assert (tmp_path / "precious").read_text() == "precious"
