"""All commands name the same best trial, whoever has added trials beside those that were trained."""

from __future__ import annotations

import json
import math
import re

import optuna
import pytest
from optuna.trial import FixedTrial, create_trial

from hpo.study.study_file import read_study_file
from storage.database import connect, initialize
from storage.keys import BEST_EPOCH_KEY, METRICS_KEY
from trainer.space import suggest

pytestmark = pytest.mark.acceptance

STUDY = """
[study]
name = "colours"
portfolio = false
[data]
path = "photos"
[recipe]
backbone = "test_resnet"
image_size = 32
"""


@pytest.fixture
def study(hpo, tmp_path, photos, database):
    """A study of which no trial has run yet, by Optuna."""
    (tmp_path / "study.toml").write_text(STUDY)
    done = hpo("init", "study.toml", HPO_STORAGE=database)
    assert done.returncode == 0, done.stderr
    storage = connect(database)
    yield optuna.load_study(study_name="colours", storage=storage)
    storage.engine.dispose()


def trained(tmp_path, value):
    """A trial as a worker leaves one that is complete."""
    space = read_study_file(tmp_path / "study.toml").space
    fixed = FixedTrial(space.default_parameters())
    suggest(fixed, space)
    attributes = {BEST_EPOCH_KEY: 1, METRICS_KEY: {}}
    return create_trial(value=value, params=fixed.params, distributions=fixed.distributions, user_attrs=attributes)


def loads(text):
    """What a text in JSON holds; a browser's parser, too, refuses NaN and Infinity."""

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_list_and_status_agree_on_the_best(hpo, study, tmp_path, database):
    """A trial that was added from outside is the best for neither; the best trained one is for both."""
    study.add_trial(create_trial(value=0.99))
    assert hpo("list", HPO_STORAGE=database).stdout == "colours: 1 trial, none complete\n"
    assert "no trials yet" in hpo("status", "study.toml", HPO_STORAGE=database).stdout
    study.add_trial(trained(tmp_path, 0.5))
    assert hpo("list", HPO_STORAGE=database).stdout == "colours: 2 trials, best macro-F1 0.5000\n"
    assert "best macro-F1 0.5000 (trial 2)" in hpo("status", "study.toml", HPO_STORAGE=database).stdout


def test_a_value_of_infinity_leaves_json_valid(hpo, study, tmp_path, database):
    """No command prints `Infinity`, and a trial with that value is the best for none, trained or not."""
    for value in (math.inf, -math.inf):
        study.add_trial(create_trial(value=value))
        study.add_trial(trained(tmp_path, value))
    for best in (None, 0.5):
        listed = loads(hpo("list", "--json", HPO_STORAGE=database).stdout)
        assert [each["best_macro_f1"] for each in listed] == [best]
        status = loads(hpo("status", "study.toml", "--json", HPO_STORAGE=database).stdout)
        assert (status["best"] and status["best"]["macro_f1"]) == best
        done = hpo("report", "study.toml", "-o", "report.html", HPO_STORAGE=database)
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "report.html").read_text()
        charts = re.findall(r'<script type="application/json" [^>]*>(.*?)</script>', page)
        assert all(map(loads, charts))
        study.add_trial(trained(tmp_path, 0.5))


def test_the_best_of_a_study_that_hpo_has_not_made_is_unknown(hpo, database):
    """Its values need not be macro-F1, nor the highest the best: `hpo list` names none."""
    initialize(database)
    storage = connect(database)
    theirs = optuna.create_study(study_name="theirs", storage=storage, direction="minimize")
    theirs.add_trial(create_trial(value=3.0))
    optuna.create_study(study_name="two", storage=storage, directions=["minimize", "maximize"])
    storage.engine.dispose()
    lines = "theirs: 1 trial, not made by hpo, or not to the end\ntwo: 0 trials, not made by hpo, or not to the end\n"
    assert hpo("list", HPO_STORAGE=database).stdout == lines
    assert [each["best_macro_f1"] for each in loads(hpo("list", "--json", HPO_STORAGE=database).stdout)] == [None] * 2


def test_the_best_is_unknown_where_functions_of_ones_own_are_missing(hpo, study, tmp_path, database):
    """`hpo list` names no best of a study whose recipes cannot be read here, and goes on with the others."""
    study.add_trial(trained(tmp_path, 0.5))
    key = "hpo:settings"
    kept = study.user_attrs[key]
    study.set_user_attr(key, {**kept, "recipe": {**kept["recipe"], "loss": ["own", "focal"]}})
    said = 'colours: 1 trial, best unknown: its recipes name functions that are not here: loss: "own" is not known'
    assert hpo("list", HPO_STORAGE=database).stdout.startswith(said)
    assert loads(hpo("list", "--json", HPO_STORAGE=database).stdout)[0]["best_macro_f1"] is None
