"""Bad input: one clear line, exit code 1 or 2, and nothing half-made."""

from __future__ import annotations

import os

import pytest

from tests.conftest import paint
from trainer.extensions import Extensions
from trainer.model.backbones import build_model, save_weights
from trainer.recipe import Recipe

pytestmark = pytest.mark.acceptance

GOOD = """
[data]
path = "photos"
[recipe]
backbone = "test_resnet"
pretrained = false
image_size = 32
"""


@pytest.fixture
def refused(hpo, tmp_path):
    """Runs a command that must be refused with one line; returns the line."""

    def run(*arguments, code=1, **variables):
        done = hpo(*arguments, **variables)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert done.stderr.startswith("hpo: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert not list(tmp_path.rglob("*.tmp")), "something half-made is left"
        return done.stderr

    return run


@pytest.fixture
def study(tmp_path):
    """Writes a study file."""

    def write(text=GOOD):
        (tmp_path / "study.toml").write_text(text, encoding="utf-8")
        return "study.toml"

    return write


@pytest.fixture
def bundle(tmp_path):
    """A bundle with an untrained model."""
    recipe = Recipe(backbone="test_resnet", pretrained=False, image_size=32)
    folder = tmp_path / "bundle"
    folder.mkdir()
    recipe.write(folder / "recipe.toml")
    (folder / "bundle.json").write_text('{"classes": ["blue", "red"]}')
    save_weights(build_model(recipe, 2, Extensions(), pretrained=False), folder / "model.safetensors")
    return "bundle"


def test_a_missing_or_empty_data_folder(refused, study, tmp_path):
    """A data folder that is missing, and one that is empty, are named."""
    line = refused("search", study())
    assert str(tmp_path / "photos") in line
    (tmp_path / "photos").mkdir()
    assert str(tmp_path / "photos") in refused("search", "study.toml")
    assert not (tmp_path / ".hpo" / "pixels").exists()


def test_a_class_with_too_few_images(refused, study, photos):
    """A class that cannot be on all sides of the split is named with what it has and needs."""
    paint(photos / "rare" / "1.png", (1, 2, 3), 1)
    line = refused("search", study())
    assert "rare" in line
    assert "1" in line


@pytest.mark.parametrize("content", [b"", b"this is no image", "truncated"])
def test_a_file_that_is_no_image(refused, study, photos, content):
    """A zero-byte, a broken and a truncated image are found before the first trial and named."""
    good = (photos / "red" / "1.png").read_bytes()
    (photos / "red" / "bad one.png").write_bytes(good[: len(good) // 2] if content == "truncated" else content)
    assert "bad one.png" in refused("search", study())


def test_a_csv_with_every_mistake(refused, study, photos, tmp_path):
    """Missing columns, unknown paths and doubles in a CSV are each named."""
    study(GOOD.replace('"photos"', '"images.csv"'))
    (tmp_path / "images.csv").write_text("file,class\na.png,red\n")
    line = refused("search", "study.toml")
    assert "path" in line
    assert "label" in line
    rows = [f"photos/{name}/{number}.png,{name}" for name in ("red", "blue") for number in range(12)]
    (tmp_path / "images.csv").write_text("\n".join(["path,label", *rows, rows[0], "photos/nowhere.png,red"]) + "\n")
    line = refused("search", "study.toml")
    assert "photos/nowhere.png" in line
    assert "photos/red/0.png" in line


def test_ten_mistakes_in_a_study_file_are_all_shown(hpo, study):
    """A study file with ten mistakes shows each with its key and the nearest name that exists."""
    done = hpo(
        "search",
        study(
            """
[study]
prunner = "median"
sampler = "tpee"
[data]
valid = 1.5
[budget]
trials = 0
hours = "two"
[recipe]
loss = ["cross_entropy", "focl"]
schedule = "cosin"
learning_rate = { low = 0.1, high = 0.01 }
weight_decay = { low = 0, high = 0.1, log = true }
epochs = 2.5
augmnt = "light"
backbone = ["test_resnet", "test_convnet"]
"""
        ),
    )
    assert done.returncode == 1
    for line in (
        'study.prunner: there is no such key; did you mean "pruner"?',
        'study.sampler: "tpee" is not known; did you mean "tpe"?',
        "data.path: is missing",
        "data.valid: 1.5 is outside 0 to 0.99",
        "budget.trials: 0 is outside 1 to",
        'budget.hours: "two" is not a number',
        'recipe.loss: "focl" is not known; did you mean "focal"?',
        'recipe.schedule: "cosin" is not known; did you mean "cosine"?',
        "recipe.learning_rate: low = 0.1 is above high = 0.01",
        "recipe.weight_decay: a logarithmic range starts above 0",
        "recipe.epochs: 2.5 is not a whole number",
        'recipe.augmnt: there is no such key; did you mean "augment"?',
        'recipe.backbone: timm has no "test_convnet"; did you mean "test_convnext',
    ):
        assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 13


def test_a_study_file_that_is_missing_or_no_toml(refused, study):
    """A study file that is not there, or is no TOML, is named with the place of the mistake."""
    assert "nowhere.toml: there is no such file" in refused("search", "nowhere.toml")
    assert "line 2" in refused("search", study("[data]\npath = photos\n"))


def test_a_backbone_that_timm_does_not_know(refused, study, photos):
    """An unknown backbone, and one that cannot work with the image size, are refused before the first trial."""
    text = GOOD.replace('"test_resnet"', '["test_resnt", "test_vit"]').replace("= 32", "= 20")
    line = refused("search", study(text))
    assert 'timm has no "test_resnt"; did you mean "test_resnet' in line
    assert '"test_vit" cannot work with image_size = 20' in line


def test_weights_that_cannot_be_loaded(refused, study, photos, tmp_path):
    """Weights that are no weights are refused before the first trial."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "test_resnet.safetensors").write_bytes(b"nothing")
    text = '[study]\nweights = "weights"\n' + GOOD.replace("pretrained = false", "pretrained = true")
    assert "test_resnet.safetensors cannot be loaded into test_resnet" in refused("search", study(text))


def test_weights_that_cannot_be_fetched(refused, study, photos):
    """Where the hub cannot be reached, the first trial does not start, and the line names three ways on."""
    line = refused(
        "search", study(GOOD.replace("pretrained = false", "")), HF_ENDPOINT="http://localhost:1", HF_HOME="hf"
    )
    assert "the pretrained weights of test_resnet cannot be fetched from the hub" in line
    assert "put test_resnet.safetensors into a folder and name it in [study] weights, or set pretrained = false" in line


def test_a_database_that_cannot_be_used(refused, study, photos, database):
    """An unreachable database, a wrong password and missing tables are one line without the password."""
    study()
    line = refused("search", "study.toml", HPO_STORAGE="postgresql://hpo:s3cret@localhost:1/hpo")
    assert "localhost:1/hpo cannot be used" in line
    assert "s3cret" not in line
    wrong = database.replace(database.split(":")[2].split("@")[0], "wrong-s3cret")
    line = refused("search", "study.toml", HPO_STORAGE=wrong)
    assert "password authentication failed" in line
    assert "wrong-s3cret" not in line
    for command in ("worker", "status", "export-best"):
        more = ("-o", "bundle") if command == "export-best" else ()
        assert "is not initialised; run `hpo init" in refused(command, "study.toml", *more, HPO_STORAGE=database)


def test_a_study_that_does_not_exist_or_has_no_winner(refused, hpo, study, photos, database):
    """A study that is not there, and one without a complete trial, say what to do."""
    study("[study]\nname = 'other'\n" + GOOD)
    assert hpo("init", "study.toml", HPO_STORAGE=database).returncode == 0
    line = refused("export-best", "study.toml", "-o", "bundle", HPO_STORAGE=database)
    assert "no trial is complete yet" in line
    assert "has no trial 7" in refused("logs", "study.toml", 7, HPO_STORAGE=database)
    study()
    assert '"study" is not in this storage' in refused("status", "study.toml", HPO_STORAGE=database)


def test_a_password_on_the_command_line(refused, study):
    """A password in --storage is wrong usage, and is not repeated."""
    for url in ("postgresql://hpo:s3cret@localhost/hpo", "postgresql://hpo@localhost/hpo?password=s3cret"):
        line = refused("status", study(), "--storage", url, code=2)
        assert "HPO_STORAGE" in line
        assert "s3cret" not in line


def test_looking_at_what_was_never_begun(refused, study, tmp_path):
    """Commands that only look make no database where there is none."""
    study()
    for command, *more in (("status",), ("logs", 0), ("list",), ("delete",)):
        assert "nothing was begun" in refused(command, "study.toml", *more)
    assert not (tmp_path / ".hpo").exists()


def test_a_manifest_with_holes(refused, tmp_path, bundle):
    """A CSV to predict with a row without a path, and an output that is a folder, are named."""
    (tmp_path / "list.csv").write_text("label,path\nred\n")
    assert "a path for each image" in refused("predict", bundle, "list.csv", "-o", "out.csv")
    (tmp_path / "list.csv").write_text("path\nnowhere.png\n")
    assert "nowhere.png" in refused("predict", bundle, "list.csv", "-o", "out.csv")
    for output in (".", "list.csv/out.csv"):
        assert "predict: " in refused("predict", bundle, "list.csv", "-o", output)
    assert not (tmp_path / "out.csv").exists()


def test_a_storage_file_that_is_missing(refused, study):
    """HPO_STORAGE_FILE that names no file is named."""
    assert "HPO_STORAGE_FILE = nowhere" in refused("status", study(), HPO_STORAGE_FILE="nowhere")


def test_a_folder_that_cannot_hold_the_database(refused, study, photos, tmp_path):
    """Where the embedded Postgres cannot lie, the line says what else there is."""
    study()
    (tmp_path / ".hpo").write_text("a file in its place")
    line = refused("init", "study.toml")
    assert "HPO_STORAGE" in line


def test_predicting_with_and_on_what_is_not_there(refused, tmp_path):
    """`hpo predict` names a bundle that is none."""
    assert "is no bundle" in refused("predict", "nowhere", "*.png", "-o", "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_wrong_usage_exits_with_2(hpo):
    """An unknown command and a missing argument exit with 2 and show the usage."""
    for arguments in (("serch", "study.toml"), ("search",), ("search", "study.toml", "--workers", "0")):
        done = hpo(*arguments)
        assert done.returncode == 2
        assert "usage: hpo" in done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk(hpo, refused, study, photos, tmp_path, database):
    """On a full disk the pixels are refused with what is needed, and nothing is left of them."""
    import subprocess

    (tmp_path / ".hpo").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k,mode=700", "tmpfs", tmp_path / ".hpo"]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        line = refused("search", study(), HPO_STORAGE=database)
        assert "needs" in line
        assert [file for file in (tmp_path / ".hpo").rglob("*.npy*") if not file.name.endswith(".lock")] == []
    finally:
        subprocess.run(["umount", tmp_path / ".hpo"], check=True)
