"""Images behind URLs: each is fetched once into a folder, for all processes that share it, and checked there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from threading import Event
from typing import TYPE_CHECKING, Self, TypeVar

from trainer.errors import DataError
from trainer.images.cache import exclusive
from trainer.images.files import SHOWN, some
from trainer.images.formats import TOLERANCE
from trainer.images.pixels import Reading, read_image
from trainer.remote.answer import THREADS, FetchError, State
from trainer.remote.servers import Servers
from trainer.remote.urls import public_url, url_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Progress = Callable[[int, int], None]  # (files that are here, files in all)

Result = TypeVar("Result")

FETCHED = "fetched"  # the folder in a cache
RECORDS = "records.jsonl"
FILES = "files"  # the folder in it for what a CSV lists
TEMPORARY = ".part"
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before a file is asked for again
LATEST = 2.0**33  # seconds since 1970: a time that every file system can keep
LONGEST_PAUSE = 60.0  # that a server may ask for
MOST_FAILURES = 20  # after so many no more files are asked for
CHUNK = 4096  # files that wait for a thread at a time
SMALL = Reading(32)  # a JPEG is decoded at an eighth of its size, which finds all that is broken


@dataclass(frozen=True)
class Record:
    """A file that was fetched whole.

    Attributes:
        url: without secrets.
        size: in bytes.
        sha256: of its bytes, in hex.
        etag: that the server gave, if any.
        modified: when it was changed at its source, in seconds since 1970, if the server said so.
    """

    url: str
    size: int
    sha256: str
    etag: str | None
    modified: float | None

    def is_of(self, state: State) -> bool:
        """Whether the source still has this state, as far as it can be told."""
        if self.etag and state.etag:
            return self.etag.removeprefix("W/") == state.etag.removeprefix("W/")
        pairs = ((self.size, state.size), (self.modified, state.modified))
        return all(was is None or now is None or was == now for was, now in pairs)


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes:
        url: with all that lets us in.
        place: where it goes, below the folder of what is fetched.
        is_image: refuse it where it cannot be decoded.
        state: that it must have; None for whatever was fetched once.
    """

    url: str
    place: str
    is_image: bool = True
    state: State | None = None


class Fetched:
    """The folder of a cache that holds what was fetched, and `records.jsonl`, a line for each file that is whole.

    Any number of processes may fetch at once: one does, the others wait. What has been fetched stays when it is
    interrupted, and is never fetched again.
    """

    def __init__(self, cache: Path, base: str | None = None, on_progress: Progress | None = None) -> None:
        """Give the cache, the URL of the CSV or prefix whose images they are, if it has one, and who is told."""
        self.folder, self.base, self._on_progress = cache / FETCHED, base, on_progress
        self._listed: dict[str, str] = {}  # what a CSV lists: URLs without secrets to whole ones

    def file(self, public: str) -> Path:
        """Where the image of a URL without secrets is kept."""
        return self.folder / _place(public)

    def by_url(self) -> dict[str, Path]:
        """Where the file of each URL is that has been fetched; the URLs are without secrets."""
        return {record.url: self.folder / place for place, record in self.records().items()}

    def fetch_listed(self, urls: Sequence[str]) -> dict[str, str]:
        """Fetch images that a CSV lists; returns the SHA-256 of each, by its URL without secrets.

        Raises:
            DataError: as `fetch` does, or URLs that are none.
        """
        bad = [(public_url(url), problem) for url in urls if (problem := url_problem(url))]
        if bad:
            raise _failure(bad, len(urls))
        self._listed = {public_url(url): url for url in urls}
        wanted = [Wanted(url, _place(public)) for public, url in self._listed.items()]
        return {record.url: record.sha256 for record in self.fetch(wanted)}

    def fetch(self, wanted: Sequence[Wanted]) -> list[Record]:
        """Fetch files, where they are not here yet; returns their records.

        Raises:
            DataError: files that cannot be fetched (all are named, or the first five), or that find no room. Those
                that could be fetched stay.
        """
        records = self.records()
        if any(not self._is_here(each, records) for each in wanted):
            with exclusive(self.folder / RECORDS):
                records = self.records()  # another process may have fetched them while we waited
                self._fetch_missing(wanted, records)
        return [records[each.place] for each in wanted]

    def changed(self, on_progress: Progress | None = None) -> list[tuple[str, str]]:
        """Which of the images that a CSV lists are others at their source now: URLs without secrets, and what is so."""
        records = self.records()

        def look(public: str) -> tuple[str, str] | None:
            try:
                state = servers.of(public).look(self._listed[public])
            except FetchError as error:
                return public, str(error)
            return None if records[_place(public)].is_of(state) else (public, "has changed since it was fetched")

        found, servers = [], Servers()
        with servers, ThreadPoolExecutor(THREADS) as pool:
            for done, each in enumerate(pool.map(look, self._listed), 1):
                if each is not None:
                    found.append(each)
                if on_progress is not None:
                    on_progress(done, len(self._listed))
        return found

    def records(self) -> dict[str, Record]:
        """What has been fetched, by its place."""
        found: dict[str, Record] = {}
        with suppress(FileNotFoundError), (self.folder / RECORDS).open(encoding="utf-8") as file:
            for line in file:
                with suppress(ValueError, TypeError, KeyError):  # a line that was cut short by a crash
                    kept = json.loads(line)
                    place = kept.pop("place")
                    found[place] = Record(**kept)
        return found

    def _refuse_full(self, missing: Sequence[Wanted]) -> None:
        """Raise DataError where files whose sizes are known find no room."""
        needed = sum(each.state.size or 0 for each in missing if each.state)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DataError(
                f"{public_url(missing[0].url)!r} and what is to be fetched with it need {needed / 1e9:.3g} GB in"
                f" {str(self.folder)!r}, where {free / 1e9:.3g} GB are free; free some space, or choose another cache"
            )

    def _is_here(self, wanted: Wanted, records: Mapping[str, Record]) -> bool:
        record = records.get(wanted.place)
        if record is None or (wanted.state and not record.is_of(wanted.state)):
            return False
        try:
            return (self.folder / wanted.place).stat().st_size == record.size
        except OSError:
            return False

    def _fetch_missing(self, wanted: Sequence[Wanted], records: dict[str, Record]) -> None:
        """Fetch what is not here, and add it to the records; the lock is ours."""
        missing = [each for each in wanted if not self._is_here(each, records)]
        self._refuse_full(missing)
        here, failures, ending = len(wanted) - len(missing), list[tuple[str, str]](), Event()
        servers = Servers()

        def fetch(each: Wanted) -> Record | None:
            if ending.is_set():
                return None
            try:
                return repeated(lambda: self._fetch_one(each, servers, ending), ending)
            except FetchError as error:
                if not ending.is_set():
                    failures.append((public_url(each.url), str(error)))
                if len(failures) >= MOST_FAILURES:
                    ending.set()
                return None

        with TOLERANCE, servers, _Lines(self.folder / RECORDS) as lines:
            pool = ThreadPoolExecutor(THREADS)
            try:
                for start in range(0, len(missing), CHUNK):
                    chunk = missing[start : start + CHUNK]
                    for each, found in zip(chunk, pool.map(fetch, chunk), strict=True):
                        if found is None:
                            continue
                        records[each.place] = found
                        lines.add({"place": each.place, **asdict(found)})
                        here += 1
                        if self._on_progress is not None:
                            self._on_progress(here, len(wanted))
            finally:
                ending.set()
                pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the files that are still to come
        if failures:
            raise _failure(failures, len(wanted))

    def _fetch_one(self, wanted: Wanted, servers: Servers, ending: Event) -> Record:
        """Fetch a file whole or not at all; it gets the time of its source, so that its pixels are found again."""
        target, digest, size = self.folder / wanted.place, hashlib.sha256(), 0
        temporary = target.with_name(f"{target.name}{TEMPORARY}")
        try:
            with servers.of(wanted.url).open(wanted.url) as answer:
                state = answer.state
                with _kept(wanted.url, target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    file = temporary.open("wb")
                with file:
                    for chunk in answer.chunks:
                        if ending.is_set():
                            raise FetchError("was broken off")
                        digest.update(chunk)
                        size += len(chunk)
                        with _kept(wanted.url, target):
                            file.write(chunk)
                    with _kept(wanted.url, target):
                        file.flush()
            if state.size is not None and size != state.size:
                raise FetchError(f"{size:,} bytes have come of {state.size:,}", passing=True)
            if wanted.is_image:
                _refuse_broken(temporary, passing=state.size is None)  # that it is cut short is not told otherwise
            changed = min(state.modified or 0.0, LATEST)
            with _kept(wanted.url, target):
                os.utime(temporary, (changed, changed))
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return Record(public_url(wanted.url), size, digest.hexdigest(), state.etag, state.modified)


class _Lines:
    """A file of JSON to whose end lines are added, each at once."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("ab+")
        self._file.seek(max(0, self._file.tell() - 1))
        if self._file.read(1) not in (b"", b"\n"):  # the last line was cut short
            self._file.write(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, values: Mapping[str, object]) -> None:
        self._file.write(f"{json.dumps(values)}\n".encode())
        self._file.flush()


def repeated(ask: Callable[[], Result], ending: Event | None = None) -> Result:
    """What asking gives, with more attempts where a failure may pass.

    Raises:
        FetchError: that of the last attempt.
    """
    ending = ending or Event()
    for pause in PAUSES:
        try:
            return ask()
        except FetchError as error:
            if not error.passing or ending.wait(min(max(pause, error.wait_seconds or 0.0), LONGEST_PAUSE)):
                raise
    return ask()


def _place(public: str) -> str:
    name = hashlib.sha256(public.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{FILES}/{name[:2]}/{name}"


@contextmanager
def _kept(url: str, file: Path) -> Iterator[None]:
    """Raise DataError, with this URL, where something cannot be written."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or type(error).__name__
        raise DataError(
            f"{public_url(url)!r} cannot be kept in {str(file.parent)!r}: {cause}; free some space, or choose a cache"
            " that you may write to"
        ) from error


def _refuse_broken(file: Path, *, passing: bool) -> None:
    """Raise FetchError where what has come is no image."""
    with file.open("rb") as opened:
        head = opened.read(256).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        raise FetchError("the server answers with a web page, not with an image; does it want a login?")
    try:
        read_image(file, SMALL)
    except DataError as error:
        raise FetchError(str(error.__cause__ or error), passing=passing) from error


def _failure(failures: Sequence[tuple[str, str]], count: int) -> DataError:
    """What is said of URLs that cannot be fetched, each with its reason; a reason of several is said once."""
    urls: dict[str, list[str]] = {}
    for url, why in failures:
        urls.setdefault(why, []).append(url)
    reasons = [f"{some(of)}: {why}" for why, of in urls.items()]
    listed = "; ".join(reasons[:SHOWN]) + ("; …" if len(reasons) > SHOWN else "")
    if count == 1:
        return DataError(f"{failures[0][0]!r} cannot be fetched: {failures[0][1]}")
    return DataError(
        f"{len(failures)} of {count:,} URLs cannot be fetched: {listed}; correct them, or take these images out"
    )
