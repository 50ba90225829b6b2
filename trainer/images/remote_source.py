"""A data set at a URL: a prefix of S3 becomes a folder, a CSV or an archive a file, each fetched once into a cache."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from trainer.errors import DataError
from trainer.images.archives import ARCHIVES, is_left_out
from trainer.images.cache import exclusive, writing
from trainer.images.fetched import Fetched, Wanted, repeated
from trainer.images.files import IMAGE_SUFFIXES, some, walk
from trainer.images.folders import LAYOUT
from trainer.remote.answer import FetchError
from trainer.remote.servers import Servers
from trainer.remote.urls import bucket_and_key, last_name, public_url, refuse_bad

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.remote.answer import State

COMPLETE = "complete"  # a file that is written last
LISTS = ".csv"


def is_list(url: str) -> bool:
    """Whether a URL names a CSV."""
    return last_name(url).lower().endswith(LISTS)


def is_file(url: str) -> bool:
    """Whether a URL names a data set that is one file: a CSV or an archive."""
    return last_name(url).lower().endswith((LISTS, *ARCHIVES))


def is_image_url(url: str) -> bool:
    """Whether a URL names an image: by its ending, or on the web by having no other."""
    return _suffix(last_name(url)) in IMAGE_SUFFIXES or not (url.lower().startswith("s3:") or is_file(url))


def fetch_source(
    url: str, cache: Path, on_progress: Callable[[int, int], None] | None = None, *, ask_again: bool = False
) -> Path:
    """The folder or file of a data set, fetched where that is not done yet.

    Args:
        url: a CSV, an archive, or a prefix of S3.
        cache: the folder that gets a folder `fetched`.
        on_progress: called with the files that are here and the files in all, and only where they are fetched.
        ask_again: ask the server whether it has changed since, and then fetch what has.

    Raises:
        DataError: the URL is none, or names something else; files that cannot be fetched, or find no room.
    """
    refuse_bad(url)
    fetched, public = Fetched(cache, on_progress=on_progress), public_url(url)
    if not is_file(url) and not public.startswith("s3:"):
        raise DataError(
            f"{public!r} names no .csv, .zip or .tar file, and a web server does not list its images: give the URL of"
            " such a file; a CSV may list images by their URLs"
        )
    try:
        if is_file(url):
            state = None
            if ask_again:
                with Servers() as servers:
                    state = repeated(lambda: servers.of(url).look(url))
            fetched.fetch([Wanted(url, _place(url), is_image=False, state=state)])
        elif ask_again or not _marker(url, fetched).is_file():
            _fetch_folder(url, fetched)
    except FetchError as error:
        raise DataError(f"{public!r} cannot be fetched: {error}") from error
    return fetched.folder / _place(url)


def changed_source(url: str, cache: Path) -> str | None:
    """How a data set differs at its source from what was fetched, for people; None where it does not.

    Raises:
        FetchError: the server does not tell.
    """
    fetched = Fetched(cache)
    records, place = fetched.records(), _place(url)
    with Servers() as servers:
        if is_file(url):
            record, state = records.get(place), repeated(lambda: servers.of(url).look(url))
            return None if record is None or record.is_of(state) else "has changed since it was fetched"
        listing = _listing(url, servers)
    here = {
        name.removeprefix(f"{place}/"): record
        for name, record in records.items()
        if name.startswith(f"{place}/") and (fetched.folder / name).is_file()
    }
    others = [name for name, state in listing.items() if name in here and not here[name].is_of(state)]
    counts = (
        (len(listing.keys() - here.keys()), "new"),
        (len(others), "changed"),
        (len(here.keys() - listing.keys()), "gone"),
    )
    return ", ".join(f"{count:,} {what}" for count, what in counts if count) or None


def _fetch_folder(url: str, fetched: Fetched) -> None:
    """Fetch the images below a prefix; what has gone there goes here."""
    place = _place(url)
    folder, marker = fetched.folder / place, _marker(url, fetched)
    with Servers() as servers:
        listing = _listing(url, servers)
    if not listing:
        raise DataError(f"{prefix_of(url)!r} holds no images; {LAYOUT}, and name what is above these folders")
    marker.unlink(missing_ok=True)  # who meets an interrupted renewal goes on with it
    fetched.fetch(
        [
            Wanted(f"{prefix_of(url)}{name}", f"{place}/{name}", _suffix(name) in IMAGE_SUFFIXES, state)
            for name, state in listing.items()
        ]
    )
    with exclusive(marker), writing(marker):
        for file in list(walk(folder)):
            if file.relative_to(folder).as_posix() not in listing:
                file.unlink()
        marker.touch()


def prefix_of(url: str) -> str:
    """The URL of a prefix with the slash at its end that keeps out its neighbours."""
    return url if url.endswith("/") else f"{url}/"


def _place(url: str) -> str:
    """Where a data set is kept, below the folder of what is fetched."""
    top = hashlib.sha256(public_url(url).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{top}/{last_name(url) or bucket_and_key(url)[0]}"


def _marker(url: str, fetched: Fetched) -> Path:
    return (fetched.folder / _place(url)).with_name(COMPLETE)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _listing(url: str, servers: Servers) -> dict[str, State]:
    """The images below a prefix, by their ending or without one; no hidden ones, and no marks of empty folders."""
    found: dict[str, State] = repeated(lambda: dict(servers.buckets.list(prefix_of(url))))
    named = {
        name: state
        for name, state in found.items()
        if (_suffix(name) in IMAGE_SUFFIXES or (state.size and not _suffix(name) and not name.endswith("/")))
        and not any(map(is_left_out, name.split("/")))
    }
    odd = [name for name in named if {"", ".", ".."} & set(name.split("/"))]
    above = {parent.as_posix() for name in named for parent in PurePosixPath(name).parents}
    odd += sorted(named.keys() & above)
    if odd:
        raise DataError(
            f"{public_url(url)!r} has keys that cannot be files in folders ({some(odd)}); rename them, or list the"
            " images in a CSV"
        )
    return named
