"""A line in the log for each change that is asked for: who, from where, what, of which study or trial."""

from __future__ import annotations

import json
from functools import wraps
from typing import TYPE_CHECKING, Any

from bottle import HTTPResponse, request, response

from hpo.dashboard.visitors import VISITOR, log_change, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from hpo.dashboard.internals import RouteKey
    from storage.study_rows import StudyRows

# What of a request's JSON is part of the line; notes, values and the contents of files are not.
NAMED = ("state", "study_name", "filename")
READING = ("GET", "HEAD")


def logged(key: RouteKey, view: Callable[..., Any], rows: StudyRows) -> Callable[..., Any]:
    """A route with a line in the log for each request that is to change something.

    Args:
        key: of the route.
        view: the route; it raises no exception but `HTTPResponse`.
        rows: of a study in the same database.
    """
    method, rule = key
    if method in READING:
        return view

    @wraps(view)
    def answer(*arguments: Any, **named: Any) -> Any:
        # What is deleted has no name afterwards.
        what = f"{method} {_end_of(rule)}{_details()}, {_subject(rows, named)}"
        try:
            found = view(*arguments, **named)
        except HTTPResponse as raised:
            log_change(request.environ.get(VISITOR), what, raised.status_code)
            raise
        status = found.status_code if isinstance(found, HTTPResponse) else response.status_code
        log_change(request.environ.get(VISITOR), what, status)
        return found

    return answer


def _end_of(rule: str) -> str:
    """What a route is about: `note` of /api/studies/<study_id:int>/note."""
    return next(part for part in reversed(rule.split("/")) if part and not part.startswith("<"))


def _details() -> str:
    try:
        body = request.json
    except (HTTPResponse, RecursionError):  # the route answers that itself
        return ""
    if not isinstance(body, dict):
        return ""
    return "".join(f" {json.dumps(shown(value))}" for name in NAMED if isinstance(value := body.get(name), str))


def _subject(rows: StudyRows, named: dict[str, Any]) -> str:
    study_id, trial_id = named.get("study_id"), named.get("trial_id")
    try:
        if trial_id is not None and (found := rows.name_trial(trial_id)):
            return f"trial {found[1]} of {json.dumps(shown(found[0]))}"
        if study_id is not None and (name := rows.name_study(study_id)) is not None:
            return f"study {json.dumps(shown(name))}"
    except Exception:  # noqa: BLE001 - the route itself meets what is wrong with the database, and says so
        return shown(request.path)
    return shown(request.path)
