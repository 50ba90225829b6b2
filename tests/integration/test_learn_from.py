"""A study that learns from earlier ones of its storage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState, create_trial

import hpo.study.earlier
from hpo.errors import HpoError
from hpo.study.deletion import delete_study
from hpo.study.earlier import TRIED_FIRST, earlier_studies
from hpo.study.encoding import Encoding
from hpo.study.forest_sampler import TrialForest
from hpo.study.open_study import create_study, load_study
from hpo.study.status import take_snapshot
from hpo.worker.runs import Runs
from storage.keys import BEST_EPOCH_KEY, DEFAULT_KEY, QUEUED_KEY
from storage.optuna_internals import fixed_parameters
from trainer.space import Space

pytestmark = pytest.mark.integration

SEARCHED = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "loss": ["cross_entropy", "label_smoothing", "own"],
    "label_smoothing": 0.1,
    "mixing": "none",
    "dropout": 0.0,
}


def score_of(params):
    """The higher the learning rate the better."""
    return params["learning_rate"]


class Earlier:
    """An earlier study with results, and later ones that learn from it."""

    def __init__(self, study, name, results):
        self.first, self.opened = study, []
        self.add_study(name, results)

    def add_study(self, name, results, test_fold=None):
        """One more earlier study, or that of an outer fold of `hpo nested`."""
        data = replace(self.first.file.data, test_fold=test_fold)
        file = replace(self.first.file, name=name, learn_from=(), data=data)
        create_study(file, self.first.url, self.first.data)
        study, encoding = self.open(file).study, Encoding.of(file.space)
        points = encoding.random(np.random.default_rng(1), results)
        distributions = encoding.distributions()
        study.add_trials(
            [
                create_trial(
                    state=TrialState.COMPLETE if number % 2 else TrialState.PRUNED,
                    value=score_of(params),
                    params=params,
                    distributions={name: distributions[name] for name in params},
                    intermediate_values={1: score_of(params) / 2, 2: score_of(params)},
                    user_attrs={BEST_EPOCH_KEY: 2},
                )
                for number, params in enumerate(map(encoding.params, points))
            ]
        )

    def open(self, file):
        """A study, until the end of the test."""
        self.opened.append(load_study(file, self.first.url))
        return self.opened[-1]

    def file(self, learn_from=("earlier",), **recipe):
        """The study file of a later one, whose recipe differs so."""
        space = Space({**self.first.file.space.as_dict(), **recipe}, self.first.file.space.extensions)
        limits = replace(self.first.file.limits, trials=100)
        search = {"sampler": "tpe", "unnamed": frozenset()}
        return replace(self.first.file, name="later", learn_from=learn_from, space=space, limits=limits, **search)

    def begin(self, file):
        """Make the later study; returns the lines that say what it learns."""
        return create_study(file, self.first.url, self.first.data)


@pytest.fixture
def earlier(harness):
    """A study of 40 results, every second one of a training to its end."""
    made = Earlier(harness(recipe=SEARCHED, name="first"), "earlier", 40)
    yield made
    for opened in made.opened:
        opened.storage.engine.dispose()


def queued(study):
    """Parameters and sender of what was queued by earlier studies."""
    return [
        (fixed_parameters(each), each.user_attrs[QUEUED_KEY]) for each in study.trials if QUEUED_KEY in each.user_attrs
    ]


def test_the_best_recipes_of_an_earlier_study_are_tried_after_the_default_one(earlier):
    """The best that were trained to their end are queued once, in order, and say where they come from."""
    old = earlier.opened[0].study.trials
    best = sorted((each for each in old if each.state is TrialState.COMPLETE), key=lambda each: -each.value)
    file = earlier.file()
    lines = earlier.begin(file)
    numbers = [each.number for each in best[:TRIED_FIRST]]
    trials = ", ".join(map(str, numbers))
    told = f'from the earlier study "earlier": 40 of 40 recipes fit, tried first: those of its trials {trials}'
    assert lines == [told, 'sampler = "tpe" takes no more from them; "forest" learns from all that fit']
    later = earlier.open(file)
    assert DEFAULT_KEY in later.study.trials[0].user_attrs
    found = queued(later.study)
    assert [params for params, _ in found] == [each.params for each in best[:TRIED_FIRST]]
    assert found[0][1] == f'[study] learn_from, after trial {numbers[0]} of "earlier" ({best[0].value:.4f})'
    assert earlier.begin(file) == []
    assert len(later.study.get_trials()) == 1 + TRIED_FIRST
    assert take_snapshot(later).earlier == [told]


def test_a_recipe_is_moved_to_the_nearest_that_the_space_allows(earlier):
    """Numbers are moved into the space, fixed fields keep its value, and names that it does not list are said."""
    file = earlier.file(
        learning_rate=[1e-3, 1e-2],
        loss=["cross_entropy", "label_smoothing"],
        dropout=[0.0, 0.2],
        image_size=16,
        epochs=5,
    )
    [line, _] = earlier.begin(file)
    old = earlier.opened[0].study.trials
    others = sum(each.params["loss"] == "own" for each in old[1:])
    assert f'"earlier": {40 - others} of 40 recipes fit (not in the search space: loss of {others})' in line
    later = earlier.open(file)
    found = [params for params, _ in queued(later.study)]
    assert len(found) == TRIED_FIRST
    assert {params["learning_rate"] for params in found} <= {1e-3, 1e-2}
    assert {params["dropout"] for params in found} == {0.0}
    assert {params["loss"] for params in found} <= {"cross_entropy", "label_smoothing"}
    [kept] = earlier_studies(file, later.storage, later.study_id)
    assert len(kept.results) == 40 - others


def test_what_was_read_outlives_the_earlier_study(earlier):
    """Workers that come after the earlier study was deleted know the same, and a name that is gone is no mistake."""
    file = replace(earlier.file(), sampler="forest")
    earlier.begin(file)
    later = earlier.open(file)
    before = earlier_studies(file, later.storage, later.study_id)
    delete_study(earlier.opened[0])
    assert earlier.begin(file) == []
    assert earlier_studies(file, later.storage, later.study_id) == before
    taught = Runs(later, later.rows.for_worker("worker")[0], {})._forest
    encoding, rates = TrialForest(file.space).encoding, []
    for forest in (taught, TrialForest(file.space)):
        proposals = [encoding.params(forest.propose(later.study, seed).coordinates) for seed in range(12)]
        rates.append(np.median([params["learning_rate"] for params in proposals]))
    assert rates[0] > 2 * rates[1]


def test_of_many_results_the_best_and_some_of_all_ranks_are_kept(earlier, monkeypatch):
    """What a study keeps of others is bounded, whatever they hold; what it names later is read later."""
    monkeypatch.setattr(hpo.study.earlier, "MOST_RESULTS", 20)
    earlier.add_study("long", 30)
    file = earlier.file(("earlier",))
    earlier.begin(file)
    file = replace(file, learn_from=("earlier", "long"))
    [line, _] = earlier.begin(file)
    assert '"long": 30 of 30 recipes fit, tried first' in line
    later = earlier.open(file)
    short, long = earlier_studies(file, later.storage, later.study_id)
    assert (len(short.results), len(long.results)) == (20, 20)
    ranks = [result.rank for result in long.results]
    assert ranks == sorted(ranks, reverse=True)
    assert (ranks[0], ranks[-1], round(ranks[10], 2)) == (1, 0, 0.66)
    assert earlier_studies(replace(file, learn_from=()), later.storage, later.study_id) == []


def test_all_means_the_studies_that_are_there_when_the_search_begins(earlier):
    """Studies without results or of an outer fold teach nothing, recipes come in turn, one made since is not read."""
    earlier.add_study("fold", 30, test_fold=(1, 2))
    earlier.add_study("second", 30)
    file = earlier.file("all")
    lines = earlier.begin(file)
    assert [line.partition(":")[0] for line in lines[:2]] == [
        'from the earlier study "second"',
        'from the earlier study "earlier"',
    ]
    later = earlier.open(file)
    assert len(queued(later.study)) == TRIED_FIRST
    earlier.add_study("third", 30)
    assert earlier.begin(file) == []


def test_an_earlier_study_without_a_result_is_said(earlier):
    """A study that has no result yet is named each time until it has one, be it by its name or among all."""
    none = "yet; it is read at the next `hpo search` that finds one"
    waits = earlier.file(("first",))
    for _ in range(2):
        assert earlier.begin(waits) == [f'from the earlier study "first": no result {none}']
    delete_study(earlier.opened[0])
    every = replace(earlier.file("all"), name="last")
    assert earlier.begin(every) == [f'learn_from = "all": no other study of this storage has a result {none}']


def test_few_trials_are_not_spent_on_earlier_recipes(earlier):
    """At most a quarter of the budget is given to the recipes of others, and none to one that was tried already."""
    file = earlier.file()
    file = replace(file, limits=replace(file.limits, trials=8))
    earlier.begin(file)
    assert len(queued(earlier.open(file).study)) == 2


def test_an_earlier_study_that_is_not_there_is_one_line_each(earlier):
    """Names that the storage does not hold, or that hpo has not made, are refused before the study is made."""
    optuna_storage = earlier.opened[0].storage
    optuna_storage.create_new_study([1], "foreign")
    with pytest.raises(HpoError) as refused:
        earlier.begin(earlier.file(("earlyer", "foreign")))
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(
        'study.toml: study.learn_from: "earlyer" is not in this storage; did you mean "earlier"?'
    )
    assert lines[1].startswith('study.toml: study.learn_from: "foreign" was not created by hpo')
    assert "later" not in {study.study_name for study in optuna_storage.get_all_studies()}
