"""What a bundle keeps of its training, so that `hpo reproduce` can do it again: images, split, weights, epochs."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.bundle.bundle import ORIGIN
from hpo.errors import HpoError
from hpo.study.metric_settings import kept_metric, metric_settings
from hpo.study.study_file import DataSettings
from trainer.remote.urls import shown, source_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpo.bundle.bundle import Bundle
    from hpo.bundle.retraining import Chosen
    from hpo.study.study_file import StudyFile


def origin_of(
    study_file: StudyFile, folder: Path, chosen: Chosen, train_losses: Sequence[float] | None
) -> dict[str, Any]:
    """What a bundle keeps of its training; JSON can hold it.

    Args:
        study_file: of the study; its paths are kept relative to the bundle, as those in the lists of images are.
        folder: where the bundle will be.
        chosen: what was chosen for it.
        train_losses: of each epoch of the retraining; None where the weights are those of the trial.
    """

    def relative(path: Path) -> str:
        return os.path.relpath(path, folder.absolute())

    data, source = asdict(study_file.data), study_file.data.path
    del data["pixels_gb"]  # of the machine, not of the images
    return {
        "data": {**data, "path": relative(source) if isinstance(source, Path) else shown(source)},
        "weights": study_file.weights and relative(study_file.weights),
        **metric_settings(chosen.metric),
        f"valid_{chosen.metric.name}": [chosen.metric.value(score) for score in chosen.valid_scores],
        "train_losses": train_losses,
    }


def scores_of(origin: Mapping[str, Any]) -> list[float]:
    """The score of each epoch of the trial, as `origin_of` has kept it."""
    metric = kept_metric(origin)
    return [metric.score(value) for value in origin[f"valid_{metric.name}"]]


def data_of(bundle: Bundle, path: Path | str | None) -> DataSettings:
    """Where the images of a bundle are and how they are split.

    Args:
        bundle: that keeps its origin.
        path: where the images are now, if they have moved.

    Raises:
        HpoError: there is nothing, or bundle.json does not tell it as hpo writes it.
    """
    from trainer.images.sides import Splits

    try:
        kept: dict[str, Any] = dict(bundle.info[ORIGIN]["data"])
        if splits := kept.pop("splits"):
            told: dict[str, Any] = {key: tuple(it) if isinstance(it, list) else it for key, it in splits.items()}
            kept["splits"] = Splits(**told)
        if (interval := kept.pop("value_range")) is not None:
            kept["value_range"] = tuple(interval)
        if fold := kept.pop("test_fold", None):
            kept["test_fold"] = tuple(fold)
        settings = DataSettings(**{**kept, "path": path or source_of(kept["path"], bundle.folder)})
    except (KeyError, TypeError, AttributeError) as error:
        raise HpoError(f"bundle: {bundle.folder} does not tell its images ({type(error).__name__}: {error})") from error
    if isinstance(settings.path, Path) and not settings.path.exists():
        raise HpoError(f"reproduce: the images were at {settings.path}, which does not exist; say where by --data PATH")
    return settings


def weights_of(bundle: Bundle) -> Path | None:
    """The folder or file of pretrained weights that the training of a bundle began with; None is the hub."""
    kept = bundle.info[ORIGIN]["weights"]
    return None if kept is None else Path(os.path.normpath(bundle.folder / kept))
