"""Labels that may be wrong, with their images small, as a report shows them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from hpo.errors import HpoError
from hpo.study.images import load_images
from hpo.study.out_of_fold import read_out_of_fold
from hpo.study.settings import check_settings
from storage.errors import StorageError
from trainer.errors import DataError
from trainer.images.pixels import Reading, read_image
from trainer.quality.checks import doubted_labels

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hpo.study.open_study import OpenStudy

SHOWN = 24
SIDE = 128  # pixels


@dataclass(frozen=True)
class DoubtedImage:
    """An image whose label may be wrong.

    Attributes:
        path: as the index has it.
        label: its class.
        expected: the class that models expect which have not learned it.
        label_probability: that they give its class, in [0, 1].
        expected_probability: that they give the expected one, in [0, 1].
        source: `data:` URL of its thumbnail.
    """

    path: str
    label: str
    expected: str
    label_probability: float
    expected_probability: float
    source: str


@dataclass(frozen=True)
class Doubts:
    """What a report says of the labels.

    Attributes:
        looked: how many images were judged by models that had not learned them.
        doubted: how many of their labels may be wrong.
        shown: the surest of these, SHOWN at most.
    """

    looked: int
    doubted: int
    shown: Sequence[DoubtedImage]


def read_doubts(opened: OpenStudy) -> Doubts | None:
    """The labels that the trainings doubt which confirm a study.

    Returns:
        None where nothing is confirmed, or its files or the images are not where this computer reaches them.
    """
    try:
        found = read_out_of_fold(opened)
        if found is None:
            return None
        data = load_images(opened.file, opened.study)
        check_settings(opened.study, opened.file, data)
        index, doubted = data.index, doubted_labels(data.index, found.images, found.probabilities)
        reading = Reading(SIDE, resize="pad", ranges=data.ranges())
        shown = [
            DoubtedImage(
                index.paths[one.image],
                index.classes[one.label],
                index.classes[one.expected],
                one.label_probability,
                one.expected_probability,
                _source(index.root / index.paths[one.image], reading),
            )
            for one in doubted[:SHOWN]
        ]
    except (HpoError, StorageError, DataError):
        return None
    return Doubts(len(found.images), len(doubted), shown)


def _source(file: Path, reading: Reading) -> str:
    picture = io.BytesIO()
    Image.fromarray(read_image(file, reading)).save(picture, "png")
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"
