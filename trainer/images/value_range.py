"""Which values are black and white in pictures of more than 8 bits: one range for a whole data set."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.images.formats import TOLERANCE, UnreadableError, opened, taking_turns
from trainer.images.samples import KINDS, declared_range, kind_of, load_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainer.images.samples import Kind, Samples

    Progress = Callable[[int, int], None]  # (images done, images in all)

SAMPLED_PIXELS = 2**16  # of a picture, about
EXTREMES = 200  # of so many values of a picture the lowest and the highest are left out, but two of each at least
FILES = 100  # of so many pictures the one with the lowest and the one with the highest values are left out …
FEW_FILES = 10  # … and of so many or more one at least
SENTINEL_VALUES = 16  # different values from which on a single one far away may stand for "no data"
FILLED = 4  # a usual range is taken where the values fill one part of so many
ROUNDED = 1.01  # values may be so many times the end of a usual range, such as 4096 of 12 bits
# 0 to each of these are the usual ranges: shares, and 8, 10, 12, … 32 bits.
USUAL_HIGHS = (1.0, *(2.0**bits - 1 for bits in range(8, 33, 2)))
BLOCK = 32  # images that a thread takes at a time: most are told by their first bytes, in less time than it is asked
SOURCES = {
    "set": "as [data] value_range says",
    "declared": "as their files declare",
    "measured": "measured over all of them",
}


@dataclass(frozen=True)
class ValueRange:
    """The value that is black, the one that is white, and where they come from, a name in SOURCES."""

    low: float
    high: float
    source: str


@dataclass(frozen=True)
class ValueRanges:
    """The ranges of a data set; None for a kind of samples that no picture has.

    Pictures of 8 bits or fewer count from 0 to 255 in any case.
    """

    integers: ValueRange | None = None
    floats: ValueRange | None = None

    def of(self, kind: Kind) -> ValueRange | None:
        """That of a kind of samples."""
        return self.integers if kind == "integers" else self.floats

    @property
    def key(self) -> str:
        """What tells these ranges from others that give other pixels."""
        return ",".join(f"{kind}:{each.low!r}:{each.high!r}" for kind, each in self._known())

    def as_json(self) -> dict[str, dict[str, Any]]:
        """As plain values."""
        return {kind: {"low": each.low, "high": each.high, "source": each.source} for kind, each in self._known()}

    def line(self) -> str:
        """The same for people; empty where there is none."""
        known: list[tuple[str, ValueRange]] = [*self._known()]
        if self.integers is not None and self.integers == self.floats:
            known = [("values", self.integers)]
        return "; ".join(
            f"{what} from {each.low:g} to {each.high:g} are black to white, {SOURCES[each.source]}"
            for what, each in known
        )

    def _known(self) -> list[tuple[Kind, ValueRange]]:
        return [(kind, known) for kind in KINDS if (known := self.of(kind)) is not None]


def ranges_set_to(low: float, high: float) -> ValueRanges:
    """These values for all kinds of samples, as somebody has set them."""
    given = ValueRange(low, high, "set")
    return ValueRanges(given, given)


def ranges_from_json(found: Any) -> ValueRanges:
    """What `as_json` has made; ValueError where it is something else."""
    if not isinstance(found, dict):
        raise ValueError("its value ranges are no ranges")  # noqa: TRY004 - as for all that is kept
    try:
        ranges = {kind: _checked(ValueRange(**found[kind])) for kind in KINDS if kind in found}
    except (TypeError, KeyError) as error:
        raise ValueError("its value ranges are no ranges") from error
    return ValueRanges(**ranges)


def _checked(given: ValueRange) -> ValueRange:
    if not (math.isfinite(given.low) and math.isfinite(given.high) and given.low < given.high):
        raise ValueError(f"{given.low} to {given.high} is no range of values")
    if given.source not in SOURCES:
        raise ValueError(f'a range of values cannot come from "{given.source}"')
    return given


@dataclass(frozen=True)
class Extent:
    """From where to where the values of a picture reach, but for single pixels and what stands for no data.

    Attributes:
        kind: of its samples.
        low: the lowest value.
        high: the highest one.
        declared: the range that its file declares, if any.
    """

    kind: Kind
    low: float
    high: float
    declared: tuple[float, float] | None


def find_ranges(
    paths: Sequence[Path], known: ValueRanges | None = None, on_progress: Progress | None = None
) -> ValueRanges:
    """One range for each kind of samples that pictures of more than 8 bits have, as `ranges_over` finds it.

    Args:
        paths: image files; of those that cannot have more than 8 bits the first bytes are read and no more.
        known: ranges that are taken as they are.
        on_progress: called with the images done and the images in all, where there is one of more than 8 bits.
    """
    if known and known.integers and known.floats:
        return known
    return ranges_over([extent for extent in find_extents(paths, on_progress) if extent], known)


def ranges_over(extents: Sequence[Extent], known: ValueRanges | None = None) -> ValueRanges:
    """The range of each kind of samples, but for kinds whose range is known.

    What the files declare, all of them alike, where their values keep to it. Else, measured over all of them, the first
    usual range that holds them and that they fill to a quarter: 0 to 1, 255, 1023, 4095, … Else from their lowest to
    their highest value. Single pixels, single pictures and values that stand for no data do not count. The same files
    have the same ranges everywhere.
    """
    ranges = {}
    for kind in KINDS:
        of_kind = [extent for extent in extents if extent.kind == kind]
        ranges[kind] = known.of(kind) if known else None
        if of_kind and ranges[kind] is None:
            ranges[kind] = _range_over(of_kind)
    return ValueRanges(**ranges)


def find_extents(paths: Sequence[Path], on_progress: Progress | None = None) -> Iterator[Extent | None]:
    """That of each picture, as `extent_of` gives it, on all cores; `on_progress` as for `find_ranges`."""
    deep, done = False, 0
    blocks = [paths[start : start + BLOCK] for start in range(0, len(paths), BLOCK)]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with TOLERANCE:
            for extents in pool.map(lambda block: list(map(extent_of, block)), blocks):
                done += len(extents)
                deep = deep or any(extents)
                if on_progress is not None and deep:
                    on_progress(done, len(paths))
                yield from extents
    finally:
        pool.shutdown(cancel_futures=True)


def extent_of(path: Path) -> Extent | None:
    """From where to where the values of a picture reach; None for 8 bits or fewer, and where it cannot be read."""
    try:
        if not _may_be_deep(path):
            return None
        with opened(path) as image:
            kind = kind_of(image)
            if kind is None:
                return None
            declared = declared_range(image, path)
            with taking_turns(image):
                low, high = _reach(_some_values(load_samples(image, path)))
    except (UnreadableError, OSError):  # who decodes it says so
        return None
    return Extent(kind, low, high, declared)


def _may_be_deep(path: Path) -> bool:
    """False where the first bytes tell that a picture has 8 bits or fewer: what most files are, at hardly any cost."""
    file = os.open(path, os.O_RDONLY)  # a third of the time that `Path.open` takes
    try:
        head = os.read(file, 32)
    finally:
        os.close(file)
    if head.startswith(b"\x89PNG"):
        return head[24:25] == b"\x10"
    return not head.startswith((b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF")) and head[4:8] != b"ftyp"


def _some_values(samples: Samples) -> NDArray[np.float32]:
    """Finite values of a picture, at regular places, without alpha and what is declared to be no data."""
    step = max(1, math.isqrt(samples.image.width * samples.image.height // SAMPLED_PIXELS))
    strips = [values[::step, ::step, : samples.colours].ravel() for _, values in samples.strips()]
    values = np.concatenate(strips)
    values = values[np.isfinite(values)]
    no_data = samples.no_data()
    return values if no_data is None else values[values != no_data]


def _reach(values: NDArray[np.float32]) -> tuple[float, float]:
    """The lowest and the highest value, but for single ones and for those that stand alone, as no data does."""
    values = np.sort(values)
    while len(values):
        above = values[np.searchsorted(values, values[0], "right") :]
        below = values[: np.searchsorted(values, values[-1], "left")]
        if _stands_alone(values[0], above):
            values = above
        elif _stands_alone(values[-1], below):
            values = below
        else:
            return _inner(values)
    return 0.0, 0.0


def _stands_alone(value: np.float32, others: NDArray[np.float32]) -> bool:
    """Whether a value is farther from all others, which are sorted, than these are from each other."""
    if len(others) == 0 or 1 + np.count_nonzero(np.diff(others)) < SENTINEL_VALUES:
        return False
    low, high = _inner(others)
    return bool(min(abs(others[0] - value), abs(others[-1] - value)) > high - low)


def _inner(values: NDArray[np.float32]) -> tuple[float, float]:
    """The lowest and the highest of sorted values, but for some at each end."""
    left_out = min(max(2, len(values) // EXTREMES), len(values) // 8)
    return float(values[left_out]), float(values[-1 - left_out])


def _range_over(extents: Sequence[Extent]) -> ValueRange:
    """As `ranges_over` describes; `extents` are of one kind, and one at least."""
    telling = [extent for extent in extents if extent.high > extent.low] or extents  # one colour tells no range
    left_out = max(len(telling) // FILES, int(len(telling) >= FEW_FILES))
    low = sorted(extent.low for extent in telling)[left_out]
    high = sorted(extent.high for extent in telling)[-1 - left_out]
    declared = {extent.declared for extent in extents}
    if len(declared) == 1 and (alike := declared.pop()) and alike[0] <= low and high <= alike[1]:
        return ValueRange(*alike, "declared")
    usual = next((usual for usual in USUAL_HIGHS if high <= ROUNDED * usual), math.inf)
    if low < 0 or (high - low) * FILLED < usual:
        return ValueRange(low, high if high > low else low + 1, "measured")
    return ValueRange(0.0, usual, "measured")
