"""Files of the same bytes, and what belongs together through them."""

from __future__ import annotations

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SAMPLE_BYTES = 4096  # from the middle of a file, where compressed images differ; their beginnings are often equal
THREADS = 8  # a file costs a few waits for the disk or the network, and little computing
CHUNK = 4096  # files that are handed to the threads at a time


class Sets:
    """Which of N things belong together: each alone at first, then joined two by two."""

    def __init__(self, count: int) -> None:
        self._parent = np.arange(count)

    def join(self, one: int, other: int) -> bool:
        """Put the sets of both into one; False if they were one already."""
        roots = sorted({self._root(one), self._root(other)})
        self._parent[roots[-1]] = roots[0]
        return len(roots) == 2

    def join_equal(self, values: NDArray[np.int64]) -> None:
        """Join all things that have the same value; int64 [N]."""
        _, first, position = np.unique(values, return_index=True, return_inverse=True)
        earlier = first[position]
        for one in np.flatnonzero(earlier != np.arange(len(values))).tolist():
            self.join(int(earlier[one]), one)

    def numbers(self, of: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """The number of each one's set, which is its first member; of these things, or of all: int64 [N]."""
        found: NDArray[np.int64] = self._parent if of is None else self._parent[of]
        while not np.array_equal(higher := self._parent[found], found):
            found = higher
        return found.copy()

    def _root(self, one: int) -> int:
        while (parent := int(self._parent[one])) != one:
            self._parent[one] = self._parent[parent]
            one = parent
        return one


def find_copies(files: Sequence[Path], sizes: Sequence[int]) -> NDArray[np.int64]:
    """Number the contents of files: int64 [N], the position of the first file with the same bytes.

    Only files of equal size (in bytes) are opened, and only those with the same 4 KB in their middle read as a whole.
    Empty files are nobody's copies: they are broken, each by itself. So are files that cannot be read.
    """
    first_of = np.arange(len(files))
    times = Counter(sizes)
    same_size = [number for number, size in enumerate(sizes) if size > 0 and times[size] > 1]
    with ThreadPoolExecutor(THREADS) as pool:
        sampled = _digests(pool, same_size, lambda number: _sample(files[number], sizes[number]))
        alike = Counter((sizes[number], sample) for number, sample in sampled)
        rest = [number for number, sample in sampled if alike[sizes[number], sample] > 1]
        first: dict[bytes, int] = {}
        for number, digest in _digests(pool, rest, lambda number: _whole(files[number])):
            first_of[number] = first.setdefault(digest, number)
    return first_of


def keep_copies_together(groups: NDArray[np.int64], copies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups int64 [N] in which images of the same bytes are in one: groups that share a copy become one."""
    if len(np.unique(copies)) == len(copies):
        return groups
    sets = Sets(len(groups))
    sets.join_equal(groups)
    sets.join_equal(copies)
    return sets.numbers()


def members(numbers: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The sets of two and more: sorted int64 positions of each, in the order of their first ones."""
    order = np.argsort(numbers, kind="stable")
    bounds = np.flatnonzero(np.diff(numbers[order])) + 1
    return sorted((group for group in np.split(order, bounds) if len(group) > 1), key=lambda group: int(group[0]))


def _digests(
    pool: ThreadPoolExecutor, numbers: Sequence[int], digest: Callable[[int], bytes]
) -> list[tuple[int, bytes]]:
    """Each number with its digest, in their order, but for files that cannot be read: their decoding will say why."""

    def readable(number: int) -> bytes | None:
        try:
            return digest(number)
        except OSError:
            return None

    chunks = (numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK))
    found: Iterable[tuple[int, bytes | None]] = (
        pair for chunk in chunks for pair in zip(chunk, pool.map(readable, chunk), strict=True)
    )
    return [(number, value) for number, value in found if value is not None]


def _sample(file: Path, size: int) -> bytes:
    with file.open("rb", buffering=0) as opened:
        opened.seek(max(0, (size - SAMPLE_BYTES) // 2))
        return hashlib.sha256(opened.read(SAMPLE_BYTES)).digest()


def _whole(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
