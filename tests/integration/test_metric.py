"""A study that is searched by another metric than macro-F1, on a real database, from its first trial to its bundle."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from hpo.bundle.commands import run_export_best, run_predict
from hpo.cli import parser
from hpo.dashboard.metrics import metrics_of
from hpo.dashboard.notes import study_note, trial_note
from hpo.errors import HpoError
from hpo.report.page import draw_charts, make_report
from hpo.report.results import read_results
from hpo.study.open_study import create_study
from hpo.study.settings import check_settings
from hpo.study.status import take_snapshot
from hpo.study.status_table import render
from hpo.study.study_list import list_studies
from hpo.supervision.messages import message_of
from storage.budget import StopRules
from storage.keys import METRICS_KEY
from tests.integration.conftest import lines_of
from trainer.objective_metric import metric_of

pytestmark = pytest.mark.integration

NOW = datetime(2030, 1, 2, tzinfo=UTC)
RATES = {"learning_rate": [3e-3, 1e-3, 3e-4, 1e-4], "loss": "cross_entropy", "epochs": 5, "mixing": "none"}


@pytest.fixture
def searched(harness):
    """A study of four learning rates, searched by log-loss to its end."""
    study = harness(more='metric = "log_loss"', trials=4, recipe=RATES, pruner="asha")
    study.work()
    return study


def options_of(study, *words):
    """The options of a command on a study's storage."""
    options = parser().parse_args([str(word) for word in words])
    options.extensions, options.url = study.file.space.extensions, study.url
    return options


def printed(shown):
    """What a console prints of it."""
    console = Console(file=io.StringIO(), width=150)
    console.print(shown)
    return console.file.getvalue()


def test_the_lowest_log_loss_wins_and_is_shown_everywhere(searched, tmp_path, capsys):
    """Trials are compared by their negative log-loss; the winner has the lowest, and that is what people are shown."""
    study, opened = searched.opened.study, searched.opened
    losses = {each.number: -each.value for each in searched.trials if each.state is TrialState.COMPLETE}
    best = min(losses, key=losses.__getitem__)
    shown = f"{losses[best]:.4f}"
    assert min(losses.values()) > 0
    assert study.metric_names == ["negative log-loss"]
    for trial in searched.trials:
        scores = trial.intermediate_values
        assert trial.user_attrs["best_epoch"] == max(scores, key=scores.__getitem__)
        assert trial.user_attrs[METRICS_KEY]["log_loss"] == pytest.approx(-max(scores.values()))
    worst_first_epoch = min(trial.intermediate_values[1] for trial in searched.trials)
    paused = [trial for trial in searched.trials if trial.state is TrialState.PRUNED]
    assert worst_first_epoch in [trial.intermediate_values[1] for trial in paused]
    first = f"{-study.trials[best].intermediate_values[1]:.4f}"
    of_default = -study.trials[0].intermediate_values[1]
    assert lines_of(searched, 0)[0].startswith(f"epoch 1 of 5: log-loss {of_default:.4f}, macro-F1 ")

    snapshot = take_snapshot(opened)
    assert f"best log-loss {shown} (trial {best})" in printed(render(snapshot))
    told = json.loads(json.dumps(snapshot.as_json()))
    assert (told["metric"], told["best"]["number"]) == ("log_loss", best)
    assert told["best"]["log_loss"] == pytest.approx(losses[best])
    assert told["best"]["macro_f1"] == study.trials[best].user_attrs[METRICS_KEY]["macro_f1"]
    assert f"validation log-loss {shown}" in message_of(snapshot, "finished", "over")["text"]
    assert f'hpo_best_value{{metric="log_loss",study="colours"}} {losses[best]}' in metrics_of(snapshot).decode()
    assert f"Best so far: log-loss {shown}" in study_note(snapshot, opened.study_id)
    note = trial_note(study.trials[best], searched.file.space, metric=opened.metric)
    assert f"Log-loss by epoch: {first}, " in note
    listed = list_studies(searched.url, searched.file.space.extensions)
    assert [each.line() for each in listed] == [f"colours: 4 trials, best log-loss {shown}"]
    assert listed[0].as_json()["best_log_loss"] == pytest.approx(losses[best])

    report = make_report(opened, NOW)
    assert report.headline[1].startswith(f"best validation log-loss {shown} (trial {best})")
    assert "acro-F1 by the value" not in report.html
    charts = draw_charts(read_results(opened, NOW), opened)
    for name, axis in (("over-time", "yaxis"), ("curves", "yaxis")):
        assert charts[name]["layout"][axis]["title"]["text"] == "validation log-loss"
        assert all(value >= 0 for trace in charts[name]["data"] for value in trace["y"] if value is not None)
    assert min(charts["over-time"]["data"][-1]["y"]) == pytest.approx(losses[best], abs=1e-5)

    assert run_export_best(options_of(searched, "export-best", searched.file.path, "-o", tmp_path / "bundle")) == 0
    said = capsys.readouterr().out
    assert f"trial {best} has won with a validation log-loss of {shown}" in said
    info = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert (info["metric"], info["metrics"]["valid_log_loss"]) == ("log_loss", pytest.approx(losses[best]))
    test = info["metrics"]["test"]
    assert f"test log-loss {test['log_loss']:.4f}" in said
    assert info["thresholds"] is None
    card = (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert f"compared {len(losses)} complete trials by their log-loss" in card
    words = ("predict", tmp_path / "bundle", tmp_path / "bundle/test.csv", "-o", tmp_path / "out.csv")
    assert run_predict(options_of(searched, *words)) == 0
    assert f"log-loss {test['log_loss']:.4f}" in capsys.readouterr().out
    assert f"{test['log_loss']:.4f}</strong>" in make_report(opened, NOW).html


def test_a_search_by_log_loss_ends_at_its_target(harness):
    """Workers begin no further trial once the log-loss of one is at most the target."""
    study = harness(more='metric = "log_loss"', trials=2, recipe={**RATES, "epochs": 1})
    study.file = replace(study.file, stop_rules=StopRules(target=100.0))
    study.work()
    assert len(study.places) == 1


def test_a_metric_that_does_not_fit_the_images_begins_nothing(harness):
    """A class that is not there is one line before the first trial, and nothing is left in the storage."""
    with pytest.raises(HpoError) as refused:
        harness(more='metric = "f1:reed"')
    assert str(refused.value) == 'study.toml: study.metric: there is no class "reed"; did you mean "red"?'


def test_the_metric_of_a_study_stays(harness):
    """Another metric is refused while the study lives, and the study goes on by its own whatever its file says."""
    study = harness(trials=1)
    changed = replace(study.file, metric=metric_of("f1:red"))
    line = 'study.metric was "macro_f1", is now "f1:red"'
    with pytest.raises(HpoError, match=line):
        check_settings(study.opened.study, changed, None)
    with pytest.raises(HpoError, match=line):
        create_study(changed, study.url, study.data)
    assert replace(study.opened, file=changed).metric.name == "macro_f1"
    assert optuna.load_study(study_name="colours", storage=study.opened.storage).metric_names is None
