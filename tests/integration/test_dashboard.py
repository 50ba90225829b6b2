"""optuna-dashboard for a study: what of it is changed, what it refuses, and what it leaves alone."""

from __future__ import annotations

import base64
import gzip
import json
import re

import optuna
import optuna_dashboard
import pytest
from optuna.artifacts import upload_artifact
from optuna.trial import TrialState, create_trial
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text
from werkzeug.test import Client

from hpo.dashboard.access import Passwords, Sessions
from hpo.dashboard.login_gate import LoginGate
from hpo.dashboard.notes import MARK
from hpo.dashboard.routes import AT_WORK, REFUSED, Dashboard
from hpo.errors import HpoError
from hpo.study.deletion import delete_study
from hpo.study.open_study import load_study
from storage.artifacts.artifacts import drop_file, kept_files
from storage.database import parse_url
from storage.heartbeat import WorkerPresence
from storage.keys import BEST_EPOCH_KEY, WEIGHTS_NAME
from storage.requeue import requeue
from tests.integration.conftest import FIXED, ScriptedLoss
from tests.support.waiting import limit

pytestmark = pytest.mark.integration

SECRET = "correct horse battery"
TO_LOOK = "looking is all they may"
COOKIE = Sessions(SECRET).cookie
STUDY = "/api/studies/<study_id:int>"
FILE = "<artifact_id:re:[0-9a-fA-F-]+>"
READING = {
    "/",
    "/dashboard<:re:(/.*)?>",
    "/api/meta",
    "/api/studies",
    STUDY,
    f"{STUDY}/param_importances",
    f"{STUDY}/plot/<plot_type>",
    "/csv/<study_id:int>",
    "/favicon.ico",
    "/static/<filename:path>",
    "/incompatible-rdb-schema",
    f"/artifacts/<study_id:int>/{FILE}",
    f"/artifacts/<study_id:int>/<trial_id:int>/{FILE}",
}
CHANGING = {
    ("POST", "/api/studies"),
    ("POST", f"{STUDY}/rename"),
    ("DELETE", STUDY),
    ("PUT", f"{STUDY}/note"),
    ("POST", f"{STUDY}/preference"),
    ("PUT", f"{STUDY}/preference_feedback_component"),
    ("DELETE", f"{STUDY}/preference/<history_id>"),
    ("POST", f"{STUDY}/preference/<history_id>"),
    ("POST", "/api/trials/<trial_id:int>/tell"),
    ("POST", "/api/trials/<trial_id:int>/user-attrs"),
    ("POST", f"{STUDY}/<trial_id:int>/skip"),
    ("PUT", f"{STUDY}/<trial_id:int>/note"),
    ("POST", "/incompatible-rdb-schema"),
    ("POST", "/api/artifacts/<study_id:int>/<trial_id:int>"),
    ("POST", "/api/artifacts/<study_id:int>"),
    ("DELETE", f"/api/artifacts/<study_id:int>/<trial_id:int>/{FILE}"),
    ("DELETE", f"/api/artifacts/<study_id:int>/{FILE}"),
    ("POST", "/api/llm/trial_filter_query"),
    ("POST", "/api/llm/generate_plotly_graph_query"),
    ("POST", "/api/llm/re_generate_plotly_graph_query"),
}
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Visit:
    """A browser at the dashboard of a study; logged in."""

    def __init__(self, study, *, read_only=False, password=SECRET):
        self.study, self.id = study, study.opened.study_id
        self.dashboard = Dashboard(study.opened, read_only=read_only)
        self.client = Client(LoginGate(self.dashboard.application, Passwords(SECRET, TO_LOOK), read_only=read_only))
        self.client.set_cookie(Sessions(password).cookie, Sessions(password).begin())

    def get(self, path, **more):
        """Ask for something."""
        return self.client.get(path, buffered=True, **more)

    def detail(self, after=None):
        """The study as the page gets it."""
        answer = self.get(f"/api/studies/{self.id}", query_string={} if after is None else {"after": after})
        assert answer.status_code == 200, answer.text
        return answer.json

    def send(self, method, path, **body):
        """Change something."""
        return self.client.open(path, method=method, json=body, buffered=True)

    def upload(self, trial_id, name="picture.png", data=PIXEL):
        """Give a trial a file."""
        file = f"data:;base64,{base64.b64encode(data).decode()}"
        return self.send("POST", f"/api/artifacts/{self.id}/{trial_id}", file=file, filename=name)

    def path_of(self, rule, trial_id=1):
        """A path that a rule takes."""
        for pattern, value in (
            ("<study_id:int>", self.id),
            ("<trial_id:int>", trial_id),
            (FILE, "0-1"),
            ("<:re:(/.*)?>", f"/studies/{self.id}"),
            ("<plot_type>", "slice"),
            ("<history_id>", "a"),
            ("<filename:path>", "bundle.js"),
        ):
            rule = rule.replace(pattern, str(value))
        assert "<" not in rule
        return rule

    def rows(self):
        """Every row of the database."""
        with self.study.opened.storage.engine.connect() as connection:
            tables = connection.execute(
                text("SELECT schemaname, tablename FROM pg_tables WHERE schemaname IN ('public', 'hpo') ORDER BY 1, 2")
            ).all()
            return {
                table: sorted(map(str, connection.execute(text(f'SELECT * FROM {schema}."{table}"')).all()))
                for schema, table in tables
            }


@pytest.fixture
def study(harness):
    """A study of which one trial is complete."""
    made = harness(recipe=FIXED, trials=1)
    made.work()
    return made


@pytest.fixture
def visit(study):
    """A browser at its dashboard."""
    return Visit(study)


def running(study):
    """A running trial."""
    return study.opened.study.ask()


def test_optuna_dashboard_has_the_routes_that_we_know(visit):
    """Nothing that changes something is among the routes for reading, and none is new: each was looked at."""
    routes = {(route.method, route.rule) for route in optuna_dashboard.wsgi(visit.study.opened.storage).routes}
    assert {rule for method, rule in routes if method == "GET"} == READING
    assert {route for route in routes if route[0] != "GET"} == CHANGING
    ours = {(route.method, route.rule) for route in visit.dashboard.application.routes}
    assert ours == {*routes, ("GET", "/metrics")}
    assert REFUSED.keys() <= CHANGING


def test_no_route_answers_without_a_session(visit):
    """Each route leads to the login, or is 401, without a cookie and with one of another password."""
    before = visit.rows()
    for cookie in (None, Sessions("another password").begin()):
        visit.client.delete_cookie(COOKIE)
        if cookie:
            visit.client.set_cookie(COOKIE, cookie)
        for route in visit.dashboard.application.routes:
            answer = visit.client.open(visit.path_of(route.rule), method=route.method, json={"study_name": "x"})
            if route.method == "GET" and (route.rule == "/" or route.rule.startswith("/dashboard")):
                assert answer.headers["Location"].startswith("/login?next=/"), route.rule
            else:
                assert answer.status_code == 401, route.rule
    assert visit.rows() == before


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"read_only": True}, "this dashboard is read-only"),
        ({"password": TO_LOOK}, "you may look, and change nothing"),
    ],
    ids=["read-only", "viewer"],
)
def test_reading_changes_nothing_and_viewers_are_refused_the_rest(study, how, reason):
    """Whatever a read-only dashboard, or a viewer, asks for, the database stays as it is, row for row."""
    visit = Visit(study, **how)
    trial = running(study)
    before = visit.rows()
    for rule in (*READING, "/metrics"):
        assert visit.get(visit.path_of(rule)).status_code in (200, 302, 404), rule
    bodies = {
        "study_name": "other",
        "directions": ["maximize"],
        "state": "Fail",
        "version": 1,
        "body": "note",
        "user_attrs": {"a": 1},
        "file": "data:;base64,AAAA",
        "filename": "a.png",
        "mode": "ChooseWorst",
        "candidates": [0],
        "clicked": 0,
        "output_type": "note",
    }
    for method, rule in CHANGING:
        answer = visit.send(method, visit.path_of(rule, trial._trial_id), **bodies)
        assert (answer.status_code, answer.json) == (403, {"reason": reason}), rule
    assert visit.rows() == before
    assert "read-only" in visit.get("/dashboard").text
    assert "read-only" not in Visit(study).get("/dashboard").text


def test_each_change_has_a_line_in_the_log(study, caplog):
    """Who, from where, what, of which trial or study, and whether it was done; never what a note says."""
    caplog.set_level("INFO", "hpo.dashboard.changes")
    visit, trial = Visit(study), running(study)
    visit.detail()
    visit.send("PUT", f"/api/studies/{visit.id}/note", version=1, body="confidential")
    visit.upload(trial._trial_id, name="a\nb.png")
    visit.send("POST", f"/api/trials/{trial._trial_id}/tell", state="Fail")
    visit.send("POST", f"/api/trials/{trial._trial_id}/tell", state="Fail")
    visit.send("POST", f"/api/studies/{visit.id}/rename", study_name="new")
    visit.client.delete(f"/api/studies/{visit.id}", data="[" * 100_000, content_type="application/json")
    visit.send("DELETE", f"/api/studies/{visit.id + 1}")
    visit.send("DELETE", f"/api/studies/{visit.id}")
    who = "somebody (editor) from an unknown address"
    assert caplog.messages == [
        f'{who}: PUT note, study "colours": done',
        f'{who}: POST artifacts "a?b.png", trial {trial.number} of "colours": done',
        f'{who}: POST tell "Fail", trial {trial.number} of "colours": done',
        f'{who}: POST tell "Fail", trial {trial.number} of "colours": refused (409)',
        f'{who}: POST rename "new", study "colours": refused (409)',
        f'{who}: DELETE studies, study "colours": refused (400)',
        f"{who}: DELETE studies, /api/studies/{visit.id + 1}: refused (404)",
        f'{who}: DELETE studies, study "colours": done',
    ]


def test_prometheus_is_told_how_the_search_stands(study):
    """/metrics has trials by state, the best, workers, the last beat and GPU hours in the text format, by study."""
    visit = Visit(study)
    answer = visit.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    values = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
    assert {sample.labels["study"] for family in families.values() for sample in family.samples} == {"colours"}
    by_state = {sample.labels["state"]: sample.value for sample in families["hpo_trials"].samples}
    assert by_state == {"complete": 1, "pruned": 0, "failed": 0, "paused": 0, "running": 0, "waiting": 0}
    assert values["hpo_best_macro_f1"] == study.opened.study.best_value
    assert values["hpo_gpu_hours"] == pytest.approx(study.opened.rows.read().used.gpu_hours)
    assert 0 < values["hpo_last_beat_seconds"] < limit(60)
    assert (values["hpo_workers"], values["hpo_finished"], values["hpo_halted"]) == (0, 1, 0)


def test_the_page_is_optuna_dashboards_with_a_way_out(visit):
    """/ leads to the study; its page is optuna-dashboard's, under its own policy, and has a link to the logout."""
    assert visit.get("/").headers["Location"].endswith(f"/dashboard/studies/{visit.id}")
    page = visit.get(f"/dashboard/studies/{visit.id}")
    assert '<script defer src="/static/bundle.js">' in page.text
    assert '<a href="/logout">' in page.text
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert visit.get("/static/bundle.js").status_code == 200


def test_the_study_is_what_optuna_dashboard_makes_of_it(harness):
    """But for notes and metrics our answer is the stock one, for trials of all states, and from any trial on."""
    study = harness(recipe=FIXED, trials=2)
    study.work()
    running(study).set_user_attr("colour", "blue")
    failed = running(study)
    failed.suggest_float("own", 0, 1)
    study.opened.study.tell(failed, state=TrialState.FAIL)
    pruned = running(study)
    pruned.report(0.5, 1)
    pruned.report(float("nan"), 2)
    study.opened.study.tell(pruned, state=TrialState.PRUNED)
    visit = Visit(study)
    visit.upload(running(study)._trial_id)
    study.opened.study.enqueue_trial({"own": 0.5})
    visit.send("PUT", f"/api/studies/{visit.id}/note", version=1, body="of the study")
    for trial_id in (1, 2, 3):
        visit.send("PUT", f"/api/studies/{visit.id}/{trial_id}/note", version=1, body=f"of {trial_id} " + "x" * 3000)
    stock = Client(optuna_dashboard.wsgi(study.opened.storage, artifact_store=study.opened.artifacts))

    def compared(answer):
        for each in (answer, *answer["trials"], *answer["best_trials"]):
            each["note"]["body"] = each["note"]["body"].partition(MARK)[0].rstrip()
            each["user_attrs"] = [pair for pair in each["user_attrs"] if pair["key"] != "metrics"]
        answer["union_user_attrs"] = sorted(
            (each for each in answer["union_user_attrs"] if each["key"] != "metrics"), key=str
        )
        for trial in (*answer["trials"], *answer["best_trials"]):
            trial["artifacts"].sort(key=str)
        return answer

    for after in (0, 0, 1, 3, 100):
        expected = stock.get(f"/api/studies/{visit.id}", query_string={"after": after}).json
        assert len(expected["trials"]) == max(0, 7 - after)
        assert compared(visit.detail(after)) == compared(expected)


def test_the_study_comes_compressed_where_the_browser_takes_it(visit):
    """With gzip the same study is a fraction of the bytes."""
    plain = visit.get(f"/api/studies/{visit.id}", query_string={"after": 0})
    packed = visit.get(f"/api/studies/{visit.id}", headers={"Accept-Encoding": "gzip, br"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.data) < len(plain.data) / 2
    assert json.loads(gzip.decompress(packed.data))["trials"] == plain.json["trials"]


def test_notes_are_made_as_they_are_shown(visit):
    """The study and its trials have notes with recipes, of which nothing is in the database."""
    detail = visit.detail()
    assert "Budget: 1 of 1 trials" in detail["note"]["body"]
    assert "Best so far" in detail["note"]["body"]
    for name in ("red", "green", "blue"):
        assert f"| ` {name} ` |" in detail["trials"][0]["note"]["body"]
    assert 'backbone = "linear"' in detail["trials"][0]["note"]["body"]
    assert detail["trials"][0]["note"]["version"] == 0
    assert "dashboard:" not in str(visit.rows())


@pytest.mark.parametrize("of", ["study", "trial"])
def test_a_note_of_ones_own_stands_before_ours(visit, of):
    """What is written above the line is stored and shown, what is below is not stored, and versions are kept."""
    path = f"/api/studies/{visit.id}/note" if of == "study" else f"/api/studies/{visit.id}/1/note"

    def note():
        detail = visit.detail()
        return (detail if of == "study" else detail["trials"][0])["note"]

    shown = note()["body"]
    assert visit.send("PUT", path, version=1, body=f"# Mine\n\n{shown} and more").status_code == 200
    assert note() == {"version": 1, "body": f"# Mine\n\n{shown}"}
    conflict = visit.send("PUT", path, version=1, body="late")
    assert (conflict.status_code, conflict.json["note"]) == (409, {"version": 1, "body": f"# Mine\n\n{shown}"})
    assert visit.send("PUT", path, version=2, body=shown).status_code == 200
    assert note() == {"version": 2, "body": shown}
    assert "hpo makes anew" not in str(visit.rows())
    for bad in ({"version": 3}, {"version": 3, "body": None}, {}):
        assert visit.send("PUT", path, **bad).status_code == 400
    assert visit.client.put(path, data="no JSON").status_code == 400


def test_a_note_of_another_study_has_nothing_of_ours(visit):
    """Also where somebody else has changed it meanwhile, that one is shown as it is."""
    other = optuna.create_study(study_name="other", storage=visit.study.opened.storage)
    trial_id = other.ask()._trial_id
    for path in (f"/api/studies/{other._study_id}/note", f"/api/studies/{other._study_id}/{trial_id}/note"):
        assert visit.send("PUT", path, version=1, body="theirs").status_code == 200
        assert visit.send("PUT", path, version=1, body="late").json["note"] == {"version": 1, "body": "theirs"}


def test_a_study_of_hpo_is_not_renamed(visit):
    """Renaming would lose the budget and the files; a study that hpo has not made may be renamed."""
    before = visit.rows()
    answer = visit.send("POST", f"/api/studies/{visit.id}/rename", study_name="other")
    assert answer.status_code == 409
    assert "would lose its budget" in answer.json["reason"]
    for method, rule in REFUSED:
        assert visit.send(method, visit.path_of(rule), mode="ChooseWorst", candidates=[0], clicked=0).status_code == 409
    assert visit.rows() == before
    made = visit.send("POST", "/api/studies", study_name="plain", directions=["minimize"])
    plain = made.json["study_summary"]["study_id"]
    assert visit.send("POST", f"/api/studies/{plain}/rename", study_name="plain 2").status_code == 201
    assert sorted(each["study_name"] for each in visit.get("/api/studies").json["study_summaries"]) == [
        "colours",
        "plain 2",
    ]
    assert visit.get(f"/api/studies/{plain + 1}").json["name"] == "plain 2"


def test_tables_are_not_upgraded_from_the_browser(visit):
    """Workers may be at work on the tables: the way that is documented is named instead."""
    answer = visit.send("POST", "/incompatible-rdb-schema")
    assert answer.status_code == 409
    assert "docs/operations.md" in answer.json["reason"]


def test_a_deleted_study_leaves_no_file_and_none_is_deleted_at_work(visit):
    """Deleting removes all files, uploaded ones too, and is refused with the reason while a worker beats."""
    study, folder = visit.study, visit.study.file.folder / "artifacts"
    visit.upload(running(study)._trial_id)
    file = f"data:;base64,{base64.b64encode(PIXEL).decode()}"
    visit.send("POST", f"/api/artifacts/{visit.id}", file=file, filename="of the study.png")
    assert len(list(folder.iterdir())) >= 3
    worker = WorkerPresence(study.opened.storage.engine, visit.id, "at work")
    worker.join("host", 1, "cpu")
    refused = visit.send("DELETE", f"/api/studies/{visit.id}")
    assert (refused.status_code, "1 worker is at work" in refused.json["reason"]) == (409, True)
    assert len(visit.detail()["trials"]) == 2
    worker.leave({})
    assert visit.send("DELETE", f"/api/studies/{visit.id}", remove_associated_artifacts=False).status_code == 200
    assert list(folder.iterdir()) == []
    gone = visit.get(f"/api/studies/{visit.id}")
    assert (gone.status_code, gone.json["reason"]) == (404, "there is no such study or trial any more")
    with pytest.raises(HpoError):
        load_study(study.file, study.url)


@pytest.mark.parametrize("ticked", [True, False, None])
def test_files_of_another_programs_study_go_where_the_box_is_ticked(visit, ticked):
    """Deleting a study of another program removes its files unless the box for that is not ticked."""
    opened = visit.study.opened

    def kept():
        return {file.artifact_id for file in opened.artifacts.files("")}

    other = optuna.create_study(study_name="other", storage=opened.storage)
    before = kept()
    file = visit.study.file.folder / "theirs.png"
    file.write_bytes(PIXEL)
    theirs = upload_artifact(artifact_store=opened.artifacts, file_path=str(file), study_or_trial=other)
    path = f"/api/studies/{opened.storage.get_study_id_from_name('other')}"
    asked = {} if ticked is None else {"remove_associated_artifacts": ticked}
    assert visit.send("DELETE", path, **asked).status_code == 200
    assert kept() - before == ({theirs} if ticked is False else set())
    assert before <= kept()
    assert "other" not in optuna.get_all_study_names(opened.storage)


def test_another_study_of_hpo_is_deleted_with_its_own_file_alone(visit, harness):
    """Where another study has its files only its study file says, so the dashboard of this one leaves it."""
    other = harness(name="other").opened.study_id
    answer = visit.send("DELETE", f"/api/studies/{other}")
    assert (answer.status_code, "hpo delete" in answer.json["reason"]) == (409, True)
    assert visit.send("POST", f"/api/studies/{other}/rename", study_name="x").status_code == 409
    assert visit.get(f"/api/studies/{other}").json["name"] == "other"


def test_a_study_that_is_none_of_ours_is_deleted_with_the_files_that_it_names(visit):
    """The files of this study are not touched, and a file that is no longer there is no hindrance."""
    folder = visit.study.file.folder / "artifacts"
    before = sorted(folder.iterdir())
    other = optuna.create_study(study_name="plain", storage=visit.study.opened.storage)._study_id
    file = f"data:;base64,{base64.b64encode(PIXEL).decode()}"
    for name in ("a.png", "b.png"):
        visit.send("POST", f"/api/artifacts/{other}", file=file, filename=name)
    (set(folder.iterdir()) - set(before)).pop().unlink()
    assert visit.send("DELETE", f"/api/studies/{other}").status_code == 200
    assert visit.get(f"/api/studies/{other}").status_code == 404
    assert visit.send("DELETE", f"/api/studies/{other}").status_code == 404
    assert sorted(folder.iterdir()) == before


def test_files_are_served_as_files_and_go_with_their_names(visit):
    """An uploaded page is shown without scripts, removing a file removes its name first, and then it is not listed."""
    study, trial = visit.study, running(visit.study)
    uploaded = visit.upload(trial._trial_id, "page.html", b"<script>alert(1)</script>")
    assert uploaded.status_code == 201
    path = f"/artifacts/{visit.id}/{trial._trial_id}/{uploaded.json['artifact_id']}"
    answer = visit.get(path)
    assert answer.data == b"<script>alert(1)</script>"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    study.opened.study.tell(trial, 0.5)
    assert [each["filename"] for each in visit.detail()["trials"][1]["artifacts"]] == ["page.html"]
    assert visit.send("DELETE", f"/api{path}").status_code == 200
    assert visit.detail()["trials"][1]["artifacts"] == []
    for method, gone in (("GET", path), ("DELETE", f"/api{path}")):
        answer = visit.client.open(gone, method=method)
        assert (answer.status_code, answer.json["reason"]) == (404, "the file is not kept any more")


def test_a_file_is_removed_by_those_who_name_it_alone(visit):
    """The id of a file under another study, or another trial, removes nothing; a file of a study goes with its name."""
    folder = visit.study.file.folder / "artifacts"
    other = optuna.create_study(study_name="other", storage=visit.study.opened.storage)
    before = sorted(folder.iterdir())
    trial = visit.detail()["trials"][0]
    for kept in trial["artifacts"]:
        for wrong in (visit.id, other._study_id, f"{visit.id}/999", f"{other._study_id}/{trial['trial_id']}"):
            assert visit.send("DELETE", f"/api/artifacts/{wrong}/{kept['artifact_id']}").status_code == 404
    assert sorted(folder.iterdir()) == before
    file = f"data:;base64,{base64.b64encode(PIXEL).decode()}"
    uploaded = visit.send("POST", f"/api/artifacts/{visit.id}", file=file, filename="a.png")
    assert (uploaded.status_code, [each["filename"] for each in uploaded.json["artifacts"]]) == (201, ["a.png"])
    path = f"/artifacts/{visit.id}/{uploaded.json['artifact_id']}"
    assert visit.get(path).data == PIXEL
    assert visit.send("DELETE", f"/api{path}").status_code == 200
    assert (visit.get(path).status_code, visit.detail()["artifacts"]) == (404, [])
    assert sorted(folder.iterdir()) == before


def test_an_upload_that_gets_no_name_leaves_no_file(visit):
    """A request that is not whole, and one for a trial that has ended or is not there, writes nothing."""
    folder = visit.study.file.folder / "artifacts"
    before = sorted(folder.iterdir())
    file = f"data:;base64,{base64.b64encode(PIXEL).decode()}"
    trial_id = running(visit.study)._trial_id
    for path in (f"/api/artifacts/{visit.id}", f"/api/artifacts/{visit.id}/{trial_id}"):
        for bad in ({"file": file, "filename": 5}, {"file": 5}, {"file": "data:;base64,x"}, {"file": "x"}, {}):
            assert visit.send("POST", path, **bad).status_code == 400
    assert visit.upload(1).status_code == 409  # it has ended
    for nowhere in (f"{visit.id}/999", "999"):
        answer = visit.send("POST", f"/api/artifacts/{nowhere}", file=file, filename="a.png")
        assert answer.status_code in (404, 409)
    assert sorted(folder.iterdir()) == before


def test_weights_that_a_worker_has_removed_are_not_listed(visit):
    """A trial that was shown with its weights is shown without them when they are no longer kept."""
    study = visit.study
    names = [each["filename"] for each in visit.detail()["trials"][0]["artifacts"]]
    assert WEIGHTS_NAME in names
    with study.opened.storage.engine.connect() as connection:
        for kept in kept_files(connection, visit.id):
            if kept.name == WEIGHTS_NAME:
                drop_file(study.opened.artifacts, connection, kept)
    names.remove(WEIGHTS_NAME)
    detail = visit.detail()
    for trial in (detail["trials"][0], detail["best_trials"][0]):
        assert sorted(each["filename"] for each in trial["artifacts"]) == sorted(names)


def test_a_trial_is_told_once_and_with_a_number(visit):
    """Any other value would break every later look at the study; a trial that has ended is not told again."""
    trial_id = running(visit.study)._trial_id
    path = f"/api/trials/{trial_id}/tell"
    lists = ([], [1, 2], ["nan"], ["0.5"], [None], [True], [[1]], [10**400])
    for values in (*lists, None, "nan", "1", "12", {"nan": 1}, {"1": 1}, 1):
        answer = visit.send("POST", path, state="complete", values=values)
        assert (answer.status_code, "a list of finite numbers, 1 in all" in answer.json["reason"]) == (400, True)
    for number in ("NaN", "-Infinity", "1e999"):
        body = f'{{"state": "Complete", "values": [{number}]}}'
        assert visit.client.post(path, data=body, content_type="application/json").status_code == 400
    told = visit.send("POST", path, state="Complete", values=[0.25])
    assert (told.status_code, told.json) == (200, {})
    again = visit.send("POST", path, state="Fail")
    assert (again.status_code, again.json["reason"]) == (409, "the trial has ended already")
    assert visit.detail()["trials"][1]["values"] == [0.25]
    assert "without a part in this" not in visit.detail()["note"]["body"]  # it is worse than the best
    assert visit.send("POST", "/api/trials/999/tell", state="Fail").status_code == 404


def test_a_trial_of_another_study_is_told_as_many_values_as_it_has_objectives(visit):
    """A study of two objectives in the same database takes two values, as optuna-dashboard has it."""
    other = optuna.create_study(study_name="two", storage=visit.study.opened.storage, directions=["maximize"] * 2)
    path = f"/api/trials/{other.ask()._trial_id}/tell"
    assert visit.send("POST", path, state="Complete", values=[1]).status_code == 400
    assert visit.send("POST", path, state="Complete", values=[1, 2.5]).status_code == 200
    assert other.trials[0].values == [1.0, 2.5]


def test_odd_attributes_of_a_trial_leave_the_study_whole(visit):
    """Whatever a program gives a trial under the names that hpo uses, every other trial is shown as before."""
    trial_id = running(visit.study)._trial_id
    odd = {"host": 5, "device": [1], "metrics": {"per_class": {"a": 0.9}}, "reason": {}, "repeats": "x"}
    assert visit.send("POST", f"/api/trials/{trial_id}/user-attrs", user_attrs=odd).status_code == 200
    for state, value in ((TrialState.COMPLETE, 0.5), (TrialState.FAIL, None)):
        visit.study.opened.study.add_trial(create_trial(state=state, value=value, user_attrs=odd))
    notes = [trial["note"]["body"] for trial in visit.detail()["trials"]]
    assert "Ran on ` 5 `" in notes[1]
    assert "` red `" in notes[0]
    assert len(notes) == 4


def test_a_study_that_was_made_anew_is_shown(visit, harness):
    """After `hpo delete` and `hpo init` of the same name the running dashboard shows the new study, with our notes."""
    study = visit.study
    delete_study(study.opened)
    answer = visit.get("/")
    assert (answer.status_code, "no such study" in answer.json["reason"]) == (404, True)
    optuna.create_study(study_name=study.file.name, storage=study.opened.storage, direction="maximize")
    answer = visit.get("/")
    assert (answer.status_code, "not created by hpo" in answer.json["reason"]) == (409, True)
    optuna.delete_study(study_name=study.file.name, storage=study.opened.storage)
    again = harness(recipe=FIXED, trials=3).opened
    assert again.study_id != study.opened.study_id
    detail = visit.get(f"/api/studies/{again.study_id}")
    assert "Budget: 0 of 1 trials" in detail.json["note"]["body"]
    assert visit.get("/").headers["Location"].endswith(f"/dashboard/studies/{again.study_id}")
    assert visit.send("DELETE", f"/api/studies/{again.study_id}").status_code == 200


def test_failing_a_trial_in_the_browser_sends_its_worker_to_the_next(harness):
    """A running trial that is failed by HTTP is dropped within its epoch, and its worker takes the next number."""
    visits = []

    def fail():
        visit = Visit(study)
        trial = next(each for each in visit.detail()["trials"] if each["state"] == "Running")
        assert visit.send("POST", f"/api/trials/{trial['trial_id']}/tell", state="Fail").status_code == 200
        visits.append(visit)

    study = harness(ScriptedLoss({2: fail}), recipe=FIXED, trials=2)
    study.work()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert len(study.trials[0].intermediate_values) <= 1
    assert [place.state for place in study.places] == ["failed", "complete"]
    notes = [trial["note"]["body"] for trial in visits[0].detail()["trials"]]
    assert "Failed: ` told so from outside" in notes[0]
    assert "Failed" not in notes[1]


def test_the_note_of_an_interrupted_trial_says_what_continues_it(harness):
    """It is no failure: it waits for a worker at first, and then names the trial that continues it."""
    study = harness(recipe=FIXED, trials=1)
    study.dead_worker()
    requeue(study.opened.storage.engine, "dead")
    visit = Visit(study)

    def notes():
        detail = visit.detail()
        return detail["note"]["body"], *(trial["note"]["body"] for trial in detail["trials"])

    _, waiting = notes()
    assert "Interrupted: ` its worker died `; the next free worker continues it" in waiting
    study.work()
    of_study, interrupted, continuing = notes()
    assert "Trials: 1 complete" in of_study
    assert "Interrupted: 1; shown as Fail, but no failures" in of_study
    assert "Interrupted: ` its worker died `; continued as trial 1" in interrupted
    assert "Runs trial 0 again from its beginning." in continuing


def test_a_role_that_may_only_read_is_told_so(visit, postgres):
    """With a role that has SELECT alone the pages are whole, and each change is refused with the reason."""
    url = parse_url(visit.study.url)
    name = f"reader_{url.database}"
    owner = create_engine(url, isolation_level="AUTOCOMMIT")
    with owner.connect() as connection:
        for statement in (
            f"CREATE ROLE {name} LOGIN PASSWORD 'secret'",
            f"GRANT USAGE ON SCHEMA public, hpo TO {name}",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public, hpo TO {name}",
        ):
            connection.execute(text(statement))
    try:
        study = visit.study
        file = {"file": f"data:;base64,{base64.b64encode(PIXEL).decode()}", "filename": "a.png"}
        uploaded = visit.send("POST", f"/api/artifacts/{visit.id}", **file).json["artifact_id"]
        trial_id = running(study)._trial_id
        of_trial = visit.upload(trial_id).json["artifact_id"]
        plain = optuna.create_study(study_name="plain", storage=study.opened.storage)._study_id
        visit.send("POST", f"/api/artifacts/{plain}", **file)
        before, folder = visit.rows(), study.file.folder / "artifacts"
        files = sorted(folder.iterdir())
        study.url = url.set(username=name, password="secret").render_as_string(hide_password=False)
        study.opened = load_study(study.file, study.url)
        reader = Visit(study)
        assert reader.detail()["trials"] == visit.detail()["trials"]
        for method, path, body in (
            ("PUT", f"/api/studies/{visit.id}/note", {"version": 1, "body": "a"}),
            ("POST", "/api/studies", {"study_name": "a", "directions": ["maximize"]}),
            ("DELETE", f"/api/studies/{visit.id}", {}),
            ("DELETE", f"/api/studies/{plain}", {}),
            ("POST", f"/api/artifacts/{visit.id}", file),
            ("POST", f"/api/artifacts/{visit.id}/{trial_id}", file),
            ("DELETE", f"/api/artifacts/{visit.id}/{uploaded}", {}),
            ("DELETE", f"/api/artifacts/{visit.id}/{trial_id}/{of_trial}", {}),
            ("POST", f"/api/trials/{trial_id}/tell", {"state": "Complete", "values": [0.5]}),
        ):
            answer = reader.send(method, path, **body)
            assert answer.status_code in (403, 409)
            assert "may not" in answer.json["reason"]
            assert "secret" not in answer.text
        assert sorted(folder.iterdir()) == files
        assert visit.rows() == before
        study.opened.storage.engine.dispose()
    finally:
        with owner.connect() as connection:
            connection.execute(text(f"DROP OWNED BY {name}"))
            connection.execute(text(f"DROP ROLE {name}"))
        owner.dispose()


def test_requests_that_cannot_be_answered_have_a_reason(visit, monkeypatch):
    """A bad number, an unknown study and a fault of ours are answered with JSON that the page shows, and no trace."""
    for path, status in (("?after=-1", 400), ("?after=x", 400)):
        assert visit.get(f"/api/studies/{visit.id}{path}").status_code == status
    assert visit.get("/api/studies/999").status_code == 404
    monkeypatch.setattr(visit.dashboard.page, "answer", lambda _: 1 / 0)
    answer = visit.get(f"/api/studies/{visit.id}")
    assert (answer.status_code, "ZeroDivision" in answer.text) == (500, False)


@pytest.mark.parametrize("depth", [100_000, 500])
def test_json_that_is_nested_too_deeply_is_refused(visit, depth):
    """A request with lists in lists without end is answered with 400 and the reason, whatever it asks for."""
    trial_id = visit.study.opened.study.ask()._trial_id
    content = '{"user_attributes": {"a": ' + "[" * depth + "]" * depth + "}}"
    for body in (content, "[" * 100_000):
        for method, path in (
            ("POST", f"/api/trials/{trial_id}/user-attrs"),
            ("PUT", f"/api/studies/{visit.id}/note"),
            ("POST", "/api/studies"),
        ):
            answer = visit.client.open(path, method=method, data=body, content_type="application/json", buffered=True)
            assert (answer.status_code, answer.json["reason"]) == (
                400,
                "the request's JSON is nested more than 64 deep",
            )
    assert visit.study.opened.study.get_trials()[-1].user_attrs == {}


def test_a_study_of_many_trials_is_read_once(visit, monkeypatch):
    """A trial that has ended is turned to JSON once, however often the study is asked for."""
    from hpo.dashboard import study_page

    made = []
    real = study_page.trial_as_json
    monkeypatch.setattr(study_page, "trial_as_json", lambda *given: made.append(given[1]) or real(*given))
    ended = [running(visit.study) for _ in range(3)]
    for trial in ended[:2]:
        visit.study.opened.study.tell(trial, 0.1)
    for _ in range(3):
        visit.detail()
    assert [trial.number for trial in made if trial.state.is_finished()].count(1) == 1
    assert [trial.number for trial in made].count(3) == 3  # it runs
    assert re.search(r'"number":\s*2', json.dumps(visit.detail(2)["trials"]))


def test_of_very_many_trials_the_best_and_the_latest_have_curves(visit, monkeypatch):
    """The page draws every curve that it gets, for long; the values of the others stand in their notes."""
    monkeypatch.setattr("hpo.dashboard.study_page.CURVES", 2)
    done = visit.study.trials[0]

    def add(value):
        visit.study.opened.study.add_trial(
            create_trial(
                value=value,
                params=done.params,
                distributions=done.distributions,
                user_attrs={BEST_EPOCH_KEY: 1},
                intermediate_values={1: value},
            )
        )

    for value in (0.9, 0.1, 0.2, 0.8, 0.3, 0.4):
        add(value)
    values = [trial.value for trial in visit.study.trials]
    best = sorted(range(7), key=lambda number: -values[number])[:2]
    for _ in range(2):
        trials = visit.detail()["trials"]
        with_curve = {trial["number"] for trial in trials if trial["intermediate_values"]}
        assert with_curve == {*best, 5, 6}
        assert all("Macro-F1 by epoch" in trial["note"]["body"] for trial in trials)
    add(0.99)
    again = {trial["number"] for trial in visit.detail()["trials"] if trial["intermediate_values"]}
    assert again == {6, 7, *sorted([*best, 7], key=lambda number: -[*values, 0.99][number])[:2]}


def test_requests_beyond_what_the_database_can_bear_are_told_to_come_again(visit, monkeypatch):
    """Where all slots are taken a request is answered with 503 after a moment, and holds no thread for long."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Event, Semaphore

    monkeypatch.setattr("hpo.dashboard.routes.BUSY_SECONDS", 0.2)
    entered, free = Semaphore(0), Event()

    def answer(_):
        entered.release()
        return free.wait(limit(20)) and "{}"

    monkeypatch.setattr(visit.dashboard.page, "answer", answer)

    def ask(_):
        client = Client(visit.client.application)
        client.set_cookie(COOKIE, Sessions(SECRET).begin())
        return client.get(f"/api/studies/{visit.id}").status_code

    with ThreadPoolExecutor(AT_WORK + 1) as pool:
        others = [pool.submit(ask, number) for number in range(AT_WORK)]
        assert all(entered.acquire(timeout=limit(10)) for _ in others)
        assert pool.submit(ask, -1).result(limit(10)) == 503
        free.set()
        assert {other.result(limit(20)) for other in others} == {200}
