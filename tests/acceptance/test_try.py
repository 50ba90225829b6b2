"""`hpo try` as a user runs it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.acceptance

STUDY = """
[data]
path = "photos"
[budget]
trials = 3
[recipe]
backbone = "test_resnet"
pretrained = false
image_size = 32
epochs = 1
batch_size = 8
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}
{more}
"""


def test_own_recipes_are_tried_first(hpo, tmp_path, photos, database):
    """Recipes of the study file and of `hpo try` are trained first, count in the budget, and say who queued them."""
    study, mine, wrong = tmp_path / "study.toml", tmp_path / "mine.toml", tmp_path / "wrong.toml"
    study.write_text(STUDY.format(more="[[try]]\nlearning_rate = 0.002\n"))
    mine.write_text("learning_rate = 0.005\noptimizer = 'adamw'\n")
    wrong.write_text("learning_rate = 1\nepoch = 3\n")

    def run(*words):
        done = hpo(*words, HPO_STORAGE=database)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert run("init", "study.toml")[1].startswith("recipes of the study file that are tried first: 1")
    code, lines = run("try", "study.toml", "mine.toml", "wrong.toml")
    assert code == 1
    assert 'hpo: try: wrong.toml: epoch: there is no such key; did you mean "epochs"?' in lines
    code, lines = run("try", "study.toml", "mine.toml")
    assert code == 0, lines
    assert "mine.toml: queued as trial 2: learning_rate = 0.005" in lines
    assert lines.endswith("no worker is at work: `hpo search study.toml` tries what is queued")
    assert (
        "mine.toml: trial 2 has this recipe, and is waiting; it is not queued again"
        in run("try", "study.toml", "mine.toml")[1]
    )
    code, lines = run("search", "study.toml", "--workers", "1")
    assert code == 0, lines
    assert "3 trials: " in lines
    assert "its recipe was queued by hpo try mine.toml" in run("logs", "study.toml", "2")[1]
    assert "its recipe was queued by the study file" in run("logs", "study.toml", "0")[1]
    assert run("try", "study.toml", "mine.toml")[1].endswith("it is not queued again")
    mine.write_text("[recipe]    # as a report shows it\nlearning_rate = 0.006\n")
    assert (
        "the budget is used up: raise [budget], and `hpo search study.toml` tries what is queued"
        in run("try", "study.toml", "mine.toml")[1]
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8"),
        (b"learning_rate = ", "is no TOML"),
        (b"a = " + b"[" * 100_000, "is nested too deeply"),
        (b"[recipes]\nlearning_rate = 0.002", "recipes: there is no such key"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_line(hpo, tmp_path, photos, database, content, complaint):
    """What cannot be read as a recipe is named, and nothing is queued."""
    (tmp_path / "study.toml").write_text(STUDY.format(more=""))
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content)
    done = hpo("try", "study.toml", "mine.toml", HPO_STORAGE=database)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert complaint in done.stderr
