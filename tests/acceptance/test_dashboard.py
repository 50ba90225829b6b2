"""`hpo dashboard` as a user meets it: the real command, asked over its socket."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from hpo.dashboard.routes import AT_WORK
from tests.acceptance.test_search import write_study
from tests.support.dashboard_client import DashboardClient, address_of
from tests.support.waiting import limit, wait_until

pytestmark = pytest.mark.acceptance

SECRET = "correct horse battery"
TO_LOOK = "looking is all they may"
GIVEN = {"HPO_DASHBOARD_PASSWORD": SECRET}


def state_of(visitor, study_id, number):
    """The state of a trial as the page is told."""
    trials = visitor.ask("GET", f"/api/studies/{study_id}")[1]["trials"]
    return trials[number]["state"] if number < len(trials) else None


def test_a_trial_that_is_failed_in_the_dashboard_is_dropped_by_its_worker(faulty_study):
    """The password that was printed opens the dashboard; failing a trial there frees its worker within an epoch."""
    study = faulty_study(trials=2, epochs=40, step_seconds=0.3, hold_at_step=4)
    study.hold()
    dashboard, worker = study.begin("dashboard", "--port", "0"), study.worker()
    address, password = address_of(dashboard)
    visitor, study_id = DashboardClient(address), study.opened.study_id
    assert visitor.ask("GET", "/healthz") == (200, "ok\n")
    assert visitor.ask("GET", "/api/studies")[0] == 401
    assert visitor.log_in("wrong") == 403
    assert visitor.log_in(password) == 303
    place = wait_until(lambda: study.place_of(worker, epoch=1))
    trial_id = study.trials[place.trial]._trial_id
    assert (
        visitor.ask("POST", f"/api/trials/{trial_id}/tell", {"state": "Fail"}, Origin="http://evil.example")[0] == 403
    )
    assert visitor.ask("POST", f"/api/trials/{trial_id}/tell", {"state": "Fail"})[0] == 200
    failed = time.monotonic()
    study.release()
    wait_until(lambda: f"trial {place.trial} was told failed elsewhere; this worker drops it" in worker.printed)
    assert time.monotonic() - failed < limit(5)  # an epoch takes one second
    wait_until(lambda: state_of(visitor, study_id, 1) == "Running")
    worker.send(signal.SIGTERM)
    assert worker.end() == 143
    assert [row.state for row in study.places] == ["failed", "waiting"]
    dashboard.send(signal.SIGINT)
    assert (dashboard.end(10), dashboard.printed.count("Traceback")) == (130, 0)


@pytest.fixture
def shown(faulty_study):
    """A dashboard that shows a study; somebody who is logged in, and the path of the study."""
    study = faulty_study(trials=1, epochs=1)
    dashboard = study.begin("dashboard", "--port", "0", variables=GIVEN)
    visitor, path = DashboardClient(address_of(dashboard)[0]), f"/api/studies/{study.opened.study_id}"
    assert visitor.log_in(SECRET) == 303
    assert visitor.ask("GET", path)[0] == 200
    return dashboard, visitor, path


def test_a_dashboard_survives_an_outage_of_its_database(shown, server):
    """While Postgres is away requests are told so, and after it the page goes on; SIGTERM ends it."""
    dashboard, visitor, path = shown
    assert SECRET not in dashboard.printed
    server.stop("immediate")
    try:
        for method, asked, body in (
            ("GET", path, None),
            ("GET", "/api/studies", None),
            ("PUT", f"{path}/note", {"version": 1, "body": "a"}),
        ):
            began = time.monotonic()
            status, answer = visitor.ask(method, asked, body)
            assert (status, "does not answer" in answer["reason"]) == (503, True), asked
            assert time.monotonic() - began < limit(3)
        assert visitor.ask("GET", "/healthz")[0] == 200
        assert visitor.ask("GET", "/dashboard")[0] == 200
    finally:
        server.start()
    wait_until(lambda: visitor.ask("GET", path)[0] == 200, 20)
    assert visitor.ask("PUT", f"{path}/note", {"version": 1, "body": "a"})[0] == 200
    dashboard.send(signal.SIGTERM)
    assert (dashboard.end(10), dashboard.printed.count("Traceback")) == (143, 0)


def test_a_dashboard_survives_a_database_that_stands_still(shown, server):
    """While Postgres stands still requests are told so at once, and those that wait get their answer after it."""
    dashboard, visitor, path = shown
    with ThreadPoolExecutor(AT_WORK + 1) as pool:
        with server.frozen():
            asked = [pool.submit(visitor.ask, "GET", path) for _ in range(AT_WORK + 1)]
            refused = next(as_completed(asked))  # the one that came last: the others have all slots
            assert refused.result()[0] == 503
            began = time.monotonic()
            assert visitor.ask("GET", path)[0] == 503
            assert (visitor.ask("GET", "/healthz")[0], visitor.log_in(SECRET)) == (200, 303)
            assert time.monotonic() - began < limit(5)
        assert {each.result()[0] for each in asked if each is not refused} == {200}
    assert visitor.ask("PUT", f"{path}/note", {"version": 1, "body": "a"})[0] == 200
    dashboard.send(signal.SIGTERM)
    assert (dashboard.end(10), dashboard.printed.count("Traceback")) == (143, 0)


def test_a_login_outlives_a_restart_and_a_read_only_dashboard_changes_nothing(faulty_study):
    """With the same given password a session goes on in the next dashboard, here a read-only one."""
    study = faulty_study(trials=1, epochs=1)
    first = study.begin("dashboard", "--port", "0", variables=GIVEN)
    visitor = DashboardClient(address_of(first)[0])
    assert visitor.log_in(SECRET) == 303
    first.send(signal.SIGTERM)
    assert first.end(10) == 143
    secret = study.folder / "secret"
    secret.write_text(f"{SECRET}\n")
    everywhere = ("--host", "0.0.0.0")  # noqa: S104
    files = {"HPO_DASHBOARD_PASSWORD_FILE": str(secret), "HPO_DASHBOARD_PASSWORD": "short"}
    files["HPO_DASHBOARD_VIEWER_PASSWORD"] = TO_LOOK
    second = study.begin("dashboard", "--port", "0", "--read-only", *everywhere, variables=files)
    port = address_of(second)[0].rpartition(":")[2]
    again = DashboardClient(f"http://127.0.0.1:{port}")
    again.cookie = visitor.cookie
    assert again.ask("GET", "/api/studies")[0] == 200
    path = f"/api/studies/{study.opened.study_id}"
    assert again.ask("DELETE", path) == (403, {"reason": "this dashboard is read-only"})
    assert "docs/dashboard.md" in second.printed
    assert DashboardClient(f"http://127.0.0.1:{port}").log_in(TO_LOOK) == 303
    assert again.log_in(SECRET, **{"X-Forwarded-Proto": "https"}) == 303
    assert "secure" not in again.cookie.lower()
    assert again.ask("POST", "/login", **{"Content-Length": "49000000"})[0] == 413


def test_a_dashboard_that_cannot_be_begun_says_why_in_one_line(hpo, tmp_path, photos, database, faulty_study):
    """A bad password, address or port, and a study that is not there, are one line each; no option takes a password."""
    study = faulty_study(trials=1, epochs=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, variables, said in (
            ((), {"HPO_DASHBOARD_PASSWORD": ""}, "the password has 0 characters, and needs 12"),
            ((), {"HPO_DASHBOARD_PASSWORD_FILE": "/nowhere"}, "HPO_DASHBOARD_PASSWORD_FILE = /nowhere cannot be read"),
            ((), {**GIVEN, "HPO_DASHBOARD_VIEWER_PASSWORD": "short"}, "the viewers' password has 5 characters"),
            (("--editors", "X-Forwarded-Groups=lab"), GIVEN, "name the proxy by --proxy, too"),
            (("--port", port), GIVEN, f"cannot listen at 127.0.0.1, port {port}: Address already in use"),
        ):
            process = study.begin("dashboard", *arguments, variables=variables)
            assert process.end() == 1
            assert said in process.printed
            assert process.printed.count("\n") == 1, process.printed
            assert SECRET not in process.printed
    write_study(tmp_path)
    done = hpo("dashboard", "study.toml", HPO_STORAGE=database)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    for arguments in (
        ("--password", SECRET),
        ("--port", "70000"),
        ("--port", "x"),
        ("--proxy", "caddy"),
        ("--editors", "lab"),
    ):
        assert hpo("dashboard", "study.toml", *arguments, HPO_STORAGE=database).returncode == 2


def test_a_proxy_that_is_named_is_believed(faulty_study):
    """Behind it wrong passwords count by visitor, a login by TLS has a cookie for TLS alone, and editors are named."""
    study = faulty_study(trials=1, epochs=1)
    believed = ("--proxy", "127.0.0.1", "--editors", "X-Forwarded-Groups=lab")
    dashboard = study.begin("dashboard", "--port", "0", *believed, variables=GIVEN)
    visitor = DashboardClient(address_of(dashboard)[0])
    guesses = [visitor.log_in("wrong", **{"X-Forwarded-For": "192.0.2.1"}) for _ in range(12)]
    assert guesses[:5] == [403] * 5
    assert 429 in guesses[5:]  # where this machine is slow, some of them have waited
    by_tls = {"X-Forwarded-For": "192.0.2.2", "X-Forwarded-Proto": "https"}
    assert visitor.log_in(SECRET, **by_tls) == 303
    assert "secure" in visitor.cookie.lower()
    assert visitor.ask("GET", "/api/studies", **by_tls)[0] == 200
    note = ("PUT", f"/api/studies/{study.opened.study_id}/note", {"version": 1, "body": "a"})
    by_tls["X-Forwarded-Email"] = "ann@example.org"
    assert visitor.ask(*note, **by_tls) == (403, {"reason": "you may look, and change nothing"})
    assert visitor.ask(*note, **by_tls, **{"X-Forwarded-Groups": "all, lab"})[0] == 200
    wait_until(
        lambda: (
            f'ann@example.org (editor) from 192.0.2.2: PUT note, study "{study.opened.file.name}": done'
            in dashboard.printed
        )
    )
    assert "ann@example.org (viewer) from 192.0.2.2: PUT /api/studies/" in dashboard.printed
    assert SECRET not in dashboard.printed
