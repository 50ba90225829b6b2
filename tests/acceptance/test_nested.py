"""`hpo nested` as a user runs it."""

from __future__ import annotations

import json
import signal
from dataclasses import replace

import optuna
import pytest

from hpo.study.nested_file import nested_line
from hpo.study.open_study import find_study
from hpo.study.study_file import read_study_file
from storage.keys import TEST_USE_KEY

pytestmark = pytest.mark.acceptance


def test_nested_cross_validation_tests_every_image_and_goes_on_after_a_kill(faulty_study):
    """After a kill the same command searches and tests the folds that are left, each once, and pools all of them."""
    study = faulty_study(trials=1, epochs=2)
    words = ("nested", "--folds", "2", "--workers", "1")
    killed = study.begin(*words, kill=("hpo.nested.outer_test:_keep", "after", 1))
    assert killed.end() == -signal.SIGKILL, killed.printed
    assert (
        "2 outer folds, each with a search of its own by the whole [budget] (1 trial each, 2 in all)" in killed.printed
    )
    assert killed.printed.count("retraining on 18 images") == 1

    again = study.begin(*words, "--json")
    assert again.end() == 0, again.printed
    assert again.printed.count("retraining on 18 images") == 1
    told = json.loads(again.printed[again.printed.rindex("\n{\n") :])
    assert told == json.loads((study.folder / "faults.nested-2.json").read_text())
    assert sum(sum(row.values()) for row in told["confusion_matrix"].values()) == told["images"] == 36
    assert [(fold["study"], fold["images"]) for fold in told["outer_folds"]] == [
        ("faults/outer-1-of-2", 18),
        ("faults/outer-2-of-2", 18),
    ]
    right = sum(row.get(name, 0) for name, row in told["confusion_matrix"].items())
    assert told["accuracy"] == pytest.approx(right / 36)
    for number in (1, 2):
        file = read_study_file(study.folder / f"faults.outer-{number}-of-2.toml", study.file.space.extensions)
        outer = find_study(replace(file, artifacts=study.file.artifacts), study.url).study
        assert len(outer.get_trials()) == 1
        assert sum(key.startswith(TEST_USE_KEY) for key in outer.user_attrs) == 1

    assert nested_line(study.opened).startswith("nested cross-validation by 2 outer folds: macro-F1 ")

    listed = study.begin("list")
    assert listed.end() == 0
    assert "faults/outer-2-of-2: 1 trial, best macro-F1" in listed.printed
    assert "faults/outer-1-of-2" in optuna.get_all_study_names(study.opened.storage)
