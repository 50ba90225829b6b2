"""The options of the commands that make and use bundles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpo.argument_types import THREADS, folds, images_at, positive, probability
from hpo.bundle.commands import run_convert, run_export_best, run_predict, run_reproduce

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Command = Callable[[argparse.Namespace], int]
    Add = Callable[[str, Command, str], argparse.ArgumentParser]  # a command with its name, function and help


def add_bundle_commands(add: Add, add_for_study: Add, add_storage: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the command line.

    Args:
        add: adds a command.
        add_for_study: adds one whose first argument is a study file.
        add_storage: adds the option that names the storage.
    """
    added = add_for_study(
        "export-best", run_export_best, "retrain the winner, test it on the held-out images, write a bundle"
    )
    added.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder of the bundle, to be made"
    )
    which = added.add_mutually_exclusive_group()
    which.add_argument("--trial", type=int, metavar="N", help="this trial in place of the winner")
    which.add_argument(
        "--top", type=positive, metavar="N", help="a bundle of each of the best N trials, in DIR/trial-NUMBER, to vote"
    )
    which.add_argument(
        "--ensemble",
        type=positive,
        metavar="N",
        help="one bundle of the kept models that are best together: N votes at most, given one after the other",
    )
    added.add_argument(
        "--folds", type=folds, metavar="K", help="one bundle of K models, each trained without another fold, 2 to 20"
    )
    learning = added.add_mutually_exclusive_group()
    learning.add_argument("--no-retrain", action="store_true", help="take the winning trial's own weights")
    learning.add_argument(
        "--unlabelled",
        metavar="IMAGES",
        nargs="+",
        help="folders, files, patterns, archives, or a CSV with a column path: train once more, also on those of these"
        " images that the retrained winner classifies surely, where that helps on the folds of a cross-validation",
    )
    added.add_argument(
        "--confidence",
        type=probability,
        metavar="P",
        help="the probability from which on an unlabelled image is classified surely; default: 0.95",
    )
    added.add_argument(
        "--keep-pseudo-labels",
        action="store_true",
        help="learn these images in any case, without the trainings that find out whether it helps",
    )
    added.add_argument(
        "--threads", type=positive, metavar="N", help=f"{THREADS}; default: on a CPU as many as the trial had"
    )
    added.add_argument("--onnx", action="store_true", help="also write model.onnx, as convert does")
    added = add("convert", run_convert, "write a bundle's model with its preprocessing as one ONNX file")
    added.add_argument("bundle", metavar="BUNDLE", help="folder that export-best wrote, or one that holds such folders")
    added.add_argument("--onnx", action="store_true", required=True, help="what to write: BUNDLE/model.onnx")
    added.add_argument(
        "--images",
        metavar="IMAGES",
        nargs="+",
        help="images to compare the file with the bundle on; default: the bundle's validation images",
    )
    added.add_argument("--threads", type=positive, metavar="N", help="of the CPU; default: all cores")
    added = add("predict", run_predict, "write classes and probabilities of images to a CSV")
    added.add_argument("bundle", metavar="BUNDLE", help="folder that export-best wrote, or one that holds such folders")
    added.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="folders, files, patterns, archives, or a CSV with a column path; before them more bundles, which vote",
    )
    added.add_argument("-o", "--output", metavar="FILE.csv", type=Path, required=True, help="where to write")
    added.add_argument(
        "--keep-columns", action="store_true", help="let the other columns of the CSV that lists the images come along"
    )
    added.add_argument(
        "--voting",
        choices=("soft", "hard"),
        default="soft",
        help="of several bundles: mean of the probabilities, or a vote each; default: soft",
    )
    added.add_argument(
        "--tta",
        choices=("none", "flip", "crops"),
        default="none",
        help="mean over the mirror image, too, or over ten crops; default: none",
    )
    added.add_argument(
        "--threads", type=positive, metavar="N", help="of torch on a CPU, and that decode images; default: all cores"
    )
    added.add_argument("--json", action="store_true", help="metrics as JSON")
    added = add(
        "reproduce", run_reproduce, "train a bundle or a trial again, and compare: the same, or where it differs"
    )
    added.add_argument("study", metavar="BUNDLE|STUDY", type=Path, help="a bundle, or a study file with --trial")
    add_storage(added)
    added.add_argument("--trial", type=int, metavar="N", help="this trial of the study file STUDY")
    added.add_argument("--data", metavar="PATH|URL", type=images_at, help="where the images are, if they have moved")
    added.add_argument("--threads", type=positive, metavar="N", help=f"{THREADS}; default: on a CPU as many as then")
