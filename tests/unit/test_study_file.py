"""Study files: what they say, and what is said of their mistakes."""

from __future__ import annotations

import pytest

from hpo.errors import StudyFileError
from hpo.study import tracker_names
from hpo.study.confirm_settings import ConfirmSettings
from hpo.study.study_file import read_study_file
from storage.budget import Limits, StopRules
from trainer.objective_metric import MACRO_F1
from trainer.space import DEFAULT_SPACE

pytestmark = pytest.mark.unit


@pytest.fixture
def read(tmp_path):
    """Writes a study file and reads it."""

    def write_and_read(text):
        (tmp_path / "my study.toml").write_text(text, encoding="utf-8")
        return read_study_file(tmp_path / "my study.toml")

    return write_and_read


def test_the_path_of_the_images_is_a_complete_study_file(read, tmp_path):
    """With `[data] path` alone the study has a name, a budget and the default space."""
    file = read('[data]\npath = "../photos"')
    assert file.name == "my study"
    assert file.data.path == tmp_path.parent / "photos"
    assert file.limits == Limits(trials=100)
    assert file.space.as_dict()["loss"] == DEFAULT_SPACE["loss"]
    assert file.storage is None
    assert file.folder == tmp_path / ".hpo"


def test_a_limit_replaces_the_default_budget(read):
    """A study with a budget of GPU hours has no limit of trials."""
    assert read('[data]\npath = "a"\n[budget]\ngpu_hours = 2').limits == Limits(gpu_hours=2)


def test_every_key_arrives_where_it_belongs(read, tmp_path):
    """Every key of a study file is read."""
    (tmp_path / "weights").mkdir()
    file = read(
        """
[study]
name = "얼굴"
storage = "postgresql://me@db/hpo"
sampler = "random"
pruner = "hyperband"
seed = 3
retries = 0
weights = "weights"
artifacts = "../shared files"
keep_weights = 5
learn_from = ["first", "second"]
portfolio = false
hang_minutes = 30
notify = "https://example.org/hook"
[data]
path = "images.csv"
valid = 0.25
test = 0
seed = 4
group = "person"
value_range = [-1, 2.5]
[budget]
trials = 7
hours = 1.5
gpu_hours = 9
target = 0.9
patience = 6
trial_minutes = 2.5
[recipe]
epochs = 5
[confirm]
top = 5
repeats = 6
[[try]]
learning_rate = 3e-3
[[try]]
loss = "focal"
focal_gamma = 1
"""
    )
    assert file.notify == "https://example.org/hook"
    assert "example.org" not in repr(file)
    assert (file.name, file.storage, file.sampler, file.pruner, file.seed, file.retries) == (
        "얼굴",
        "postgresql://me@db/hpo",
        "random",
        "hyperband",
        3,
        0,
    )
    assert file.weights == tmp_path / "weights"
    assert (file.artifacts, file.keep_weights) == (f"{tmp_path}/../shared files", 5)
    assert (file.data.valid, file.data.test, file.data.seed, file.data.group) == (0.25, 0, 4, "person")
    assert file.data.value_range == (-1, 2.5)
    assert file.limits == Limits(trials=7, hours=1.5, gpu_hours=9)
    assert file.hang_minutes == 30
    assert (file.learn_from, file.portfolio) == (("first", "second"), False)
    assert (file.stop_rules, file.trial_minutes) == (StopRules(target=0.9, patience=6), 2.5)
    assert file.confirm == ConfirmSettings(top=5, repeats=6)
    assert file.space.values("epochs") == (5,)
    tried = [(recipe.epochs, recipe.learning_rate, recipe.loss, recipe.focal_gamma) for recipe in file.tries]
    assert tried == [(5, 3e-3, "cross_entropy", 2.0), (5, 1e-3, "focal", 1.0)]


def test_an_empty_table_has_a_search_confirmed(read):
    """[confirm] by itself confirms the best recipes as `hpo confirm` does by default; without it a search does not."""
    data = '[data]\npath = "a"\n'
    assert read(data + "[confirm]").confirm == ConfirmSettings(top=3, repeats=4)
    assert read(data).confirm is None


@pytest.mark.parametrize(
    ("confirm", "complaint"),
    [
        ("[confirm]\ntop = 0", "confirm.top: 0 is outside 1 to 1000"),
        ("[confirm]\ntop = 2.5", "confirm.top: 2.5 is not a whole number"),
        ("[confirm]\nrepeats = 1", "confirm.repeats: 1 is outside 2 to 1000"),
        ("[confirm]\nrepeats = true", "confirm.repeats: true is not a whole number"),
        ("[confirm]\nrepeat = 4", 'confirm.repeat: there is no such key; did you mean "repeats"?'),
        ("[[confirm]]\ntop = 2", "confirm: is not a table; write [confirm] on a line of its own"),
        ("[confrm]", '[confrm]: there is no such table; did you mean "confirm"?'),
        ("[confirm]\n[study]\nname = '" + 505 * "n" + "'", "has 505 characters; beside [confirm], which adds /confirm"),
    ],
)
def test_a_table_that_cannot_confirm_is_one_line(read, confirm, complaint):
    """What is wrong with the table [confirm], or stands in its way, is one line before anything begins."""
    with pytest.raises(StudyFileError) as refused:
        read(f'[data]\npath = "a"\n{confirm}')
    assert complaint in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    "wrong", ["255", "[0]", "[0, 1, 2]", "[1, 0]", "[0, nan]", "[0, inf]", '["0", 1]', "[false, true]", "[0, 1e39]"]
)
def test_a_range_of_values_is_two_numbers(read, wrong):
    """What are not two finite numbers, of which the first is smaller, is no range of values."""
    with pytest.raises(StudyFileError, match=r"data\.value_range: .* is not two numbers, of which"):
        read(f'[data]\npath = "a"\nvalue_range = {wrong}')


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('path = "a"', "[path]: there is no such table"),
        ('data = "a"', "data: is not a table"),
        ('[dta]\npath = "a"', '[dta]: there is no such table; did you mean "data"?'),
        ('[data]\npath = "a"\nvalid = 0.6\ntest = 0.5', "leave nothing to train on"),
        ('[data]\npath = "a"\nvalid = 0', "data.valid: 0 leaves nothing to judge"),
        ('[data]\npath = "a"\ngroup_pattern = "("', "is no regular expression"),
        ('[data]\npath = "a"\ngroup_pattern = "a"', "has 0 groups in ( ); it needs one"),
        ('[data]\npath = "a"\ngroup = "g"\ngroup_pattern = "(a)"', "cannot stand beside group_pattern"),
        (
            '[study]\nnotify = "http://x.org/t"\n[data]\npath = "a"',
            "study.notify: would send to x.org without encryption",
        ),
        ('[study]\nnotify = ["https://x.org"]\n[data]\npath = "a"', "study.notify: is no URL such as"),
        (
            '[study]\ntrack = "mlfow"\n[data]\npath = "a"',
            'study.track: "mlfow" is not a tracker; did you mean "mlflow"?',
        ),
        ('[study]\ntrack = ["tensorboard", 3]\n[data]\npath = "a"', "study.track: 3 is not a tracker; there are"),
        ('[study]\ntrack = 3\n[data]\npath = "a"', "study.track: 3 is neither a tracker nor a list of them"),
        ('[study]\nstorage = "mysql://a/b"\n[data]\npath = "a"', "study.storage: mysql:// is no Postgres"),
        ('[study]\nartifacts = "gs://a"\n[data]\npath = "a"', "study.artifacts: gs:// is not known; write s3://"),
        ('[study]\nkeep_weights = 0\n[data]\npath = "a"', "study.keep_weights: 0 is outside 1 to"),
        ('[study]\nweights = "nowhere"\n[data]\npath = "a"', "study.weights:"),
        ('[study]\nlearn_from = "first"\n[data]\npath = "a"', 'study.learn_from: "first" is no list of names, such as'),
        ('[study]\nlearn_from = ["a", 1]\n[data]\npath = "a"', 'study.learn_from: ["a", 1] is no list of names, such'),
        ('[study]\nlearn_from = ["a", "a"]\n[data]\npath = "a"', 'study.learn_from: "a" is listed more than once'),
        ('[study]\nname = "b"\nlearn_from = ["b"]\n[data]\npath = "a"', 'study.learn_from: "b" is this study itself'),
        ('[study]\nseed = true\n[data]\npath = "a"', "study.seed: true is not a whole number"),
        ("[data]\npath = 3", "data.path: 3 is not a text"),
        (f'[study]\nname = "{"x" * 513}"\n[data]\npath = "a"', "study.name: has 513 characters; the storage takes 512"),
        ('[study]\nname = "a\\u2028b"\n[data]\npath = "a"', "study.name: 'a\\u2028b' holds line breaks"),
        ('[study]\nname = "a\\u0000b"\n[data]\npath = "a"', "study.name: 'a\\x00b' holds line breaks"),
        ('[data]\npath = "a"\n[budget]\ntarget = 98', "budget.target: 98 is outside 1e-06 to 1"),
        ('[data]\npath = "a"\n[budget]\npatience = 0', "budget.patience: 0 is outside 1 to"),
        ('[data]\npath = "a"\n[budget]\ntrial_minutes = 0', "budget.trial_minutes: 0 is outside 0.001 to"),
        ('[data]\npath = "a"\n[try]\nepochs = 3', "try: is no list of tables; write [[try]] on a line"),
        ('[data]\npath = "a"\n[[try]]\n[[try]]\nepochs = 3', "try 2: epochs: 3 is not in the search space"),
        ('[data]\npath = "a"\n[[try]]\nema = 1', "try 1: ema: 1 is not true or false"),
        ('[data]\npath = "a"\n[[try]]\n[[try]]\nema = false', "try 2: is the same recipe as try 1"),
        (
            '[data]\npath = "a"\n[study]\nsampler = "grid"\n[recipe]\nlearning_rate = [1e-3, 1e-4]',
            'study.sampler: "grid" tries every recipe: give [recipe] a list or a value for weight_decay, focal_gamma, ',
        ),
        ('[data]\npath = "a"\n[budget]\ntrials = 1\n[[try]]\n[[try]]\nema = true', "2 recipes are more than [budget]"),
        ('[data]\npath = "a"\n[recipe.loss]\nlow = 1', "recipe.loss: takes a value or a list, no range"),
    ],
)
def test_each_mistake_is_one_line_with_its_key(read, text, complaint):
    """A mistake in a study file is a line that starts with the file's name and has the key."""
    with pytest.raises(StudyFileError) as caught:
        read(text)
    assert any(complaint in line for line in str(caught.value).splitlines()), str(caught.value)
    assert all(line.startswith("my study.toml: ") for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    ("recipe", "complaints"),
    [
        ('backbone = "test_convnet"', ['recipe.backbone: timm has no "test_convnet"; did you mean "test_convnext']),
        ('backbone = "test_vit"\nimage_size = 20', ['recipe.backbone: "test_vit" cannot work with image_size = 20']),
        ('backbone = "test_vit"\nimage_size = 2', ["recipe.image_size: 2 is outside"]),
        ("backbone = 5", ["recipe.backbone: 5 is not a text"]),
        ('backbone = "test_vit"\nimage_size = 32\nloss = "x"', ['recipe.loss: "x" is not known']),
    ],
)
def test_a_wrong_backbone_is_told_beside_other_mistakes(read, recipe, complaints):
    """It is not left to the next attempt; of one that cannot be judged beside the other mistakes nothing is said."""
    with pytest.raises(StudyFileError) as error:
        read(f'[data]\npath = "a"\nvalid = 2\n[recipe]\n{recipe}')
    first, *others = str(error.value).splitlines()
    assert "data.valid: 2 is outside" in first
    assert len(others) == len(complaints)
    assert all(complaint in line for complaint, line in zip(complaints, others, strict=True))


def test_files_of_trials_in_s3(read):
    """A URL of S3 is taken as it is; a folder is relative to the study file."""
    assert read('[study]\nartifacts = "s3://bucket/a"\n[data]\npath = "a"').artifacts == "s3://bucket/a"


def test_a_study_file_that_is_nested_too_deeply_is_named(tmp_path):
    """A study file of lists in lists without end is refused in one line."""
    (tmp_path / "study.toml").write_text(f"[data]\npath = {'[' * 200_000}", encoding="utf-8")
    with pytest.raises(StudyFileError, match=r"study\.toml: is nested too deeply"):
        read_study_file(tmp_path / "study.toml")


@pytest.mark.parametrize("text", ['track = "tensorboard"', 'track = ["tensorboard"]', "tensorboard = true"])
def test_trackers_are_named_one_or_several(read, text):
    """A name or a list of them; `tensorboard = true`, as it was written before, is still read."""
    assert read(f'[study]\n{text}\n[data]\npath = "a"').track == ("tensorboard",)


def test_a_tracker_whose_package_is_missing_says_how_to_install_it(read, monkeypatch):
    """A study file that asks for a tracker is refused where nobody could tell it."""
    monkeypatch.setattr(tracker_names, "find_spec", lambda _: None)
    with pytest.raises(StudyFileError, match=r"mlflow is not installed; `pip install 'hpo-images\[mlflow\]'`"):
        read('[study]\ntrack = "mlflow"\n[data]\npath = "a"')


def test_the_metric_and_the_order_of_classes(read):
    """A study file names a metric, of one class too, and the order of classes where that matters."""

    def metric(text):
        return read(f'[study]\n{text}\n[data]\npath = "a"\n[budget]\ntarget = 0.9').metric

    assert metric('metric = "f1:golden retriever"').of_class == "golden retriever"
    ordered = metric('metric = "quadratic_kappa"\nclass_order = ["none", "mild", "severe"]')
    assert ordered.order == ("none", "mild", "severe")
    assert read('[data]\npath = "a"').metric == MACRO_F1
    assert read('[study]\nmetric = "log_loss"\n[data]\npath = "a"\n[budget]\ntarget = 1.5').stop_rules.target == 1.5


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            'metric = "acuracy"',
            'study.metric: "acuracy" is not known; did you mean "accuracy"?; known: macro_f1, accuracy',
        ),
        ("metric = 3", "study.metric: 3 is not a text"),
        ('class_order = ["a", "b"]', 'study.class_order: metric = "macro_f1" has no use for it; remove it'),
        ('metric = "quadratic_kappa"\nclass_order = ["a", "a"]', "study.class_order: a class is listed more than once"),
        (
            'metric = "quadratic_kappa"\nclass_order = "a"',
            'study.class_order: "a" is no list of classes, such as ["none"',
        ),
    ],
)
def test_what_is_no_metric_is_one_line(read, text, complaint):
    """A metric that is not there, or an order that nothing asks for, is one line."""
    with pytest.raises(StudyFileError) as raised:
        read(f'[study]\n{text}\n[data]\npath = "a"')
    assert str(raised.value).startswith(f"my study.toml: {complaint}")
    assert "\n" not in str(raised.value)
