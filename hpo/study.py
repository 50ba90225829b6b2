"""The study in the storage: created once, loaded by all, held to its settings."""

from __future__ import annotations

import json
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FixedTrial, TrialState

from hpo.errors import HpoError
from storage.artifacts import FolderArtifactStore, fetch_file, remove_files
from storage.database import connect, initialize, one_at_a_time
from storage.embedded import embedded_postgres, has_postgres
from storage.lease import GRACE_SECONDS, workers
from trainer.space import Space, suggest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from hpo.study_file import StudyFile
    from trainer.backbones import Classifier
    from trainer.data import Data
    from trainer.parts import Parts
    from trainer.recipe import Recipe

SETTINGS_KEY = "hpo:settings"
DEFAULT_KEY = "hpo:default_recipe"
TEST_USE_KEY = "hpo:test_use:"  # followed by anything unique; its value is the time
WEIGHTS_NAME = "weights.safetensors"  # of a complete trial's best epoch, in the artifact store
MICRO_BATCH_KEY = "hpo:micro_batch: "  # followed by backbone, image size and device; its value is a number of images
PACKAGES = ("albumentations", "numpy", "optuna", "timm", "torch")  # whose major version can change a training
STARTUP_TRIALS = 10  # random before TPE models anything, and unpruned before the median means anything


@dataclass(frozen=True)
class OpenStudy:
    """A study with the storage it lives in.

    Attributes:
        study: Optuna's.
        storage: Optuna's; its `engine` reaches our own tables.
        study_id: Optuna's number of it.
        artifacts: files of its trials.
    """

    study: optuna.Study
    storage: RDBStorage
    study_id: int
    artifacts: FolderArtifactStore


@contextmanager
def storage_url(file: StudyFile, given: str | None, *, create: bool = True) -> Iterator[str]:
    """The URL of the study's Postgres: the given one, else the study file's, else that of the embedded one, started.

    Raises:
        StorageError: the embedded Postgres cannot be started.
        HpoError: there is none yet, and `create` is False.
    """
    if url := given or file.storage:
        yield url
    elif not create and not has_postgres(file.folder):
        raise HpoError(f"study: nothing was begun in {file.folder}; `hpo search {file.path.name}` begins it")
    else:
        with embedded_postgres(file.folder) as url:
            yield url


def create_study(file: StudyFile, url: str, data: Data) -> None:
    """Make the tables and the study where they do not exist yet; safe to repeat, safe in parallel.

    The first trial of a new study is the default recipe, so that the search can be compared with not searching.

    Raises:
        StorageError: the database cannot be used.
        HpoError: the study exists with other settings.
    """
    initialize(url)
    storage = connect(url)
    with one_at_a_time(url):
        study = optuna.create_study(study_name=file.name, storage=storage, direction="maximize", load_if_exists=True)
        # The settings come last: without them and without a result the making was broken off, and goes on here.
        if SETTINGS_KEY not in study.user_attrs:
            trials = study.get_trials(deepcopy=False)
            if not trials:
                study.enqueue_trial(file.space.default_parameters(), user_attrs={DEFAULT_KEY: True})
            if all(trial.state is TrialState.WAITING for trial in trials):
                study.set_user_attr(SETTINGS_KEY, settings(file, data))
    check_settings(study, file, data)


def load_study(file: StudyFile, url: str) -> OpenStudy:
    """Load the study of a study file.

    Raises:
        StorageError: the database cannot be used or is not initialised.
        HpoError: it holds no such study.
    """
    storage = connect(url)
    try:
        study = optuna.load_study(study_name=file.name, storage=storage)
    except KeyError:
        raise HpoError(f'study: "{file.name}" is not in this storage; `hpo init {file.path.name}` creates it') from None
    study_id = storage.get_study_id_from_name(file.name)
    return OpenStudy(study, storage, study_id, FolderArtifactStore(file.folder / "artifacts"))


def settings(file: StudyFile, data: Data) -> dict[str, Any]:
    """What must stay as it is while a study lives, since its trials could not be compared otherwise."""
    return {
        "recipe": file.space.as_dict(),
        "data": {
            "valid": file.data.valid,
            "test": file.data.test,
            "seed": file.data.seed,
            "group": file.data.group,
            "group_pattern": file.data.group_pattern,
        },
        "images": {"count": len(data.index.paths), "digest": data.index.digest, "split_digest": data.split.digest},
        "major versions": {package: version(package).split(".")[0] for package in PACKAGES},
    }


def check_settings(study: optuna.Study, file: StudyFile, data: Data) -> None:
    """Compare the study's settings with those of this study file, these images and this machine.

    Raises:
        HpoError: they differ; the text names each difference.
    """
    kept = study.user_attrs.get(SETTINGS_KEY)
    if kept is None:
        raise HpoError(f'study: "{file.name}" was not created by hpo; give another [study] name')
    here = json.loads(json.dumps(settings(file, data)))
    differences = [
        f"{table}.{key} was {json.dumps(kept.get(table, {}).get(key))}, is now {json.dumps(value)}"
        for table, values in here.items()
        for key, value in values.items()
        if kept.get(table, {}).get(key) != value
    ]
    if differences:
        raise HpoError(
            f'study: "{file.name}" was begun with other settings, and its trials could not be compared: '
            f"{'; '.join(differences)}. Put that back, or give the study another name in [study] name"
        )


def make_sampler(file: StudyFile, place: int) -> BaseSampler:
    """The sampler for one place in the budget, with a seed of its own: workers that begin together differ."""
    seed = int(np.random.SeedSequence((file.seed, place)).generate_state(1)[0])
    if file.sampler == "random":
        return optuna.samplers.RandomSampler(seed)
    with warnings.catch_warnings():
        # `group` samples the fields of a condition jointly where they occur; Optuna calls it experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def make_pruner(file: StudyFile) -> BasePruner:
    """The pruner that the study file names: the median after a quarter of the epochs, Hyperband after a ninth."""
    epochs = int(max(file.space.values("epochs")))
    match file.pruner:
        case "median":
            quarter = math.ceil(epochs / 4)
            return optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS // 2, n_warmup_steps=quarter)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=max(1, epochs // 9), max_resource=epochs, reduction_factor=3
            )
        case _:
            return optuna.pruners.NopPruner()


def list_studies(url: str) -> list[dict[str, Any]]:
    """Name, number of trials and best macro-F1 of each study in a storage, by name."""
    storage = connect(url)
    return [
        {
            "name": summary.study_name,
            "trials": summary.n_trials,
            "best_macro_f1": summary.best_trial.value if summary.best_trial else None,
        }
        for summary in sorted(optuna.get_all_study_summaries(storage), key=lambda summary: summary.study_name)
    ]


def refuse_if_at_work(opened: OpenStudy) -> None:
    """Raise HpoError while a worker of the study beats."""
    with opened.storage.engine.connect() as connection:
        there = [row for row in workers(connection, opened.study_id) if not row.gone]
    if any(row.beat_seconds_ago < GRACE_SECONDS for row in there):
        raise HpoError(f"study: {len(there)} workers are at work on it; stop them first (Ctrl-C in `hpo search`)")


def delete_study(opened: OpenStudy) -> None:
    """Delete a study with its trials, our own rows and its files, for good."""
    remove_files(opened.artifacts, opened.storage, opened.study)
    opened.storage.delete_study(opened.study_id)


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The complete trial with the highest validation macro-F1, the earliest of equals; None before the first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def default_trial(study: optuna.Study) -> FrozenTrial | None:
    """The trial of the default recipe, if it is complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return next((trial for trial in complete if DEFAULT_KEY in trial.user_attrs), None)


def recipe_of(trial: FrozenTrial, study: optuna.Study, parts: Parts) -> Recipe:
    """The recipe that a trial was trained by, whatever the study file says by now."""
    return suggest(FixedTrial(trial.params), Space(study.user_attrs[SETTINGS_KEY]["recipe"], parts))


def model_of(trial: FrozenTrial, opened: OpenStudy, parts: Parts, classes: int, device: torch.device) -> Classifier:
    """The model of a complete trial with the weights of its best epoch, in eval mode on the device.

    Raises:
        StorageError: its weights are not here.
    """
    from trainer.backbones import build_model, load_weights

    with TemporaryDirectory(prefix="hpo-") as folder:
        weights = Path(folder) / WEIGHTS_NAME
        fetch_file(opened.artifacts, opened.storage, trial, WEIGHTS_NAME, weights)
        model = build_model(recipe_of(trial, opened.study, parts), classes, parts, pretrained=False)
        load_weights(model, weights)
    return model.to(device).eval()


def read_micro_batches(study: optuna.Study) -> dict[str, int]:
    """How many images at once fit into memory, where a trial of any worker has found that a batch does not."""
    return {
        key.removeprefix(MICRO_BATCH_KEY): int(size)
        for key, size in study.user_attrs.items()
        if key.startswith(MICRO_BATCH_KEY)
    }


def keep_micro_batches(study: optuna.Study, sizes: Mapping[str, int]) -> None:
    """Remember for all workers how many images fit into memory, by backbone, image size and device."""
    for key, size in sizes.items():
        study.set_user_attr(MICRO_BATCH_KEY + key, size)


def count_test_use(study: optuna.Study, key: str, time: str) -> int:
    """Note that the test split is looked at once more; returns how often it has been, this time included."""
    study.set_user_attr(TEST_USE_KEY + key, time)
    return sum(name.startswith(TEST_USE_KEY) for name in study.user_attrs)
