"""`hpo predict`: bundles and rows of images in, a CSV of classes out, and scores where true classes are known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.bundle.inputs import groups_of
from hpo.errors import HpoError
from hpo.study.metric_settings import kept_metric
from hpo.whole_file import whole_file
from trainer.images.files import some
from trainer.images.spreadsheets import cell_of, text_of, write_rows
from trainer.images.value_range import find_ranges

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from hpo.bundle.bundle import Bundle
    from hpo.bundle.ensemble import Ensemble
    from hpo.bundle.inputs import Row


OUR_COLUMNS = ("path", "true", "predicted", "confidence")


def fit_ranges(bundles: Sequence[Bundle], files: Sequence[Path]) -> tuple[list[Bundle], list[str]]:
    """Let bundles know the ranges of all of these images, which decide what is black and white in more than 8 bits.

    A bundle keeps the ranges of the images that it was trained on. Where these had none of the kind of an image here,
    that kind's is found over the images here, and a line for people says so.
    """
    found = {ranges: find_ranges(files, ranges) for bundle in bundles if (ranges := bundle.reading.ranges) is not None}
    lines = [
        f"a bundle was trained on other kinds of images; of these, which have more than 8 bits, {ranges.line()}"
        for known, ranges in found.items()
        if ranges != known
    ]

    def fitted(bundle: Bundle) -> Bundle:
        ranges = bundle.reading.ranges and found[bundle.reading.ranges]
        members = tuple(fitted(member) for member in bundle.members)  # of the same images, and so of the same ranges
        return replace(bundle, reading=replace(bundle.reading, ranges=ranges), members=members)

    return [fitted(bundle) for bundle in bundles], lines


def predict_to_csv(
    ensemble: Ensemble,
    rows: Sequence[Row],
    output: Path,
    *,
    keep_columns: bool = False,
    batch_size: int = 64,
    decoders: int | None = None,
) -> dict[str, Any] | None:
    """Write a CSV with a row for each one given: path, true and predicted class, confidence, a probability a class.

    Args:
        ensemble: what predicts; all of its models are in memory at once, the images a batch at a time.
        rows: images to predict.
        output: the CSV.
        keep_columns: whether the columns of the CSVs that list the images come along, behind the path.
        batch_size: images at a time.
        decoders: threads that decode images; None: a few more than there are cores.

    Returns:
        the scores over the rows whose true class is known, as `hpo.bundle.scores.scores` has them; None without any.

    Raises:
        HpoError: a bundle's weights or the output cannot be used, or a column to keep is there twice.
        DataError: an image cannot be read. The output is then not written.
    """
    import torch

    from hpo.bundle.scores import scores
    from trainer.scoring import Classified

    kept, classes = _kept_columns(rows) if keep_columns else [], ensemble.bundles[0].classes
    class_headings = headings(classes, OUR_COLUMNS, "class")
    kept_headings = headings(kept, {*OUR_COLUMNS, *class_headings}, "input")
    batches = ensemble.load().votes((row.file for row in rows), batch_size, decoders)
    predicted: list[int] = []
    probabilities: list[NDArray[np.float32]] = []

    def cells() -> Iterator[list[str]]:
        first, *others = OUR_COLUMNS
        yield [cell_of(name) for name in (first, *kept_headings, *others, *class_headings)]
        for shares, best in batches:
            probabilities.append(shares)
            for each, number in zip(shares, best.tolist(), strict=True):
                row = rows[len(predicted)]
                columns = dict(row.columns)
                texts = (row.path, *(columns.get(name, "") for name in kept))
                yield [
                    *(cell_of(text_of(text)) for text in texts),
                    *(cell_of(name) for name in (row.true or "", classes[number])),
                    *(f"{share:.6f}" for share in (each[number], *each)),
                ]
                predicted.append(number)

    try:
        with (
            whole_file(output) as binary,
            TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            write_rows(file, cells())
    except OSError as error:
        raise HpoError(f"predict: {output} cannot be written: {error.strerror}") from error
    known = [position for position, row in enumerate(rows) if row.true is not None]
    if not known:
        return None
    truth = torch.tensor([classes.index(true) for row in rows if (true := row.true) is not None])
    shares = torch.from_numpy(np.concatenate(probabilities))[known]
    classified = Classified(truth, torch.tensor(predicted)[known], shares, classes)
    return scores(classified, groups_of(rows, ensemble.bundles[0])[known], kept_metric(ensemble.bundles[0].info))


def headings(names: Sequence[str], taken: Collection[str], kind: str) -> list[str]:
    """Headings for columns of these names, which differ: one that is taken has the kind before it, "class path"."""
    used = {*taken, *names}
    found = []
    for name in names:
        heading = name
        while heading in used and (heading != name or name in taken):
            heading = f"{kind} {heading}"
        used.add(heading)
        found.append(heading)
    return found


def _kept_columns(rows: Sequence[Row]) -> list[str]:
    """The headings of the other columns of all CSVs, each once, in their order."""
    found: dict[str, None] = {}
    for names in dict.fromkeys(tuple(name for name, _ in row.columns) for row in rows):
        if doubled := [name for name, times in Counter(names).items() if times > 1]:
            raise HpoError(f"predict: --keep-columns: a CSV has columns of one name ({some(doubled)}); rename them")
        found.update(dict.fromkeys(names))
    return list(found)
