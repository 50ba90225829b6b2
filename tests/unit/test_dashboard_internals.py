"""Private modules of optuna-dashboard that we use: they are still there, called the same way, and do the same."""

from __future__ import annotations

import base64
import inspect
import json

import optuna
import pytest
from optuna.artifacts import ArtifactMeta
from optuna.trial import TrialState, create_trial
from optuna_dashboard import save_note

from hpo.dashboard import internals, routes
from hpo.dashboard.internals import (
    StudyEncoder,
    decode_file,
    find_study,
    make_application,
    route_callbacks,
    study_files,
    study_names_file,
    trial_as_json,
    trial_files,
)
from hpo.dashboard.study_page import TRIAL_ATTRIBUTE
from storage.artifacts.artifacts import naming
from storage.artifacts.folder_store import FolderFiles
from storage.optuna_internals import trial_id_of

pytestmark = pytest.mark.unit

CALLED = {
    "create_app": ["storage", "artifact_store"],
    "parse_data_uri": ["data_uri"],
    "get_plotly_graph_objects": ["system_attrs"],
    "get_cached_extra_study_property": ["in_memory_cache", "study_id", "trials"],
    "serialize_frozen_trial": ["study_id", "trial", "study_system_attrs"],
    "serialize_study_detail": [
        "study",
        "best_trials",
        "trials",
        "intersection",
        "union",
        "union_user_attrs",
        "has_intermediate_values",
        "plotly_graph_objects",
        "skipped_trial_numbers",
    ],
    "get_study": ["storage", "study_id"],
    "get_study_artifact_meta": ["storage", "study_id", "artifact_id"],
    "list_study_artifacts": ["study_system_attrs"],
    "list_trial_artifacts": ["study_system_attrs", "trial_system_attrs", "trial"],
}


@pytest.fixture
def study():
    """A study of two complete trials that have different parameters, and one that waits."""
    made = optuna.create_study(direction="maximize", study_name="shown")
    for value, extra in ((0.5, {}), (0.25, {"momentum": 0.9})):
        params = {"rate": 0.1, **extra}
        drawn = {name: optuna.distributions.FloatDistribution(0, 1) for name in params}
        made.add_trial(
            create_trial(
                value=value,
                params=params,
                distributions=drawn,
                user_attrs={"metrics": {"accuracy": value}, "host": "host"},
                intermediate_values={1: value / 2, 2: value},
            )
        )
    made.enqueue_trial({})
    return made


@pytest.fixture
def storage(study):
    """The storage of the study."""
    return study._storage


@pytest.mark.parametrize("name", CALLED)
def test_functions_that_we_call_keep_their_arguments(name):
    """A private function of optuna-dashboard takes the arguments that we give it, in this order."""
    parameters = list(inspect.signature(getattr(internals, name)).parameters.values())
    given = len(CALLED[name])
    assert [parameter.name for parameter in parameters[:given]] == CALLED[name]
    assert all(parameter.default is not parameter.empty for parameter in parameters[given:])


def test_every_route_that_changes_something_is_known(storage, tmp_path):
    """The routes that we replace or refuse exist, and beside them no route changes anything that was not looked at."""
    found = route_callbacks(make_application(storage, FolderFiles(tmp_path)))
    pages = {("GET", "/"), ("GET", routes.PAGE), ("GET", routes.STUDY)}
    guarded = {
        ("DELETE", routes.STUDY),
        ("PUT", f"{routes.STUDY}/note"),
        ("PUT", routes.TRIAL_NOTE),
        ("POST", routes.TELL),
        ("POST", routes.STUDY_FILES),
        ("POST", routes.TRIAL_FILES),
        ("DELETE", f"{routes.STUDY_FILES}/{routes.FILE}"),
        ("DELETE", f"{routes.TRIAL_FILES}/{routes.FILE}"),
        ("POST", "/incompatible-rdb-schema"),
        *routes.REFUSED,
    }
    harmless = {
        ("POST", "/api/studies"),
        ("POST", "/api/trials/<trial_id:int>/user-attrs"),
        ("POST", f"{routes.STUDY}/<trial_id:int>/skip"),
        ("POST", "/api/llm/trial_filter_query"),
        ("POST", "/api/llm/generate_plotly_graph_query"),
        ("POST", "/api/llm/re_generate_plotly_graph_query"),
    }
    assert pages <= found.keys()
    assert {(method, rule) for method, rule in found if method != "GET"} == guarded | harmless


def test_a_route_is_answered_by_the_function_itself(storage, tmp_path):
    """What answers a route raises its own failures, and no wrapper turns them into an internal server error."""
    found = route_callbacks(make_application(storage, FolderFiles(tmp_path)))
    assert list(inspect.signature(found["GET", routes.STUDY]).parameters) == ["study_id"]
    assert not any(hasattr(callback, "__wrapped__") for callback in found.values())


def test_a_study_is_found_by_its_id(study, storage):
    """A study is read with its attributes; one that does not exist is None."""
    study.set_user_attr("note", 1)
    found = find_study(storage, study._study_id)
    assert (found.study_name, found.user_attrs) == ("shown", {"note": 1})
    assert find_study(storage, 99) is None


def test_a_file_that_the_browser_sends_is_decoded():
    """A `data:` URI gives its bytes; any other text is a ValueError."""
    content = bytes(range(256))
    assert decode_file(f"data:image/png;base64,{base64.b64encode(content).decode()}") == content
    with pytest.raises(ValueError, match="data"):
        decode_file("https://example.org/a.png")


def test_files_are_listed_unless_they_were_removed(study, storage):
    """A study and a trial list the files that they name; one that is named null was removed."""
    waiting = study.trials[2]
    for artifact_id in ("a1", "a2"):
        for key, value in naming(artifact_id, f"{artifact_id}.png").items():
            storage.set_study_system_attr(study._study_id, key, value)
            storage.set_trial_system_attr(trial_id_of(waiting), key, value)
    storage.set_study_system_attr(study._study_id, "artifacts:a2", json.dumps(None))
    attributes = storage.get_study_system_attrs(study._study_id)
    assert [file["filename"] for file in study_files(attributes)] == ["a1.png"]
    assert {field: study_files(attributes)[0][field] for field in ArtifactMeta.__dataclass_fields__} == {
        "artifact_id": "a1",
        "filename": "a1.png",
        "mimetype": "image/png",
        "encoding": None,
    }
    mine = storage.get_trial_system_attrs(trial_id_of(waiting))
    assert [file["filename"] for file in trial_files(attributes, mine, waiting)] == ["a1.png", "a2.png"]
    assert study_names_file(storage, study._study_id, "a1")
    assert not study_names_file(storage, study._study_id, "a2")
    assert not study_names_file(storage, study._study_id, "a3")


def test_a_trial_has_the_fields_that_we_change(study):
    """The JSON of a trial has attributes, files, note and reports where our page changes them."""
    encoded = trial_as_json(study._study_id, study.trials[0], {})
    assert {"key": "host", "value": "host"} in encoded["user_attrs"]
    assert encoded["artifacts"] == []
    assert encoded["note"]["body"] == ""
    assert encoded["intermediate_values"] == [{"step": 1, "value": 0.25}, {"step": 2, "value": 0.5}]
    assert (encoded["number"], encoded["state"], encoded["values"]) == (0, "Complete", [0.5])


def test_an_attribute_of_the_study_holds_the_note_of_a_trial(study):
    """A note of a trial is an attribute of its study whose name begins as the page expects."""
    trial = study.trials[0]
    save_note(optuna.Trial(study, trial_id_of(trial)), "text")
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert all(TRIAL_ATTRIBUTE.match(key)[1] == str(trial_id_of(trial)) for key in attributes)
    encoded = trial_as_json(study._study_id, trial, attributes)
    assert encoded["note"]["body"] == "text"


def test_a_study_has_what_its_trials_have_in_common(study, storage):
    """The JSON of a study has no trials, all parameters, those that all trials have, and all columns but the hidden."""
    found = find_study(storage, study._study_id)
    encoded = StudyEncoder().encode(found, study._study_id, study.trials[:2], "metrics")
    assert (encoded["trials"], encoded["best_trials"]) == ([], [])
    assert sorted(each["name"] for each in encoded["union_search_space"]) == ["momentum", "rate"]
    assert [each["name"] for each in encoded["intersection_search_space"]] == ["rate"]
    assert [each["key"] for each in encoded["union_user_attrs"]] == ["host"]
    assert encoded["has_intermediate_values"]
    assert encoded["note"]["body"] == ""
    assert encoded["plotly_graph_objects"] == []


def test_trials_that_were_given_once_are_remembered(study, storage):
    """An encoder that is given new trials alone answers as if it had been given all."""
    found, encoder = find_study(storage, study._study_id), StudyEncoder()
    encoder.encode(found, study._study_id, study.trials[:1], "metrics")
    later = encoder.encode(found, study._study_id, study.trials[1:], "metrics")
    assert later == StudyEncoder().encode(found, study._study_id, study.trials, "metrics")
    assert study.trials[2].state is TrialState.WAITING
