"""The folder of files of pixels: what is kept, what goes, and what is in use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest

from trainer.errors import DataError
from trainer.images import cache as cache_module
from trainer.images.cache import OURS, aspects_file, memory_mapped, pixels_file

pytestmark = pytest.mark.unit

SHAPE = (10, 10, 10, 3)  # 3,000 bytes, and 128 of a header
FILE = 3128


def _file(folder: Path, number: int) -> Path:
    return pixels_file(folder, f"{number:064x}"[::-1], 10, "bicubic")


def _fill(value: int):
    return lambda put: [put(number, np.full(SHAPE[1:], value, np.uint8)) for number in range(SHAPE[0])]


def _make(folder: Path, number: int, files: float | None = None) -> np.ndarray:
    """The pixels of this number, in a folder that may hold so many files."""
    return memory_mapped(_file(folder, number), SHAPE, _fill(number), files and files * FILE)


def _numbers(folder: Path) -> list[int]:
    return [number for number in range(10) if _file(folder, number).exists()]


def _age(folder: Path, number: int, seconds: int) -> None:
    past = _file(folder, number).stat().st_mtime - seconds
    os.utime(_file(folder, number), (past, past))


def test_what_was_used_longest_ago_makes_room(tmp_path):
    """A new file that does not fit beside the others takes the place of those that were opened longest ago."""
    for number in (1, 2, 3):
        _make(tmp_path, number, 3)
        _age(tmp_path, number, 100 - number)
    _make(tmp_path, 1, 3)  # the oldest is used again
    assert (_make(tmp_path, 4, 3) == 4).all()
    assert _numbers(tmp_path) == [1, 3, 4]
    _make(tmp_path, 5, 1)
    assert _numbers(tmp_path) == [5]


def test_room_is_made_only_where_it_is_needed(tmp_path):
    """While all files fit nothing is removed, and without a limit nothing ever is."""
    for number in (1, 2, 3):
        _make(tmp_path, number, 3)
    assert _numbers(tmp_path) == [1, 2, 3]
    for number in (4, 5):
        _make(tmp_path, number)
    assert _numbers(tmp_path) == [1, 2, 3, 4, 5]


def test_a_file_larger_than_the_limit(tmp_path):
    """Pixels that would not fit even alone are refused before anything is removed or decoded, with what to change."""
    _make(tmp_path, 1)
    with pytest.raises(DataError, match=r"needs 3e-06 GB and .* raise \[data\] pixels_gb or .* image_size"):
        memory_mapped(_file(tmp_path, 2), SHAPE, lambda _: pytest.fail("decoded"), 2999)
    assert _numbers(tmp_path) == [1]


def test_what_is_in_use_stays(tmp_path):
    """A file whose pixels are still in use is kept though it is the oldest; where no other can go, a line says so."""
    used = _make(tmp_path, 1, 2)
    _age(tmp_path, 1, 100)
    _make(tmp_path, 2, 2)
    also_used = _make(tmp_path, 3, 2)
    assert _numbers(tmp_path) == [1, 3]
    with pytest.raises(DataError, match=r"needs 3e-06 GB, and of the 6.26e-06 GB .* 6.26e-06 GB are in use; end what"):
        _make(tmp_path, 4, 2)
    assert _numbers(tmp_path) == [1, 3]
    del used
    _make(tmp_path, 4, 2)
    assert _numbers(tmp_path) == [3, 4]
    assert (also_used == 3).all()


def test_nothing_goes_where_that_is_no_help(tmp_path):
    """Where even the removal of all that is unused would not do, nothing is removed."""
    used = _make(tmp_path, 1)
    _make(tmp_path, 2)
    with pytest.raises(DataError, match="in use"):
        memory_mapped(_file(tmp_path, 3), (19, 10, 10, 3), _fill(3), 2 * FILE)
    assert _numbers(tmp_path) == [1, 2]
    del used


USER = """
import os, sys
from pathlib import Path
from trainer.images.cache import memory_mapped
pixels = memory_mapped(Path(sys.argv[1]), (10, 10, 10, 3), lambda put: None)
parent = os.fork() if sys.argv[2] == "fork" else 0
os.write(1, b"ready\\n")  # a line in one piece, from both
if parent:
    os._exit(0)  # its forked loader lives on
sys.stdin.readline()
print(int(pixels.max()), flush=True)
"""


@pytest.mark.parametrize("way", ["alone", "fork"])
def test_other_processes_in_which_it_is_in_use(tmp_path, way):
    """A file that another process has open stays, also while only a forked child of that process is left."""
    _make(tmp_path, 7)
    command = [sys.executable, "-c", USER, str(_file(tmp_path, 7)), way]
    user = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout.readline() == "ready\n"
    if way == "fork":
        user.wait()
        assert user.stdout.readline() == "ready\n"
    with pytest.raises(DataError, match="in use"):
        _make(tmp_path, 1, 1)
    user.stdin.write("\n")
    user.stdin.close()
    assert user.stdout.read() == "7\n"
    user.stdout.close()
    user.wait()
    _make(tmp_path, 1, 1)
    assert _numbers(tmp_path) == [1]


def test_an_open_file_outlives_its_removal(tmp_path):
    """Pixels whose file somebody deletes stay readable for those who have them, and are built anew for others."""
    pixels = _make(tmp_path, 1)
    _file(tmp_path, 1).unlink()
    assert (pixels == 1).all()
    assert (memory_mapped(_file(tmp_path, 1), SHAPE, _fill(9)) == 9).all()
    assert (pixels == 1).all()


def test_files_of_others_are_never_removed(tmp_path):
    """Whatever lies in the folder under a name that is not ours stays and does not count."""
    np.save(tmp_path / "theirs.npy", np.zeros(5000))
    (tmp_path / "notes.tmp").write_text("theirs")
    _make(tmp_path, 1, 1)
    _make(tmp_path, 2, 1)
    expected = {"building.lock", "notes.tmp", "theirs.npy", _file(tmp_path, 2).name}
    assert {path.name for path in tmp_path.iterdir()} == expected


def test_leftovers_of_dead_builders_go(tmp_path):
    """The half file of any builder that died is removed before the next file is written."""
    half = _file(tmp_path, 1)
    half = half.with_name(half.name + ".tmp")
    half.write_bytes(b"half")
    _make(tmp_path, 2)
    assert not half.exists()


def test_a_full_disk_takes_the_place_of_unused_files(tmp_path, monkeypatch):
    """Where the disk has too little space, unused files go though they are within the limit, if that is enough."""
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 (as shutil's own)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage(0, 0, 1000))
    np.save(_file(tmp_path, 1), np.ones(SHAPE, np.uint8))
    _make(tmp_path, 2, 100)
    assert _numbers(tmp_path) == [2]
    with pytest.raises(DataError, match=r"needs .* are free; free some space"):
        memory_mapped(_file(tmp_path, 3), (20, 10, 10, 3), _fill(3), 100 * FILE)
    assert _numbers(tmp_path) == [2]


def test_a_read_only_cache_is_enough(tmp_path, monkeypatch):
    """A finished file is used where its time cannot be changed, and where the file system has no locks."""
    _make(tmp_path, 1)

    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(cache_module.fcntl, "flock", refuse)
    assert (memory_mapped(_file(tmp_path, 1), SHAPE, lambda _: pytest.fail("built again")) == 1).all()


def test_names_are_told_apart():
    """The name of a file says of which images it is, at which size and how they were resized; it may be removed."""
    name = pixels_file(Path("cache"), "0123456789abcdef0123", 224, "bilinear")
    assert str(name) == "cache/0123456789abcdef-224-bilinear.npy"
    padded = pixels_file(Path("cache"), "0123456789abcdef0123", "200x320", "bicubic", "pad")
    assert padded.name == "0123456789abcdef-200x320-bicubic-pad.npy"
    aspects = aspects_file(Path("cache"), "0123456789abcdef0123")
    assert all(OURS.fullmatch(file.name) for file in (name, padded, aspects))
    assert not OURS.fullmatch("0123456789abcdef.npy")
