"""The study in the storage: created once, loaded by all, held to its settings."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FixedTrial, TrialState

from hpo.errors import HpoError
from hpo.study.earlier import learn, refuse_unknown
from hpo.study.images import keep_ranges
from hpo.study.metric_settings import metric_of_study, name_metric, refuse_undefined
from hpo.study.portfolio import queue_portfolio
from hpo.study.queued import STUDY_FILE, queue_new
from hpo.study.samplers import keep_search, with_search_of
from hpo.study.settings import check_settings, refuse_foreign, settings, space_of
from hpo.study.study_name import CONFIRM_SUFFIX
from hpo.study.trained import TrainedRecipes
from storage.artifacts.artifact_store import probe
from storage.artifacts.artifacts import fetch_file
from storage.artifacts.store_url import open_store
from storage.database import connect, initialize, one_at_a_time, refuse_letters
from storage.embedded.server import embedded_postgres, has_postgres
from storage.errors import StorageError
from storage.keys import (
    CONFIRMATION_KEY,
    DEFAULT_KEY,
    ID_KEY,
    MICRO_BATCH_KEY,
    SETTINGS_KEY,
    TAKEN_OVER_KEY,
    WEIGHTS_NAME,
)
from storage.study_rows import StudyRows
from trainer.space import recipe_near_default, suggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

    from hpo.study.study_file import StudyFile
    from storage.artifacts.artifact_store import ArtifactFiles
    from storage.outage_retry import OutageRetry
    from trainer.data import Data
    from trainer.extensions import Extensions
    from trainer.model.backbones import Classifier
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe


@dataclass(frozen=True)
class OpenStudy:
    """The study of a study file, with the storage that it lives in.

    Attributes:
        file: the study file.
        url: of its storage, with the password.
        study: Optuna's.
        storage: Optuna's.
        study_id: the number that Optuna has given it.
        artifacts_url: where the files of its trials are.
        owner: what the ids of its files begin with; empty for a study that hpo has not made.
        outage_retry: waits for the database where it does not answer; None does not wait.
    """

    file: StudyFile
    url: str
    study: optuna.Study
    storage: RDBStorage
    study_id: int
    artifacts_url: str
    owner: str
    outage_retry: OutageRetry | None = None

    @cached_property
    def rows(self) -> StudyRows:
        """Its rows in our own tables."""
        return StudyRows(self.storage, self.study_id, self.outage_retry)

    @cached_property
    def metric(self) -> Metric:
        """By which it compares its trials, whatever its file says by now."""
        attributes = self.study.user_attrs
        return metric_of_study(attributes) if SETTINGS_KEY in attributes else self.file.metric

    @cached_property
    def trained(self) -> TrainedRecipes:
        """The recipes that it has trained, as far as they were read."""
        return TrainedRecipes(space_of(self.study, self.file.space.extensions))

    @cached_property
    def artifacts(self) -> ArtifactFiles:
        """The files of its trials. The store is opened at the first use: who needs only the database needs no store.

        Raises:
            StorageError: the URL is wrong, or what it needs is not installed.
        """
        if self.file.artifacts is None:
            self.file.make_folder()
        return open_store(self.artifacts_url)


@contextmanager
def storage_url(study_file: StudyFile, given: str | None, *, create: bool = True) -> Iterator[str]:
    """The URL of the study's Postgres: the given one, else the study file's, else that of the embedded one, started.

    Raises:
        StorageError: the embedded Postgres cannot be started.
        HpoError: there is none yet, and `create` is False.
    """
    if url := given or study_file.storage:
        yield url
    elif not create and not has_postgres(study_file.folder):
        raise HpoError(
            f"study: nothing was begun in {study_file.folder}; `hpo search {study_file.path.name}` begins it"
        )
    else:
        with embedded_postgres(study_file.folder) as url:
            yield url


@contextmanager
def refusing_changes(study_file: StudyFile, given: str | None) -> Iterator[optuna.Study | None]:
    """Refuse a study file that its study cannot go on with, as far as that is known without the images.

    For the beginning of what takes long; a private Postgres that is there runs as long as the block. Yields the study,
    None where it has not begun.

    Args:
        study_file: whose study may not exist yet.
        given: URL of its storage, as `storage_url` takes it.

    Raises:
        HpoError: the study exists with other settings.
        StorageError: the private Postgres cannot be started.
    """
    if not (given or study_file.storage or has_postgres(study_file.folder)):
        yield None
        return
    with storage_url(study_file, given) as url:
        yield _begun(study_file, url)


def _begun(study_file: StudyFile, url: str) -> optuna.Study | None:
    try:
        study = find_study(study_file, url).study
    except (HpoError, StorageError):
        return None  # there is none yet; what is wrong with the storage is said when it is used
    if SETTINGS_KEY not in study.user_attrs:
        return None
    check_settings(study, study_file, None)
    return study


def create_study(study_file: StudyFile, url: str, data: Data) -> list[str]:
    """Make the tables and the study where they do not exist yet; safe to repeat, safe in parallel.

    The first trials of a new study are those of the recipes of its file, then that of the default recipe, so that the
    search can be compared with not searching, then those of earlier studies and of the portfolio. A recipe that has
    come to the file since is queued.

    Returns:
        lines that say which recipes were queued, and what was learned from earlier studies.

    Raises:
        StorageError: the database cannot be used.
        HpoError: the study exists with other settings, or is to learn from one that does not, or its metric is not
            defined for its images.
    """
    refuse_undefined(study_file.metric, data, study_file.path)
    initialize(url)
    storage = connect(url)
    refuse_letters(storage, study_file.name, url)
    refuse_unknown(study_file, storage)
    with one_at_a_time(url):
        study = optuna.create_study(
            study_name=study_file.name, storage=storage, direction="maximize", load_if_exists=True
        )
        # A study without settings and without a result was not made to its end, which is done now.
        if SETTINGS_KEY not in study.user_attrs:
            if TAKEN_OVER_KEY not in study.user_attrs and only_waits(study):
                return begin_study(study, study_file, data)
        else:
            give_id(study)
        check_settings(study, study_file, data)
        study_file = with_search_of(study, study_file)
        return [*_queue_own(study, study_file, study_file.tries), *learn(study, study_file, len(data.index.classes))]


def only_waits(study: optuna.Study) -> bool:
    """Whether no trial of a study has begun."""
    return all(trial.state is TrialState.WAITING for trial in study.get_trials(deepcopy=False))


def give_id(study: optuna.Study) -> None:
    """Give a study its id where it has none: one that is being made, or was before studies had one."""
    if ID_KEY not in study.user_attrs:
        study.set_user_attr(ID_KEY, uuid.uuid4().hex)


def begin_study(study: optuna.Study, study_file: StudyFile, data: Data) -> list[str]:
    """Let workers begin: what is tried first waits, in the order of `create_study`, unless it was tried.

    The settings come last. Returns what `create_study` does.
    """
    own = [recipe for recipe in study_file.tries if recipe != recipe_near_default({}, study_file.space)]
    lines = _queue_own(study, study_file, own)
    if not any(DEFAULT_KEY in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        study.enqueue_trial(study_file.space.default_parameters(), user_attrs={DEFAULT_KEY: True})
    classes = len(data.index.classes)
    lines += [*learn(study, study_file, classes), *queue_portfolio(study, study_file, classes)]
    give_id(study)
    keep_ranges(study, data)
    name_metric(study, study_file.metric)
    keep_search(study)
    study.set_user_attr(SETTINGS_KEY, settings(study_file, data))
    return lines


def _queue_own(study: optuna.Study, study_file: StudyFile, recipes: Iterable[Recipe]) -> list[str]:
    queued = queue_new(study, dict.fromkeys(recipes, STUDY_FILE), study_file.space)
    return [f"recipes of the study file that are tried first: {queued}"] if queued else []


def load_study(study_file: StudyFile, url: str, outage_retry: OutageRetry | None = None) -> OpenStudy:
    """Load the study of a study file; what is then done with it waits for the database where `outage_retry` is given.

    Raises:
        StorageError: the database cannot be used or is not initialised.
        HpoError: it holds no such study, or one that hpo has not made, or not to the end.
    """
    opened = find_study(study_file, url, outage_retry)
    refuse_foreign(opened.study, study_file)
    return opened


def find_study(study_file: StudyFile, url: str, outage_retry: OutageRetry | None = None) -> OpenStudy:
    """Load the study of that name, whoever has made it; raises as `load_study` does where there is none."""
    storage = connect(url, outage_retry)
    refuse_letters(storage, study_file.name, url)
    try:
        study = optuna.load_study(study_name=study_file.name, storage=storage)
    except KeyError:
        raise HpoError(
            f'study: "{study_file.name}" is not in this storage; `hpo init {study_file.path.name}` creates it'
        ) from None
    study_file = with_search_of(study, study_file)
    study_id = storage.get_study_id_from_name(study_file.name)
    artifacts_url = study_file.artifacts or str(study_file.folder / "artifacts")
    return OpenStudy(
        study_file, url, study, storage, study_id, artifacts_url, study.user_attrs.get(ID_KEY, ""), outage_retry
    )


def probe_artifacts(study_file: StudyFile) -> None:
    """Find out whether the store that is named for a study's files can be used; the folder beside it is not touched.

    Raises:
        StorageError: it cannot.
    """
    if study_file.artifacts is not None:
        probe(open_store(study_file.artifacts))


def study_that_confirms(opened: OpenStudy, outage_retry: OutageRetry | None = None) -> OpenStudy | None:
    """The study that confirms this one, with the study file of this one, made to its end or not; None without one."""
    storage = opened.storage if outage_retry is None else connect(opened.url, outage_retry)
    name = opened.file.name + CONFIRM_SUFFIX
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    if CONFIRMATION_KEY not in study.user_attrs:
        return None
    study_id, owner = storage.get_study_id_from_name(name), study.user_attrs.get(ID_KEY, "")
    return replace(opened, study=study, storage=storage, study_id=study_id, owner=owner, outage_retry=outage_retry)


def recipe_of(trial: FrozenTrial, study: optuna.Study, extensions: Extensions) -> Recipe:
    """The recipe that a trial was trained by; raises RecipeError as `space_of` does."""
    return suggest(FixedTrial(trial.params), space_of(study, extensions))


def model_of(
    trial: FrozenTrial, opened: OpenStudy, extensions: Extensions, classes: int, device: torch.device
) -> Classifier:
    """The model of a complete trial with the weights of its best epoch, in eval mode on the device.

    Raises:
        StorageError: its weights are not here, or no longer kept.
    """
    from trainer.model.backbones import build_model, load_weights

    with TemporaryDirectory(prefix="hpo-") as folder:
        weights = Path(folder) / WEIGHTS_NAME
        fetch_file(opened.artifacts, opened.storage, trial, WEIGHTS_NAME, weights)
        model = build_model(recipe_of(trial, opened.study, extensions), classes, extensions, pretrained=False)
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
