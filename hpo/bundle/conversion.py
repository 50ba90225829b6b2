"""`hpo convert`: a bundle as one ONNX file, its preprocessing within, compared with the bundle before it is written."""

from __future__ import annotations

import json
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import ImageOps

from hpo.bundle.bundle import TRAIN, VALID
from hpo.bundle.ensemble import Ensemble
from hpo.bundle.inputs import find_images
from hpo.errors import HpoError
from hpo.units import show_bytes
from hpo.whole_file import whole_file
from trainer.errors import DataError
from trainer.images.formats import UnreadableError, opened
from trainer.model.timm_models import first_line
from trainer.model.whole_graph import WholeGraph
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from hpo.bundle.bundle import Bundle
    from trainer.extensions import Extensions

ONNX = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 0.01  # of a probability: Pillow's pixels may be 1 of 255 away, and sums have another order
COMPARED = 16  # images
TIMED = 5  # runs on each of them
INPUT, OUTPUT, CLASS = "images", "probabilities", "predicted"


@dataclass(frozen=True)
class Conversion:
    """What was written, and how it compares with the bundle.

    Attributes:
        file: the ONNX file.
        size: in bytes.
        images: how many were compared.
        difference: the largest of a probability from the bundle's on a CPU.
        milliseconds: for one image on the CPU, with its resize; the median over the images.
        threads: by which it was that fast.
    """

    file: Path
    size: int
    images: int
    difference: float
    milliseconds: float
    threads: int

    def line(self) -> str:
        """The same for people."""
        return (
            f"{self.file}: {show_bytes(self.size)}, {self.milliseconds:.1f} ms an image on the CPU with"
            f" {counted(self.threads, 'thread')}; its probabilities are at most {self.difference:.1g} from the"
            f" bundle's, on {counted(self.images, 'image')} (allowed: {TOLERANCE})"
        )


def require_packages() -> None:
    """Raise HpoError where a package is missing that a conversion needs."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError:
            raise HpoError(f"onnx: needs the package {name}; pip install 'hpo-images[onnx]'") from None


def convert(bundle: Bundle, extensions: Extensions, images: Sequence[str], threads: int) -> Conversion:
    """Write a bundle's model.onnx: uint8 RGB [batch, height, width, 3] of any size in, probabilities out.

    A second output, `predicted`, has the number of the class, by the bundle's offsets where it has some.

    Args:
        bundle: its weights are float32 in the file, whatever device they were trained on.
        extensions: models of one's own, which its recipe may name.
        images: folders, image files, patterns and CSVs to compare on; where there are none, the bundle's validation
            images, else its training images.
        threads: of onnxruntime.

    Raises:
        HpoError: a package is missing, there are no images, the model cannot be exported, the file gives other
            probabilities, or it cannot be written.
        DataError: an image cannot be read.
    """
    if bundle.members:
        raise HpoError(
            f"onnx: {bundle.folder} is a bundle of several models; convert one of them, such as"
            f" {bundle.members[0].folder}"
        )
    require_packages()
    with tempfile.TemporaryDirectory(prefix="hpo-") as fetched:
        pictures = [_pixels(file) for file in _files(bundle, images, Path(fetched))]
    exported = _exported(bundle, extensions)
    difference, milliseconds = compare(exported, bundle, extensions, pictures, threads)
    file = bundle.folder / ONNX
    try:
        with whole_file(file) as binary:
            binary.write(exported)
    except OSError as error:
        raise HpoError(f"onnx: {file} cannot be written: {error.strerror}") from error
    return Conversion(file, len(exported), len(pictures), difference, milliseconds, threads)


def compare(
    exported: bytes, bundle: Bundle, extensions: Extensions, pictures: Sequence[NDArray[np.uint8]], threads: int
) -> tuple[float, float]:
    """The largest difference of a probability from the bundle's on the CPU, and the milliseconds for one image.

    Each picture goes through alone and in a batch of two, with its mirror image.

    Raises:
        HpoError: a difference is larger than TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    ours = Ensemble([bundle], extensions).load(torch.device("cpu"))
    differences, seconds = [], []
    for picture in pictures:
        both = np.stack([picture, picture[:, ::-1]])
        expected = ours.predict(both).probabilities
        found = [session.run([OUTPUT], {INPUT: images})[0] for images in (both[:1], both)]
        differences.append(max(float(np.abs(each - expected[: len(each)]).max()) for each in found))
        for _ in range(TIMED):
            begun = time.perf_counter()
            session.run([OUTPUT], {INPUT: both[:1]})
            seconds.append(time.perf_counter() - begun)
    if not max(differences) <= TOLERANCE:  # also where one is no number
        raise HpoError(
            f"onnx: {bundle.recipe.backbone} gives other probabilities as ONNX, by up to {max(differences):.2g} where"
            f" {TOLERANCE} is allowed; nothing is written, use the bundle by hpo.load_bundle"
        )
    return max(differences), 1000 * float(np.median(seconds))


def _files(bundle: Bundle, images: Sequence[str], fetched: Path) -> list[Path]:
    """Image files to compare on, of different classes where they are listed by class; a folder takes those of URLs."""
    given = list(images)
    if not given:
        lists = (bundle.folder / name for name in (VALID, TRAIN))  # comparing on the test images would be a use of them
        given = [str(next((file for file in lists if file.is_file()), bundle.folder / VALID))]
    try:
        files = [row.file for row in find_images(given, bundle.classes, "onnx", unpack=fetched)]
    except HpoError as error:
        if images:
            raise
        raise HpoError(f"{error}; to compare on other images, name some: hpo convert … --images") from error
    return list(islice(files, 0, None, -(-len(files) // COMPARED)))


def _pixels(file: Path) -> NDArray[np.uint8]:
    """The whole picture, upright, uint8 [height, width, 3]."""
    try:
        with opened(file) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnreadableError as failure:
        raise DataError(f"{str(file)!r} cannot be read: {failure}; remove or replace it") from failure


def _exported(bundle: Bundle, extensions: Extensions) -> bytes:
    """The bundle's model as ONNX, with the names of its classes in its metadata."""
    graph = WholeGraph(bundle.load_model(extensions, torch.device("cpu")), bundle.reading, bundle.decision)
    sizes = {INPUT: {0: "batch", 1: "height", 2: "width"}}
    example = torch.zeros((2, 50, 70, 3), dtype=torch.uint8)  # the sides differ, so that none is taken for another
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # torch's exporter warns of its own inner workings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                graph.eval(),
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT, CLASS],
                dynamic_shapes=sizes,
                verbose=False,
            )
        program.model.metadata_props["classes"] = json.dumps(bundle.classes, ensure_ascii=False)
        serialized: bytes = program.model_proto.SerializeToString()
    # A model may do anything that the exporter does not know; the user needs the reason in one line.
    except Exception as error:
        raise HpoError(
            f"onnx: {bundle.recipe.backbone} cannot be exported: {first_line(error.__cause__ or error)};"
            " use the bundle by hpo.load_bundle"
        ) from error
    finally:
        logging.disable(level)
    return serialized
