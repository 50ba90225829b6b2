"""What `hpo predict` writes, and the bundles that it reads."""

from __future__ import annotations

import csv
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.bundle.bundle import new_folder, read_bundle
from hpo.bundle.commands import run_predict
from hpo.bundle.ensemble import Ensemble, load_bundle
from hpo.bundle.inputs import Row, find_bundles, find_images
from hpo.bundle.prediction import headings, predict_to_csv
from hpo.cli import parser
from hpo.errors import HpoError
from hpo.hardware import cores
from hpo.version import VERSION
from tests.conftest import paint
from trainer.extensions import Extensions

pytestmark = pytest.mark.unit

CLASSES = ("blue", "green", "red")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    """A failure while a bundle is written leaves nothing; success leaves it with the user's usual permissions."""

    def fail():
        with new_folder(tmp_path / "bundle") as temporary:
            (temporary / "file").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "bundle") as temporary:
        (temporary / "file").write_text("whole")
        assert not (tmp_path / "bundle").exists()
    assert (tmp_path / "bundle" / "file").read_text() == "whole"
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "bundle").stat().st_mode & 0o777 == 0o777 & ~mask
    with pytest.raises(HpoError, match="exists already"), new_folder(tmp_path / "bundle"):
        pass


def test_a_folder_is_made_without_lifting_the_umask(tmp_path, monkeypatch):
    """The umask of the process, which its other threads see, is not touched while a bundle is written."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail(f"the umask was set to {mask}"))
    with new_folder(tmp_path / "bundle") as temporary:
        (temporary / "file").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_unknown_interpolation_is_named(make_bundle):
    """A bundle that asks for a way of resizing that does not exist is refused by its name."""
    with pytest.raises(HpoError, match='there is no interpolation "cubist"'):
        read_bundle(Path(make_bundle("one", interpolation="cubist")))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"classes": ["red", "red"]}, "it has no classes, or one of them twice"),
        ({"classes": [1, 2]}, "its classes are no list of names"),
        ({"metric": "super_f1"}, '"super_f1" is not known'),
        ({"origin": 3}, "its origin is no table"),
        ({"test_uses": "2"}, "its test_uses is no number"),
    ],
)
def test_what_hpo_does_not_write_into_a_bundle_is_named(make_bundle, changes, problem):
    """A bundle.json with something odd in it is refused in one line, before its model is loaded."""
    folder = Path(make_bundle("one"))
    (folder / "bundle.json").write_text(json.dumps({"classes": CLASSES, "preprocessing": {}, **changes}))
    with pytest.raises(HpoError, match=f"^bundle: .*one is no bundle .*{problem}"):
        read_bundle(folder)


def test_a_bundle_of_a_newer_hpo_says_so(make_bundle):
    """Where a bundle has what this hpo does not know, and a newer one wrote it, the line names both versions."""
    folder = Path(make_bundle("one"))
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(f"{recipe}rotation = 3\n")
    with pytest.raises(HpoError, match=r"is no bundle .*rotation: there is no such key"):
        read_bundle(folder)
    written = {"classes": CLASSES, "preprocessing": {}, "versions": {"hpo": "99.10.0"}}
    (folder / "bundle.json").write_text(json.dumps(written))
    with pytest.raises(HpoError, match=f"written by hpo 99.10.0, and hpo {VERSION} cannot read it .*; use hpo 99.10.0"):
        read_bundle(folder)
    (folder / "recipe.toml").write_text(recipe)
    assert read_bundle(folder).classes == CLASSES


@pytest.mark.parametrize("name", ["bundle.json", "recipe.toml", "model.safetensors"])
def test_half_a_bundle_is_named(make_bundle, name):
    """Where a file of a bundle is missing, the line names it and says what to do."""
    folder = Path(make_bundle("one"))
    (folder / name).unlink()
    with pytest.raises(HpoError, match=f"one.*{name}.*; (name a folder that|copy the bundle again)"):
        load_bundle(folder)


def _read(file):
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return [row["predicted"] for row in rows], np.array([[float(row[name]) for name in CLASSES] for row in rows])


@pytest.mark.usefixtures("one_thread")
def test_bundles_vote(make_bundle, photos, tmp_path):
    """The CSV of several bundles has the mean of what each alone gives, or the shares of their votes."""
    names = [make_bundle(f"b{seed}", seed=seed, size=24 + 8 * seed, interpolation="bilinear") for seed in range(3)]
    images, output = find_images([str(photos)], CLASSES), tmp_path / "out.csv"
    bundles, _ = find_bundles([*names, str(photos)])
    alone = []
    for bundle in bundles:
        predict_to_csv(Ensemble([bundle], Extensions()), images, output)
        alone.append(_read(output)[1])
    metrics = predict_to_csv(Ensemble(bundles, Extensions()), images, output)
    predicted, probabilities = _read(output)
    np.testing.assert_allclose(probabilities, np.mean(alone, axis=0), atol=2e-6)
    assert metrics["accuracy"] == np.mean(
        [a == b for a, b in zip(predicted, [row.true for row in images], strict=True)]
    )
    predict_to_csv(Ensemble(bundles, Extensions(), voting="hard"), images, output)
    votes = np.eye(3)[np.argmax(alone, axis=2)].mean(axis=0)
    np.testing.assert_allclose(_read(output)[1], votes, atol=1e-6)
    predict_to_csv(Ensemble(bundles, Extensions(), tta="crops"), images, output, batch_size=5)
    assert abs(_read(output)[1] - probabilities).max() > 1e-4


@pytest.mark.usefixtures("one_thread")
def test_a_bundle_decides_by_its_temperature_and_offsets(make_bundle, photos, tmp_path):
    """The CSV has the probabilities at the bundle's temperature, and the class that its offsets lead to."""
    folder, images = make_bundle("plain"), find_images([str(photos)], CLASSES)
    info = json.loads((Path(folder) / "bundle.json").read_text())
    found = []
    for favoured in (None, "blue", "red"):
        told = {"calibration": {"temperature": 0.02, "used": True}} if favoured else {}
        told |= (
            {"thresholds": {"offsets": dict.fromkeys(CLASSES, 0) | {favoured: 450}, "used": True}} if favoured else {}
        )
        (Path(folder) / "bundle.json").write_text(json.dumps(info | told))
        bundles, _ = find_bundles([folder, str(photos)])
        predict_to_csv(Ensemble(bundles, Extensions()), images, tmp_path / "out.csv")
        found.append(_read(tmp_path / "out.csv"))
    (_, plain), *others = found
    sharp = plain ** (1 / 0.02)
    for (predicted, probabilities), favoured in zip(others, ("blue", "red"), strict=True):
        np.testing.assert_allclose(probabilities, sharp / sharp.sum(axis=1, keepdims=True), atol=2e-3)
        assert set(predicted) == {favoured}
    (Path(folder) / "bundle.json").write_text(json.dumps(info | {"calibration": {"temperature": 0, "used": True}}))
    with pytest.raises(HpoError, match=r"0\.0 is no temperature"):
        find_bundles([folder, str(photos)])


@pytest.mark.usefixtures("one_thread")
def test_a_bundle_of_several_models_is_their_mean_by_votes(make_bundle, photos, tmp_path):
    """Its probabilities are the mean of its models', each at its own temperature and as often as it has votes."""
    (tmp_path / "all").mkdir()
    for seed in range(2):
        make_bundle(f"all/model-{seed}", seed=seed)
    rows = find_images([str(photos)], CLASSES)
    own = tmp_path / "all/model-1/bundle.json"
    own.write_text(json.dumps(json.loads(own.read_text()) | {"calibration": {"temperature": 0.1, "used": True}}))
    alone = []
    for seed in range(2):
        bundles, _ = find_bundles([str(tmp_path / f"all/model-{seed}"), "photos"])
        predict_to_csv(Ensemble(bundles, Extensions()), rows, tmp_path / "out.csv")
        alone.append(_read(tmp_path / "out.csv")[1])
    members = [{"folder": "model-0", "votes": 1}, {"folder": "model-1", "votes": 3}]
    info = {"classes": CLASSES, "members": members}
    (tmp_path / "all/bundle.json").write_text(json.dumps(info))
    bundles, _ = find_bundles([str(tmp_path / "all"), "photos"])
    predict_to_csv(Ensemble(bundles, Extensions()), rows, tmp_path / "out.csv")
    np.testing.assert_allclose(_read(tmp_path / "out.csv")[1], (alone[0] + 3 * alone[1]) / 4, atol=2e-6)
    for folder in ("../all/model-0", "..", ""):
        members[0]["folder"] = folder
        (tmp_path / "all/bundle.json").write_text(json.dumps(info))
        with pytest.raises(HpoError, match="is no bundle"):
            find_bundles([str(tmp_path / "all"), "photos"])


def test_one_bundle_has_nothing_to_vote_on(make_bundle, photos, tmp_path):
    """Hard voting of one bundle is refused, as it would only hide the probabilities."""
    bundles, _ = find_bundles([make_bundle("alone"), str(photos)])
    with pytest.raises(HpoError, match="hard voting is for several bundles"):
        predict_to_csv(
            Ensemble(bundles, Extensions(), voting="hard"), find_images([str(photos)], CLASSES), tmp_path / "out.csv"
        )
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(("given", "expected"), [((), (cores(), None)), (("--threads", "3"), (3, 3))])
def test_threads_of_predict(make_bundle, photos, tmp_path, monkeypatch, given, expected):
    """--threads bounds what torch and the decoding use; without it torch has all cores that hpo may use."""
    used = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, decoders):
            used.append((torch.get_num_threads(), decoders))
            super().__init__(decoders)

    monkeypatch.setattr("trainer.predict.ThreadPoolExecutor", Pool)
    arguments = ["predict", make_bundle("alone"), str(photos), "-o", str(tmp_path / "out.csv"), *given]
    options = parser().parse_args(arguments)
    options.extensions = None
    assert run_predict(options) == 0
    assert used == [expected]


def test_predictions_are_not_written_through_a_planted_link(make_bundle, photos, tmp_path):
    """A link under the name of the process beside the output, or at the output itself, is not written through."""
    bundles, _ = find_bundles([make_bundle("alone"), str(photos)])
    (tmp_path / "precious").write_text("precious")
    for name in (f".out.csv.{os.getpid()}.tmp", "out.csv"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    predict_to_csv(Ensemble(bundles, Extensions()), find_images([str(photos)], CLASSES), tmp_path / "out.csv")
    assert (tmp_path / "precious").read_text() == "precious"
    assert len(_read(tmp_path / "out.csv")[0]) == 36


@pytest.mark.parametrize(
    ("name", "text"), [("bundle.json", "[" * 200_000), ("recipe.toml", f"a = {'[' * 200_000}")], ids=["json", "toml"]
)
def test_a_bundle_that_is_nested_too_deeply_is_named(make_bundle, name, text):
    """A bundle.json or recipe.toml of lists in lists without end is refused in one line."""
    folder = Path(make_bundle("deep"))
    (folder / name).write_text(text)
    with pytest.raises(HpoError, match=r"is no bundle \(its bundle\.json or recipe\.toml is nested too deeply\)"):
        read_bundle(folder)


def test_classes_and_paths_of_formulas_are_written_as_text(make_bundle, tmp_path, monkeypatch):
    """In predictions.csv no cell begins as a formula, and hpo reads the file back."""
    monkeypatch.chdir(tmp_path)
    classes = ("=cmd|x!A0", "-cat", "-1")
    paint(tmp_path / "@odd/1.png", (1, 2, 3), 0)
    bundles, _ = find_bundles([make_bundle("odd", classes), "@odd"])
    predict_to_csv(Ensemble(bundles, Extensions()), find_images(["@odd"], classes), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["path", "true", "predicted", "confidence", "'=cmd|x!A0", "'-cat", "-1"]
    assert row[0] == "'@odd/1.png"
    assert row[2] in header[4:]
    assert [found.file for found in find_images(["out.csv"], classes)] == [Path("@odd/1.png")]


def _output(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_each_row_of_a_csv_gives_one_row(make_bundle, photos, tmp_path):
    """A CSV's rows come out in its order, all of them, with their paths as they stand there."""
    (tmp_path / "lists").mkdir()
    paths = [
        "../photos/red/1.png",
        "../photos/./blue/2.png",
        "../photos/red/1.png",
        str(photos / "red/1.png"),
        " a b.png ",
    ]
    paint(tmp_path / "lists" / "a b.png", (200, 60, 60), 0)
    listed = "".join(f"{path}\r\n" for path in ("path", *paths))
    (tmp_path / "lists/list.csv").write_text(listed, newline="")
    bundles, inputs = find_bundles([make_bundle("alone"), str(tmp_path / "lists/list.csv")])
    assert predict_to_csv(Ensemble(bundles, Extensions()), find_images(inputs, CLASSES), tmp_path / "out.csv") is None
    assert [row["path"] for row in _output(tmp_path / "out.csv")] == paths
    assert b"\r" not in (tmp_path / "out.csv").read_bytes()


def test_true_classes_and_confidence_stand_in_each_row(make_bundle, photos, tmp_path):
    """`true` is the class where it is known, `confidence` the probability of the predicted class, by each voting."""
    (photos / "list.csv").write_text("path,label\nred/1.png,red\nblue/1.png,\nblue/2.png,zebra\n")
    rows = find_images([str(photos / "list.csv")], CLASSES)
    bundles, _ = find_bundles([*(make_bundle(f"b{seed}", seed=seed) for seed in range(2)), "photos"])
    for voting in ("soft", "hard"):
        predict_to_csv(Ensemble(bundles, Extensions(), voting), rows, tmp_path / "out.csv")
        written = _output(tmp_path / "out.csv")
        assert [row["true"] for row in written] == ["red", "", ""]
        assert all(row["confidence"] == row[row["predicted"]] for row in written)
        assert all(float(row["confidence"]) >= 1 / 3 for row in written)


def test_scores_are_those_of_the_rows_with_a_known_class(make_bundle, photos, tmp_path):
    """Rows without a known class change neither the scores of the others nor their rows."""
    (photos / "known.csv").write_text("path,label\nred/1.png,red\nblue/1.png,blue\n")
    (photos / "more.csv").write_text("path,label\ngreen/3.png,\nred/1.png,red\ngreen/1.png,zebra\nblue/1.png,blue\n")
    bundles, _ = find_bundles([make_bundle("alone"), "photos"])
    found = []
    for name in ("known", "more"):
        rows = find_images([str(photos / f"{name}.csv")], CLASSES)
        found.append(predict_to_csv(Ensemble(bundles, Extensions()), rows, tmp_path / f"{name}.csv"))
    assert found[0] == found[1]
    assert found[0]["images"] == 2
    written = [_output(tmp_path / f"{name}.csv") for name in ("known", "more")]
    assert written[0] == [written[1][1], written[1][3]]


def test_other_columns_come_along_if_asked(make_bundle, photos, tmp_path):
    """--keep-columns has the other columns of all CSVs behind the path, none of them with a heading of our own."""
    (photos / "one.csv").write_text("person, label,path,confidence\n007,red,red/1.png,high\n,blue,blue/1.png,=low\n")
    (photos / "two.csv").write_text("path,camera\nred/2.png, A \n")
    rows = find_images([str(photos / "one.csv"), str(photos / "two.csv")], CLASSES)
    bundles, _ = find_bundles([make_bundle("alone"), "photos"])
    predict_to_csv(Ensemble(bundles, Extensions()), rows, tmp_path / "out.csv", keep_columns=True)
    written = _output(tmp_path / "out.csv")
    kept = ["person", "label", "input confidence", "camera"]
    assert list(written[0]) == ["path", *kept, "true", "predicted", "confidence", *CLASSES]
    assert [[row[name] for name in kept] for row in written] == [
        ["007", "red", "high", ""],
        ["", "blue", "'=low", ""],
        ["", "", "", " A "],
    ]
    doubled = Row(photos / "red/1.png", "x", columns=(("a", "1"), ("a", "2")))
    with pytest.raises(HpoError, match=r"--keep-columns: a CSV has columns of one name \('a'\)"):
        predict_to_csv(Ensemble(bundles, Extensions()), [doubled], tmp_path / "out.csv", keep_columns=True)


def test_classes_named_as_columns_have_a_heading_of_their_own(make_bundle, photos, tmp_path):
    """Classes called path, true, predicted or confidence are "class path" and so on in the heading, and only there."""
    classes = ("class path", "path", "predicted", "true")
    bundles, _ = find_bundles([make_bundle("odd", classes), "photos"])
    predict_to_csv(Ensemble(bundles, Extensions()), find_images([str(photos)], classes), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    ours, own = (
        ["path", "true", "predicted", "confidence"],
        ["class path", "class class path", "class predicted", "class true"],
    )
    assert header == ours + own
    assert {row[2] for row in rows} <= set(classes)
    assert headings(["a", "b"], ["b", "class b"], "class") == ["a", "class class b"]


def test_what_predict_says_of_unknown_classes(make_bundle, photos, tmp_path, capsys):
    """The printed scores say how many images they are of, and of the rest why; so does --json."""

    def said(text, *more):
        (photos / "list.csv").write_text(text)
        arguments = ["predict", make, str(photos / "list.csv"), "-o", str(tmp_path / "out.csv"), *more]
        options = parser().parse_args(arguments)
        options.extensions = None
        assert run_predict(options) == 0
        return capsys.readouterr().out

    make = make_bundle("alone")
    some = "path , label\nred/1.png,red\nblue/1.png,nan\nblue/2.png,zebra\nblue/3.png,zebra\n"
    printed = said(some)
    assert "by the classes that are known, of 1 of 4 images\n" in printed
    assert printed.endswith(
        "left out of these metrics: 1 without a label, 2 with a label that is no class of the bundle ('zebra': 2)\n"
    )
    found = json.loads(said(some, "--json"))
    assert found["true_classes"] == {"known": 1, "missing": 1, "unknown": {"zebra": 2}}
    assert found["metrics"]["images"] == 1
    assert said("path\nred/1.png\n").splitlines()[1] == (
        "no metrics, as no true class is known: 1 without a label; a CSV with the columns path,label tells them, or"
        " folders named as the classes"
    )
    assert "by the classes that are known\n" in said("path,label\nred/1.png,red\n")
