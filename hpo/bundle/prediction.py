"""`hpo predict`: bundles and images in, a CSV of classes and probabilities out, and metrics where classes are known."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from glob import glob, has_magic
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.bundle.bundle import INFO, read_bundle
from hpo.errors import HpoError
from hpo.whole_file import whole_file
from trainer.images.files import IMAGE_SUFFIXES, nfc, walk
from trainer.images.manifest import class_name
from trainer.images.spreadsheets import cell_of, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.bundle.bundle import Bundle
    from trainer.extensions import Extensions


SHOWN_CLASSES = 5


def find_bundles(inputs: Sequence[str]) -> tuple[list[Bundle], list[str]]:
    """Tell the bundles, which come first on a command line, from what stands for images, which follows them.

    The first is taken for a bundle in any case, others where they hold a bundle.json. A folder that holds bundles and
    nothing else stands for all of them.

    Raises:
        HpoError: the first is no bundle, bundles have different classes, or nothing stands for images.
    """
    count = 1 + sum(1 for _ in takewhile(_bundles_of, inputs[1:]))
    folders = [folder for given in inputs[:count] for folder in _bundles_of(given) or [Path(given)]]
    bundles, rest = [read_bundle(folder) for folder in folders], list(inputs[count:])
    for bundle in bundles[1:]:
        if bundle.classes != bundles[0].classes:
            raise HpoError(
                f"predict: {bundles[0].folder} and {bundle.folder} cannot vote together, their classes differ: "
                f"{_difference(bundles[0], bundle)}"
            )
    if not rest:
        raise HpoError("predict: no images are given; name folders, image files, patterns or a CSV after the bundles")
    for given in rest:
        if _bundles_of(given):
            raise HpoError(f"predict: {given} is a bundle; name it before the images")
    return bundles, rest


@dataclass(frozen=True)
class Images:
    """Image files to predict, each with its true class where that is known."""

    files: tuple[Path, ...]
    labels: tuple[str, ...] | None


def find_images(inputs: Sequence[str], classes: Sequence[str], command: str = "predict") -> Images:
    """The images that folders, files, patterns and CSV manifests stand for, in their order, each once.

    True classes are known where every image comes from a CSV with a column label, or lies in a folder that has the
    name of a class, directly below a folder that was given. `command` begins the line of a failure.

    Raises:
        HpoError: something given does not exist, or there is no image at all.
    """
    found: dict[Path, str | None] = {}
    for given in inputs:
        matches = [Path(given)]
        if has_magic(given) and not matches[0].exists():
            matches = [Path(match) for match in sorted(glob(given, recursive=True))]  # noqa: PTH207 - absolute ones, too
        if not matches:
            raise HpoError(f"{command}: nothing matches {given}")
        for path in matches:
            if path.is_dir():
                files = _images_below(path)
                if not files:
                    raise HpoError(f"{command}: there is no image in {path}")
                for file in files:
                    top = file.relative_to(path).parts[0]
                    found.setdefault(file, _known(top, classes) if file.parent != path else None)
            elif path.suffix.lower() == ".csv":
                found.update(_manifest(path, classes, command))
            elif path.is_file():
                found.setdefault(path, None)
            else:
                raise HpoError(f"{command}: {path} does not exist")
    labels = tuple(found.values())
    return Images(tuple(found), tuple(label for label in labels if label) if all(labels) else None)


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


def predict_to_csv(
    ensemble: Ensemble, images: Images, output: Path, *, batch_size: int = 64, decoders: int | None = None
) -> dict[str, Any] | None:
    """Write path, predicted class and a probability a class for each image; returns metrics where classes are known.

    Args:
        ensemble: what predicts; all of its models are in memory at once, the images a batch at a time.
        images: to predict.
        output: the CSV.
        batch_size: images at a time.
        decoders: threads that decode images; None: a few more than there are cores.

    Raises:
        HpoError: a bundle's weights or the output cannot be used.
        DataError: an image cannot be read. The output is then not written.
    """
    import torch

    from hpo.bundle.scores import scores
    from trainer.device import choose_device
    from trainer.predict import VOTINGS, Member, predict

    bundles = ensemble.bundles
    if ensemble.voting == "hard" and len(bundles) == 1:
        raise HpoError("predict: --voting hard is for several bundles, and there is one; name more, or leave it out")
    device, classes = choose_device(), bundles[0].classes
    members = [
        Member(bundle.load_model(ensemble.extensions, device), bundle.recipe.image_size, bundle.interpolation)
        for bundle in bundles
    ]
    batches = predict(members, images.files, device, tta=ensemble.tta, batch_size=batch_size, decoders=decoders)
    predicted: list[int] = []
    kept: list[NDArray[np.float32]] = []
    if output.is_dir() or not output.name:
        raise HpoError(f"predict: {output} is a folder; name a file")
    try:
        with (
            whole_file(output) as binary,
            TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file)
            names = [cell_of(name) for name in classes]
            writer.writerow(["path", "predicted", *names])
            for batch in batches:
                probabilities, best = VOTINGS[ensemble.voting](batch)
                kept.append(probabilities)
                for row, number in zip(probabilities, best.tolist(), strict=True):
                    path = images.files[len(predicted)]
                    writer.writerow([cell_of(str(path)), names[number], *(f"{probability:.6f}" for probability in row)])
                    predicted.append(number)
    except OSError as error:
        raise HpoError(f"predict: {output} cannot be written: {error.strerror}") from error
    if images.labels is None:
        return None
    truth = torch.tensor([classes.index(label) for label in images.labels])
    return scores(truth, torch.tensor(predicted), torch.from_numpy(np.concatenate(kept)), classes)


def _bundles_of(given: str) -> list[Path]:
    """The folder itself where it is a bundle, the folders in it where all that it shows are bundles, else none."""
    folder = Path(given)
    if (folder / INFO).is_file():
        return [folder]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    return inside if all((path / INFO).is_file() for path in inside) else []


def _difference(first: Bundle, second: Bundle) -> str:
    said = []
    for one, other in ((first, second), (second, first)):
        if only := [name for name in one.classes if name not in other.classes]:
            more = ", …" if len(only) > SHOWN_CLASSES else ""
            said.append(f"only {one.folder} has {', '.join(only[:SHOWN_CLASSES])}{more}")
    return "; ".join(said) or "they have another order"


def _images_below(folder: Path) -> list[Path]:
    return sorted(file for file in walk(folder) if file.suffix.lower() in IMAGE_SUFFIXES)


def _manifest(path: Path, classes: Sequence[str], command: str) -> dict[Path, str | None]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HpoError(f"{command}: {path} cannot be read: {error}") from error
    if not rows or not all(row.get("path") for row in rows):
        raise HpoError(f"{command}: {path} needs a header line with a column path, and a path for each image")
    return {
        Path(os.path.normpath(path.parent / text_of(row["path"]))): _known(text_of(row.get("label") or ""), classes)
        for row in rows
    }


def _known(name: str, classes: Sequence[str]) -> str | None:
    """The class of this name."""
    same = {class_name(known): known for known in classes} | {nfc(known): known for known in classes}
    return same.get(nfc(name)) or same.get(class_name(name))
