"""`hpo check` as a user runs it."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.conftest import paint
from tests.unit.test_near_duplicates import compressed, picture
from trainer.data import load_data

pytestmark = pytest.mark.acceptance

STUDY = """
[study]
pruner = "none"
[data]
path = "{path}"
[budget]
trials = 2
[recipe]
backbone = {backbone}
pretrained = false
image_size = 32
batch_size = 8
"""
QUICK = """
epochs = 12
learning_rate = 3e-3
optimizer = "adamw"
schedule = "constant"
loss = "cross_entropy"
class_weights = "none"
augment = "none"
ema = false
"""


def write_study(folder, *, path="photos", backbone='["test_resnet"]', more=""):
    """Write a study file."""
    (folder / "study.toml").write_text(STUDY.format(path=path, backbone=backbone) + more)


def findings(done):
    """The findings by check; those of one check in a list."""
    found = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_a_sound_study_passes_and_nothing_is_written(hpo, tmp_path, photos):
    """Sound data pass with exit code 0, in a table and as JSON, and nothing is left beside the study file."""
    write_study(tmp_path)
    done = hpo("check", "study.toml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ok       broken files" in done.stdout
    assert "warning  tiny classes" in done.stdout
    assert "error " not in done.stdout
    as_json = hpo("check", "study.toml", "--json")
    assert as_json.returncode == 0
    report = json.loads(as_json.stdout)
    assert (report["study"], report["errors"]) == ("study", 0)
    assert report["warnings"] == sum(finding["level"] == "warning" for finding in report["findings"])
    assert {path.name for path in tmp_path.iterdir()} == {"study.toml", "photos"}


@pytest.fixture
def unsound(hpo, tmp_path, photos):
    """A function that checks a study with broken files, copies, unknown backbones and an unreachable storage."""
    (photos / "red" / "bad.png").write_bytes(b"nothing")
    (photos / "red" / "copy.png").write_bytes((photos / "red" / "1.png").read_bytes())
    (photos / "blue" / "copy.png").write_bytes((photos / "red" / "1.png").read_bytes())
    (photos / "red" / "notes.txt").touch()
    write_study(tmp_path, backbone='["test_resnt", "test_resnet", "test_vit_"]')
    url = "postgresql://hpo:s3cret@localhost:1/hpo"
    return lambda *more: hpo("check", "study.toml", *more, HPO_STORAGE=url)


def test_all_problems_are_shown_at_once(unsound):
    """All problems are found in one run, which exits with 1 and says what to do."""
    done = unsound()
    assert done.returncode == 1
    assert done.stderr == "hpo: check: 3 of the checks failed; the lines marked `error` say why and what to do\n"
    assert "'red/bad.png': it is no image" in done.stdout
    assert 'did you mean "test_resnet' in done.stdout


def test_all_problems_are_there_as_json(unsound, tmp_path):
    """The same problems are there as JSON, each with its cases, and no password; nothing is written."""
    done = unsound("--json")
    assert done.returncode == 1
    assert "s3cret" not in done.stdout
    found = findings(done)
    assert {check for check, [one, *_] in found.items() if one["level"] == "error"} == {
        "broken files",
        "backbones",
        "storage",
    }
    assert len(found["backbones"][0]["cases"]) == 2
    assert found["exact copies"][0]["message"].startswith("2 images are exact copies of others (3 images in 1 set)")
    assert found["labels of copies"][0]["cases"][0]["note"] == "'blue' and 'red'"
    assert found["other files"][0]["cases"][0]["paths"] == ["red/notes.txt"]
    assert "localhost:1/hpo cannot be used" in found["storage"][0]["message"]
    assert not (tmp_path / ".hpo").exists()


def test_data_that_cannot_be_split_are_looked_at_all_the_same(hpo, tmp_path, photos):
    """A class that is too small is an error, and the broken files are found beside it; so are files in no folder."""
    paint(photos / "rare" / "1.png", (1, 2, 3), 1)
    (photos / "red" / "bad.png").write_bytes(b"nothing")
    write_study(tmp_path)
    found = findings(hpo("check", "study.toml", "--json"))
    assert "'rare' has 1" in found["data"][0]["message"]
    assert found["broken files"][0]["level"] == "error"
    assert "leaks" not in found
    write_study(tmp_path, path="nowhere")
    done = hpo("check", "study.toml", "--json")
    assert done.returncode == 1
    assert "nowhere' does not exist" in findings(done)["data"][0]["message"]
    assert findings(done)["backbones"][0]["level"] == "ok"
    assert "not written" in hpo("check", "study.toml", "--groups", "list.csv").stderr
    assert not (tmp_path / "list.csv").exists()


def test_leaks_are_an_error_and_the_list_of_groups_ends_them(hpo, tmp_path):
    """Near copies on two sides of the split are an error; with the list that `--groups` writes there are none."""
    for label, first in (("한글, a", 0), ("b", 1000)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            original = picture(first + number, 64)
            original.save(tmp_path / "photos" / label / f"{number}.png")
            compressed(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 60).save(
                tmp_path / "photos" / label / f"{number} mirrored.jpg"
            )
    write_study(tmp_path)
    done = hpo("check", "study.toml", "--json")
    assert done.returncode == 1
    [leak] = findings(done)["leaks"]
    assert leak["level"] == "error"
    assert all(len(case["paths"]) == 2 and "to " in case["note"] for case in leak["cases"])
    assert "`hpo check study.toml --groups FILE.csv`" in leak["remedy"]
    done = hpo("check", "study.toml", "--groups", "list.csv")
    assert done.returncode == 1
    assert "error    leaks" in done.stdout
    write_study(tmp_path, path="list.csv")
    done = hpo("check", "study.toml", "--json")
    assert done.returncode == 0, done.stderr
    assert findings(done)["leaks"][0]["level"] == "ok"
    assert len(findings(done)["near copies"][0]["cases"]) == 24
    again = hpo("check", "study.toml", "--groups", "list.csv")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "check: list.csv exists already; remove it or choose another name" in again.stderr


def test_the_study_and_doubtful_labels_are_seen_after_a_search(hpo, tmp_path, photos, database):
    """The study is looked for in the storage; after a search its models find the wrong label that was planted."""
    (photos / "green" / "copy.png").write_bytes((photos / "green" / "1.png").read_bytes())
    data = load_data(photos)
    names = [data.index.paths[image] for image in data.split.valid]
    planted = next(name for name in names if name.startswith("red"))
    paint(photos / planted, (30, 30, 230), 77)  # more blue than the blue ones, of which a half is surer than the mean
    write_study(tmp_path, more=QUICK)

    def check():
        return hpo("check", "study.toml", "--json", HPO_STORAGE=database)

    assert findings(check())["study"][0]["message"] == "not begun: the storage has no tables yet"
    done = hpo("search", "study.toml", "--workers", 1, HPO_STORAGE=database)
    assert done.returncode == 0, done.stderr
    assert "1 image is an exact copy of another one; copies stay on one side of the split" in done.stdout
    done = check()
    assert done.returncode == 0, done.stderr
    found = findings(done)
    assert found["storage"][0]["message"].startswith("postgresql://")
    assert found["study"][0]["message"] == '"study" was begun with these settings; 2 trials'
    [labels] = found["wrong labels"]
    assert labels["level"] == "warning"
    assert f"of the {len(names)} images to validate, by the 2 best models" in labels["message"]
    assert labels["cases"][0]["paths"] == [planted]
    assert "looks like 'blue'" in labels["cases"][0]["note"]
    write_study(tmp_path, backbone='["test_efficientnet"]', more=QUICK)
    done = check()
    assert done.returncode == 1
    assert "was begun with other settings" in findings(done)["study"][0]["message"]


def test_an_embedded_storage_is_looked_at_without_leaving_it_running(hpo, tmp_path, photos):
    """Where a private Postgres is there, it is asked; a study that is not in it is said to be not begun."""
    write_study(tmp_path)
    assert hpo("init", "study.toml").returncode == 0
    found = findings(hpo("check", "study.toml", "--json"))
    assert found["study"][0]["message"] == '"study" was begun with these settings; 0 trials'
    assert "not looked for" in found["wrong labels"][0]["message"]
    (tmp_path / "study.toml").write_text(
        STUDY.format(path="photos", backbone='["test_resnet"]').replace("[study]", '[study]\nname = "other"')
    )
    found = findings(hpo("check", "study.toml", "--json"))
    assert found["study"][0]["message"] == 'not begun: the storage has no study "other"'
