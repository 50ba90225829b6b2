"""Files of trials in a folder and in S3: whole or not there, named, bounded."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import boto3
import optuna
import pytest
import torch
from botocore.exceptions import ClientError
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy import text

from hpo.check.run import run_checks
from hpo.cli import parser, run
from hpo.study import retention
from hpo.study.deletion import delete_study
from hpo.study.open_study import create_study, load_study, model_of
from hpo.study.retention import drop_surplus_weights, prune_artifacts, take_inventory
from hpo.study.status import take_snapshot
from hpo.study.study_file import read_study_file
from hpo.supervision.progress import Progress
from storage.artifacts.artifact_store import discard, get, probe, put
from storage.artifacts.artifacts import checkpoint_id, fetch_file, keep_file, kept_files
from storage.artifacts.store_url import open_store
from storage.errors import StorageError
from storage.keys import CHECKPOINT_KEY, WEIGHTS_NAME
from tests.integration.conftest import linear
from tests.support.waiting import limit
from trainer.extensions import Extensions

pytestmark = pytest.mark.integration

STUDY = """
[study]
name = "colours"
keep_weights = 2
[data]
path = "photos"
[recipe]
backbone = "linear"
image_size = 8
epochs = 1
"""
LARGE = 20_000_000  # bytes; S3 takes it in parts
DAY = 86_400


@pytest.fixture
def s3(s3_environment):
    """boto3's client of an S3 without any buckets, as the environment names it."""
    client = boto3.client("s3")
    yield client
    for bucket in client.list_buckets()["Buckets"]:
        for found in client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
            client.delete_object(Bucket=bucket["Name"], Key=found["Key"])
        client.delete_bucket(Bucket=bucket["Name"])


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path):
    """The URL of an empty store, of each kind."""
    if request.param == "folder":
        return str(tmp_path / "얼굴 files")
    request.getfixturevalue("s3").create_bucket(Bucket="bucket")
    return "s3://bucket/얼굴 files/"


def content(store, artifact_id):
    """What is stored under an id."""
    with store.open_reader(artifact_id) as reader:
        return reader.read()


def test_a_file_comes_back_as_it_was(url, tmp_path):
    """A store gives back a file's bytes, in place of those before, and says what it holds."""
    store, file = open_store(url), tmp_path / "파일"
    assert list(store.files("")) == []
    for size in (3, LARGE, 0):
        body = os.urandom(size)
        file.write_bytes(body)
        put(store, "aa-1", file)
        assert content(store, "aa-1") == body
        [found] = store.files("aa-")
        assert (found.artifact_id, found.size_bytes) == ("aa-1", size)
        assert -60 < found.age_seconds < 60
    put(store, "ab-2", file)
    assert {found.artifact_id for found in store.files("a")} == {"aa-1", "ab-2"}
    assert [found.artifact_id for found in store.files("aa-")] == ["aa-1"]
    assert get(store, "aa-1", tmp_path / "copy")
    discard(store, "aa-1")
    discard(store, "aa-1")
    assert not get(store, "aa-1", tmp_path / "no copy")
    assert not (tmp_path / "no copy").exists()
    with pytest.raises(ArtifactNotFound):
        store.open_reader("aa-1")


def fails(error):
    """A function that fails so, whatever it is called with."""

    def fail(*_arguments, **_named):
        raise error

    return fail


class Torn(io.BytesIO):
    """A file that breaks off."""

    def read(self, size=-1):
        """The first of it, then no more."""
        if self.tell():
            raise RuntimeError("torn")
        return super().read(size)


def test_a_write_that_breaks_off_changes_nothing(url, tmp_path):
    """A write that fails half way leaves what was there, and nothing else."""
    store, file = open_store(url), tmp_path / "file"
    file.write_bytes(b"before")
    put(store, "id", file)
    with pytest.raises(RuntimeError, match="torn"):
        store.write("id", Torn(bytes(LARGE)))
    with pytest.raises(RuntimeError, match="torn"):
        store.write("other", Torn(bytes(LARGE)))
    assert content(store, "id") == b"before"
    assert [found.artifact_id for found in store.files("")] == ["id"]


KILLED = """
import io, os, signal, sys
from storage.artifacts.store_url import open_store
from storage.keys import CHECKPOINT_KEY, WEIGHTS_NAME

class Killing(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 10_000_000:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(size)

open_store(sys.argv[1]).write("id", Killing(bytes(20_000_000)))
"""


def test_a_process_killed_while_it_writes_changes_nothing(url, tmp_path):
    """kill -9 in the middle of a write leaves the artifact as it was."""
    store, file = open_store(url), tmp_path / "file"
    file.write_bytes(b"before")
    put(store, "id", file)
    killed = subprocess.run([sys.executable, "-c", KILLED, url], check=False, timeout=limit(60))
    assert killed.returncode == -signal.SIGKILL
    assert content(store, "id") == b"before"
    others = [found.artifact_id for found in store.files("id") if found.artifact_id != "id"]
    assert all(re.fullmatch(r"id\.[0-9a-f]{32}\.tmp", other) for other in others)


def test_a_store_that_works_passes_its_probe(url):
    """A probe leaves nothing behind."""
    store = open_store(url)
    probe(store)
    assert list(store.files("")) == []


def test_check_tries_the_store_that_is_named(url, tmp_path, photos):
    """`hpo check` tells whether a named store can be used, and leaves the folder beside the study file alone."""
    (tmp_path / "study.toml").write_text(STUDY)
    file = read_study_file(tmp_path / "study.toml", Extensions(backbones={"linear": linear}))

    def found(store):
        findings = run_checks(replace(file, artifacts=store), None, [], Progress(Console(quiet=True))).findings
        return [(finding.level, finding.message) for finding in findings if finding.check == "artifacts"]

    assert found(None) == []
    assert not (file.folder / "artifacts").exists()
    assert found(url) == [("ok", f"{url} can be written to and read")]
    [(level, message)] = found("s3://missing" if url.startswith("s3:") else str(file.path))
    assert level == "error"
    assert re.search("no such bucket; create it|make room or give access", message)


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    """A folder that cannot be made or written to, and a file that cannot be read, are one line each."""
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match=r"cannot be written to: .*; make room or give access there"):
            probe(open_store(str(folder)))
    with pytest.raises(StorageError, match="cannot be read: Not a directory"):
        list(open_store(str(tmp_path / "file")).files(""))
    with pytest.raises(StorageError, match="nowhere cannot be read: No such file"):
        put(open_store(str(tmp_path)), "id", tmp_path / "nowhere")
    put(open_store(str(tmp_path)), "id", tmp_path / "file")
    with pytest.raises(StorageError, match="below cannot be written: Not a directory"):
        get(open_store(str(tmp_path)), "id", tmp_path / "file" / "below")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110 - before any test
def test_a_full_disk_is_said(tmp_path, monkeypatch):
    """Where the disk is full, the line says so and the temporary file is gone."""
    store = open_store(str(tmp_path / "files"))
    fsync = os.fsync

    def full(number):
        with open("/dev/full", "wb", buffering=0) as file:  # noqa: PTH123
            file.write(b"x")
        fsync(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot be written to: No space left on device; make room"):
        store.write("id", io.BytesIO(b"x"))
    assert list((tmp_path / "files").iterdir()) == []


@pytest.mark.parametrize("artifact_id", ["../outside", "/etc/passwd", "..", ".", "", "a/b", "a\nb"])
def test_no_id_leads_out_of_the_folder(artifact_id, tmp_path):
    """An id that is none, whoever wrote it into the database, reads, writes and removes nothing."""
    (tmp_path / "outside").write_text("x")
    store = open_store(str(tmp_path / "files"))
    for use in (store.open_reader, store.remove, lambda wrong: store.write(wrong, io.BytesIO())):
        with pytest.raises(StorageError, match="is no id of a file"):
            use(artifact_id)
    assert (tmp_path / "outside").read_text() == "x"


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("gs://bucket", "artifacts: gs:// is not known; write s3://BUCKET/PREFIX or a folder's path"),
        ("s3:///prefix", "artifacts: the URL names no bucket"),
        ("s3://key:secret@bucket", "artifacts: write s3://BUCKET/PREFIX and no more"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(wrong, line):
    """A URL of neither kind is one line, without what may be a secret in it."""
    with pytest.raises(StorageError, match=re.escape(line)) as refused:
        open_store(wrong)
    assert "secret" not in str(refused.value)


def test_what_is_wrong_with_s3_is_said(s3, monkeypatch, tmp_path):
    """No bucket, no endpoint, no credentials, no profile, no right and no such package are one line each."""
    s3.create_bucket(Bucket="bucket")
    with pytest.raises(StorageError, match="s3://missing/: there is no such bucket; create it"):
        probe(open_store("s3://missing"))
    with pytest.raises(StorageError, match="s3://missing/a/: there is no such bucket"):
        list(open_store("s3://missing/a").files(""))
    with pytest.raises(StorageError, match="s3://missing/: there is no such bucket"):
        open_store("s3://missing").open_reader("id")
    with pytest.raises(StorageError, match="Invalid bucket name"):
        probe(open_store("s3://a b"))

    store = open_store("s3://bucket")

    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject")
    monkeypatch.setattr(store._client, "get_object", fails(denied))
    with pytest.raises(StorageError, match="access is denied; the credentials need s3:GetObject"):
        store.open_reader("id")

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match=r"does not answer: Could not connect .*; is the network up, and AWS_ENDP"):
        probe(open_store("s3://bucket"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which remembers credentials
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(StorageError, match="Unable to locate credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        probe(open_store("s3://bucket"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StorageError, match=r"nobody.* could not be found; set AWS_PROFILE"):
        open_store("s3://bucket")
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "storage.artifacts.s3_store")
    with pytest.raises(StorageError, match=re.escape("needs the package boto3; pip install 'hpo-images[s3]'")):
        open_store("s3://bucket")


class Study:
    """A study on a database with a store of one kind, and trials that keep files."""

    def __init__(self, folder, database, url, name="colours"):
        (folder / "study.toml").write_text(STUDY)
        file = read_study_file(folder / "study.toml", Extensions(backbones={"linear": linear}))
        self.file = replace(file, artifacts=url, name=name)
        create_study(self.file, database, self.file.data.load(folder / ".hpo/pixels"))
        self.opened = load_study(self.file, database)
        self.study, self.store, self.folder = self.opened.study, self.opened.artifacts, folder

    def trial(self, state, value=None, *, weights=b"", checkpoint=False, place=None, repeats=None):
        """A trial in a state, with the files that it keeps; returns its number."""
        trial = self.study.ask()
        if weights:
            (self.folder / WEIGHTS_NAME).write_bytes(weights)
            keep_file(self.store, trial, self.folder / WEIGHTS_NAME, self.opened.owner)
        if checkpoint:
            key = checkpoint_id(self.opened.owner)
            self.store.write(key, io.BytesIO(b"checkpoint"))
            trial.set_user_attr(CHECKPOINT_KEY, key)
        if repeats is not None:
            trial.set_user_attr("repeats", repeats)
        if state is not TrialState.RUNNING:
            self.study.tell(trial, value, state=state)
        if place:
            with self.opened.storage.engine.begin() as connection:
                connection.execute(
                    text("INSERT INTO hpo.place (study_id, number, state, trial) VALUES (:study, :trial, :at, :trial)"),
                    {"study": self.opened.study_id, "trial": trial.number, "at": place},
                )
        return trial.number

    def inventory(self):
        """Reasons for what is surplus, and the number of files that are kept."""
        inventory = take_inventory(self.opened, self.file.keep_weights)
        return sorted(one.why for one in inventory.surplus), len(inventory.kept)

    def prune(self):
        """Remove what is surplus."""
        prune_artifacts(self.opened, take_inventory(self.opened, self.file.keep_weights).surplus)

    @property
    def named(self):
        """The numbers of the trials that name a file, the best first."""
        with self.opened.storage.engine.connect() as connection:
            return [kept.number for kept in kept_files(connection, self.opened.study_id)]


@pytest.fixture
def make_study(tmp_path, photos, ready_database, url):
    """Makes studies that share a database and a store."""
    made = []

    def make(name="colours"):
        made.append(Study(tmp_path, ready_database, url, name))
        return made[-1]

    yield make
    for one in made:
        one.opened.storage.engine.dispose()


@pytest.fixture
def study(make_study):
    """A study."""
    return make_study()


def test_a_kept_file_is_optunas_artifact(study, tmp_path):
    """Optuna, and so its dashboard, finds a trial's file and its name, under an id that the dashboard serves."""
    number = study.trial(TrialState.COMPLETE, 0.5, weights=b"some")
    trial = study.study.trials[number]
    [meta] = get_all_artifact_meta(trial, storage=study.opened.storage)
    assert (meta.filename, meta.mimetype, meta.encoding) == (WEIGHTS_NAME, "application/octet-stream", None)
    assert re.fullmatch("[0-9a-fA-F-]+", meta.artifact_id)  # the route of optuna-dashboard
    assert meta.artifact_id.startswith(study.opened.owner)
    optuna.artifacts.download_artifact(
        artifact_store=study.store, file_path=str(tmp_path / "copy"), artifact_id=meta.artifact_id
    )
    assert (tmp_path / "copy").read_bytes() == b"some"


def test_a_file_that_is_not_stored_is_not_named(study, monkeypatch, tmp_path):
    """Where the store fails, no trial names a file."""
    monkeypatch.setattr(study.store, "write", fails(StorageError("full")))
    trial = study.study.ask()
    (tmp_path / WEIGHTS_NAME).write_bytes(b"some")
    with pytest.raises(StorageError, match="full"):
        keep_file(study.store, trial, tmp_path / WEIGHTS_NAME, study.opened.owner)
    assert study.named == []


def test_what_a_crash_left_unnamed_goes_after_a_day(study, monkeypatch, tmp_path):
    """Bytes that were stored and never named, and half-written files, are surplus when they are a day old."""
    trial = study.study.ask()
    monkeypatch.setattr(study.opened.storage, "set_trial_system_attr", fails(RuntimeError("crash")))
    (tmp_path / WEIGHTS_NAME).write_bytes(b"some")
    with pytest.raises(RuntimeError, match="crash"):
        keep_file(study.store, trial, tmp_path / WEIGHTS_NAME, study.opened.owner)
    study.store.write(f"{study.opened.owner}-checkpoint-0.{'0' * 32}.tmp", io.BytesIO(b"half"))
    assert study.named == []
    assert study.inventory() == ([], 2)
    monkeypatch.setattr(retention, "STRAY_SECONDS", -DAY)
    assert study.inventory() == (["no trial names it"] * 2, 0)
    study.prune()
    assert list(study.store.files("")) == []


def test_only_the_best_trials_keep_their_weights(study, tmp_path):
    """Of complete trials the best `keep_weights` keep theirs, the earlier of equals; the others no longer name any."""
    numbers = [study.trial(TrialState.COMPLETE, value, weights=b"w") for value in (0.5, 0.7, 0.6, 0.7)]
    assert study.inventory() == (
        [f"weights of trial {n}, which is not among the best 2" for n in (numbers[0], numbers[2])],
        2,
    )
    drop_surplus_weights(study.opened, 2)
    assert study.named == [numbers[1], numbers[3]]
    assert len(list(study.store.files(""))) == 2
    assert study.inventory() == ([], 2)
    best, gone = study.study.trials[numbers[1]], study.study.trials[numbers[0]]
    fetch_file(study.store, study.opened.storage, best, WEIGHTS_NAME, tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == b"w"
    assert get_all_artifact_meta(gone, storage=study.opened.storage) == []
    with pytest.raises(
        StorageError, match=rf"trial {gone.number} no longer has its weights.safetensors: only the best"
    ):
        model_of(gone, study.opened, study.file.space.extensions, 3, torch.device("cpu"))


def test_weights_that_are_elsewhere_are_said_to_be(study):
    """Weights that a trial names and this store does not hold are looked for on another machine."""
    number = study.trial(TrialState.COMPLETE, 0.5, weights=b"w")
    [stored] = study.store.files("")
    discard(study.store, stored.artifact_id)
    with pytest.raises(StorageError, match="is not in this store; was it run on another machine, or has"):
        model_of(study.study.trials[number], study.opened, study.file.space.extensions, 3, torch.device("cpu"))
    with study.opened.storage.engine.begin() as connection:  # as optuna-dashboard writes what was removed there
        connection.execute(text("UPDATE trial_system_attributes SET value_json = :null"), {"null": json.dumps("null")})
    with pytest.raises(StorageError, match="no longer has its"):
        model_of(study.study.trials[number], study.opened, study.file.space.extensions, 3, torch.device("cpu"))
    assert study.named == []


def test_a_checkpoint_is_kept_until_its_place_has_ended(study):
    """Checkpoints of trials at work, of interrupted ones and of those that these repeat are kept, others not."""
    study.trial(TrialState.RUNNING, checkpoint=True, place="running")
    study.trial(TrialState.RUNNING, checkpoint=True)  # not yet in a place
    first = study.trial(TrialState.FAIL, checkpoint=True)
    study.trial(TrialState.FAIL, place="waiting", repeats=first)
    ended = study.trial(TrialState.FAIL, checkpoint=True, place="failed")
    pruned = study.trial(TrialState.PRUNED, checkpoint=True, weights=b"w", place="pruned")
    study.trial(TrialState.RUNNING, weights=b"about to be told")
    told = study.trial(TrialState.COMPLETE, 0.5, checkpoint=True, weights=b"w", place="running")
    done = study.trial(TrialState.COMPLETE, 0.6, checkpoint=True, weights=b"w", place="complete")
    assert study.inventory() == (
        sorted(
            [
                *(f"checkpoint of trial {number}, which has ended" for number in (ended, pruned, done)),
                f"weights.safetensors of trial {pruned}, which did not complete",
            ]
        ),
        7,
    )
    study.prune()
    assert study.inventory() == ([], 7)
    assert told in study.named
    assert pruned not in study.named


def test_studies_that_share_a_store_leave_each_other_alone(make_study, monkeypatch):
    """Pruning and deleting a study touch no file of another study, nor one of another program."""
    monkeypatch.setattr(retention, "STRAY_SECONDS", -DAY)
    one, other = make_study("하나"), make_study("other")
    assert re.fullmatch("[0-9a-f]{32}", one.opened.owner)
    assert one.opened.owner != other.opened.owner
    for study in (one, other):
        study.trial(TrialState.COMPLETE, 0.5, weights=b"w")
        study.trial(TrialState.RUNNING, checkpoint=True)
        study.store.write(f"{study.opened.owner}-lost", io.BytesIO(b"x"))
    one.store.write("f0f0-foreign", io.BytesIO(b"x"))
    assert one.inventory() == (["no trial names it"], 2)
    one.prune()
    assert len(list(one.store.files(""))) == 6
    delete_study(one.opened)
    left = [found.artifact_id for found in other.store.files("")]
    assert sorted(key.startswith(other.opened.owner) for key in left) == [False, True, True, True]


def test_a_study_keeps_its_mark(make_study, ready_database):
    """The mark of a study's files is made once; a study from before there were marks gets one."""
    study = make_study()
    assert make_study().opened.owner == study.opened.owner
    with study.opened.storage.engine.begin() as connection:
        connection.execute(text("DELETE FROM study_user_attributes WHERE key = 'hpo:id'"))
    assert re.fullmatch("[0-9a-f]{32}", make_study().opened.owner)


def test_prune_artifacts(study, ready_database, url, capsys, monkeypatch):
    """`hpo prune-artifacts` says what it removes and what it keeps; --dry-run removes nothing."""
    study.trial(TrialState.COMPLETE, 0.5, weights=b"w" * 1500)
    study.trial(TrialState.COMPLETE, 0.6, weights=b"w" * 1500)
    beaten = study.trial(TrialState.COMPLETE, 0.4, weights=b"w" * 1500)
    monkeypatch.setenv("HPO_STORAGE", ready_database)
    monkeypatch.setenv("HPO_ARTIFACTS", url)

    def prune(*more):
        options = parser().parse_args(["prune-artifacts", str(study.file.path), *more])
        options.extensions = study.file.space.extensions
        assert run(options) == 0
        return capsys.readouterr().out.splitlines()

    line, summary = prune("--dry-run")
    assert line.endswith(f", 1.5 kB: weights of trial {beaten}, which is not among the best 2")
    assert summary == "would be removed: 1 file, 1.5 kB; kept: 2, 3 kB"
    assert prune() == [line, "removed: 1 file, 1.5 kB; kept: 2, 3 kB"]
    assert prune() == ["removed: 0 files, 0 bytes; kept: 2, 3 kB"]

    cached = study.file.folder / "pixels" / "fetched" / "files" / "1a"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"p" * 2500)
    told = prune()[1]
    assert told.startswith(f"{cached.parents[1]} has 2.5 kB of images from URLs, for all study files beside it: remove")
    assert cached.is_file()


@pytest.mark.parametrize("command", ["prune-artifacts", "search"])
def test_a_store_that_is_away_is_one_line(command, study, ready_database, url, capsys, monkeypatch):
    """A store that cannot be used ends a command, a search before it begins, with one line and exit code 1."""
    monkeypatch.setenv("HPO_STORAGE", ready_database)
    monkeypatch.setenv("HPO_ARTIFACTS", "s3://missing" if url.startswith("s3:") else str(study.file.path))
    options = parser().parse_args([command, str(study.file.path)])
    options.extensions, options.script, options.cuda_visible_devices = study.file.space.extensions, None, ""
    assert run(options) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("hpo: artifacts: ")


def test_only_what_needs_the_store_needs_its_client(harness, monkeypatch):
    """Without boto3 the status of a study in S3 is there, and a worker says at once what to install."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "storage.artifacts.s3_store", raising=False)
    study = harness(trials=1)
    study.opened = replace(study.opened, artifacts_url="s3://bucket")
    assert take_snapshot(study.opened).best is None
    with pytest.raises(StorageError, match=r"s3:// needs the package boto3; pip install 'hpo-images\[s3\]'$"):
        study.work()
    assert study.places == []
