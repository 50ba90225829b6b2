"""A study that others than hpo have had their hands in, and one that ends without a winner."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import optuna
import pytest
from optuna.trial import FixedTrial, create_trial
from rich.console import Console
from sqlalchemy import Engine, event, text

import hpo.supervision.search
from hpo.bundle.chosen_trials import best_trials
from hpo.cli import parse, run
from hpo.errors import EXIT_DONE, EXIT_FAILED, HpoError
from hpo.study.deletion import delete_study
from hpo.study.open_study import create_study, find_study, load_study
from hpo.study.ranking import best_trial, default_trial, ranked
from hpo.study.status import take_snapshot
from hpo.study.study_file import read_study_file
from hpo.study.study_list import list_studies
from hpo.supervision.progress import Progress
from hpo.supervision.search import search
from hpo.supervision.supervisor import Supervised, WorkerPlan
from storage.artifacts.artifacts import naming
from storage.budget import Limits, StopRules
from storage.halts import begin_halt
from storage.heartbeat import WorkerPresence
from storage.keys import BEST_EPOCH_KEY, DEFAULT_KEY, NO_RECIPE_LEFT_KEY, REPEATS_KEY, SEARCH_KEY, WEIGHTS_NAME
from trainer.extensions import Extensions
from trainer.space import suggest

pytestmark = pytest.mark.integration

STUDY = """
[data]
path = "photos"
[recipe]
backbone = "own"
image_size = 8
"""


class Study:
    """A study that was begun, and its file."""

    def __init__(self, folder, url):
        (folder / "study.toml").write_text(STUDY)
        self.file = read_study_file(folder / "study.toml", Extensions(backbones={"own": lambda _classes, _size: None}))
        self.url, self.data, self.extensions = (
            url,
            self.file.data.load(folder / ".hpo/pixels"),
            self.file.space.extensions,
        )
        create_study(self.file, url, self.data)
        self.opened = load_study(self.file, url)

    def add(self, value, *, trained=True, system_attrs=None):
        """A complete trial of the default recipe; returns its number."""
        fixed = FixedTrial(self.file.space.default_parameters())
        suggest(fixed, self.file.space)
        about = {DEFAULT_KEY: True} | ({BEST_EPOCH_KEY: 1} if trained else {})
        complete = create_trial(
            value=value,
            params=fixed.params,
            distributions=fixed.distributions,
            user_attrs=about,
            system_attrs=system_attrs,
        )
        self.opened.study.add_trial(complete)
        return self.opened.study.trials[-1].number

    def snapshot(self):
        """The study as everybody sees it."""
        return take_snapshot(self.opened)


@pytest.fixture
def study(tmp_path, photos, ready_database):
    """A study without results."""
    made = Study(tmp_path, ready_database)
    yield made
    made.opened.storage.engine.dispose()


def test_what_was_told_from_outside_does_not_win(study):
    """Only a trial that was trained to its end by a recipe of the study is its best; better others are named."""
    other = optuna.load_study(study_name=study.file.name, storage=study.opened.storage)
    other.optimize(lambda trial: trial.suggest_float("x", 0.9, 1), n_trials=1)  # takes the default recipe's trial
    other.add_trial(create_trial(value=0.99))
    told = other.ask()
    told.suggest_categorical("optimizer", study.file.space.values("optimizer"))
    other.tell(told, 0.98)
    outside = [0, 1, 2, study.add(0.97, trained=False)]
    assert (study.snapshot().best, sorted(study.snapshot().from_outside)) == (None, outside)
    assert default_trial(study.opened) is None
    with pytest.raises(HpoError, match="no trial is complete yet"):
        best_trials(study.opened)
    numbers = [study.add(value) for value in (0.4, 0.6, 0.6)]
    snapshot = study.snapshot()
    assert (snapshot.best.number, snapshot.best.macro_f1) == (numbers[1], 0.6)
    assert sorted(snapshot.from_outside) == outside
    assert best_trial(study.opened).number == numbers[1]
    assert default_trial(study.opened).number == numbers[0]


def test_the_files_of_trials_are_in_the_order_of_the_ranking(study):
    """Which weights are kept is decided by the database, in the order in which all commands rank the trials."""
    values = [0.4, math.inf, 0.9, 0.0, -math.inf, 0.9, -0.5]
    numbers = [study.add(value, system_attrs=naming(f"file-{value}", WEIGHTS_NAME)) for value in values]
    kept = [file.number for file in study.opened.rows.kept_files(WEIGHTS_NAME)]
    best_first = [trial.number for trial in ranked(study.opened.study.trials, study.file.space)]
    assert kept[: len(best_first)] == best_first == [numbers[at] for at in (2, 5, 0, 3, 6)]


def test_the_list_of_studies_asks_as_often_for_many_as_for_few(study):
    """What continues a trial counts with it, what was told from outside is not the best, and two questions do."""
    name, opened = study.file.name, study.opened
    create_study(replace(study.file, name="another"), study.url, study.data)
    optuna.create_study(study_name="theirs", storage=opened.storage).add_trial(create_trial(value=0.9))
    asked = []

    def note(_connection, _cursor, statement, *_):
        asked.append(statement)

    def listed():
        asked.clear()
        event.listen(Engine, "before_cursor_execute", note)
        try:
            return {each.name: each.line() for each in list_studies(study.url, study.extensions)}
        finally:
            event.remove(Engine, "before_cursor_execute", note)

    lines = {
        "another": "another: 0 trials, none complete",
        name: f"{name}: 0 trials, none complete",
        "theirs": "theirs: 1 trial, not made by hpo, or not to the end",
    }
    assert listed() == lines
    few = len(asked)
    for number in range(5):
        create_study(replace(study.file, name=f"more {number}"), study.url, study.data)
    for value in (0.4, 0.6, math.inf):
        study.add(value)
    study.add(0.97, trained=False)
    opened.study.add_trial(create_trial(value=0.5, user_attrs={BEST_EPOCH_KEY: 1, REPEATS_KEY: 1}))
    WorkerPresence(opened.storage.engine, opened.study_id, "worker").join("node-1", 1, "cpu")
    assert listed()[name] == f"{name}: 4 trials, best macro-F1 0.6000, 1 worker at work"
    assert len(asked) == few
    opened.study.add_trial(create_trial(value=0.98, user_attrs={BEST_EPOCH_KEY: 1}))  # by no recipe of the space
    opened.rows.begin_halt("pause")
    assert listed()[name] == f"{name}: 5 trials, best macro-F1 0.6000, paused"


def test_a_study_that_is_deleted_while_it_is_watched_is_one_line(study):
    """Whoever watches a study that another deletes hears that it was deleted."""
    study.snapshot()
    delete_study(find_study(study.file, study.url))
    with pytest.raises(HpoError, match=f'^study: "{study.file.name}" was deleted$'):
        study.snapshot()


def test_a_study_that_hpo_has_not_made_is_refused(study):
    """A study of somebody else's in the same storage is neither watched nor exported; it can be deleted."""
    file = replace(study.file, name="theirs")
    optuna.create_study(study_name="theirs", storage=study.opened.storage)
    with pytest.raises(HpoError, match=r'^study: "theirs" was not created by hpo; give another'):
        load_study(file, study.url)
    delete_study(find_study(file, study.url))
    with pytest.raises(HpoError, match=r'^study: "theirs" is not in this storage'):
        load_study(file, study.url)


def test_a_study_goes_on_with_the_search_that_it_began_with(study):
    """Where a file names no sampler or pruner its study keeps those of its beginning; what it names comes first."""

    def search_of(file):
        opened = load_study(file, study.url)
        return opened.file.sampler, opened.file.pruner

    assert search_of(study.file) == ("forest", "asha")
    study.opened.study.set_user_attr(SEARCH_KEY, {"sampler": "random", "pruner": "none"})
    assert search_of(study.file) == ("random", "none")
    study.file.path.write_text(f'[study]\npruner = "median"\n{STUDY}')
    assert search_of(read_study_file(study.file.path, study.extensions)) == ("random", "median")


@pytest.fixture
def end(study, monkeypatch):
    """Searches with workers that do nothing and leave things as these statements do; gives its exit code and lines."""

    def run(*statements, limits=None):
        def supervise(opened, _progress, _plan):
            with opened.storage.engine.begin() as connection:
                for statement in statements:
                    if callable(statement):
                        statement(connection, opened.study_id)
                    else:
                        connection.execute(text(statement), {"study": opened.study_id})
            return Supervised(EXIT_DONE, take_snapshot(opened), frozenset())

        monkeypatch.setattr(hpo.supervision.search, "supervise", supervise)
        shown = io.StringIO()
        file = replace(study.file, limits=limits or study.file.limits)
        progress = Progress(Console(file=shown, width=120))
        try:
            code = search(file, study.url, study.data, progress, WorkerPlan([], 1, [], reopen=lambda: None))
        except HpoError as error:
            code = str(error)
        return code, shown.getvalue()

    return run


PLACE = "INSERT INTO hpo.place (study_id, number, state, trial, busy_seconds) VALUES (:study, {}, '{}', {}, 7200)"


def test_a_search_that_is_stopped_before_a_trial_is_complete_ends_well(end):
    """`hpo stop` is no failure, whatever there is by then."""
    code, lines = end(lambda connection, study_id: begin_halt(connection, study_id, "stop"))
    assert code == EXIT_DONE
    assert "the study was stopped: trials that ran are back in the queue; the same command resumes" in lines
    assert "hpo logs" not in lines


def test_one_host_is_paused_and_resumed_by_itself(end, study, capsys, monkeypatch):
    """`hpo pause --host` says whom it meets; `hpo resume` leaves that host paused, and `hpo resume --host` does not."""
    presence = WorkerPresence(study.opened.storage.engine, study.opened.study_id, "worker")
    presence.join("node-1", 1, "cpu")
    monkeypatch.setenv("HPO_STORAGE", study.url)

    def command(*words):
        code = run(parse([*words, str(study.file.path)], study.extensions))
        printed = capsys.readouterr()
        return code, (printed.out + printed.err).replace(str(study.file.path.parent), "")

    resume = "`hpo resume /study.toml --host node-1` lets it go on"
    assert command("pause", "--host", "node-2") == (
        EXIT_FAILED,
        'hpo: pause: no worker of the study "study" was on node-2; its workers were on node-1\n',
    )
    leaves = f"node-1 is paused: its 1 worker leaves its trial to others within seconds, and waits; {resume}\n"
    assert command("pause", "--host", "node-1") == (EXIT_DONE, leaves)
    assert f"node-1 stays paused; {resume}\n" in command("resume")[1]
    assert presence.beat({}).halt == "host pause"
    monkeypatch.setattr("socket.gethostname", lambda: "node-1")
    assert "this host is paused, and its workers wait: `hpo resume study.toml --host node-1` lets it go on" in end()[1]
    command("pause")
    assert command("resume", "--host", "node-1")[1] == "node-1 goes on when the study does, which is paused\n"
    command("resume")
    assert presence.beat({}).halt is None
    assert command("resume", "--host", "node-1") == (
        EXIT_FAILED,
        "hpo: resume: node-1 is not paused by itself; no host is\n",
    )


def test_the_end_of_a_search_names_the_space_where_that_has_ended_it(end, study):
    """That every recipe was tried is said where workers found so, and not where enough was found before."""
    study.opened.study.set_user_attr(NO_RECIPE_LEFT_KEY, 0)
    study.add(0.5)
    _, lines = end()
    tried = "every recipe of it has been trained, has failed or is beyond [limits]; 100 of 100 trials are unspent"
    assert f"the search space is used up: {tried}\n" in lines
    study.file = replace(study.file, stop_rules=StopRules(target=0.4))
    assert "the search space is used up" not in end()[1]
    study.opened.study.set_user_attr(NO_RECIPE_LEFT_KEY, 1)  # when another worker had been there
    study.file = replace(study.file, stop_rules=StopRules())
    assert "the search space is used up" not in end()[1]


def test_the_end_of_a_search_counts_what_waits(end):
    """After a stop the states in the summary add up to the trials."""
    _, lines = end(PLACE.format(0, "complete", 3), PLACE.format(1, "waiting", 4))
    assert "2 trials: 1 complete, 0 pruned, 0 failed, 1 waiting\n" in lines


def test_a_budget_that_is_used_up_without_a_complete_trial_is_a_failure_with_what_to_do(end):
    """The line names the limits where they were too low, and the first trial that failed where one did."""
    code, lines = end(PLACE.format(0, "waiting", 3), limits=Limits(gpu_hours=1))
    assert code.startswith("search: the budget is used up, and no trial is complete; raise the limit in [budget]")
    code, lines = end(PLACE.format(1, "failed", 4), limits=Limits(gpu_hours=1))
    assert "`hpo logs study.toml 4` shows what the first that failed has printed" in code
    assert "hpo logs" not in lines
