"""Files that others see whole or not at all."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hpo import demo
from hpo.report.page import Report, write_report
from hpo.whole_file import whole_file
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
