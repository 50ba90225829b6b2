"""Images behind URLs, fetched from a server that fails in many ways."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from hpo import load_bundle
from hpo.bundle.inputs import find_images
from hpo.errors import HpoError
from tests.conftest import paint
from tests.support.file_server import file_server
from tests.support.small_disk import NoSmallDiskError, small_disk
from tests.support.waiting import paced, wait_until
from tests.unit.conftest import TIME, paint_two_classes
from trainer.data import load_data
from trainer.errors import DataError
from trainer.images import fetched as module
from trainer.images.cache import PixelCache
from trainer.images.fetched import FETCHED, RECORDS
from trainer.images.pixels import Reading
from trainer.images.remote_source import changed_source, fetch_source
from trainer.remote import web
from trainer.remote.urls import joined, public_url, url_problem

pytestmark = pytest.mark.unit

NAMES = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(6)]
FETCH = """
import sys
from pathlib import Path
from trainer.data import load_data
from trainer.images.cache import PixelCache
data = load_data(sys.argv[1], cache=PixelCache(Path(sys.argv[2])), on_progress=lambda *_: None)
print(len(data.index.paths), data.index.digest)
"""


@pytest.fixture
def server(tmp_path):
    """A server of two classes with six images each."""
    paint_two_classes(tmp_path / "served")
    with file_server(tmp_path / "served") as served:
        yield served


@pytest.fixture
def quick(monkeypatch):
    """No pauses between attempts."""
    monkeypatch.setattr(module, "PAUSES", (0.0,) * 4)


def list_of(server, file, *more, names=NAMES):
    """A CSV that lists the images of a server by their URLs."""
    rows = [f"{server.url}/{name},{name.split('/')[0]}" for name in names]
    file.write_text("\n".join(["path,label", *rows, *more]) + "\n")
    return file


def load(path, cache, **more):
    """The images and their pixels."""
    data = load_data(path, valid=0.25, test=0.25, cache=PixelCache(cache), **more)
    return data, data.pixels(Reading(8))


def test_images_at_urls_are_fetched_once(server, tmp_path):
    """A CSV may list URLs beside files; their pixels are those of the files, and no server is asked twice."""
    paint(tmp_path / "own.png", (200, 0, 0), 9)
    file, told = list_of(server, tmp_path / "list.csv", "own.png,cat"), []
    data, pixels = load(file, tmp_path / "cache", on_progress=lambda *counts: told.append(counts))
    assert told == [(done, 12) for done in range(1, 13)]
    _, expected = load(server.folder, tmp_path / "plain")
    np.testing.assert_array_equal(pixels[:12], expected)
    assert data.index.paths == (*(f"{server.url}/{name}" for name in NAMES), "own.png")
    again, _ = load(file, tmp_path / "cache", on_progress=lambda *_: pytest.fail("fetched again"))
    assert set(server.asked.values()) == {1}
    assert again.index.fingerprint == data.index.fingerprint
    assert load(file, tmp_path / "elsewhere")[0].index.fingerprint == data.index.fingerprint


def test_secrets_in_urls_are_used_and_kept_nowhere(server, tmp_path):
    """User, password and token of a URL reach its server, and neither a name nor a file of the cache nor an error."""
    server.login = "me:s3cret"
    base = server.url.replace("://", "://me:s3cret@")
    rows = [f"{base}/{name}?token=s3cret&v=1,{name.split('/')[0]}" for name in NAMES]
    file = tmp_path / "list.csv"
    file.write_text("\n".join(["path,label", *rows]))
    data, _ = load(file, tmp_path / "cache")
    assert data.index.paths == tuple(f"{server.url}/{name}?v=1" for name in NAMES)
    kept = [kept for kept in (tmp_path / "cache").rglob("*") if kept.is_file()]
    assert not any(b"s3cret" in one.read_bytes() or "s3cret" in str(one) for one in kept)
    file.write_text(f"{file.read_text()}\n{base}/gone.png?token=s3cret,cat\n")
    with pytest.raises(DataError) as caught:
        load(file, tmp_path / "cache")
    assert "gone.png': 404 Not Found: there is nothing at this URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("HTTPS://u:p@h.org:8080/a b.jpg#part", "https://h.org:8080/a b.jpg"),
        ("https://h/a.jpg?id=3&size=5", "https://h/a.jpg?id=3&size=5"),
        ("https://h/a.jpg?X-Amz-Signature=1&X-Amz-Expires=2&versionId=3", "https://h/a.jpg?versionId=3"),
        ("https://h/a.jpg?sv=1&se=2&sr=b&sp=r&sig=3", "https://h/a.jpg"),
        ("https://h/a.jpg?Expires=1&Signature=2&Key-Pair-Id=3", "https://h/a.jpg"),
        ("https://h/a.jpg?access_token=1&api%5Fkey=2&se=cat", "https://h/a.jpg?se=cat"),
        ("s3://bucket/a?b#c.jpg", "s3://bucket/a?b#c.jpg"),
    ],
)
def test_what_of_a_url_is_shown(url, public):
    """Logins, tokens and what belongs to a signature go; whatever else tells one file from another stays."""
    assert public_url(url) == public


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("gs://bucket/a.jpg", "gs:// is not read; give an https, http or s3 URL, or a file"),
        ("file:///a.jpg", "file:// is not read"),
        ("https:///a.jpg", "it names no host"),
        ("https://h:port/a.jpg", "it is no URL"),
        ("s3:///a.jpg", "it names no bucket"),
    ],
)
def test_what_is_no_url_that_can_be_asked_for(url, problem, tmp_path):
    """It is refused before anything is fetched, wherever it stands."""
    assert problem in url_problem(url)
    (tmp_path / "list.csv").write_text(f"path,label\n{url},cat\n")
    for source in (tmp_path / "list.csv", url):
        with pytest.raises(DataError, match=problem):
            load_data(source, cache=PixelCache(tmp_path / "cache"))


def test_a_server_that_stumbles_is_asked_again(server, quick, tmp_path):
    """Answers that may pass are no failure, nor a connection that breaks; it waits as long as the server asks for."""
    server.statuses = {"/cat/0.png": [500, 503], "/cat/1.png": [429], "/dog/0.png": [408]}
    server.retry_after = "1"
    begun = time.monotonic()
    load(list_of(server, tmp_path / "list.csv"), tmp_path / "cache")
    assert time.monotonic() - begun >= 2
    assert server.asked["/cat/0.png"] == 3
    assert server.asked["/cat/1.png"] == server.asked["/dog/0.png"] == 2


@pytest.mark.parametrize(
    ("fault", "said", "asked"),
    [
        ("gone", "404 Not Found: there is nothing at this URL", 1),
        ("denied", "403 Forbidden: access is denied; if the URL is a signed one, it may have expired", 1),
        ("login", "401 Unauthorized: it wants a login: write it into the URL", 1),
        ("down", "503 Service Unavailable", 5),
        ("page", "the server answers with a web page, not with an image; does it want a login?", 1),
        ("text", "it is no image, or its first bytes are broken", 1),
        ("cut", "image file is truncated", 1),
        ("empty", "the file is empty", 1),
        ("short", "the server cannot be reached: peer closed connection without sending complete message", 5),
        ("slow", "the server does not answer within ", 5),
    ],
)
def test_what_cannot_be_fetched_is_one_line(server, quick, tmp_path, monkeypatch, fault, said, asked):
    """The line names the URL and the reason; the other images stay, and are not fetched again."""
    list_of(server, tmp_path / "list.csv")
    broken = server.folder / "cat" / "0.png"
    whole = broken.read_bytes()
    contents = {"page": b"\n<!DOCTYPE html><html>", "text": b"hello", "cut": whole[:-200], "empty": b""}
    statuses = {"denied": 403, "login": 401, "down": 503}
    if fault == "gone":
        broken.unlink()
    elif fault in contents:
        broken.write_bytes(contents[fault])
    elif fault == "short":
        server.short.add("/cat/0.png")
    elif fault == "slow":
        load(list_of(server, tmp_path / "list.csv", names=NAMES[1:]), tmp_path / "cache")
        list_of(server, tmp_path / "list.csv")
        server.slow_seconds = paced(0.5)
        monkeypatch.setattr(web, "READ_SECONDS", paced(0.1))
    else:
        server.statuses["/cat/0.png"] = [statuses[fault]] * 5
    with pytest.raises(DataError) as caught:
        load(tmp_path / "list.csv", tmp_path / "cache")
    line = str(caught.value)
    assert line.startswith(f"1 of 12 URLs cannot be fetched: '{server.url}/cat/0.png': {said}")
    assert "\n" not in line
    wait_until(lambda: server.asked["/cat/0.png"] >= asked)  # also where it came to the last request too late
    assert server.asked["/cat/0.png"] == asked
    assert not list((tmp_path / "cache").rglob("*.part"))
    # Mended, the one that failed is fetched, and no other.
    broken.write_bytes(whole)
    server.statuses, server.short, server.slow_seconds = {}, set(), 0.0
    load(tmp_path / "list.csv", tmp_path / "cache")
    assert {server.asked[f"/{name}"] for name in NAMES[1:]} == {1}


def test_after_many_failures_no_more_are_tried(server, quick, tmp_path):
    """A server that has nothing is not asked for all of a long list; five of its URLs are named."""
    file = list_of(server, tmp_path / "list.csv", names=[f"cat/{number}.jpg" for number in range(500)])
    with pytest.raises(DataError, match=r"^20 of 500 URLs cannot be fetched: ('http[^']*', ){5}…: 404 [^']*; correct"):
        load(file, tmp_path / "cache")
    assert server.asked.total() < 400


def test_a_fetch_that_was_killed_goes_on(server, tmp_path):
    """What had come before a kill stays, also where its last line was cut short; the rest is fetched, once."""
    file, cache = list_of(server, tmp_path / "list.csv"), tmp_path / "cache"
    records = cache / FETCHED / RECORDS
    more = [f"dog/{number}.png" for number in range(6, 40)]  # more than are asked for together
    for number, name in enumerate(more):
        paint(server.folder / name, (0, 0, 200), number)
    names = [*NAMES, *more]
    list_of(server, file, names=names)
    server.stuck = {f"/{name}" for name in more[-4:]}  # so that the kill always comes before the last of them
    fetching = subprocess.Popen([sys.executable, "-c", FETCH, file, cache])
    wait_until(lambda: records.is_file() and records.read_text().count("\n") >= 12)
    fetching.send_signal(signal.SIGKILL)
    fetching.wait()
    came = records.read_text().count("\n")
    assert came < len(names)
    with records.open("a") as lines:
        lines.write('{"place": "files/00/')
    server.stuck.clear()
    server.wait_until_left()
    server.asked.clear()
    data, _ = load(file, cache)
    assert len(data.index.paths) == len(names)
    assert server.asked.total() == len(names) - came
    load(file, cache)
    assert server.asked.total() == len(names) - came


def test_processes_that_come_together_fetch_once(server, tmp_path):
    """One of several processes fetches, the others wait for it and take the same files."""
    file, cache = list_of(server, tmp_path / "list.csv"), tmp_path / "cache"
    server.slow_seconds = 0.1
    command = [sys.executable, "-c", FETCH, file, cache]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate()[0] for process in running}
    assert len(said) == 1
    assert said.pop().startswith("12 ")
    assert set(server.asked.values()) == {1}


def test_a_full_disk_is_one_line(server, tmp_path):
    """Where an image finds no room the line names its URL, the folder and what to do."""
    noise = np.random.default_rng(0).bytes(2_000_000)
    (server.folder / "photos.zip").write_bytes(noise)
    try:
        with small_disk(tmp_path / "disk"):
            with pytest.raises(DataError, match=r"photos\.zip' cannot be kept in '.*': No space left on device; free"):
                fetch_source(f"{server.url}/photos.zip", tmp_path / "disk")
            assert not list((tmp_path / "disk").rglob("*.part"))
    except NoSmallDiskError as error:
        pytest.skip(f"no small disk can be mounted here: {error}")


def test_what_changes_at_a_url_is_told_when_asked_for(server, tmp_path):
    """A change is found by what the server says of a file; what was fetched stays as it was."""
    file, cache = list_of(server, tmp_path / "list.csv"), tmp_path / "cache"
    first, _ = load(file, cache)
    assert first.index.fetched.changed() == []
    paint(server.folder / "cat" / "0.png", (200, 0, 0), 77)
    (server.folder / "cat" / "1.png").unlink()
    assert first.index.fetched.changed() == [
        (f"{server.url}/cat/0.png", "has changed since it was fetched"),
        (f"{server.url}/cat/1.png", "404 Not Found: there is nothing at this URL"),
    ]
    second, _ = load(file, cache)
    assert second.index.digest == first.index.digest


def test_the_same_url_with_other_bytes_is_other_data(server, tmp_path):
    """A machine that fetches an image later, when it has other bytes of the same number, has another digest."""
    (server.folder / "cat" / "0.png").rename(server.folder / "cat" / "0.bmp")
    names = ["cat/0.ppm", *NAMES[1:]]
    (server.folder / "cat" / "0.ppm").write_bytes(b"P6 2 2 255 " + bytes(12))
    file = list_of(server, tmp_path / "list.csv", names=names)
    first, _ = load(file, tmp_path / "one")
    (server.folder / "cat" / "0.ppm").write_bytes(b"P6 2 2 255 " + bytes(range(12)))
    second, _ = load(file, tmp_path / "two")
    assert first.index.digest != second.index.digest


def test_a_data_set_at_a_url_is_one_that_lies_here(server, tmp_path):
    """A CSV at a URL names its images from there; an archive is unpacked; a bundle's lists name the images by URL."""
    (server.folder / "list.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in NAMES))
    data, pixels = load(f"{server.url}/list.csv", tmp_path / "cache")
    assert data.index.paths == tuple(f"{server.url}/{name}" for name in NAMES)
    assert data.index.reference(data.index.paths[0], tmp_path) == f"{server.url}/cat/0.png"
    with zipfile.ZipFile(server.folder / "photos.zip", "w") as archive:
        for name in NAMES:
            archive.write(server.folder / name, name)
    packed, same = load(f"{server.url}/photos.zip", tmp_path / "cache")
    plain, _ = load(server.folder, tmp_path / "plain")
    assert packed.index.digest == plain.index.digest
    np.testing.assert_array_equal(pixels, same)
    server.asked.clear()
    load(f"{server.url}/photos.zip", tmp_path / "cache")
    assert server.asked.total() == 0


def test_a_data_set_that_has_changed_is_fetched_again_when_a_study_begins(server, tmp_path):
    """Asked to, it looks whether a file at a URL has changed, and only then fetches it again."""
    (server.folder / "list.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in NAMES))
    url, cache = f"{server.url}/list.csv", tmp_path / "cache"
    fetch_source(url, cache)
    assert fetch_source(url, cache, ask_again=True).read_bytes() == (server.folder / "list.csv").read_bytes()
    assert server.asked["/list.csv"] == 1
    assert changed_source(url, cache) is None
    (server.folder / "list.csv").write_text("path,label\nnew\n")
    assert changed_source(url, cache) == "has changed since it was fetched"
    assert "new" not in fetch_source(url, cache).read_text()
    assert "new" in fetch_source(url, cache, ask_again=True).read_text()


def test_urls_that_need_a_place_or_a_list(server, tmp_path):
    """Without a cache nothing is fetched, and a web server has no folders."""
    for source in (f"{server.url}/photos.zip", list_of(server, tmp_path / "list.csv")):
        with pytest.raises(DataError, match="fetched into a cache: give load_data a PixelCache"):
            load_data(source)
    with pytest.raises(DataError, match="a web server does not list its images: give the URL of such a file"):
        load_data(f"{server.url}/cat/", cache=PixelCache(tmp_path / "cache"))


def test_names_beside_a_url():
    """A path in a CSV at a URL is one beside it; a URL in it is that URL."""
    assert joined("https://h/data/list.csv?v=1", "cat/1 ü.jpg") == "https://h/data/cat/1%20%C3%BC.jpg"
    assert joined("s3://bucket/data/list.csv", "../cat/1 ü.jpg") == "s3://bucket/cat/1 ü.jpg"
    assert joined("s3://bucket/list.csv", "1.jpg") == joined("s3://bucket/data/", "../1.jpg") == "s3://bucket/1.jpg"
    assert joined("https://h/list.csv", "s3://bucket/1.jpg") == "s3://bucket/1.jpg"


def test_predict_takes_urls(server, make_bundle, tmp_path):
    """`hpo predict` takes images, lists and archives at URLs, `load_bundle` images; classes are told as of files."""
    server.login = "me:s3cret"
    base = server.url.replace("://", "://me:s3cret@")
    (server.folder / "list.csv").write_text("path,label\ncat/0.png,dog\n")
    with zipfile.ZipFile(server.folder / "photos.zip", "w") as archive:
        archive.write(server.folder / "dog/1.png", "dog/1.png")
    own = tmp_path / "own.csv"
    own.write_text(f"path\n{base}/cat/2.png\n")
    given = [f"{base}/cat/1.png", f"{base}/list.csv", f"{base}/photos.zip", str(own)]
    rows = find_images(given, ("cat", "dog"), unpack=tmp_path / "here")
    assert [(row.path, row.true) for row in rows] == [
        (f"{server.url}/cat/1.png", "cat"),
        ("cat/0.png", "dog"),
        (f"{server.url}/photos.zip/dog/1.png", "dog"),
        (f"{base}/cat/2.png", None),  # the user's own cell
    ]
    assert [row.file.read_bytes() for row in rows] == [
        (server.folder / name).read_bytes() for name in ("cat/1.png", "cat/0.png", "dog/1.png", "cat/2.png")
    ]
    bundle = load_bundle(make_bundle("bundle"))
    found = bundle.predict([f"{base}/cat/1.png", server.folder / "cat/1.png"]).probabilities
    np.testing.assert_array_equal(found[0], found[1])
    with pytest.raises(HpoError, match=r"predict: 'http.*gone\.png' cannot be fetched: 404"):
        find_images([f"{base}/gone.png"], (), unpack=tmp_path / "here")
    with pytest.raises(HpoError, match=r"predict: http.* is a URL; give a file or a folder"):
        find_images([f"{base}/cat/1.png"], ())


def test_a_record_holds_what_the_server_said(server, tmp_path):
    """Each line of the records has the URL, the size, the SHA-256, the ETag and the time of one file."""
    load(list_of(server, tmp_path / "list.csv"), tmp_path / "cache")
    lines = (tmp_path / "cache" / FETCHED / RECORDS).read_text().splitlines()
    assert len(lines) == 12
    first = json.loads(lines[0])
    file = server.folder / first["url"].removeprefix(f"{server.url}/")
    assert (first["size"], first["modified"]) == (file.stat().st_size, TIME)
    assert len(first["sha256"]) == 64
