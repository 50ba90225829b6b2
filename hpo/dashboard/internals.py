"""Every use of private modules of optuna-dashboard, which it may move or change in any release.

`tests/unit/test_dashboard_internals.py` fails with the first release that does so.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from optuna_dashboard._app import create_app
from optuna_dashboard._bottle_util import parse_data_uri
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._inmemory_cache import InMemoryCache, get_cached_extra_study_property
from optuna_dashboard._serializer import serialize_frozen_trial, serialize_study_detail
from optuna_dashboard._storage import get_study
from optuna_dashboard.artifact._backend import get_study_artifact_meta, list_study_artifacts, list_trial_artifacts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bottle import Bottle
    from optuna.artifacts._protocol import ArtifactStore
    from optuna.storages import BaseStorage
    from optuna.study._frozen import FrozenStudy
    from optuna.trial import FrozenTrial

    RouteKey = tuple[str, str]  # method and rule of a route, such as ("GET", "/api/studies/<study_id:int>")


def make_application(storage: BaseStorage, artifact_store: ArtifactStore) -> Bottle:
    """The WSGI application of optuna-dashboard, with its own routes."""
    return create_app(storage, artifact_store=artifact_store)


def route_callbacks(application: Bottle) -> dict[RouteKey, Callable[..., Any]]:
    """The functions that answer the routes of the application.

    They are taken without optuna-dashboard's wrapper, which turns every failure into an internal server error.
    """
    return {(route.method, route.rule): inspect.unwrap(route.callback) for route in application.routes}


def find_study(storage: BaseStorage, study_id: int) -> FrozenStudy | None:
    """The study with this id, as the database holds it now; None where there is none."""
    found: FrozenStudy | None = get_study(storage, study_id)
    return found


def decode_file(data_uri: str) -> bytes:
    """The bytes of a file that the browser has sent as a `data:` URI; raises ValueError where it is none."""
    content: bytes = parse_data_uri(data_uri)[1]
    return content


def study_names_file(storage: BaseStorage, study_id: int, artifact_id: str) -> bool:
    """Whether a study names a file with this id, one that was not removed."""
    return get_study_artifact_meta(storage, study_id, artifact_id) is not None


def study_files(study_attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files that the system attributes of a study name, as the page shows them."""
    files: list[dict[str, Any]] = list_study_artifacts(study_attributes)
    return files


def trial_files(
    study_attributes: Mapping[str, Any], trial_attributes: Mapping[str, Any], trial: FrozenTrial
) -> list[dict[str, Any]]:
    """The files that the system attributes of a trial, or those of its study, name for the trial."""
    files: list[dict[str, Any]] = list_trial_artifacts(study_attributes, trial_attributes, trial)
    return files


def trial_as_json(study_id: int, trial: FrozenTrial, study_attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as the page reads it, before it is made a JSON text.

    Args:
        study_id: of its study.
        trial: in any state.
        study_attributes: those system attributes of the study that belong to this trial.
    """
    encoded: dict[str, Any] = serialize_frozen_trial(study_id, trial, study_attributes)
    return encoded


class StudyEncoder:
    """A study without its trials as the page reads it; remembers what the trials that it has been given have in common.

    Not safe from several threads at once.
    """

    def __init__(self) -> None:
        self._cache = InMemoryCache()

    def encode(self, study: FrozenStudy, study_id: int, new: Sequence[FrozenTrial], hidden: str) -> dict[str, Any]:
        """The study before it is made a JSON text; its lists of trials are empty.

        Args:
            study: as `find_study` gives it.
            study_id: of the study.
            new: the trials that were not given before, and those given before that had not ended by then.
            hidden: name of a user attribute of the trials that the page is not to offer as a column.
        """
        shared, union, columns, has_values = get_cached_extra_study_property(self._cache, study_id, list(new))
        columns = [(name, sortable) for name, sortable in columns if name != hidden]
        plots = get_plotly_graph_objects(study.system_attrs)
        encoded: dict[str, Any] = serialize_study_detail(study, [], [], shared, union, columns, has_values, plots, [])
        return encoded
