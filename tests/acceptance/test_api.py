"""What a notebook or a script calls: a search, and what it has found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

import hpo
from hpo.errors import HpoError
from tests.conftest import STORAGE_VARIABLES
from tests.support.waiting import limit
from trainer.recipe import Recipe

pytestmark = pytest.mark.acceptance

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
source, target, seconds = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
for cell in notebook.cells:  # a smaller budget: three trials are enough for all that the notebook shows
    cell.source = cell.source.replace("trials=6, epochs=6", "trials=3, epochs=2").replace("workers=2", "workers=1")
NotebookClient(notebook, timeout=float(seconds)).execute()
nbformat.write(notebook, target)
"""


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    """The tour as a notebook that was run, and the study file that it has written."""
    folder = tmp_path_factory.mktemp("tour")
    environment = {name: value for name, value in os.environ.items() if name not in STORAGE_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(TOUR), "tour.ipynb", str(limit(300))],
        cwd=folder,
        env=environment,
        start_new_session=True,  # nothing that other tests do to their processes reaches the kernel
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(folder / "tour.ipynb", as_version=4)
    return notebook, folder / "tour" / "study.toml"


@pytest.fixture
def study_file(tour, monkeypatch):
    """The study file of the tour, whose search has ended, with the storage beside it."""
    for name in STORAGE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tour[1]


def test_the_tour_searches_and_shows_what_was_found(tour):
    """The notebook searches, tells how, and shows tables and charts; no cell of it fails."""
    outputs = [output for cell in tour[0].cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "winner: trial " in printed
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 2
    assert any("<table" in output.get("data", {}).get("text/html", "") for output in outputs)


def test_an_open_study_says_how_it_stands(study_file):
    """An open study gives its snapshot, the best recipe, a table of its trials, Optuna's study and charts."""
    with hpo.open_study(study_file) as study:
        status, table, recipe = study.status(), study.trials_dataframe(), study.best_recipe
        best, charts = study.optuna.best_value, [study.plot(), study.plot("curves"), study.plot("field-backbone")]
        with pytest.raises(HpoError, match='there is no chart "pie"; there are: over-time, '):
            study.plot("pie")
    assert status.counts["complete"] + status.counts["paused"] == 3 <= len(table)  # a trial that went on has two rows
    assert status.best.macro_f1 == best == table["value"][table["state"] == "COMPLETE"].max()
    assert isinstance(table, pd.DataFrame)
    assert isinstance(recipe, Recipe)
    assert recipe == status.best.recipe
    assert all(chart.data for chart in charts)


def test_a_search_that_has_ended_returns_at_once(study_file, capsys):
    """`hpo.search` on a used-up budget trains nothing, and returns how the search stands."""
    status = hpo.search(str(study_file), workers=1)
    assert status.finished
    assert status.used.trials == 3
    assert "winner: trial " in capsys.readouterr().out


def test_mistakes_are_exceptions_with_the_message_of_the_command(tmp_path, study_file):
    """A study that has not begun, and a bad number of workers, are a HpoError with one line."""
    other = tmp_path / "study.toml"
    other.write_text(study_file.read_text())
    with (
        pytest.raises(HpoError, match=r"nothing was begun in .*; `hpo search study\.toml` begins it"),
        hpo.open_study(other),
    ):
        pass
    with pytest.raises(HpoError, match="workers = 0 is not positive"):
        hpo.search(study_file, workers=0)


def test_importing_hpo_is_light():
    """`import hpo` loads neither torch nor Optuna, and a name that it does not have is an AttributeError."""
    code = (
        "import sys, hpo; print(hasattr(hpo, 'nothing'), {'torch', 'optuna', 'rich', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False set()\n"
