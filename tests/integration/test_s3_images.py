"""Images in S3: a prefix as a folder, objects in a CSV."""

from __future__ import annotations

import os

import boto3
import numpy as np
import pytest

from hpo.bundle.inputs import find_images
from tests.conftest import paint
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images import fetched as module
from trainer.images.cache import PixelCache
from trainer.images.pixels import Reading
from trainer.images.remote_source import changed_source, fetch_source

pytestmark = pytest.mark.integration

NAMES = [f"{name}/{number} ü.png" for name in ("cat", "dog") for number in range(6)]


@pytest.fixture
def bucket(s3_environment, monkeypatch, tmp_path):
    """boto3's bucket with a folder of images below photos/, as the environment names its server."""
    monkeypatch.setattr(module, "PAUSES", (0.0,))
    resource = boto3.resource("s3")
    made = resource.create_bucket(Bucket=tmp_path.name.replace("_", "-")[:60])
    for number, name in enumerate(NAMES):
        paint(tmp_path / "plain" / name, (200, 0, 0) if name.startswith("cat") else (0, 0, 200), number)
        made.upload_file(tmp_path / "plain" / name, f"photos/{name}")
    yield made
    resource.meta.client.close()


def load(source, cache, **more):
    """The images and their pixels."""
    data = load_data(source, valid=0.25, test=0.25, cache=PixelCache(cache), **more)
    return data, data.pixels(Reading(8))


def test_a_prefix_is_a_folder(bucket, tmp_path):
    """It has the digest, split and pixels of a folder; what is beside it stays out; it is kept."""
    for key in ("photos/", "photos/cat/", "photos/cat/.DS_Store", "photos/notes.txt", "photos2/cat/9.png"):
        bucket.put_object(Key=key, Body=b"x" * (not key.endswith("/")))
    url, told = f"s3://{bucket.name}/photos", []
    data, pixels = load(url, tmp_path / "cache", on_progress=lambda *counts: told.append(counts))
    plain, expected = load(tmp_path / "plain", tmp_path / "other")
    assert told[-1] == (12, 12)
    assert data.index.digest == plain.index.digest
    assert data.split.digest == plain.split.digest
    assert data.index.reference(data.index.paths[0], tmp_path) == f"s3://{bucket.name}/photos/{NAMES[0]}"
    np.testing.assert_array_equal(pixels, expected)
    again, _ = load(f"{url}/", tmp_path / "second")
    assert again.index.fingerprint == data.index.fingerprint
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:1"
    kept, _ = load(url, tmp_path / "cache")  # asks nobody
    assert kept.index.fingerprint == data.index.fingerprint


def test_a_study_that_begins_gets_what_a_prefix_holds_now(bucket, tmp_path):
    """Asked to, it fetches what is new or has changed, and what has gone there goes here; it can be told before."""
    url, cache = f"s3://{bucket.name}/photos/", tmp_path / "cache"
    folder = fetch_source(url, cache)
    assert changed_source(url, cache) is None
    untouched = (folder / NAMES[2]).stat()
    bucket.upload_file(tmp_path / "plain" / NAMES[5], f"photos/{NAMES[0]}")
    bucket.upload_file(tmp_path / "plain" / NAMES[5], "photos/dog/new.png")
    bucket.Object(f"photos/{NAMES[1]}").delete()
    assert changed_source(url, cache) == "1 new, 1 changed, 1 gone"
    assert len(list(fetch_source(url, cache).rglob("*.png"))) == 12
    assert not (folder / "dog/new.png").exists()
    fetch_source(url, cache, ask_again=True)
    assert (folder / NAMES[0]).read_bytes() == (tmp_path / "plain" / NAMES[5]).read_bytes()
    assert (folder / "dog/new.png").exists()
    assert not (folder / NAMES[1]).exists()
    assert (folder / NAMES[2]).stat().st_ino == untouched.st_ino
    assert changed_source(url, cache) is None


def test_objects_are_listed_in_csvs(bucket, tmp_path):
    """A CSV, here or in the bucket, names objects by URL or from where it lies; `hpo predict` reads it, too."""
    rows = "".join(f"photos/{name},{name[:3]}\n" for name in NAMES)
    bucket.put_object(Key="list.csv", Body=f"path,label\n{rows}".encode())
    (tmp_path / "own.csv").write_text(f"path,label\n{rows}".replace("photos/", f"s3://{bucket.name}/photos/"))
    there, pixels = load(f"s3://{bucket.name}/list.csv", tmp_path / "cache")
    here, same = load(tmp_path / "own.csv", tmp_path / "cache")
    assert there.index.digest == here.index.digest
    assert there.index.paths[0] == f"s3://{bucket.name}/photos/{NAMES[0]}"
    np.testing.assert_array_equal(pixels, same)
    given = [str(tmp_path / "own.csv"), f"s3://{bucket.name}/photos"]
    found = find_images(given, ("cat", "dog"), unpack=tmp_path / "unpacked")
    assert [row.path for row in found] == [f"s3://{bucket.name}/photos/{name}" for name in NAMES] * 2
    assert [row.true for row in found] == [name[:3] for name in NAMES] * 2


def test_what_cannot_be_had_of_s3_is_one_line(bucket, tmp_path):
    """The line names the URL and the reason."""
    for key in ("odd/cat", "odd/cat/1.png", "odd/cat/../1.png"):
        bucket.put_object(Key=key, Body=b"x")
    for url, said in (
        ("s3://nobody-has-this/photos", "there is no such bucket"),
        (f"s3://{bucket.name}/nothing", "holds no images; make one folder a class"),
        (f"s3://{bucket.name}/gone.csv", "there is no such object"),
        (f"s3://{bucket.name}/odd", "keys that cannot be files in folders ('cat/../1.png', 'cat')"),
    ):
        with pytest.raises(DataError) as caught:
            load_data(url, cache=PixelCache(tmp_path / "cache"))
        assert url in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_s3_that_does_not_answer_and_credentials_that_are_missing(bucket, tmp_path, monkeypatch):
    """Without credentials a bucket is asked as anybody may ask; an endpoint that is down, or no URL, is one line."""
    url = f"s3://{bucket.name}/photos"
    for down, said in (("http://127.0.0.1:1", "S3 does not answer"), ("nonsense", "Invalid endpoint")):
        with monkeypatch.context() as changed:
            changed.setenv("AWS_ENDPOINT_URL", down)
            with pytest.raises(DataError, match=f"^'{url}' cannot be fetched: {said}"):
                load_data(url, cache=PixelCache(tmp_path / "down"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"12 of 12 URLs .*access is denied without credentials; set AWS_PROFILE"):
        load(url, tmp_path / "cache")
    for name in NAMES:
        bucket.Object(f"photos/{name}").Acl().put(ACL="public-read")
    data, _ = load(url, tmp_path / "cache")
    assert len(data.index.paths) == 12
