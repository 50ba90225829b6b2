"""`hpo predict`: images in, a CSV of classes and probabilities out, and metrics where the true classes are known."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.errors import HpoError
from trainer.index import IMAGE_SUFFIXES, nfc, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.bundle import Bundle
    from trainer.parts import Parts


@dataclass(frozen=True)
class Images:
    """Image files to predict, each with its true class where that is known."""

    files: tuple[Path, ...]
    labels: tuple[str, ...] | None


def find_images(inputs: Sequence[str], classes: Sequence[str]) -> Images:
    """The images that folders, files, patterns and CSV manifests stand for, in their order, each once.

    True classes are known where every image comes from a CSV with a column label, or lies in a folder that has the
    name of a class, directly below a folder that was given.

    Raises:
        HpoError: something given does not exist, or there is no image at all.
    """
    found: dict[Path, str | None] = {}
    for given in inputs:
        matches = [Path(given)]
        if has_magic(given) and not matches[0].exists():
            matches = [Path(match) for match in sorted(glob(given, recursive=True))]  # noqa: PTH207 - absolute ones, too
        if not matches:
            raise HpoError(f"predict: nothing matches {given}")
        for path in matches:
            if path.is_dir():
                files = _images_below(path)
                if not files:
                    raise HpoError(f"predict: there is no image in {path}")
                for file in files:
                    top = file.relative_to(path).parts[0]
                    found.setdefault(file, _known(top, classes) if file.parent != path else None)
            elif path.suffix.lower() == ".csv":
                found.update(_manifest(path, classes))
            elif path.is_file():
                found.setdefault(path, None)
            else:
                raise HpoError(f"predict: {path} does not exist")
    labels = tuple(found.values())
    return Images(tuple(found), tuple(label for label in labels if label) if all(labels) else None)


def predict_to_csv(
    bundle: Bundle, images: Images, output: Path, parts: Parts, batch_size: int = 64
) -> dict[str, Any] | None:
    """Write path, predicted class and a probability a class for each image; returns metrics where classes are known.

    Raises:
        HpoError: the bundle's weights or the output cannot be used.
        DataError: an image cannot be read. The output is then not written.
    """
    import torch

    from trainer.device import choose_device
    from trainer.metrics import confusion_matrix, summary
    from trainer.predict import predict

    device = choose_device()
    model = bundle.load_model(parts, device)
    batches = predict(model, images.files, bundle.recipe.image_size, device, batch_size)
    predicted: list[int] = []
    if output.is_dir() or not output.name:
        raise HpoError(f"predict: {output} is a folder; name a file")
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "predicted", *bundle.classes])
            for batch in batches:
                for row in batch:
                    path, best = images.files[len(predicted)], int(np.argmax(row))
                    writer.writerow([path, bundle.classes[best], *(f"{probability:.6f}" for probability in row)])
                    predicted.append(best)
        temporary.rename(output)
    except OSError as error:
        raise HpoError(f"predict: {output} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    if images.labels is None:
        return None
    truth = torch.tensor([bundle.classes.index(label) for label in images.labels])
    return summary(confusion_matrix(truth, torch.tensor(predicted), len(bundle.classes)), bundle.classes)


def _images_below(folder: Path) -> list[Path]:
    return sorted(file for file in walk(folder) if file.suffix.lower() in IMAGE_SUFFIXES)


def _manifest(path: Path, classes: Sequence[str]) -> dict[Path, str | None]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HpoError(f"predict: {path} cannot be read: {error}") from error
    if not rows or not all(row.get("path") for row in rows):
        raise HpoError(f"predict: {path} needs a header line with a column path, and a path for each image")
    return {Path(os.path.normpath(path.parent / row["path"])): _known(row.get("label") or "", classes) for row in rows}


def _known(name: str, classes: Sequence[str]) -> str | None:
    """The class of this name."""
    same = {nfc(known): known for known in classes}
    return same.get(nfc(name))
