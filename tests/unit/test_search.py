"""What is made ready before the first trial."""

from __future__ import annotations

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hpo.errors import HpoError
from hpo.study.study_file import read_study_file
from hpo.supervision.progress import Progress
from hpo.supervision.search import make_pixels, prepare
from hpo.units import show_bytes
from trainer.errors import DataError

pytestmark = pytest.mark.unit

STUDY = """
[data]
path = "photos"
{data}
[recipe]
backbone = {backbone}
image_size = {size}
"""


def test_a_search_lists_the_classes_and_doubts_those_that_are_alike(tmp_path, photos):
    """Before anything is trained all classes stand there with their images, and two names of one class are told."""
    (photos / "red").rename(photos / "Blue")
    (tmp_path / "study.toml").write_text(STUDY.format(backbone='"test_resnet"\npretrained = false', size="32", data=""))
    file, console = read_study_file(tmp_path / "study.toml"), Console(file=io.StringIO(), width=500)
    prepare(file, Progress(console))
    lines = console.file.getvalue().splitlines()
    assert "3 classes with their images: 'Blue' 12, 'blue' 12, 'green' 12" in lines
    assert any(line.startswith("warning: 1 class has several names") and "'Blue' 12" in line for line in lines)


def test_a_search_warns_of_what_check_warns_of(tmp_path, photos):
    """Classes with few images are named before anything is trained, and so is a field that no trial can use."""
    more = "pretrained = false\nfreeze = [0.0, 0.5]"
    (tmp_path / "study.toml").write_text(STUDY.format(backbone=f'"test_resnet"\n{more}', size="32", data=""))
    file, console = read_study_file(tmp_path / "study.toml"), Console(file=io.StringIO(), width=500)
    prepare(file, Progress(console))
    lines = console.file.getvalue().splitlines()
    assert "warning: recipe.freeze: no trial can use it, which takes pretrained = true" in lines
    tiny = next(number for number, line in enumerate(lines) if line.startswith("warning: 3 of 3 classes have fewer"))
    assert lines[tiny + 1] == "  'blue': 8 to train, 2 to validate, 2 held out"
    assert any(line.startswith("warning: on 6 held-out images a macro-F1 of 0.9 is known to ± 0.2") for line in lines)


def test_the_search_of_an_outer_fold_warns_of_no_small_test_split(tmp_path, photos):
    """One fold of several is not meant to tell much by itself, and its images are counted as any split's."""
    file = tmp_path / "study.toml"
    file.write_text(STUDY.format(backbone='"test_resnet"\npretrained = false', size="32", data="test_fold = [1, 3]"))
    console = Console(file=io.StringIO(), width=500)
    prepare(read_study_file(file), Progress(console))
    printed = console.file.getvalue()
    assert "18 to train, 6 to validate, 12 held out" in printed
    assert "held-out images a macro-F1" not in printed


@pytest.mark.parametrize(
    ("setting", "values", "source"),
    [
        ("", "integers from 0 to 4095", "measured over all of them; [data] value_range sets another range"),
        ("value_range = [0, 4000]", "values from 0 to 4000", "as [data] value_range says"),
    ],
)
def test_a_search_says_which_values_are_black_and_white(tmp_path, photos, setting, values, source):
    """The range of values stands in one line, and how another one is set where none is."""
    for number, file in enumerate(sorted(photos.rglob("*.png"))):
        Image.fromarray(np.linspace(number, 4095, 256).reshape(16, 16).astype(np.uint16)).save(file)
    backbone = '"test_resnet"\npretrained = false'
    (tmp_path / "study.toml").write_text(STUDY.format(backbone=backbone, size="32", data=setting))
    console = Console(file=io.StringIO(), width=500)
    prepare(read_study_file(tmp_path / "study.toml"), Progress(console))
    line = f"of images of more than 8 bits {values} are black to white, {source}"
    assert line in console.file.getvalue().splitlines()


@pytest.mark.parametrize("wrong", ["test_convnet", "test_vit"])
def test_images_and_backbones_that_cannot_be_used_are_told_together(tmp_path, wrong):
    """A backbone that does not exist or fit, which is named, is told beside images that are not there."""
    (tmp_path / "study.toml").write_text(STUDY.format(backbone=f'"{wrong}"', size="20", data=""))
    with pytest.raises(HpoError) as refused:
        prepare(read_study_file(tmp_path / "study.toml"), Progress(Console(file=io.StringIO())))
    of_images, of_backbones = str(refused.value).splitlines()
    assert "photos' does not exist" in of_images
    assert of_backbones.startswith("study.toml: recipe.backbone: ")
    assert f'"{wrong}"' in of_backbones


def test_a_search_says_which_sides_the_data_give_and_what_leaks_across_them(tmp_path, photos):
    """Sides that the data give, what is cut and what can only be predicted stand in a line; leaks are warned of."""
    for label in ("red", "green", "blue"):
        (photos / "test" / label).mkdir(parents=True)
        shutil.copy(photos / label / "0.png", photos / "test" / label / "copy.png")
        shutil.move(photos / label, photos / "train" / label)
    (photos / "unlabelled").mkdir()
    shutil.copy(photos / "train" / "red" / "0.png", photos / "unlabelled" / "x.png")
    (tmp_path / "study.toml").write_text(STUDY.format(backbone='"test_resnet"\npretrained = false', size="32", data=""))
    file, console = read_study_file(tmp_path / "study.toml"), Console(file=io.StringIO(), width=500)
    prepare(file, Progress(console))
    lines = console.file.getvalue().splitlines()
    assert lines[0].endswith("30 to train, 6 to validate, 3 held out")
    assert lines[2].startswith("the data give the sides train, test; cut from train: valid 6; 1 image of the side test")
    assert lines[2].endswith("hpo predict BUNDLE BUNDLE/unlabelled.csv")
    assert lines[3].startswith("warning: 3 sets of nearly the same images lie on two sides of the split")


@pytest.fixture
def make(tmp_path, photos):
    """A function that makes the pixels of a study with 36 photos; returns what it says."""

    def made(backbone='"test_efficientnet"', size="32", data=""):
        (tmp_path / "study.toml").write_text(STUDY.format(backbone=backbone, size=size, data=data))
        file, console = read_study_file(tmp_path / "study.toml"), Console(file=io.StringIO())
        make_pixels(file, file.data.load(file.folder / "pixels"), Progress(console))
        return console.file.getvalue()

    return made


def test_the_pixels_are_told_in_one_line(make):
    """One line says how many images there are, at which sizes, what they take, where, and how long decoding took."""
    assert re.fullmatch(r"pixels: 36 images at 32 px, 111 kB in \.hpo/pixels, decoded in \d\.\d s\n", make())
    assert make() == "pixels: 36 images at 32 px, 111 kB in .hpo/pixels\n"


def test_every_size_and_interpolation_is_made(make, tmp_path):
    """The pixels that any trial of the study may ask for are there before the first."""
    line = make('["test_efficientnet", "test_resnet", "test_vit"]', "[40, 32]")
    assert line.startswith("pixels: 36 images at 32 and 40 px, bicubic and bilinear, 567 kB in .hpo/pixels")
    names = {file.name.split("-", 1)[1] for file in (tmp_path / ".hpo/pixels").glob("*.npy")}
    assert names == {f"{size}-{way}.npy" for size in (32, 40) for way in ("bicubic", "bilinear")}


def test_all_ways_of_resizing_are_made(make, tmp_path):
    """Where trials may crop, pad or stretch, each has its pixels, and random crops of all ways have theirs together."""
    more = '\nresize = ["stretch", "crop", "pad"]\naugment = ["light", "random_resized_crop"]'
    line = make(f'"test_efficientnet"{more}', '"20x32"')
    assert line.startswith("pixels: 36 images at 20x32 and 30x48 px, crop and pad and stretch, 363 kB in .hpo/pixels")
    names = {file.name.split("-", 1)[1] for file in (tmp_path / ".hpo/pixels").glob("*.npy")}
    pixels = {"20x32-bicubic.npy", "20x32-bicubic-crop.npy", "20x32-bicubic-pad.npy", "30x48-bicubic.npy"}
    assert names == {*pixels, "aspects.npy"}


def test_pixels_above_the_bound_are_refused_at_once(make, tmp_path):
    """Pixels that together take more than [data] pixels_gb are refused before any is decoded, with what to change."""
    with pytest.raises(DataError, match=r"283 kB are more than \[data\] pixels_gb = 0\.0002; .*image_size"):
        make(size="[32, 40]", data="pixels_gb = 0.0002")
    assert not (tmp_path / ".hpo").exists()
    assert "111 kB" in make(data="pixels_gb = 0.0002")


def test_earlier_pixels_make_room(make, tmp_path):
    """Pixels of another size, which no process uses any more, go where the bound leaves no room for both."""
    make(data="pixels_gb = 0.0002")
    make(size="40", data="pixels_gb = 0.0002")
    assert [file.name.split("-", 1)[1] for file in (tmp_path / ".hpo/pixels").glob("*.npy")] == ["40-bicubic.npy"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(12, "12 bytes"), (1500, "1.5 kB"), (49_274_880, "49.3 MB"), (123_456_789, "123 MB"), (1.5e12, "1,500 GB")],
)
def test_bytes_for_people(count, shown):
    """A number of bytes is shown with three digits or the whole ones."""
    assert show_bytes(count) == shown
