"""The benchmarks of the search: learning curves are recorded, and searches are replayed on them."""

from __future__ import annotations

import gzip
import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hpo.study.encoding import Encoding
from hpo.study.portfolio import portfolio
from trainer.space import Space, parameters_of, recipe_near_default

pytestmark = pytest.mark.unit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EPOCHS = 10
TIMES = (1, 4, 8)  # full trainings: fewer than those that a benchmark takes minutes for


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """The benchmarks can be imported, as they import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """A folder with two tables of 200 configurations whose loss falls the faster the nearer their rate is to 0.01."""
    folder, rng = tmp_path_factory.mktemp("curves"), np.random.default_rng(0)
    for name in ("one", "two"):
        rates = 10 ** rng.uniform(-5, 0, 200)
        ends = np.abs(np.log10(rates) + 2) / 3
        losses = 1 - np.outer(1 - ends, np.linspace(0, 1, EPOCHS))
        rows = [
            {"hp": {"rate": rate, "other": rng.random()}, "valid_loss": list(each)}
            for rate, each in zip(rates, losses, strict=True)
        ]
        rows[0]["valid_loss"][5:] = [None] * (EPOCHS - 5)
        (folder / f"{name}.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    return folder


@pytest.fixture
def print_replay(monkeypatch, capsys, curves):
    """Prints the table of a benchmark of the search; gives its rows by method, with their means after few trainings."""
    import search_replay

    monkeypatch.setattr(search_replay, "TIMES", TIMES)

    def run(*options, folder=curves):
        monkeypatch.setattr(sys, "argv", ["search_replay.py", str(folder), *map(str, options)])
        search_replay.main()
        rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.split("--- |\n")[-1].splitlines()]
        return {name: [float(cell.split()[0]) for cell in cells] for name, *cells in rows}

    return run


def test_all_methods_find_more_with_time_and_the_products_own_more_than_random(print_replay):
    """Each method's regret falls with the time, also where hpo's own is without a part; that of random falls least."""
    from searches import ABLATIONS, METHODS

    found = print_replay("--workers", 2, "--seeds", 1, "--methods", *METHODS, *ABLATIONS)
    assert found.keys() == METHODS.keys() | ABLATIONS.keys()
    assert all(one >= other for means in found.values() for one, other in pairwise(means))
    assert found["forest+asha"][-1] < 0.1 < found["random"][-1]


def test_what_is_kept_of_a_replay_is_not_replayed_again(print_replay, tmp_path):
    """`--keep` writes a line for each replay, and the next time takes the regrets from there."""
    kept = tmp_path / "kept.jsonl"
    options = ("--workers", 1, "--seeds", 2, "--methods", "random", "--keep", kept)
    first, lines = print_replay(*options), kept.read_text().splitlines()
    assert len(lines) == 4
    kept.write_text("\n".join(json.dumps([json.loads(line)[0], [0.5] * 3]) for line in lines) + "\n")
    assert print_replay(*options) == {"random": [0.5] * 3} != first
    assert len(kept.read_text().splitlines()) == 4
    print_replay(*options, "--mislead")
    assert len(kept.read_text().splitlines()) == 8


def test_a_search_learns_from_that_of_the_next_table(print_replay):
    """A search that learns from one of a sister task finds good ones sooner; one that is misled, later."""
    alone = print_replay("--workers", 1, "--seeds", 1, "--methods", "forest+asha")["forest+asha"]
    (taught,) = print_replay("--workers", 1, "--seeds", 1, "--learn-from", "sister").values()
    (misled,) = print_replay("--workers", 1, "--seeds", 1, "--learn-from", "misleading").values()
    assert taught[1] < alone[1] < misled[1]


def test_a_search_of_recorded_curves_begins_with_the_portfolio_as_the_product_does(tmp_path):
    """hpo's own search tries the default recipe, then the portfolio's; stock Optuna's the default one alone."""
    from curve_table import Table
    from searches import ABLATIONS, METHODS

    space = Space({"backbone": ["test_resnet", "test_vit"], "pretrained": False, "image_size": 32, "epochs": 4})
    known = [parameters_of(recipe, space) for recipe in portfolio(space, trials=None)]
    encoding = Encoding.of(space)
    random = [encoding.params(row) for row in encoding.random(np.random.default_rng(0), 20)]
    recipes = [parameters_of(recipe_near_default({}, space), space), *random, *known]
    rows = [{"hp": hp, "valid_macro_f1": [0.1 * at] * 4, "seconds": [1.0] * 4} for at, hp in enumerate(recipes)]
    path = tmp_path / "own.json.gz"
    path.write_bytes(gzip.compress(json.dumps({"space": space.as_dict(), "rows": rows}).encode()))
    table = Table(path)

    def first(search):
        return [search.next().row for _ in range(1 + len(known))]

    assert len(known) > 1
    assert first(METHODS["forest+asha"](table, 0)) == [0, *range(21, 21 + len(known))]
    for search in (ABLATIONS["forest+asha -portfolio"], METHODS["random"]):
        begun = first(search(table, 0))
        assert begun[0] == 0
        assert begun[1:] != [*range(21, 21 + len(known))]


def test_half_of_the_epochs_go_to_first_ones_and_half_to_the_best(curves):
    """One epoch of each, then the best to the end: at any time both have had as many epochs."""
    from curve_table import Table
    from searches import OneEpochFirst

    table = Table(curves / "one.json.gz")
    search, begun, rest = OneEpochFirst(table, seed=0), {}, {}
    for _ in range(200):
        training = search.next()
        going = True
        while going:
            training.best = max(training.best, table.scores[training.row, training.epoch])
            training.epoch += 1
            going = search.goes_on(training)
        if training.epoch == table.first:
            begun[training.number] = training.best
        else:
            waiting = {number: best for number, best in begun.items() if number not in rest}
            assert training.number == max(waiting, key=lambda number: (waiting[number], -number))
            rest[training.number] = table.epochs - table.first
    assert math.isclose(sum(rest.values()), table.first * len(begun), abs_tol=table.epochs)


class PausingScheduler:
    """As a scheduler of Syne Tune: it always proposes the same, pauses after three epochs, and resumes."""

    def __init__(self):
        self.searcher = SimpleNamespace(get_config=lambda **_: {"rate": 0.5, "other": 0.5})
        self.configs, self.reports, self.paused = [], [], []

    def suggest(self, trial_id):
        """What a worker is to do: the same proposal, or the last that paused once there are two."""
        if len(self.paused) > 1:
            return SimpleNamespace(spawn_new_trial_id=False, checkpoint_trial_id=self.paused.pop(), config=None)
        config = self.searcher.get_config(trial_id=str(trial_id))
        return SimpleNamespace(spawn_new_trial_id=True, checkpoint_trial_id=None, config=config)

    def on_trial_add(self, trial):
        """Begin."""
        assert trial.trial_id == len(self.configs)
        self.configs.append(trial.config)
        self.reports.append([])

    def on_trial_result(self, trial, result):
        """Pause after three epochs, stop at the end."""
        self.reports[trial.trial_id].append((result["epoch"], result["score"]))
        return {3: "PAUSE", EPOCHS: "STOP"}.get(result["epoch"], "CONTINUE")

    def on_trial_remove(self, trial):
        """It runs no more."""
        if len(self.reports[trial.trial_id]) < EPOCHS:
            self.paused.append(trial.trial_id)


def test_a_scheduler_of_syne_tune_is_told_what_was_trained_in_place_of_its_proposal(monkeypatch, curves):
    """Syne Tune hears which untried configuration was nearest, and its scores; what it resumes is not trained anew."""
    import search_replay
    from curve_table import Table
    from syne_tune_searches import SyneTune

    monkeypatch.setattr(search_replay, "TIMES", TIMES)
    table, scheduler = Table(curves / "one.json.gz"), PausingScheduler()
    search_replay.replay(table, SyneTune(table, scheduler), workers=2)
    tried, paused = [], 0
    for config, reports in zip(scheduler.configs, scheduler.reports, strict=True):
        row = table.nearest(np.array([0.5, 0.5]), tried)
        tried.append(row)
        assert [config["rate"], config["other"]] == table.coordinates(row).tolist()
        assert reports == [(epoch + 1, table.scores[row, epoch]) for epoch in range(len(reports))]
        paused += len(reports) == 3
    assert len(tried) > 8
    assert paused <= 3


def test_recorded_curves_are_a_table_that_can_be_searched(monkeypatch, write_colours, tmp_path):
    """record_curves.py trains recipes, goes on where it has stopped, and what it records is a table to search."""
    from curve_table import Table
    from record_curves import main

    folder, path = write_colours({"red": 30, "green": 30}), tmp_path / "colours.json.gz"
    for recipes in (1, 3):
        options = ["--recipes", recipes, "--images", 20, "--image-size", 16, 32, "--epochs", 2]
        options += ["--backbones", "test_resnet", "test_vit"]
        monkeypatch.setattr(sys, "argv", ["record_curves.py", str(path), str(folder), *map(str, options)])
        main()
        rows = json.loads(gzip.decompress(path.read_bytes()))["rows"]
        assert len(rows) == recipes + 4  # of the portfolio, two a backbone
    table = Table(path)
    assert table.default == rows[0]["hp"]
    assert table.full == pytest.approx(sum(rows[0]["seconds"]))
    assert table.seconds.min() > 0
    assert table.ends.tolist() == [max(row["valid_macro_f1"]) for row in rows]
    assert [table.nearest(table.coordinates(row)) for row in range(7)] == list(range(7))
    assert [table.nearest(recipe) for recipe in table.portfolio()] == [1, 2, 3, 4]
