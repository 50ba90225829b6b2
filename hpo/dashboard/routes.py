"""optuna-dashboard for one study: its routes; those that would harm the study, show less or be slow are replaced."""

from __future__ import annotations

import gzip
import json
import logging
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import optuna
from bottle import HTTPError, HTTPResponse, request, response
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import UpdateFinishedTrialError
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from hpo.dashboard.changes import logged
from hpo.dashboard.files import Files
from hpo.dashboard.internals import make_application, route_callbacks
from hpo.dashboard.metrics import metrics_of
from hpo.dashboard.notes import without_ours
from hpo.dashboard.study_page import StudyPage
from hpo.dashboard.visitors import VISITOR
from hpo.errors import HpoError
from hpo.study.deletion import delete_idle_study, delete_study
from hpo.study.settings import refuse_foreign
from hpo.study.status import take_snapshot
from storage.errors import StorageError
from storage.keys import ID_KEY
from storage.outage_retry import cause_of, is_outage, is_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from bottle import Bottle

    from hpo.dashboard.internals import RouteKey
    from hpo.study.open_study import OpenStudy

AT_WORK = 12  # requests at once; fewer than the threads of the server, which so always has one for the login
BUSY_SECONDS = 2.0  # that a further request waits
DEEPEST_JSON = 64  # lists and tables in each other that a request may bring
PAGE = "/dashboard<:re:(/.*)?>"
STUDY = "/api/studies/<study_id:int>"
TRIAL_NOTE = f"{STUDY}/<trial_id:int>/note"
TELL = "/api/trials/<trial_id:int>/tell"
STUDY_FILES, TRIAL_FILES = "/api/artifacts/<study_id:int>", "/api/artifacts/<study_id:int>/<trial_id:int>"
FILE = "<artifact_id:re:[0-9a-fA-F-]+>"
NOT_PREFERENTIAL = "people do not judge the trials of this study: its workers do"
# Routes that would break a study of hpo, and the reason that is shown.
REFUSED: dict[RouteKey, str] = {
    ("POST", f"{STUDY}/rename"): "a renamed study would lose its budget and files; change [study] name in the study"
    " file, and `hpo init STUDY --from OLD` begins a study of that name with the trials of this one",
    ("POST", f"{STUDY}/preference"): NOT_PREFERENTIAL,
    ("PUT", f"{STUDY}/preference_feedback_component"): NOT_PREFERENTIAL,
    ("DELETE", f"{STUDY}/preference/<history_id>"): NOT_PREFERENTIAL,
    ("POST", f"{STUDY}/preference/<history_id>"): NOT_PREFERENTIAL,
}
BAR = """
<style>
  #hpo-bar { position: fixed; right: 12px; bottom: 8px; z-index: 1000; font: 12px system-ui, sans-serif; }
  #dashboard table:not([class]) :is(th, td) { padding: 2px 16px 2px 0; text-align: left; }
  #hpo-bar > * { padding: 3px 8px; border-radius: 4px; background: #455a64; color: #fff; text-decoration: none; }
</style>
<div id="hpo-bar">MODE<a href="/logout">log out</a></div>"""

logger = logging.getLogger(__name__)


class Dashboard:
    """optuna-dashboard for a study, open to everybody: `LoginGate` asks for the password.

    Attributes:
        application: for WSGI.
        page: the study as JSON; replaced after the study was deleted and made again.

    Args:
        opened: the study.
        read_only: say so on the page; `LoginGate` refuses the requests that change something.

    Raises:
        RecipeError: the study names functions of one's own that the file's extensions do not hold.
    """

    def __init__(self, opened: OpenStudy, *, read_only: bool = False) -> None:
        # Optuna's cache around the storage: it remembers trials that have ended. Given an RDBStorage itself,
        # optuna-dashboard would look for tables to upgrade at each page.
        self._cached_storage = optuna.storages.get_storage(opened.storage)
        self._show(opened)
        files = Files(self._cached_storage, opened)
        self.application: Bottle = make_application(self._cached_storage, opened.artifacts)
        self._stock = route_callbacks(self.application)
        self._pages = {
            role: self._make_page(
                BAR.replace("MODE", "<span>read-only</span> " if read_only or role == "viewer" else "")
            )
            for role in ("editor", "viewer")
        }
        ours: dict[RouteKey, Callable[..., Any]] = {
            ("GET", "/"): self._lead,
            ("GET", PAGE): self._page,
            ("GET", STUDY): self._study,
            ("DELETE", STUDY): self._delete,
            ("PUT", f"{STUDY}/note"): self._save_study_note,
            ("PUT", TRIAL_NOTE): self._save_trial_note,
            ("POST", STUDY_FILES): files.add_to_study,
            ("POST", TRIAL_FILES): files.add_to_trial,
            ("DELETE", f"{STUDY_FILES}/{FILE}"): files.remove_from_study,
            ("DELETE", f"{TRIAL_FILES}/{FILE}"): files.remove_from_trial,
            ("POST", TELL): self._tell,
            ("POST", "/incompatible-rdb-schema"): self._upgrade,
            **{key: self._refusing(key, reason) for key, reason in REFUSED.items()},
        }
        self.application.get("/metrics", callback=self._metrics)
        slots = threading.BoundedSemaphore(AT_WORK)
        for route in self.application.routes:
            key = (route.method, route.rule)
            view = ours.get(key, self._stock.get(key, route.callback))
            route.callback = logged(key, _answering(view, slots), opened.rows)

    def _show(self, opened: OpenStudy) -> None:
        opened = replace(opened, study=optuna.load_study(study_name=opened.file.name, storage=self._cached_storage))
        self._opened, self.page = opened, StudyPage(opened)

    def _follow(self) -> None:
        """Show the study that has the name by now: the one that was shown may have been deleted, and made anew."""
        file = self._opened.file
        study_id = self._cached_storage.get_study_id_from_name(file.name)
        if study_id != self._opened.study_id:
            study = optuna.load_study(study_name=file.name, storage=self._cached_storage)
            refuse_foreign(study, file)
            self._show(replace(self._opened, study_id=study_id, owner=study.user_attrs[ID_KEY]))

    def _lead(self) -> HTTPResponse:
        try:
            self._follow()
        except Exception as error:
            if not is_outage(error):  # the page itself tells more of an outage
                raise
        return HTTPResponse(status=302, Location=f"/dashboard/studies/{self._opened.study_id}")

    def _page(self, *_: Any) -> HTTPResponse:
        visitor = request.environ.get(VISITOR)
        return self._pages[visitor.role if visitor else "editor"]

    def _metrics(self) -> HTTPResponse:
        self._follow()
        return HTTPResponse(metrics_of(take_snapshot(self._opened)), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    def _make_page(self, bar: str) -> HTTPResponse:
        request.bind({"REQUEST_METHOD": "GET"})  # a request without a cache, so that the page comes whole
        stock = self._stock["GET", PAGE]()
        with stock.body as file:
            page = file.read().decode()
        policy = {"Content-Security-Policy": stock.get_header("Content-Security-Policy")}
        headers = {"Content-Type": "text/html; charset=utf-8", **policy}
        return HTTPResponse(page.replace("<body>", f"<body>{bar}", 1), headers=headers)

    def _study(self, study_id: int) -> Any:
        if study_id != self._opened.study_id:
            with suppress(KeyError, HpoError):  # there is none of that name now, or not yet
                self._follow()
        if study_id != self._opened.study_id:
            return self._stock["GET", STUDY](study_id)
        after = request.query.get("after", "0")
        if not after.isdecimal():
            return _failure(400, "`after` is a number of trials")
        body = self.page.answer(int(after)).encode()
        headers = {"Content-Type": "application/json", "Vary": "Accept-Encoding"}
        if "gzip" in request.get_header("Accept-Encoding", ""):
            body, headers["Content-Encoding"] = gzip.compress(body, compresslevel=1), "gzip"
        return HTTPResponse(body, **headers)

    def _delete(self, study_id: int) -> Any:
        if study_id == self._opened.study_id:
            delete_idle_study(self._opened)
        elif self._is_ours(study_id):
            raise HpoError("only `hpo delete` with the study file of that study finds all its files")
        else:
            asked = (request.json or {}).get("remove_associated_artifacts", True)
            delete_study(replace(self._opened, study_id=study_id, owner=""), with_files=bool(asked))
        return _done()

    def _save_study_note(self, study_id: int) -> Any:
        _cut_note()
        return self._with_ours(self._stock["PUT", f"{STUDY}/note"](study_id), study_id, None)

    def _save_trial_note(self, study_id: int, trial_id: int) -> Any:
        _cut_note()
        return self._with_ours(self._stock["PUT", TRIAL_NOTE](study_id, trial_id), study_id, trial_id)

    def _with_ours(self, answer: Any, study_id: int, trial_id: int | None) -> Any:
        """The answer to a saved note. Where somebody else has changed the note meanwhile, it brings that one."""
        if "note" in answer and study_id == self._opened.study_id:
            answer["note"]["body"] = self.page.shown_note(trial_id, answer["note"]["body"])
        return answer

    def _tell(self, trial_id: int) -> Any:
        if str(request.json.get("state")).upper() == "COMPLETE":
            values, wanted = request.json.get("values"), self._opened.rows.objectives(trial_id)
            if not wanted:
                raise KeyError(trial_id)
            if not isinstance(values, list) or len(values) != wanted or not all(map(_is_finite, values)):
                return _failure(400, f"`values` of this trial is a list of finite numbers, {wanted} in all")
        return self._stock["POST", TELL](trial_id)

    def _upgrade(self) -> Any:
        raise HpoError("workers may be at work on these tables; docs/operations.md says how to update them")

    def _refusing(self, key: RouteKey, reason: str) -> Callable[..., Any]:
        def refuse(study_id: int, **more: Any) -> Any:
            if self._is_ours(study_id):
                raise HpoError(reason)
            return self._stock[key](study_id, **more)

        return refuse

    def _is_ours(self, study_id: int) -> bool:
        return ID_KEY in self._cached_storage.get_study_user_attrs(study_id)


def _is_finite(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -sys.float_info.max <= value <= sys.float_info.max


def _cut_note() -> None:
    """Take the part that hpo has written out of the note that a request brings."""
    if isinstance(body := request.json.get("body"), str):
        request.json["body"] = without_ours(body)


def _answering(view: Callable[..., Any], slots: threading.BoundedSemaphore) -> Callable[..., Any]:
    """A route whose failures are answered with a reason, and which waits where too many requests are at work."""

    @wraps(view)
    def answer(*arguments: Any, **named: Any) -> Any:
        if not slots.acquire(timeout=BUSY_SECONDS):
            return _failure(503, "too many requests are waiting for the database")
        request.environ.setdefault("HTTP_ACCEPT_ENCODING", "identity")  # optuna-dashboard fails where it is not there
        try:
            _refuse_deep_json()
            found = view(*arguments, **named)
            if isinstance(found, str) and request.path.startswith("/api/"):
                response.content_type = "application/json"
            if response.status_code == HTTPStatus.NO_CONTENT:
                return _done()
        except HTTPError as error:
            return _failure(error.status_code, str(error.body))
        except HTTPResponse:
            raise
        except Exception as error:  # noqa: BLE001 - each kind has its reason
            return _failure(*_reason(error))
        else:
            return found
        finally:
            slots.release()

    return answer


def _refuse_deep_json() -> None:
    """Answer 400 where a request brings JSON that is nested deeper than whoever reads it from the database could bear.

    Raises:
        HTTPError: that answer; also where the request's JSON is none.
    """
    if request.method in ("GET", "HEAD"):
        return
    refusal = HTTPError(400, f"the request's JSON is nested more than {DEEPEST_JSON} deep")
    try:
        level = [request.json]
    except RecursionError:
        raise refusal from None
    for _ in range(DEEPEST_JSON):
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise refusal


def _reason(error: Exception) -> tuple[int, str]:
    """The status and the reason of a failure."""
    if is_outage(error):
        return 503, f"the database does not answer; the page goes on when it does: {cause_of(error)}"
    if is_refusal(error):
        return 403, f"the role of this dashboard may not do that: {cause_of(error)}"
    if isinstance(error, HpoError | StorageError):
        return 409, str(error)
    if isinstance(error, UpdateFinishedTrialError):
        return 409, "the trial has ended already"
    if isinstance(error, ArtifactNotFound):
        return 404, "the file is not kept any more"
    if isinstance(error, KeyError):
        return 404, "there is no such study or trial any more"
    if isinstance(error, ValueError | TypeError | AttributeError) and request.method not in ("GET", "HEAD"):
        return 400, "the request cannot be understood"
    logger.error("%s %s failed", request.method, request.path, exc_info=error)
    return 500, "internal error; what `hpo dashboard` prints says more"


def _done() -> HTTPResponse:
    """The answer to a change. The page reads JSON from each answer; a 204, which has none, it takes for a failure."""
    return HTTPResponse("{}", headers={"Content-Type": "application/json"})


def _failure(status: int, reason: str) -> HTTPResponse:
    return HTTPResponse(json.dumps({"reason": reason}), status, {"Content-Type": "application/json"})
