"""Bundles that predict together: `load_bundle` for scripts and services, and what `hpo predict` predicts by."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hpo.bundle.inputs import read_bundles
from hpo.errors import HpoError
from trainer.calibration import mean_of
from trainer.extensions import Extensions
from trainer.images.fetched import Fetched
from trainer.remote.urls import is_url, public_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from os import PathLike

    import torch
    from numpy.typing import NDArray

    from hpo.bundle.bundle import Bundle
    from trainer.predict import Member

    Picture = str | PathLike[str] | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Ensemble:
    """Bundles that predict together; one alone is an ensemble of one.

    Attributes:
        bundles: of the same classes.
        extensions: models of one's own, which their recipes may name.
        voting: of several bundles, "soft" or "hard"; for hard voting the probabilities are shares of the votes.
        tta: a name in `trainer.predict.TTA`.
    """

    bundles: Sequence[Bundle]
    extensions: Extensions
    voting: str = "soft"
    tta: str = "none"

    def load(self, device: torch.device | None = None) -> LoadedEnsemble:
        """All models in memory at once, on the device; without one on the first GPU, else on the CPU.

        Raises:
            HpoError: weights that cannot be loaded, or a vote of one bundle.
        """
        from trainer.device import choose_device
        from trainer.predict import Member

        if self.voting == "hard" and len(self.bundles) == 1:
            raise HpoError("predict: hard voting is for several bundles, and there is one; name more, or leave it out")
        chosen = device or choose_device()
        members = [
            Member(bundle.load_model(self.extensions, chosen), bundle.reading)
            for whole in self.bundles
            for bundle in whole.members or (whole,)
        ]
        return LoadedEnsemble(self.bundles, members, chosen, self.voting, self.tta)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What an ensemble says of images, in their order.

    Attributes:
        classes: their names, in the order of the probabilities.
        predicted: the class of each image.
        confidence: the probability of that class, float32 [images].
        probabilities: of all classes, float32 [images, classes]; with hard voting the shares of the votes.
    """

    classes: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LoadedEnsemble:
    """Bundles with their models in memory, as `load_bundle` returns them.

    Attributes:
        bundles: of the same classes.
        members: the models of all of them, in their order.
        device: that of the models.
        voting: as in `Ensemble`.
        tta: as in `Ensemble`.
    """

    bundles: Sequence[Bundle]
    members: Sequence[Member]
    device: torch.device
    voting: str
    tta: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the probabilities."""
        return self.bundles[0].classes

    def predict(self, images: Picture | Iterable[Picture], *, batch_size: int = 64) -> Predictions:
        """Classify images as `hpo predict` does.

        Args:
            images: one, or any number: paths of image files, or their http(s) or s3 URLs; Pillow images; arrays uint8
                [height, width, 3] in RGB,
                [height, width] in grey or [height, width, 4] in RGB and alpha, or one array with all images of one
                size, [images, height, width, 3]. Sizes may differ but in that array. An iterator is read a batch at a
                time. Pillow decodes a large JPEG smaller for a path, and whole for an image that is open already: the
                probabilities may differ a little.
            batch_size: images at a time, in memory and through a model; more are faster on a GPU.

        Raises:
            HpoError: something given is no image.
            DataError: a file cannot be fetched, or read as an image.
            OutOfDeviceMemoryError: the device has not even memory for one image.
        """
        if batch_size < 1:
            raise HpoError(f"predict: batch_size = {batch_size} is not positive; leave it out, or give 1 or more")
        shares = [np.empty((0, len(self.classes)), np.float32)]
        best: list[int] = []
        with tempfile.TemporaryDirectory(prefix="hpo-") as folder:
            for batch, numbers in self.votes(_pictures(images, Fetched(Path(folder))), batch_size):
                shares.append(batch)
                best += numbers.tolist()
        probabilities = np.concatenate(shares)
        confidence = probabilities[np.arange(len(best)), best]
        return Predictions(self.classes, tuple(self.classes[number] for number in best), confidence, probabilities)

    def votes(
        self, pictures: Iterable[Path | Image.Image], batch_size: int, decoders: int | None = None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Yield for each batch the probabilities, float32 [batch, classes], and the best class, int64 [batch].

        Args:
            pictures: files and images in any order.
            batch_size: images at a time.
            decoders: threads that decode images; None: a few more than there are cores.
        """
        from trainer.predict import VOTINGS, predict

        decisions, rest = [bundle.decision for bundle in self.bundles], iter(pictures)
        while batch := list(islice(rest, batch_size)):
            found = predict(self.members, batch, self.device, tta=self.tta, batch_size=batch_size, decoders=decoders)
            for probabilities in found:
                yield VOTINGS[self.voting](self._of_bundles(probabilities), decisions)

    def _of_bundles(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """What each bundle says, [bundles, images, classes], by the probabilities of all models, [models, …]."""
        found, first = [], 0
        for bundle in self.bundles:
            own = probabilities[first : first + len(bundle.members or (bundle,))]
            found.append(
                mean_of([member.decision for member in bundle.members], bundle.votes, own) if bundle.members else own[0]
            )
            first += len(own)
        return np.stack(found)


def load_bundle(
    *folders: str | Path,
    voting: str = "soft",
    tta: str = "none",
    extensions: Extensions | None = None,
    device: str | torch.device | None = None,
) -> LoadedEnsemble:
    """Load a bundle, or several that vote, for predictions in Python; it needs no study and no database.

    Args:
        folders: that `hpo export-best` wrote, or one that holds such folders.
        voting: of several bundles: "soft", the mean of their probabilities, or "hard", a vote each.
        tta: test-time augmentation: "none", "flip" or "crops".
        extensions: models of one's own, which the recipes may name.
        device: as torch names it; the first GPU where not given, else the CPU.

    Raises:
        HpoError: a folder is no bundle, classes differ, weights cannot be loaded, or an argument has no such value.
        RecipeError: a backbone of one's own is not among the extensions.
    """
    import torch

    from trainer.predict import TTA, VOTINGS

    for name, value, known in (("voting", voting, VOTINGS), ("tta", tta, TTA)):
        if value not in known:
            raise HpoError(f'load_bundle: {name} = "{value}" is unknown; there are: {", ".join(known)}')
    if not folders:
        raise HpoError("load_bundle: no bundle is given; name the folder that `hpo export-best` wrote")
    ensemble = Ensemble(read_bundles([str(folder) for folder in folders]), extensions or Extensions(), voting, tta)
    return ensemble.load(torch.device(device) if device else None)


def _pictures(images: Any, fetched: Fetched) -> Iterator[Path | Image.Image]:
    """Each of what a caller gives, ready to be read."""
    single = isinstance(images, str | bytes | os.PathLike | Image.Image) or not hasattr(images, "__iter__")
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OU":
        single = images.ndim != 4
    for number, image in enumerate([images] if single else images):
        if isinstance(image, str) and is_url(image):
            fetched.fetch_listed([image])
            yield fetched.file(public_url(image))
        else:
            yield _picture(image, number)


def _picture(image: Any, number: int) -> Path | Image.Image:
    """One image, ready to be read; `number` counts from 0."""
    if isinstance(image, str | os.PathLike):
        if Path(image).is_dir():
            raise HpoError(f"predict: {image} is a folder; give its image files, as in Path(…).glob('*.jpg')")
        return Path(image)
    if isinstance(image, Image.Image):
        try:
            image.load()  # here, as threads that read one file together disturb each other
        except Exception as error:  # decoders meet broken bytes with all kinds of exceptions
            raise HpoError(f"predict: image {number} of those given cannot be read: {error}") from error
        return image
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.size and image.shape[2:] in ((), (3,), (4,)) and image.ndim in (2, 3):
            return Image.fromarray(np.ascontiguousarray(image))
        given = f"{image.dtype} {list(image.shape)}"
    else:
        given = type(image).__name__
    raise HpoError(
        f"predict: image {number} of those given is {given}; give a path, a Pillow image, or an array uint8"
        " [height, width, 3] with RGB in 0 … 255"
    )
