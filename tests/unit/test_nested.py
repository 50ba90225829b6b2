"""Nested cross-validation: outer folds without a leak, their study files, and the one number over all images."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from hpo.errors import HpoError, StudyFileError
from hpo.nested.estimate import estimate, final_model
from hpo.nested.outer_studies import check_outer_folds, write_outer_studies
from hpo.nested.outer_test import OuterTest
from hpo.study.nested_file import nested_file, nested_line
from hpo.study.study_file import read_study_file
from storage.keys import SETTINGS_KEY
from trainer.errors import DataError
from trainer.images.index import read_index
from trainer.images.split import split_by_fold
from trainer.objective_metric import MACRO_F1, metric_of

pytestmark = pytest.mark.unit

STUDY = """
[study]
name = "photos of #1"
learn_from = "all"
seed = 3
[data]
path = "photos"
test = 0.3
valid = 0.25
[budget]
trials = 7
[recipe]
backbone = ["test_resnet", "test_vit"]
pretrained = false
image_size = 32
learning_rate = { low = 1e-4, high = 1e-2, log = true }
[[try]]
learning_rate = 3e-3
"""


@pytest.fixture
def index(photos):
    """36 images of three classes."""
    return read_index(photos)


@pytest.fixture
def study_file(tmp_path, photos):
    """A study file of 36 images, with a test split of its own."""
    (tmp_path / "study.toml").write_text(STUDY)
    return read_study_file(tmp_path / "study.toml")


def _folds(index, count, **changes):
    settings = {"valid": 0.25, "seed": 0} | changes
    return [split_by_fold(index, (number, count), **settings) for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_image_is_held_out_by_one_fold_and_each_group_lies_on_one_side(photos, count):
    """Over the folds each image is held out once; each keeps groups and copies whole, with all classes on each side."""
    (photos / "red" / "5.png").write_bytes((photos / "red" / "2.png").read_bytes())
    grouped = replace(read_index(photos), groups=np.arange(36) // 2)
    folds = _folds(grouped, count)
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(36))
    for fold in folds:
        sides = (fold.train, fold.valid, fold.test)
        assert np.array_equal(np.sort(np.concatenate(sides)), np.arange(36))
        groups = [set(grouped.groups_with_copies[side].tolist()) for side in sides]
        assert sum(map(len, groups)) == len(set.union(*groups))
        assert all(set(grouped.labels[side].tolist()) == {0, 1, 2} for side in sides)
    assert len({fold.digest for fold in folds}) == count


def test_the_seed_gives_other_folds(index):
    """Folds are the same each time, and others with another seed; what is left has its share to validate."""
    [first, *_], [same, *_], [other, *_] = _folds(index, 3), _folds(index, 3), _folds(index, 3, seed=1)
    assert first.digest == same.digest != other.digest
    assert (len(first.train), len(first.valid), len(first.test)) == (18, 6, 12)


def test_images_that_cannot_be_divided_are_refused(index):
    """Sides that the data give, a class of one group, and more folds than groups are refused before any training."""
    with pytest.raises(DataError, match="the data give the sides train, test, and folds would divide all images anew"):
        _folds(replace(index, sides=np.arange(36) % 2 * 2), 3)
    with pytest.raises(DataError, match="'blue'"):
        _folds(replace(index, groups=np.where(index.labels == 0, 0, np.arange(36))), 3)
    with pytest.raises(DataError, match="give fewer folds"):
        _folds(replace(index, groups=np.arange(36) % 12 // 3), 5)
    with pytest.raises(DataError, match="without fold 1 of 2: each class needs 2 groups"):
        _folds(replace(index, groups=np.arange(36) % 12 // 6), 2)


def test_each_outer_fold_has_a_study_file_with_the_settings_of_the_study(study_file):
    """They differ from the study's in name, seed and test split alone, learn from no other study, are written again."""
    assert len(check_outer_folds(study_file, 3).paths) == 36
    paths = write_outer_studies(study_file, 3)
    assert [path.name for path in paths] == [f"study.outer-{number}-of-3.toml" for number in (1, 2, 3)]
    for number, path in enumerate(paths, start=1):
        found = read_study_file(path)
        own = {"name": f"photos of #1/outer-{number}-of-3", "path": path, "learn_from": (), "seed": number + 3}
        data = replace(study_file.data, test=0.0, test_fold=(number, 3))
        assert replace(found, space=study_file.space) == replace(study_file, data=data, **own)
        assert found.space.as_dict() == study_file.space.as_dict()
        split = found.data.load(found.folder / "pixels").split
        assert (len(split.train), len(split.valid), len(split.test)) == (18, 6, 12)
    study_file.path.write_text(STUDY.replace("trials = 7", "trials = 9"))
    write_outer_studies(read_study_file(study_file.path), 3)
    assert read_study_file(paths[0]).limits.trials == 9
    with pytest.raises(HpoError, match="holds out one fold by itself"):
        check_outer_folds(read_study_file(paths[0]), 3)


def test_a_file_of_somebody_else_is_not_overwritten(study_file, tmp_path):
    """A file that has the name of an outer fold's and was not written by `hpo nested` stays as it is."""
    theirs = tmp_path / "study.outer-1-of-2.toml"
    theirs.write_text(STUDY)
    with pytest.raises(HpoError, match="move it away"):
        write_outer_studies(study_file, 2)
    assert theirs.read_text() == STUDY


@pytest.mark.parametrize("wrong", ["3", "[0, 3]", "[4, 3]", "[1, 1]", "[1.0, 3]", "[1, 2, 3]", '"1/3"'])
def test_a_test_fold_that_is_none_is_refused(study_file, wrong):
    """Anything but a fold's number and how many there are is refused with what it should look like."""
    study_file.path.write_text(STUDY.replace("test = 0.3", f"test_fold = {wrong}"))
    with pytest.raises(StudyFileError, match=r"data.test_fold: .* is not like \[1, 5\]"):
        read_study_file(study_file.path)


def test_a_test_fold_beside_a_share_is_refused(study_file):
    """Which images are held out is said by one of `test` and `test_fold`."""
    study_file.path.write_text(STUDY.replace("test = 0.3", "test = 0.3\ntest_fold = [1, 3]"))
    with pytest.raises(StudyFileError, match=r"data.test_fold: cannot stand beside test"):
        read_study_file(study_file.path)


def _tests(index, wrong=(), folds=2):
    """What the winners of the outer folds say: the true class but of these images, which they take for the next one."""
    found = []
    for number, fold in enumerate(_folds(index, folds), start=1):
        labels = index.labels[fold.test]
        predicted = np.where(np.isin(fold.test, wrong), (labels + 1) % 3, labels)
        recipe = {"backbone": "test_resnet" if number == 1 else "test_vit", "learning_rate": number / 1000}
        won = {
            "study": f"s/outer-{number}",
            "data_digest": "x",
            "trial": number,
            "confirmed": number == 2,
            "valid_macro_f1": 0.95,
        }
        probabilities = np.eye(3, dtype=np.float32)[predicted] * 0.7 + 0.1
        found.append(OuterTest(fold.test, probabilities, predicted, {**won, "epochs": 3, "recipe": recipe}))
    return found


def test_the_estimate_is_the_metric_over_all_images_of_all_folds(index):
    """The number is that of all images together, each predicted once; each fold has its own, and JSON holds all."""
    tests = _tests(index, wrong=(0, 1, 2, 12))
    found = estimate(index, tests, MACRO_F1)
    labels = np.concatenate([index.labels[test.images] for test in tests])
    predicted = np.concatenate([test.predicted for test in tests])
    assert found.metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert found.metrics["images"] == 36
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert (told["metric"], told["macro_f1"]) == ("macro_f1", found.metrics["macro_f1"])
    low, high = told["interval"]["macro_f1"]
    assert low < told["macro_f1"] < high
    for fold, test in zip(told["outer_folds"], tests, strict=True):
        expected = f1_score(index.labels[test.images], test.predicted, average="macro")
        assert fold["macro_f1"] == pytest.approx(expected)
        assert (fold["trial"], fold["images"]) == (test.winner["trial"], len(test.images))


def test_people_read_the_number_its_spread_and_how_alike_the_winners_are(index, study_file):
    """The lines have the score with its interval, each fold and its winner, the spread, the flattery, the choices."""
    found = estimate(index, _tests(index, wrong=(0, 1, 2, 12)), MACRO_F1)
    lines = found.lines()
    assert lines[0].startswith(f"nested cross-validation: macro-F1 {found.metrics['macro_f1']:.4f} (")
    assert lines[0].endswith("on 36 images, each by a search that never saw it")
    assert any(line.startswith("  2: macro-F1 ") and line.endswith("0.9500; confirmed trial 2") for line in lines)
    assert any(line.startswith("from fold to fold: standard deviation 0.") for line in lines)
    assert lines[-1].endswith(f"0.9500 on average, {0.95 - found.metrics['macro_f1']:.4f} more")
    expected = 'how alike the winners are: backbone "test_resnet" in 1 of 2, learning_rate from 0.001 to 0.002'
    assert found.choices(study_file.space) == expected


def test_a_winner_of_a_fold_may_have_no_score_of_its_search(index):
    """The confirmed winner may be the default recipe, which the search did not train to its end."""
    first, second = _tests(index)
    found = estimate(index, [first, replace(second, winner={**second.winner, "valid_macro_f1": None})], MACRO_F1)
    lines = found.lines()
    assert any(line.endswith(", in its search not trained to its end; confirmed trial 2") for line in lines)
    assert not any("on average" in line for line in lines)


def test_a_fold_may_not_define_the_metric(index):
    """Where a fold lacks a class that the metric needs, its value is none, and all images together have theirs."""
    area = metric_of("roc_auc")
    tests = [replace(test, winner={**test.winner, "valid_roc_auc": 0.9}) for test in _tests(index)]
    everywhere = np.concatenate([test.images for test in tests])
    red = index.labels[everywhere] == 2
    parts = [everywhere[red], everywhere[~red]]
    eye = np.eye(3, dtype=np.float32)
    halves = [
        replace(test, images=part, predicted=index.labels[part], probabilities=eye[index.labels[part]])
        for test, part in zip(tests, parts, strict=True)
    ]
    found = estimate(index, halves, area)
    assert (found.folds[0]["roc_auc"], found.metrics["roc_auc"]) == (None, 1.0)
    assert any("ROC-AUC not defined on 12 images" in line for line in found.lines())


def test_a_study_knows_the_nested_cross_validation_of_its_own_search(index, study_file):
    """The result by the most folds is told to a study of the same images, recipe and metric, and to no other."""
    recipe = study_file.space.as_dict()
    settings = {"images": {"digest": index.digest}, "recipe": json.loads(json.dumps(recipe))}
    study = SimpleNamespace(user_attrs={SETTINGS_KEY: settings})
    opened = SimpleNamespace(study=study, file=study_file, metric=MACRO_F1)
    assert nested_line(opened) is None
    nested_file(study_file.path, 9).write_text('{"data_digest": ')
    for folds in (2, 3):
        told = {"folds": folds, "data_digest": index.digest, "recipe": recipe}
        told |= estimate(index, _tests(index, wrong=(0,) * (folds - 2), folds=folds), MACRO_F1).as_json()
        nested_file(study_file.path, folds).write_text(json.dumps(told))
    value, ends = told["macro_f1"], "{:.4f} to {:.4f}".format(*told["interval"]["macro_f1"])
    assert value < 1
    line = nested_line(opened)
    assert line.startswith(f"nested cross-validation by 3 outer folds: macro-F1 {value:.4f} ({ends} in 95 %) on all 36")
    others = ({"images": {"digest": "other"}}, {"recipe": {**settings["recipe"], "epochs": 99}})
    for other in others:
        study.user_attrs[SETTINGS_KEY] = settings | other
        assert nested_line(opened) is None
    study.user_attrs[SETTINGS_KEY] = settings
    opened.metric = metric_of("accuracy")
    assert nested_line(opened) is None


def test_the_way_to_the_final_model_is_told(study_file):
    """The last line has the commands, and that nothing needs to be held out any more where something is."""
    assert "with [data] test = 0, and another [study] name if it has begun, `hpo search" in final_model(study_file)
    whole = replace(study_file, data=replace(study_file.data, test=0.0))
    assert "test = 0" not in final_model(whole)
    assert "`hpo export-best" in final_model(whole)
