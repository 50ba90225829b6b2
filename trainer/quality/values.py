"""What is wrong with the values of images: a range unlike the rest, little contrast, pages that are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trainer.quality.checks import Case, Finding
from trainer.wording import counted

if TYPE_CHECKING:
    from trainer.images.index import Index
    from trainer.images.value_range import Extent, ValueRanges
    from trainer.quality.survey import Survey

ONE_COLOUR = 8  # of 255: an image of this contrast or less is nearly one colour
FAINT = 48  # of 255: an image of this contrast or less …
FEW_LEVELS = 40  # … and of so few grey levels uses a small part of its range
OUTSIDE = 2  # an image whose values reach so many times as far as the range is unlike the rest
SMALL_PART = 16  # and so is one whose values reach one part of so many


def value_ranges(index: Index, survey: Survey) -> Finding:
    """The ranges of images of more than 8 bits, and which of these differ from the rest."""
    deep, ranges = len(survey.extents), survey.ranges
    if not deep:
        if ranges.key:  # which only the study file can have set
            line = "[data] value_range changes nothing: no image has more than 8 bits"
            return Finding("value range", "warning", line, "leave it out")
        return Finding("value range", "ok", "no image has more than 8 bits: all count from 0 to 255")
    line = f"{deep:,} of {len(index.paths):,} images {'has' if deep == 1 else 'have'} more than 8 bits: {ranges.line()}"
    cases = [
        Case((index.paths[image],), f"{extent.low:g} to {extent.high:g}")
        for image, extent in sorted(survey.extents.items())
        if _differs(extent, ranges)
    ]
    if not cases:
        return Finding("value range", "ok", line)
    return Finding(
        "value range",
        "warning",
        f"{line}; {counted(len(cases), 'of them has', 'of them have')} values that reach much less far, or farther",
        "save them in the range of the rest, or set [data] value_range = [low, high]",
        tuple(cases),
    )


def _differs(extent: Extent, ranges: ValueRanges) -> bool:
    known = ranges.of(extent.kind)
    if known is None:
        return False
    reach = (extent.high - known.low) / (known.high - known.low)
    return reach > OUTSIDE or reach < 1 / SMALL_PART


def little_contrast(index: Index, survey: Survey) -> Finding:
    """Images that are nearly one colour, or have few grey levels within a small part of their range."""
    read = survey.contrasts >= 0
    one_colour = read & (survey.contrasts <= ONE_COLOUR)
    few = read & ~one_colour & (survey.contrasts <= FAINT) & (survey.levels <= FEW_LEVELS)
    if not (one_colour | few).any():
        return Finding("contrast", "ok", "no image is nearly one colour or has few grey levels")
    cases = []
    for image in np.flatnonzero(one_colour | few):
        what = "nearly one colour" if one_colour[image] else f"{survey.levels[image]} grey levels"
        cases.append(Case((index.paths[image],), f"{what}, a contrast of {survey.contrasts[image]} of 255"))
    return Finding(
        "contrast",
        "warning",
        f"of {len(read):,} images nearly one colour: {one_colour.sum():,}; of few grey levels: {few.sum():,}",
        "look whether they were saved with the wrong range of values",
        tuple(cases),
    )


def several_pages(index: Index, survey: Survey) -> Finding:
    """Files of several pages or frames, of which the first is read."""
    several = np.flatnonzero(survey.pages > 1)
    if not len(several):
        return Finding("pages", "ok", "every file holds one picture")
    return Finding(
        "pages",
        "warning",
        f"{len(several):,} of {len(index.paths):,} files {'has' if len(several) == 1 else 'have'} several pages or"
        " frames: the first of each is read",
        "save the others as files of their own if they should be images, too",
        tuple(Case((index.paths[image],), f"{survey.pages[image]} pages") for image in several),
    )
