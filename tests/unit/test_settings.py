"""What of a study's settings has changed, and in which words it is said."""

from __future__ import annotations

import shutil
from dataclasses import replace

import optuna
import pytest

from hpo.errors import HpoError
from hpo.study.metric_settings import metric_of_study
from hpo.study.settings import check_settings, settings
from hpo.study.study_file import read_study_file
from storage.keys import SETTINGS_KEY
from trainer.objective_metric import MACRO_F1

pytestmark = pytest.mark.unit


@pytest.fixture
def begun(write_colours, tmp_path):
    """A study that has begun with photos of its own: it, its study file, and the folder of the photos."""
    shutil.copytree(write_colours({"red": 12, "green": 12}), tmp_path / "photos")
    file = tmp_path / "study.toml"
    file.write_text('[data]\npath = "photos"\n[recipe]\nepochs = 3\nloss = ["focal", "bce"]\n')
    study_file = read_study_file(file)
    study = optuna.create_study(study_name=study_file.name)
    study.set_user_attr(SETTINGS_KEY, settings(study_file, loaded(study_file)))
    return study, study_file, tmp_path / "photos"


def loaded(study_file):
    """The images of a study file."""
    return study_file.data.load(study_file.folder / "pixels")


def complaint(study, study_file, *, images=True):
    """The lines by which a changed study is refused; images False does not look at them."""
    with pytest.raises(HpoError) as refused:
        check_settings(study, study_file, loaded(study_file) if images else None)
    return str(refused.value).splitlines()


def test_what_is_as_it_was_is_accepted(begun):
    """The same study file with the same images goes on."""
    study, study_file, _ = begun
    check_settings(study, study_file, loaded(study_file))
    check_settings(study, study_file, None)


def test_each_difference_is_a_line_as_a_study_file_writes_it(begun):
    """Changed fields of the recipe are a line each, as the study file has them, below a line with the way on."""
    study, study_file, _ = begun
    study_file.path.write_text(
        '[data]\npath = "photos"\n[recipe]\nepochs = 4\nloss = "bce"\nrandaugment_ops = { low = 1, high = 9 }\n'
    )
    first, *rest = complaint(study, read_study_file(study_file.path), images=False)
    assert "`hpo init study.toml --from=study` takes over" in first
    assert rest == [
        "  recipe.epochs was 3, is now 4",
        '  recipe.loss was ["focal", "bce"], is now "bce"',
        "  recipe.randaugment_ops was [2, 3], is now { low = 1, high = 9, log = false }",
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"valid": 0.3}, "  data.valid was 0.2, is now 0.3"),
        ({"seed": 1}, "  data.seed was 0, is now 1"),
        ({"group_pattern": r"(\d)\.png"}, r'  data.group_pattern was not set, is now "(\d)\.png"'),
    ],
)
def test_what_follows_from_a_changed_key_is_not_listed_beside_it(begun, change, line):
    """A changed key of [data] divides and groups the images otherwise, of which nothing more is said."""
    study, study_file, _ = begun
    changed = replace(study_file, data=replace(study_file.data, **change))
    assert complaint(study, changed)[1:] == complaint(study, changed, images=False)[1:] == [line]


def test_changed_images_are_one_line_without_digests(begun):
    """One image more is told by the counts, another file of the same name by what differs; without them nothing is."""
    study, study_file, photos = begun
    shutil.copy(photos / "red" / "0.png", photos / "green" / "new.png")
    assert complaint(study, study_file)[1:] == ["  images were 24, are now 25"]
    (photos / "green" / "new.png").rename(photos / "green" / "0.png")
    (photos / "green" / "0.png").write_bytes((photos / "green" / "0.png").read_bytes() + b"0")
    assert complaint(study, study_file)[1:] == [
        "  images were others: some have another path, class, group or size in bytes now"
    ]
    check_settings(study, study_file, None)
    kept = study.user_attrs[SETTINGS_KEY]
    images = {**settings(study_file, loaded(study_file))["images"], "split_digest": "another"}
    study.set_user_attr(SETTINGS_KEY, {**kept, "images": images})
    assert complaint(study, study_file)[1:] == [
        "  images were divided otherwise into those to train, to validate and to hold out"
    ]


def test_a_study_that_began_before_sides_were_read_goes_on_without_them(begun):
    """Sides that the data give, and a study does not know, are told with the setting that leaves them unread."""
    study, study_file, photos = begun
    for label in ("red", "green"):
        for side in ("train", "test"):
            (photos / side).mkdir(exist_ok=True)
        shutil.copytree(photos / label, photos / "train" / label)
        shutil.move(photos / label, photos / "test" / label)
    [line] = complaint(study, study_file)[1:]
    assert line.startswith("  images were divided by hpo, and are now on the sides that the data give (train, test); ")
    assert line.endswith("splits = false in [data] leaves these unread")


def test_a_given_split_may_not_change(write_colours, tmp_path):
    """An image that moves to another side of a split that the data give is told."""
    for side in ("train", "test"):
        shutil.copytree(write_colours({"red": 12, "green": 12}), tmp_path / "photos" / side)
    rows = [
        f"photos/{side}/{label}/{number}.png,{label},{side}\n"
        for side in ("train", "test") for label in ("red", "green") for number in range(12)
    ]  # fmt: skip
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(rows))
    (tmp_path / "study.toml").write_text('[data]\npath = "list.csv"\n')
    study_file = read_study_file(tmp_path / "study.toml")
    study = optuna.create_study(study_name=study_file.name)
    study.set_user_attr(SETTINGS_KEY, settings(study_file, loaded(study_file)))
    check_settings(study, study_file, loaded(study_file))
    (tmp_path / "list.csv").write_text("path,label,split\n" + "".join(rows).replace("red,test", "red,train", 1))
    assert complaint(study, study_file)[1:] == [
        "  images were divided otherwise into those to train, to validate and to hold out"
    ]


def test_a_study_without_a_mark_of_its_metric_is_by_macro_f1(begun):
    """A study of an earlier version goes on by macro-F1, and refuses another metric."""
    study, study_file, _ = begun
    kept = dict(study.user_attrs[SETTINGS_KEY])
    del kept["study"]
    study.set_user_attr(SETTINGS_KEY, kept)
    check_settings(study, study_file, loaded(study_file))
    assert metric_of_study(study.user_attrs) == MACRO_F1
    study_file.path.write_text('[study]\nmetric = "log_loss"\n' + study_file.path.read_text())
    first, *rest = complaint(study, read_study_file(study_file.path), images=False)
    assert "--from" not in first
    assert rest == ['  study.metric was "macro_f1", is now "log_loss"']
