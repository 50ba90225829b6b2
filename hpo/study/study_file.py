"""study.toml -> StudyFile; all its mistakes at once, each with its key."""

from __future__ import annotations

import hashlib
import tomllib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

from hpo.errors import StudyFileError
from hpo.study.confirm_settings import ConfirmSettings, read_confirm_settings
from hpo.study.given_splits import read_splits, read_test_fold
from hpo.study.metric_settings import read_metric
from hpo.study.model_limits import ModelLimits, read_model_limits
from hpo.study.notify_url import notify_problem
from hpo.study.queued import read_tries
from hpo.study.study_name import name_problems
from hpo.study.table import Table
from hpo.study.tracker_names import read_trackers
from storage.artifacts.store_url import bucket_of
from storage.budget import Limits, StopRules
from storage.database import parse_url
from storage.errors import StorageError
from storage.private_folder import make_private
from trainer.enumeration import count_recipes, endless_fields
from trainer.errors import RecipeError
from trainer.objective_metric import MACRO_F1
from trainer.recipe import nearest
from trainer.remote.urls import shown, source_of, url_problem
from trainer.space import Space

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainer.data import Data
    from trainer.extensions import Extensions
    from trainer.images.index import Grouping
    from trainer.images.sides import Splits
    from trainer.images.value_range import ValueRanges
    from trainer.objective_metric import Metric
    from trainer.recipe import Recipe

PRUNERS = ("asha", "median", "hyperband", "none")
SAMPLERS = ("forest", "tpe", "random", "grid")
DEFAULT_TRIALS = 100
FOLDER_BYTES = 200  # of a folder's name; no file system takes more than 255


@dataclass(frozen=True)
class DataSettings:
    """The table [data]: where the images are and how they are split.

    Attributes:
        path: a folder with one folder a class, or a CSV with the columns path and label; or an archive with one; or the
            URL of one of these, a text.
        valid: share of the images that judges the trials.
        test: share of the images that the search never sees.
        seed: of the split.
        group: column of the CSV whose images stay on one side of the split; "group" where there is one.
        group_pattern: regular expression whose one group does so, searched in an image's path.
        splits: which folders, or which column of the CSV, are sides of a split that the data come with.
        test_fold: in place of `test`, which of how many folds of all images is never seen, (1, 5) for the first of 5.
        value_range: the values that are black and white in images of more than 8 bits; None finds them.
        pixels_gb: the most that the decoded images may take on the disk, in units of 10^9 bytes.
    """

    path: Path | str
    valid: float = 0.2
    test: float = 0.15
    seed: int = 0
    group: str | None = None
    group_pattern: str | None = None
    splits: Splits | None = None
    test_fold: tuple[int, int] | None = None
    value_range: tuple[float, float] | None = None
    pixels_gb: float = 100.0

    def load(self, cache: Path, on_progress: Callable[[int, int], None] | None = None) -> Data:
        """List and split the images, as `load_data` does, which raises DataError."""
        from trainer.data import load_data
        from trainer.images.cache import PixelCache
        from trainer.images.split import split_by_fold

        split, pixels = {"valid": self.valid, "test": self.test}, PixelCache(cache, self.pixels_gb * 1e9)
        data = load_data(
            self.path, **split, seed=self.seed, grouping=self.grouping, cache=pixels, on_progress=on_progress
        )
        if self.test_fold:
            data = data.with_split(split_by_fold(data.index, self.test_fold, valid=self.valid, seed=self.seed))
        return data if self.ranges is None else data.with_ranges(self.ranges)

    @property
    def ranges(self) -> ValueRanges | None:
        """Those that `value_range` gives."""
        from trainer.images.value_range import ranges_set_to

        return self.value_range and ranges_set_to(*self.value_range)

    @property
    def grouping(self) -> Grouping:
        """Which images stay on one side of the split, and which sides the data give."""
        from trainer.images.index import Grouping
        from trainer.images.sides import Splits

        return Grouping(self.group, self.group_pattern, self.splits or Splits())


@dataclass(frozen=True)
class StudyFile:
    """What a study file says.

    Attributes:
        path: the file.
        name: of the study in the storage.
        data: the table [data].
        limits: the table [budget].
        space: the table [recipe].
        sampler: what proposes recipes.
        pruner: what ends trials early, or pauses them.
        unnamed: which of these two the file does not name.
        seed: of the sampler.
        retries: how often a trial is started again after its worker died.
        weights: folder with pretrained weights, or the file of the only backbone, in place of the hub.
        track: names of the trackers that are told of the trials.
        notify: URL that is told of problems and the end; it may hold a secret.
        storage: URL of a Postgres; None for the embedded one.
        artifacts: URL or folder of the trials' files; None for the folder beside the file.
        keep_weights: how many complete trials keep their weights, the best ones.
        control_share: share of the trials that `asha` never pauses, to see what pausing costs.
        checkpoints_gb: the most that the checkpoints of paused trials may take, in units of 10^9 bytes.
        hang_minutes: after which a step may count as hung.
        stop_rules: of the table [budget], what ends the search when it has found enough.
        trial_minutes: that a trial may take, however often it is started; None for any time.
        tries: recipes of the user's own, the tables [[try]], which are tried first.
        model_limits: the table [limits].
        learn_from: names of earlier studies whose results help; "all" for those that the storage holds.
        portfolio: whether a new study tries recipes first that are known to suit families of backbones.
        metric: by which trials are compared.
        confirm: the table [confirm], with which a search confirms its best recipes at its end; None does not.
    """

    path: Path
    name: str
    data: DataSettings
    limits: Limits
    space: Space
    sampler: str = "forest"
    pruner: str = "asha"
    seed: int = 0
    retries: int = 2
    weights: Path | None = None
    track: tuple[str, ...] = ()
    notify: str | None = field(default=None, repr=False)
    storage: str | None = None
    artifacts: str | None = None
    keep_weights: int = 20
    control_share: float = 0.05
    checkpoints_gb: float = 100.0
    hang_minutes: float = 10.0
    stop_rules: StopRules = field(default_factory=StopRules)
    trial_minutes: float | None = None
    tries: tuple[Recipe, ...] = ()
    model_limits: ModelLimits = field(default_factory=ModelLimits)
    learn_from: tuple[str, ...] | str = ()
    portfolio: bool = True
    confirm: ConfirmSettings | None = None
    metric: Metric = MACRO_F1
    unnamed: frozenset[str] = frozenset()

    @property
    def folder(self) -> Path:
        """Where what belongs to the study file is kept on this machine: database, pixels, artifacts."""
        return self.path.parent / ".hpo"

    def make_folder(self) -> None:
        """Make the folder, closed to other users, before anything is written to it.

        Where that fails, whoever writes to it says why.
        """
        with suppress(OSError):
            make_private(self.folder)

    @property
    def tensorboard_folder(self) -> Path:
        """Where the logs of the study's trials are, one folder for each trial: what `tensorboard --logdir` wants."""
        name = quote(self.name, safe=" ").replace(".", "%2E")  # so that no name points to another folder
        if len(name) > FOLDER_BYTES:
            name = f"{name[:FOLDER_BYTES]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        return self.folder / "tensorboard" / name


def read_study_file(path: Path, extensions: Extensions | None = None) -> StudyFile:
    """Read and check a study file; paths in it are relative to its folder.

    Raises:
        StudyFileError: it cannot be read, or has mistakes; all of them are named.
    """
    path = path.absolute()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyFileError(f"{path}: there is no such file; `hpo demo` writes an example") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise StudyFileError(f"{path}: is no TOML: {error}") from None
    except RecursionError:
        raise StudyFileError(f"{path}: is nested too deeply; a study file has tables of values and lists") from None

    problems: list[str] = []
    confirmed = "confirm" in tables
    single = ("study", "data", "budget", "limits", "confirm", "recipe")
    known = (*single, "try")
    problems += [f"[{key}]: there is no such table{nearest(key, known)}" for key in tables if key not in known]
    for key in single:
        if not isinstance(tables.setdefault(key, {}), dict):
            problems.append(f"{key}: is not a table; write [{key}] on a line of its own")
            tables[key] = {}
    study = Table("study", tables["study"], problems)
    data = Table("data", tables["data"], problems)
    budget = Table("budget", tables["budget"], problems)
    model_limits = read_model_limits(Table("limits", tables["limits"], problems))
    confirm = read_confirm_settings(Table("confirm", tables["confirm"], problems)) if confirmed else None

    name = study.text("name") or path.stem
    problems += name_problems(name, confirmed=confirmed)
    storage = study.text("storage")
    if storage is not None:
        try:
            parse_url(storage)
        except StorageError as error:
            problems.append(f"study.{error}")
    artifacts = study.text("artifacts")
    if artifacts is not None:
        try:
            if bucket_of(artifacts) is None:
                artifacts = str(path.parent / artifacts)
        except StorageError as error:
            problems.append(f"study.{error}")
    keep_weights = study.number("keep_weights", whole=True, low=1, high=10_000_000)
    control_share = study.number("control_share", low=0, high=1)
    checkpoints_gb = study.number("checkpoints_gb", low=0, high=1e6)
    weights = study.text("weights")
    if weights is not None and not (path.parent / weights).exists():
        problems.append(f"study.weights: {path.parent / weights} does not exist; name a folder of weights, or a file")
    track = read_trackers(study, problems)
    metric = read_metric(study, problems)
    notify = study.value("notify")
    if notify is not None and (problem := notify_problem(notify)):
        problems.append(f"study.notify: {problem}")
    sampler, pruner = study.choice("sampler", SAMPLERS), study.choice("pruner", PRUNERS)
    learn_from = study.texts("learn_from", every="all", but=name)
    portfolio = study.switch("portfolio", default=StudyFile.portfolio)
    seed = study.number("seed", whole=True, low=0, high=2**31 - 1)
    retries = study.number("retries", whole=True, low=0, high=100)
    hang_minutes = study.number("hang_minutes", low=1e-3, high=1e6) or StudyFile.hang_minutes
    study.no_more()

    test_fold = read_test_fold(data, tables["data"], problems)
    settings = DataSettings(
        path=source_of(data.text("path", required=True) or "", path.parent),
        valid=data.share("valid", DataSettings.valid),
        test=0.0 if test_fold else data.share("test", DataSettings.test),
        seed=int(data.number("seed", whole=True, low=0, high=2**31 - 1) or 0),
        group=data.text("group"),
        group_pattern=data.pattern("group_pattern"),
        splits=read_splits(data.value("splits"), problems),
        test_fold=test_fold,
        value_range=data.interval("value_range"),
        pixels_gb=data.number("pixels_gb", low=1e-6, high=1e6) or DataSettings.pixels_gb,
    )
    if isinstance(settings.path, str) and (problem := url_problem(settings.path)):
        problems.append(f"data.path: {shown(settings.path)}: {problem}")
    if settings.valid + settings.test >= 1:
        problems.append(f"data: valid = {settings.valid} and test = {settings.test} leave nothing to train on")
    if settings.valid == 0:
        problems.append("data.valid: 0 leaves nothing to judge the trials by")
    if settings.group and settings.group_pattern:
        problems.append("data.group: cannot stand beside group_pattern; one of them says which images belong together")
    data.no_more()

    trials = budget.number("trials", whole=True, low=1, high=10_000_000)
    limits = Limits(
        trials=None if trials is None else int(trials),
        hours=budget.number("hours", low=1e-6, high=1e6),
        gpu_hours=budget.number("gpu_hours", low=1e-6, high=1e9),
    )
    patience = budget.number("patience", whole=True, low=1, high=10_000_000)
    stop_rules = StopRules(
        target=budget.number("target", low=1e-6, high=1 if metric.maximised else 1e6),
        patience=None if patience is None else int(patience),
    )
    trial_minutes = budget.number("trial_minutes", low=1e-3, high=1e6)
    budget.no_more()

    wrong: list[str] = []
    tries: tuple[Recipe, ...] = ()
    try:
        space = Space(tables["recipe"], extensions)
    except RecipeError as error:
        wrong = error.problems
    else:
        tries = read_tries(tables.get("try", []), space, problems)
        if sampler == "grid" and (endless := endless_fields(space)):
            fields = ", ".join(endless)
            problems.append(f'study.sampler: "grid" tries every recipe: give [recipe] a list or a value for {fields}')
        elif limits == Limits():
            limits = Limits(trials=count_recipes(space) if sampler == "grid" else DEFAULT_TRIALS)
    if (problems or wrong) and "backbone" in tables["recipe"]:
        from trainer.model.feasibility import backbone_problems_beside  # models take seconds: only beside mistakes

        wrong += backbone_problems_beside(wrong, tables["recipe"], extensions)
    problems += [f"recipe.{problem}" for problem in wrong]
    if limits.trials is not None and len(tries) > limits.trials:
        problems.append(f"try: {len(tries)} recipes are more than [budget] trials = {limits.trials}; raise it")
    if problems:
        raise StudyFileError("\n".join(f"{path.name}: {problem}" for problem in problems))
    return StudyFile(
        path=path,
        name=name,
        data=settings,
        limits=limits,
        space=space,
        sampler=sampler or StudyFile.sampler,
        pruner=pruner or StudyFile.pruner,
        unnamed=frozenset(key for key, value in {"sampler": sampler, "pruner": pruner}.items() if value is None),
        seed=int(seed or 0),
        retries=StudyFile.retries if retries is None else int(retries),
        weights=None if weights is None else path.parent / weights,
        track=track,
        notify=notify,
        storage=storage,
        artifacts=artifacts,
        keep_weights=StudyFile.keep_weights if keep_weights is None else int(keep_weights),
        control_share=StudyFile.control_share if control_share is None else control_share,
        checkpoints_gb=StudyFile.checkpoints_gb if checkpoints_gb is None else checkpoints_gb,
        hang_minutes=hang_minutes,
        stop_rules=stop_rules,
        trial_minutes=trial_minutes,
        tries=tries,
        model_limits=model_limits,
        learn_from=learn_from,
        portfolio=portfolio,
        confirm=confirm,
        metric=metric,
    )
