"""`hpo report` on real studies: what the page says, and what it does not let through."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import sys
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
import tomli_w
from optuna.trial import FixedTrial, TrialState, create_trial

from hpo.errors import HpoError
from hpo.report.page import make_report
from hpo.study.deletion import delete_study
from hpo.study.open_study import recipe_of
from hpo.study.study_file import read_study_file
from hpo.study.takeover import take_over
from hpo.study.test_uses import count_test_use, keep_test_score
from storage.artifacts.artifacts import keep_file
from storage.budget import used
from storage.errors import StorageError
from storage.keys import BEST_EPOCH_KEY, DEFAULT_KEY, TEST_SCORE_KEY
from tests.conftest import paint
from tests.integration.conftest import FIXED, ScriptedLoss, WorkerHarness
from trainer.errors import RecipeError
from trainer.recipe import used_fields
from trainer.space import Space, suggest

pytestmark = pytest.mark.integration

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
EVIL = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A page as a browser reads it: its text, its charts, its scripts, and the attributes of all its tags."""

    def __init__(self, html):
        super().__init__()
        self.html, self.words, self.attributes, self.scripts, self.charts, self.recipe = html, [], [], [], {}, ""
        self._tag, self._of_tag = None, {}
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        """A tag begins."""
        self._tag, self._of_tag = tag, dict(attrs)
        self.attributes += attrs

    def handle_endtag(self, _tag):
        """A tag ends."""
        self._tag, self._of_tag = None, {}

    def handle_data(self, data):
        """What stands in a tag."""
        match (self._tag, self._of_tag):
            case ("script", {"type": "application/json", "id": name}):
                self.charts[name.removesuffix("-data")] = json.loads(data)
            case ("script", _):
                self.scripts.append(data)
            case ("pre", _):
                self.recipe += data
            case ("style", _):
                pass
            case _:
                self.words.append(data)

    @property
    def policy(self):
        """What its content security policy allows."""
        return next(value for name, value in self.attributes if name == "content" and "default-src" in value)


def page_of(study, **more):
    """The report of a study."""
    return Page(make_report(study.opened, NOW, **more).html)


def traces(chart):
    """The traces of a chart by name, without the counts behind the names."""
    return {trace.get("name", "").split(" (")[0]: trace for trace in chart["data"]}


def used_by(study):
    """The GPU hours that a study has used."""
    with study.opened.storage.engine.connect() as connection:
        return used(connection, study.opened.study_id).gpu_hours


@pytest.fixture
def found(harness):
    """A search with failures, its page, its complete trials, and the best of them."""
    study = harness(ScriptedLoss({2: lambda: 1 / 0}), trials=6, recipe={"epochs": 3})
    study.work()
    count_test_use(study.opened.study, "one", "now")
    complete = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert 2 <= len(complete) < 6
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    return study, page_of(study, gpu_hour_price=3600.0), complete, best


def test_the_page_tells_what_was_found(found):
    """The page names the best trial, why others failed, the images, what it cost, and how often it was tested."""
    study, page, complete, best = found
    assert f"{best.value:.4f} best validation macro-F1, trial {best.number}" in page.text
    assert f"best of {len(complete)} complete trials" in page.text
    assert "Such a best flatters itself" in page.text
    assert "looked at 1 time so far" in page.text
    assert f"{used_by(study) * 3600:.2f} at 3600 an hour" in page.text
    assert "made 2030-01-02 03:04 UTC" in page.text
    assert "it is not at its end" not in page.text
    assert "36 images of 3 classes: 20 % to validate, 15 % held out" in page.text
    assert "ZeroDivisionError: division by zero" in page.text


def test_measured_scores_stand_beside_the_best(found):
    """Each score on the held-out images has its interval, one of an earlier version its error, in their order."""
    study, page, *_ = found
    assert "Measured so" not in page.text
    interval = {"macro_f1": [0.375, 0.625], "accuracy": [0.25, 0.75], "groups": 18}
    for use, at in (("b", "2030-01-01"), ("a", "2030-01-02"), ("c", "2030-01-03")):
        count_test_use(study.opened.study, use, at)
    keep_test_score(study.opened.study, "b", 4, {"macro_f1": 0.5, "interval": interval, "images": 18})
    keep_test_score(study.opened.study, "a", 3, {"macro_f1": 0.5, "interval": None, "images": 1})
    earlier = {"trial": 2, "macro_f1": 0.75, "standard_error": 0.125, "images": 18}
    study.opened.study.set_user_attr(f"{TEST_SCORE_KEY}c", earlier)
    text = page_of(study).text
    measured = (
        "0.5000 (0.3750 to 0.6250 in 95 %) macro-F1 of trial 4 on 18 images; 0.5000 macro-F1 of trial 3 on 1 image;"
        " 0.7500 (± 0.1250, one standard error) macro-F1 of trial 2 on 18 images. These images are too few to tell"
        f" good recipes apart (a macro-F1 is known to more than ± 0.05): hpo nested {study.file.path.name} tests on all"
    )
    assert measured in text
    assert "looked at 4 times so far" in text


def test_the_charts_show_each_trial_at_its_end(found):
    """The best so far never falls and ends at the best trial; the GPU hours add up to those that were used."""
    study, page, complete, best = found
    trials = study.trials
    over_time = traces(page.charts["over-time"])
    assert sorted(number for number, _ in over_time["complete"]["customdata"]) == [each.number for each in complete]
    line = over_time["best so far"]
    assert (line["y"][-1], line["customdata"][-1]) == (pytest.approx(best.value, abs=1e-5), best.number)
    assert line["y"] == sorted(line["y"])
    last = max(trial.datetime_complete for trial in trials) - min(trial.datetime_start for trial in trials)
    assert line["x"][-1] == pytest.approx(last.total_seconds() / 60, abs=1e-4)
    of_gpu = traces(page.charts["over-gpu-hours"])["best so far"]["x"]
    assert of_gpu[-1] == pytest.approx(used_by(study) * 60, rel=0.01)
    for name in ("hours-by-state", "hours-by-backbone"):
        assert sum(page.charts[name]["data"][0]["x"]) == pytest.approx(used_by(study) * 60, rel=0.01)


def test_the_charts_show_the_best_trial(found):
    """Its learning curve has all of its epochs, and its classes have the F1 scores that were kept with it."""
    _, page, _, best = found
    curves = traces(page.charts["curves"])[f"trial {best.number}, the best"]
    assert curves["y"][:-1] == pytest.approx(list(best.intermediate_values.values()), abs=1e-5)
    per_class = best.user_attrs["metrics"]["per_class"]
    assert sorted(page.charts["classes"]["data"][0]["x"]) == pytest.approx(
        sorted(metrics["f1"] for metrics in per_class.values()), abs=1e-5
    )


def test_the_recipe_of_the_winner_is_one_for_a_study_file(harness, tmp_path):
    """Put in place of [recipe], it is accepted and leaves nothing to search but the winner's recipe."""
    study = harness(trials=2)
    study.work()
    page = page_of(study)
    tables = tomllib.loads(study.file.path.read_text())
    del tables["recipe"]
    (tmp_path / "again.toml").write_text(f"{tomli_w.dumps(tables)}\n{page.recipe}")
    extensions = study.file.space.extensions
    again = read_study_file(tmp_path / "again.toml", extensions).space
    number = int(re.search(r"# trial (\d+), validation macro-F1", page.recipe)[1])
    winner = recipe_of(study.trials[number], study.opened.study, extensions)
    assert used_fields(suggest(FixedTrial({}), again)) == used_fields(winner)


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(harness):
    """Its policy names the digests of its two scripts and no address, nor does a tag; it is the same each time."""
    study = harness(trials=1)
    study.work()
    page = page_of(study)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page.scripts]
    assert len(digests) == 2
    assert set(re.findall(r"'sha256-(\S+)'", page.policy)) == set(digests)
    assert page.policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in page.policy
    named = [value for name, value in page.attributes if name in ("src", "href", "action", "data", "srcset")]
    assert named
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in named)
    assert "\r" not in page.html  # a browser would take it for a line feed, and the digest for wrong
    assert page_of(study).html == page.html


def test_the_pictures_of_the_winner_are_in_the_page(harness, tmp_path, monkeypatch):
    """The pictures that its trial kept stand in the page itself; where the store is out of reach a sentence does."""
    study = harness(trials=1)
    runs, run = study.dead_worker()
    suggest(run.trial, study.file.space)
    run.trial.set_user_attr(BEST_EPOCH_KEY, 1)
    for name in ("confusion_matrix.png", "most_wrong.png", "other.png"):
        (tmp_path / name).write_bytes(b"PNG of " + name.encode())
        keep_file(study.opened.artifacts, run.trial, tmp_path / name, study.opened.owner)
    runs.complete(run, 0.5)
    page = page_of(study)
    assert re.search(
        r'<div class="pair">\s*<div class="recipe">.*?</div>\s*<figure>', page.html, re.DOTALL
    )  # beside it
    sources = [value for name, value in page.attributes if name == "src"]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [
        b"PNG of confusion_matrix.png",
        b"PNG of most_wrong.png",
    ]
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "storage.artifacts.s3_store", raising=False)
    for url in (str(tmp_path / "elsewhere"), "s3://bucket/without-a-client"):
        page = Page(make_report(replace(study.opened, artifacts_url=url), NOW).html)
        assert "src" not in [name for name, _ in page.attributes]
        assert "Pictures of the winner are not where this page was made" in page.text


def test_a_store_that_does_not_answer_is_asked_once(drawn_pictures, harness, tmp_path, monkeypatch):
    """A page waits for a silent store once, and not for each of its pictures."""
    study = harness(trials=1)
    study.work()
    asked = []

    def silent(_store, artifact_id):
        asked.append(artifact_id)
        raise StorageError("artifacts: does not answer")

    monkeypatch.setattr(type(study.opened.artifacts), "open_reader", silent)
    assert "Pictures of the winner are not where this page was made" in page_of(study).text
    assert len(asked) == 1


def test_names_and_reasons_of_others_are_text(tmp_path, ready_database):
    """Tags in the names of study and classes and in the reasons of failures are shown and do nothing."""
    for number in range(12):
        for name, colour in ((EVIL, (200, 60, 60)), ("b&amp;", (60, 200, 60)), ("c", (60, 60, 200))):
            paint(tmp_path / "photos" / name / f"{number}.png", colour, number)

    def angry():
        raise ValueError(f"</script>{EVIL}")

    name = f"</title></script>{EVIL}"
    study = WorkerHarness(tmp_path, ready_database, ScriptedLoss({4: angry}), name=name, recipe=FIXED)
    study.work()
    page = page_of(study)
    assert "onerror" not in {name for name, _ in page.attributes}
    assert [value for name, value in page.attributes if name == "src" and not value.startswith("data:")] == []
    assert len(page.scripts) == 2
    assert page.html.count("</script>") == len(page.scripts) + len(page.charts)
    assert page.text.startswith(f"{name}: report of a search {name}")
    assert f"ValueError: </script>{EVIL}" in page.text
    assert {"&lt;img src=x onerror=alert(1)&gt;", "b&amp;amp;", "c"} == set(
        page.charts["classes"]["layout"]["yaxis"]["ticktext"]
    )
    study.opened.storage.engine.dispose()


def test_a_search_that_has_not_begun_has_a_page(harness):
    """Before the first trial each section says what is missing."""
    page = page_of(harness())
    for sentence in (
        "none has begun",
        "No trial is complete yet, so that there is no winner.",
        "No trial has reported an epoch yet.",
        "There is no importance yet: it takes 10 complete trials",
        "Nothing can be compared yet",
        "No trial has run yet.",
        "36 images: 20 % to validate",
        "No trial has failed.",
        "it is not at its end",
    ):
        assert sentence in page.text
    assert page.charts == {}


def test_a_search_in_which_all_has_failed_has_a_page(harness):
    """Without a score there are the reasons and the cost."""
    study = harness(ScriptedLoss({1: lambda: 1 / 0, 2: lambda: 1 / 0}), recipe=FIXED)
    study.work()
    page = page_of(study)
    assert "No trial is complete yet" in page.text
    assert "2 ZeroDivisionError: division by zero 0, 1" in page.text
    assert "hours-by-state" in page.charts
    assert "over-time" not in page.charts


def test_a_search_that_runs_has_a_page(harness):
    """A trial that runs is counted with its time until now, and has no end yet; one complete trial is enough."""
    study = harness(trials=2)
    runs, first = study.dead_worker()
    runs.hand_back(first, "away")
    study.file = replace(study.file, limits=replace(study.file.limits, trials=1))
    study.work()
    study.file = replace(study.file, limits=replace(study.file.limits, trials=3))
    runs.begin()
    page = page_of(study)
    assert "1 complete, 1 running" in page.text
    assert "The winner is the best of 1 complete trial" in page.text
    assert "No other complete trial is within that" in page.text
    assert "the default recipe is the best so far" in page.text
    assert "1 run was broken off and gone on with later" in page.text
    assert len(traces(page.charts["over-time"])["complete"]["x"]) == 1


def test_trials_from_outside_are_in_no_chart(harness):
    """A made-up score is no evidence and no winner, and the page says so."""
    study = harness(trials=2)
    study.work()
    charts = page_of(study).charts
    odd = {"host": 5, "metrics": {"per_class": {"red": 0.9}}, "taken_over_from": "a friend", DEFAULT_KEY: []}
    study.opened.study.add_trial(create_trial(state=TrialState.COMPLETE, value=2.0, user_attrs=odd))
    page = page_of(study)
    assert page.charts == charts
    assert "Trial 2 would come before it, but was told or added from outside and cannot win." in page.text
    assert "1 trial was told or added from outside, without a training: it is in no chart." in page.text


def test_a_report_of_no_number_leaves_the_charts_whole(harness):
    """Browsers take no NaN for JSON: what a trial from outside has reported besides numbers is left out."""
    study = harness(trials=1)
    study.work()
    done = study.trials[0]
    reports = {1: 0.5, 2: math.nan, 3: math.inf}
    for intermediate_values in (reports, {2: math.nan}):
        study.opened.study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params=done.params,
                distributions=done.distributions,
                intermediate_values=intermediate_values,
            )
        )
    assert not re.search("NaN|Infinity", json.dumps(page_of(study).charts))


def test_trials_that_were_taken_over_are_compared_but_cost_nothing(harness):
    """They stand beside the new ones where recipes are compared, and are no part of time and cost."""
    old = harness(name="old", trials=3)
    old.work()
    new = harness(name="new", trials=2)
    delete_study(new.opened)
    take_over(new.file, new.url, new.data, "old")
    new = harness(name="new", trials=2)
    before = page_of(new)
    assert "3 trials were taken over from another study." in before.text
    assert "over-time" in before.charts
    assert "hours-by-state" not in before.charts
    new.work("another")
    page = page_of(new)
    points = [trace for trace in page.charts["over-time"]["data"] if trace["mode"] == "markers"]
    assert sum(len(trace["x"]) for trace in points) == 2
    lines = page.charts["parallel"]["data"] if "parallel" in page.charts else page.charts["curves"]["data"]
    assert sum(trace["x"].count(None) for trace in lines) == 5
    assert sum(page.charts["hours-by-state"]["data"][0]["x"]) == pytest.approx(used_by(new) * 60, rel=0.01)


def test_a_study_with_functions_of_ones_own_needs_them(harness):
    """Without the script that knows them one line says which is missing."""
    study = harness(trials=1)
    with pytest.raises(RecipeError, match='loss: "own" is not known'):
        make_report(replace(study.opened, file=replace(study.file, space=Space({}))), NOW)


def test_a_deleted_study_has_no_page(harness):
    """One line says that it is gone."""
    study = harness(trials=1)
    delete_study(study.opened)
    with pytest.raises(HpoError, match='"colours" was deleted'):
        page_of(study)
