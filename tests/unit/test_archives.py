"""Images in zip and tar files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.unit.conftest import paint_two_classes
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images.archives import ARCHIVES, UNPACKED, archive_of, at_hand
from trainer.images.cache import PixelCache
from trainer.images.pixels import Reading

pytestmark = pytest.mark.unit


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes with six images each."""
    paint_two_classes(tmp_path / "photos")
    return tmp_path / "photos"


def pack(folder: Path, archive: Path, below: str = "") -> Path:
    """Pack the files of a folder, in the way that the name of the archive says."""
    files = {below + file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, file in files.items():
                zipped.write(file, name)
    else:
        way = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "tbz2": "bz2", "xz": "xz", "txz": "xz"}.get(
            archive.suffix[1:], ""
        )
        with tarfile.open(archive, f"w:{way}") as tar:
            for name, file in files.items():
                tar.add(file, name)
    return archive


def zip_of(archive: Path, names, content=b"x") -> Path:
    """A zip of files of these names."""
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in names:
            zipped.writestr(name, content)
    return archive


def load(path: Path, cache: Path):
    """The images and their pixels."""
    data = load_data(path, valid=0.25, test=0.25, cache=PixelCache(cache))
    return data, data.pixels(Reading(8))


@pytest.mark.parametrize("ending", ARCHIVES)
def test_an_archive_is_read_as_the_folder_in_it(photos, tmp_path, ending):
    """Whatever its kind, and with a folder around, an archive has the classes, split and pixels of its files."""
    archive = pack(photos, tmp_path / f"packed{ending}", "around/" if ending == ".tgz" else "")
    data, pixels = load(archive, tmp_path / "cache")
    plain, expected = load(photos, tmp_path / "plain")
    assert [Path(path).name for path in data.index.paths] == [Path(path).name for path in plain.index.paths]
    assert data.index.classes == plain.index.classes == ("cat", "dog")
    np.testing.assert_array_equal(pixels, expected)
    if ending != ".tgz":
        assert data.index.digest == plain.index.digest
        assert data.split.digest == plain.split.digest
        assert data.index.paths == plain.index.paths


def test_pixels_are_found_again_though_an_archive_was_unpacked_anew(photos, tmp_path):
    """What is unpacked has the times of the archive, so that its pixels need no decoding again."""
    archive = pack(photos, tmp_path / "photos.zip")
    first, _ = load(archive, tmp_path / "one")
    second, _ = load(archive, tmp_path / "two")
    assert first.index.root != second.index.root
    assert first.index.fingerprint == second.index.fingerprint


def test_an_archive_is_unpacked_once_and_what_was_unpacked_of_an_earlier_one_goes(photos, tmp_path):
    """The second look unpacks nothing; when the archive has changed its old files make room for the new ones."""
    archive, cache, told = pack(photos, tmp_path / "photos.tar"), tmp_path / "cache", []
    folder = at_hand(archive, cache, lambda done, of: told.append((done, of)))
    assert told == [(done, 12) for done in range(1, 13)]
    assert at_hand(archive, cache, lambda *_: pytest.fail("unpacked again")) == folder
    (photos / "cat" / "0.png").unlink()
    pack(photos, archive)
    assert (
        sorted(file.name for file in at_hand(archive, cache).rglob("*.png"))
        == sorted([f"{number}.png" for number in range(6)] * 2)[1:]
    )
    assert not folder.exists()


@pytest.mark.parametrize("around", ["", "around/"])
def test_a_csv_in_an_archive_lists_its_images(photos, tmp_path, around):
    """A CSV at the top, or in the only folder there, is taken; what is named behind the archive is taken first."""
    (photos / "labels.csv").write_text("path,label\n" + "".join(f"cat/{n}.png,{'ab'[n % 2]}\n" for n in range(6)))
    (photos / "notes.csv").write_text("whatever,else\n1,2\n")
    archive = pack(photos, tmp_path / "photos.zip", around)
    cache = PixelCache(tmp_path / "cache")
    assert load_data(archive, cache=cache).index.classes == ("a", "b")
    assert load_data(archive / around / "labels.csv", cache=cache).index.classes == ("a", "b")
    assert load_data(archive / around, cache=cache).index.classes == ("a", "b") if not around else True
    (photos / "more.csv").write_text('"path",label,x\n')
    with pytest.raises(DataError, match=r"several CSVs .*\('(around/)?labels.csv', '(around/)?more.csv'\): name one"):
        load_data(pack(photos, tmp_path / "photos.zip", around), cache=cache)


@pytest.mark.parametrize("name", ["../x.png", "cat/../../x.png", "/etc/x.png", "..\\x.png", "cat\\..\\..\\x.png"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, name, kind):
    """A name with .. in it, or from the root, is refused before anything is written, in a tar and in a zip."""
    archive = tmp_path / "in" / f"photos.{kind}"
    archive.parent.mkdir()
    if kind == "zip":
        zip_of(archive, ["cat/1.png", name])
    else:
        with tarfile.open(archive, "w") as tar:
            for each in ("cat/1.png", name.replace("\\", "/")):
                tar.addfile(tarfile.TarInfo(each), io.BytesIO())
    with pytest.raises(DataError, match=r"has names that lead out of it \('.*x\.png'\); pack it again without them$"):
        at_hand(archive, tmp_path / "cache")
    assert not list(tmp_path.rglob("*.png"))
    assert [file.name for file in (tmp_path / "cache" / UNPACKED).iterdir()] == ["building.lock"]


def test_links_in_a_tar_are_files_of_it(photos, tmp_path):
    """A link to a file in the tar is that file; one that leads elsewhere is refused."""
    (photos / "dog" / "soft.png").symlink_to("../cat/0.png")
    (photos / "dog" / "hard.png").hardlink_to(photos / "cat" / "0.png")
    folder = at_hand(pack(photos, tmp_path / "a.tar"), tmp_path / "cache")
    for name in ("soft", "hard"):
        linked = folder / "dog" / f"{name}.png"
        assert linked.read_bytes() == (photos / "cat" / "0.png").read_bytes()
        assert not linked.is_symlink()
    for target in ("/etc/passwd", "loop.png"):
        link = tarfile.TarInfo("dog/loop.png")
        link.type, link.linkname = tarfile.SYMTYPE, target
        with tarfile.open(tmp_path / "b.tar", "w") as tar:
            tar.addfile(link)
        with pytest.raises(
            DataError, match=r"b.tar' cannot be unpacked: 'dog/loop.png' is a link to .*; copy or pack it"
        ):
            at_hand(tmp_path / "b.tar", tmp_path / "cache")


def test_broken_archives_are_one_line(photos, tmp_path):
    """What is cut short, damaged, encrypted, empty or no archive at all is refused in one line, and nothing is left."""
    whole = {ending: pack(photos, tmp_path / f"whole{ending}").read_bytes() for ending in ARCHIVES}
    cases = {f"cut{ending}": content[: len(content) // 2] for ending, content in whole.items()}
    cases |= {f"text{ending}": b"no archive" for ending in ARCHIVES} | {f"none{ending}": b"" for ending in ARCHIVES}
    content = bytearray(whole[".zip"])
    content[60:70] = bytes(10)
    cases["damaged.zip"] = bytes(content)
    encrypted = bytearray(whole[".zip"])
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", encrypted, encrypted.index(mark) + at, 1)
    cases["encrypted.zip"] = bytes(encrypted)
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as refused:
            at_hand(tmp_path / name, tmp_path / "cache")
        text = str(refused.value)
        assert name in text
        assert "\n" not in text
        assert "; " in text
    assert [file.name for file in (tmp_path / "cache" / UNPACKED).iterdir()] == ["building.lock"]


def test_hidden_files_and_what_systems_leave_are_not_unpacked(tmp_path):
    """Folders like __MACOSX, and hidden files, stay in the archive; Windows' way of writing names is understood."""
    archive = zip_of(
        tmp_path / "a.zip", ["cat\\1.png", "dog/2.png", "__MACOSX/cat/._1.png", ".DS_Store", "cat/.x/3.png"]
    )
    folder = at_hand(archive, tmp_path / "cache")
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    assert found == ["cat/1.png", "dog/2.png"]


def test_an_archive_that_finds_no_room_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    """What the files need is compared with what is free."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(DataError, match=r"needs 2e-08 GB in .* where 1e-08 GB are free; free some space"):
        at_hand(zip_of(tmp_path / "a.zip", ["a", "b"], b"1234567890"), tmp_path / "cache")


def test_without_a_cache_an_archive_is_refused(photos, tmp_path):
    """There is no place to unpack to."""
    with pytest.raises(DataError, match="is unpacked into a cache: give load_data a PixelCache"):
        load_data(pack(photos, tmp_path / "a.zip"))


def test_folders_and_csvs_are_left_as_they_are(photos, tmp_path):
    """A folder is itself, even by the name of an archive, and so is what is not there."""
    for path in (photos, photos / "labels.csv", photos.rename(tmp_path / "photos.zip"), tmp_path / "gone.zip"):
        assert archive_of(path) is None
        assert at_hand(path, tmp_path / "cache") == path


def test_processes_that_come_together_unpack_once(photos, tmp_path):
    """One of several processes unpacks, the others wait for it and take the same files."""
    archive = pack(photos, tmp_path / "a.tar")
    program = (
        "import sys; from pathlib import Path; from trainer.images.archives import at_hand; told = []\n"
        "folder = at_hand(Path(sys.argv[1]), Path(sys.argv[2]), lambda *n: told.append(n))\n"
        "print(len(told), len(list(folder.rglob('*.png'))))"
    )
    command = [sys.executable, "-c", program, archive, tmp_path / "cache"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(process.communicate()[0].strip() for process in running)
    assert said == ["0 12", "0 12", "12 12"]
