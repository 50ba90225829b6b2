"""A study file that changes while its study lives, and studies of any name, as a user meets them."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.test_search import status, write_study

pytestmark = pytest.mark.acceptance


def change(file, *changes):
    """Replace texts of a study file."""
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def test_a_changed_study_file_goes_on_or_is_shown_the_way(tmp_path, photos, hpo, database):
    """What may change in a live study does; what may not is refused, and the command that it shows saves the trials."""
    file = write_study(tmp_path, trials=1, epochs=1)
    storage = {"HPO_STORAGE": database}
    for command in ("init", "worker"):  # a search, without the start of another process
        done = hpo(command, "study.toml", **storage)
        assert done.returncode == 0, done.stderr
    change(
        file,
        ("trials = 1", "trials = 3"),
        ('pruner = "none"', 'pruner = "median"\nsampler = "random"\nseed = 5\nretries = 0\nkeep_weights = 1'),
    )
    done = hpo("search", "study.toml", "--workers", 1, **storage)
    assert done.returncode == 0, done.stderr
    assert "3 trials: 3 complete" in done.stdout
    assert len(list((tmp_path / ".hpo/artifacts").iterdir())) == 1 + 3 * 3  # weights of the best, pictures of all

    change(
        file, ('["test_resnet", "test_efficientnet"]', '["test_resnet", "test_convnext"]'), ("low = 1e-3", "low = 1e-4")
    )
    refused = hpo("search", "study.toml", "--workers", 1, **storage)
    assert refused.returncode == 1
    assert 'recipe.backbone was ["test_resnet", "test_efficientnet"], is now' in refused.stderr
    assert "recipe.learning_rate was " in refused.stderr
    assert refused.stderr.count("\n") == 3  # the way on, and a line a difference
    command = shlex.split(refused.stderr.split("`")[1])
    assert command == ["hpo", "init", "study.toml", "--from=colours"]

    change(file, ('name = "colours"', 'name = "colours anew"'), ("trials = 3", "trials = 1"))
    done = hpo(*command[1:], **storage)
    assert done.returncode == 0, done.stderr
    assert 'of 3 finished trials of "colours" still fit' in done.stdout
    assert "taken over" in done.stdout
    fitting = int(done.stdout.split()[0])
    listed = json.loads(hpo("list", "study.toml", "--json", **storage).stdout)
    assert [study["name"] for study in listed] == ["colours", "colours anew"]
    assert fitting == listed[1]["trials"] >= 1  # the default recipe fits, so that it does not wait again
    done = hpo("worker", "study.toml", **storage)
    assert done.returncode == 0, done.stderr
    now = status(hpo, **storage)
    assert now["budget"]["used"]["trials"] == now["trials"]["complete"] == 1
    logs = hpo("logs", "study.toml", 0, **storage).stdout
    assert logs == 'trial 0 is complete; it ran as trial 0 of "colours", where its log is\n'
    done = hpo("export-best", "study.toml", "-o", "bundle", "--no-retrain", **storage)
    assert done.returncode == 0, done.stderr


def test_studies_of_any_name_are_searched_at_once(tmp_path, photos, hpo, database):
    """Two searches with names of any letters in one database, at once; one is then deleted, the other is whole."""
    names = ["-100 % \U0001f469\u200d\U0001f52c of O'Neill/..", 'say \\"얼굴\\" to $HOME `']
    storage = {"HPO_STORAGE": database}
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        change(write_study(folder, name=name, trials=2, epochs=1), ('"photos"', '"../photos"'))
    with ThreadPoolExecutor() as pool:
        searches = pool.map(lambda number: hpo("search", f"{number}/study.toml", "--workers", 1, **storage), (0, 1))
    for search in searches:
        assert search.returncode == 0, search.stderr
    listed = json.loads(hpo("list", "--json", **storage).stdout)
    shown = [name.replace("\\", "") for name in names]
    assert {study["name"]: study["trials"] for study in listed} == dict.fromkeys(shown, 2)
    done = hpo("delete", "0/study.toml", "--yes", **storage)
    assert (done.returncode, done.stdout) == (0, f'the study "{shown[0]}" is deleted\n'), done.stderr
    assert [study["name"] for study in json.loads(hpo("list", "--json", **storage).stdout)] == shown[1:]
    now = json.loads(hpo("status", "1/study.toml", "--json", **storage).stdout)
    assert (now["study"], now["trials"]["complete"]) == (shown[1], 2)


def test_a_name_that_the_storage_cannot_hold_is_refused(tmp_path, photos, hpo):
    """A name that is too long, or has line breaks, is one line before anything is begun."""
    for name, said in (("x" * 513, "study.name: has 513 characters; the storage takes 512"), ("a\\nb", "line breaks")):
        write_study(tmp_path, name=name)
        done = hpo("init", "study.toml")
        assert done.returncode == 1
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
