"""`hpo demo`: scikit-learn's digits as PNG folders, and a study file that searches them on two CPU cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError
from hpo.whole_file import whole_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from pathlib import Path

STUDY = """\
# Real scanned digits (8 x 8 pixels, from scikit-learn), small models, two CPU cores: minutes, not hours.

[study]
name = "digits"
seed = {seed}

[data]
path = "digits"                  # one folder a class
valid = 0.2
test = 0.15                      # held out: the search never sees it

[budget]
trials = {trials}
{confirm}
[recipe]                         # a value fixes a field, a list chooses, a range searches
backbone = ["test_resnet", "test_efficientnet", "test_convnext"]
pretrained = false
image_size = 32
epochs = {epochs}
batch_size = 32
optimizer = ["adamw", "sgd"]
learning_rate = {{ low = 1e-3, high = 3e-2, log = true }}
weight_decay = {{ low = 1e-4, high = 0.1, log = true }}
schedule = ["constant", "step", "cosine", "plateau", "one_cycle"]
loss = ["cross_entropy", "label_smoothing", "focal", "soft_f1"]
focal_gamma = {{ low = 0.5, high = 5.0 }}    # asked only where the loss is focal
augment = ["none", "flip", "light", "medium", "heavy"]
class_weights = "none"            # what is not named is searched, and these are not worth it for the digits:
sampler = "shuffle"              # their ten classes are of equal size,
dropout = 0.0                    # and a dozen epochs from random weights are too few for strong regularisation
drop_path = 0.0
mixing = "none"
"""

CONFIRM = """
[confirm]                        # then the best again on fresh folds: the best of many on one split is partly luck
top = 2
repeats = {repeats}
"""


def run_demo(options: argparse.Namespace, run_step: Callable[[list[str]], int]) -> int:
    """`hpo demo`: write the demo, then search, confirm, export and predict; returns the exit code.

    Args:
        options: of the command.
        run_step: runs another command of `hpo` with these arguments, and returns its exit code.
    """
    study = write_demo(
        options.folder, seed=options.seed, trials=options.trials, epochs=options.epochs, repeats=options.repeats
    )
    if options.write_only:
        print(f"written: {study}")
        return EXIT_DONE
    bundle, predictions = options.folder / "bundle", options.folder / "predictions.csv"
    steps = [["search", str(study), "--workers", str(options.workers)]]
    if not bundle.exists():
        steps.append(["export-best", str(study), "-o", str(bundle)])
    steps.append(["predict", str(bundle), str(bundle / "test.csv"), "-o", str(predictions)])
    for step in steps:
        print(f"$ hpo {' '.join(step)}", flush=True)
        if code := run_step(step):
            return code
        print()
    return EXIT_DONE


def write_demo(folder: Path, *, seed: int = 0, trials: int = 20, epochs: int = 14, repeats: int | None = 3) -> Path:
    """Write the digits and the study file where they do not exist yet; returns the study file.

    With `repeats` None its search confirms nothing.

    Raises:
        HpoError: the folder holds something else, or cannot be written.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    study = folder / "study.toml"
    confirm = "" if repeats is None else CONFIRM.format(repeats=repeats)
    text = STUDY.format(seed=seed, trials=trials, epochs=epochs, confirm=confirm)
    try:
        if study.exists() and study.read_text(encoding="utf-8") != text:
            raise HpoError(f"demo: {study} exists already and says something else; choose another folder")
        digits = load_digits()
        counts: dict[int, int] = {}
        for pixels, label in zip(digits.images, digits.target, strict=True):
            number = counts[label] = counts.get(label, -1) + 1
            file = folder / "digits" / str(label) / f"{number:03}.png"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                with whole_file(file) as half:  # not an image until it is whole
                    Image.fromarray((pixels * (255 / 16)).astype(np.uint8)).save(half, format="PNG")
        study.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HpoError(f"demo: {folder} cannot be written: {error.strerror}") from error
    return study
