"""Notes of a study and its trials, rendered as a browser does."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime

import optuna
import pytest
from markdown_it import MarkdownIt
from optuna.trial import FixedTrial, TrialState, create_trial

from hpo.dashboard.notes import MARK, study_note, with_ours, without_ours
from hpo.dashboard.notes import trial_note as note_of
from hpo.study.interruptions import FailedTrial, failed_trials
from hpo.study.status import Best, Snapshot
from storage.budget import Limits, Used
from storage.study_rows import PlaceRow, WorkerRow
from trainer.recipe import Recipe, used_fields
from trainer.space import Space, suggest

pytestmark = pytest.mark.unit

SPACE = Space({"image_size": 32, "epochs": 3, "pretrained": False})
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "a | b | c",
    "`` ` ``` code",
    "`",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "new\n\n# line\n| a |",
    "\\",
    "\\|",
    "**bold** _it_ ~~no~~",
    "$x$ &amp; <!-- --> </td>",
    " ",
]


def rendered(markdown):
    """HTML of a note, with the tables that GitHub's Markdown has."""
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)


def trial_of(*, state=TrialState.COMPLETE, metrics=None, **attributes):
    """A trial with some recipe of the space."""
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    suggest(asked, SPACE)
    return create_trial(
        state=state,
        value=0.5 if state is TrialState.COMPLETE else None,
        params=asked.params,
        distributions=asked.distributions,
        user_attrs={**attributes, **({"metrics": metrics} if metrics else {})},
    )


def trial_note(trial, space):
    """The note of the only trial of a study."""
    return note_of(trial, space, failed_trials([trial], []).get(trial.number))


def test_a_note_says_where_the_recipe_comes_from():
    """The note of a trial names the file by which its recipe was queued, as it is, or says how it was drawn."""
    assert "Its recipe was queued by <code>hpo try &lt;b&gt;.toml</code>" in rendered(
        trial_note(trial_of(queued_by="hpo try <b>.toml"), SPACE)
    )
    assert "Its recipe was drawn <code>near the best</code>" in rendered(
        trial_note(trial_of(proposed="near the best"), SPACE)
    )


def metrics_of(names):
    """Metrics of classes, the first with the highest F1."""
    rows = {name: {"f1": 1 - n / 100, "precision": 0.5, "recall": 0.25, "images": 7} for n, name in enumerate(names)}
    return {"macro_f1": 0.5, "per_class": rows}


def test_a_note_has_the_recipe_to_copy_and_the_weakest_classes_first():
    """The recipe is a table of a study file that fixes each field that is used, and the table begins with the worst."""
    trial = trial_of(metrics=metrics_of(["cat", "dog", "fox"]), host="node-1", device="NVIDIA L4")
    note = trial_note(trial, SPACE)
    assert "Ran on ` node-1 `, ` NVIDIA L4 `" in note
    toml = re.search("```toml\n(.*?)\n```", note, re.DOTALL)[1]
    space = Space(tomllib.loads(toml)["recipe"])
    recipe = suggest(FixedTrial(trial.params), SPACE)
    assert used_fields(suggest(FixedTrial({}), space)) == used_fields(recipe)
    cells = re.findall("<td><code>(.*?)</code></td>\n<td>(.*?)</td>", rendered(note))
    assert cells == [("fox", "0.9800"), ("dog", "0.9900"), ("cat", "1.0000")]


def test_of_very_many_classes_the_weakest_are_listed():
    """A note has the twenty weakest classes, and says how many more there are."""
    note = trial_note(trial_of(metrics=metrics_of([f"class {n}" for n in range(50)])), SPACE)
    assert rendered(note).count("<tr>") == 1 + 20
    assert "class 49" in note
    assert "… and 30 more" in note


@pytest.mark.parametrize("name", HOSTILE)
def test_what_others_have_named_stays_text(name):
    """Names of classes, hosts and devices and reasons are neither HTML nor Markdown, and leave a table whole."""
    trial = trial_of(
        state=TrialState.FAIL, metrics=metrics_of([name, "dog"]), reason=f"it said {name}", host=name, device=name
    )
    html = rendered(trial_note(trial, SPACE))
    plain = " ".join(name.split()) or "(empty)"
    shown = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert f"<td><code>{shown}</code></td>\n<td>1.0000</td>" in html
    assert f"Ran on <code>{shown}</code>, <code>{shown}</code>." in html
    assert "Failed: <code>it said" in html
    assert html.count("<tr>") == 3
    assert html.count("<td>") == 10
    assert set(re.findall("<([a-z0-9]+)", html)) == {
        *("ul", "li", "code", "h4", "pre", "table", "thead", "tbody", "tr", "th", "td")
    }


def test_a_note_tells_why_a_trial_failed_and_what_it_repeats():
    """A failed trial has its reason, that of one failed from outside too, and one that goes on names the other."""
    note = trial_note(trial_of(state=TrialState.FAIL, reason="the loss is nan"), SPACE)
    assert "Failed: ` the loss is nan `" in note
    assert "told so from outside" in trial_note(trial_of(state=TrialState.FAIL), SPACE)
    assert "Continues trial 3 after its epoch 2." in trial_note(trial_of(repeats=3, resumed_after_epoch=2), SPACE)
    assert "Runs trial 3 again from its beginning." in trial_note(trial_of(repeats=3), SPACE)
    interrupted = note_of(trial_of(state=TrialState.FAIL), SPACE, FailedTrial("its worker died", True, 9))
    assert "Interrupted: ` its worker died `; continued as trial 9" in interrupted
    assert "Fail" not in interrupted


def test_a_note_tells_of_a_pause():
    """A paused trial says after which epoch, and when it goes on."""
    note = note_of(trial_of(state=TrialState.PRUNED), SPACE, paused="is paused after epoch 3; goes on if …")
    assert "Is paused after epoch 3; goes on if …." in note


def test_a_note_has_the_curve_in_numbers():
    """Macro-F1 of each epoch stands in the note, in their order, also where the first ones are those of another run."""
    values = {epoch: epoch / 10 for epoch in range(1, 4)}
    for first, said in ((1, "Macro-F1 by epoch: 0.1000, 0.2000, 0.3000"), (2, "from epoch 2: 0.2000, 0.3000")):
        kept = {epoch: values[epoch] for epoch in sorted(values, reverse=True) if epoch >= first}
        assert said in trial_note(create_trial(value=0.3, intermediate_values=kept), SPACE)


def test_a_trial_from_outside_has_no_recipe():
    """A trial whose parameters are not of the study's space says so, and one that waits for them does."""
    note = trial_note(create_trial(value=1.0), SPACE)
    assert "no recipe of this study" in note
    assert "```" not in note
    assert trial_note(create_trial(state=TrialState.WAITING), SPACE) == "Its recipe is not chosen yet."


@pytest.mark.parametrize("odd", [5, None, True, [1], {"a": {"b": 1}}, "x", "<b>", {"per_class": {"a": 0.9}}])
def test_whatever_attributes_a_trial_from_outside_has_its_note_can_be_made(odd):
    """Values under our names that are none of ours are shown as text, or not at all; nothing of them is Markdown."""
    keys = ("host", "device", "repeats", "resumed_after_epoch", "reason", "metrics")
    one = {"f1": 0.5, "precision": 0.5, "recall": 0.5, "images": 3}
    per_class = [{"per_class": {"a": {**one, name: odd}}} for name in one]
    for metrics in (odd, {"per_class": odd}, {"per_class": {"a": odd, "b": one}}, *per_class):
        attributes = {**dict.fromkeys(keys, odd), "metrics": metrics}
        note = trial_note(create_trial(state=TrialState.FAIL, user_attrs=attributes), SPACE)
        assert "<b>" not in rendered(note)
        assert "no recipe of this study" in note


def test_the_note_of_a_study_shows_what_hpo_status_does():
    """Counts, budget, halt, workers alive and dead with their trials, and the best recipe, with links to trials."""
    now = datetime.now(UTC)
    snapshot = Snapshot(
        study="faces",
        storage="postgresql://host/hpo",
        limits=Limits(trials=10, gpu_hours=1.5),
        used=Used(trials=3, hours=0.1, gpu_hours=0.25),
        places=[
            PlaceRow(0, "complete", "w1", 0, None, 3, 3, 0.8, 0.9, 60.0),
            PlaceRow(1, "running", "w1", 4, None, 2, 3, 0.5, 0.75, 61.0),
        ],
        workers=[
            WorkerRow("w1", "node|1", 7, "NVIDIA L4", now, 3.2, gone=False),
            WorkerRow("w2", "node-2", 8, "cpu", now, 65.0, gone=True, died=True),
            WorkerRow("w3", "node-3", 9, "cpu", now, 5.0, gone=True),
        ],
        best=Best(0, 0.9, Recipe()),
        halt="stop",
        from_outside=[7, 8],
        paused_hosts=["node|1"],
    )
    html = rendered(study_note(snapshot, 5))
    assert "Trials: 1 complete, 1 running" in html
    assert "Budget: 1 of 10 trials" in html
    assert "Budget: 0.25 of 1.5 GPU hours" in html
    assert "<strong>Stopped</strong>: <code>hpo resume</code>" in html
    assert "<strong>Paused</strong>: <code>node|1</code>; <code>hpo resume --host</code> lets it go on" in html
    row = re.findall("<td>(.*?)</td>", html)
    link = '<a href="/dashboard/studies/5/trials?numbers={0}">trial {0}</a>'
    alive = ["<code>node|1:7</code>", "<code>NVIDIA L4</code>", link.format(4), "2 of 3", "0.7500", "1 min 01 s"]
    assert row[:7] == [*alive, "3 s ago"]
    assert row[7:] == ["<code>node-2:8</code>", "<code>cpu</code>", "", "", "", "", "died, 1 min 05 s ago"]
    assert f"macro-F1 0.9000, {link.format(0)}" in html
    assert f"from outside, and without a part in this: {link.format(7)}, {link.format(8)}" in html
    assert tomllib.loads(re.search("```toml\n(.*?)\n```", study_note(snapshot, 5), re.DOTALL)[1])["recipe"]
    empty = study_note(Snapshot("a", "b", Limits(trials=1), Used(0, 0, 0), [], [], None), 5)
    assert "None is at work." in empty
    assert "Best" not in empty
    assert "Interrupted" not in html
    interrupted = replace(snapshot, failed={1: FailedTrial("interrupted", True, 4), 2: FailedTrial("the loss is nan")})
    assert "Interrupted: 1; shown as Fail, but no failures" in study_note(interrupted, 5)


@pytest.mark.parametrize("theirs", ["", "# Mine\n\nkeep *this*", "two\nlines\n"])
def test_what_somebody_wrote_is_kept_apart_from_what_hpo_writes(theirs):
    """A note is shown with the user's part first, and saving what is shown stores that part alone."""
    shown = with_ours(theirs, "ours")
    assert shown.startswith(theirs or MARK)
    assert shown.endswith(f"{MARK}\n\nours")
    assert without_ours(shown) == theirs.rstrip()
    assert without_ours(f"{shown} and what was typed there") == theirs.rstrip()
    assert without_ours("no mark at all") == "no mark at all"
