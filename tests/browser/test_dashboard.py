"""`hpo dashboard` in a real browser, with real workers."""

from __future__ import annotations

import re
import signal

import pytest

from storage.keys import PICTURES
from tests.support.dashboard_client import address_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser

SECRET = "correct horse battery"


def begin(study, *options):
    """The address of a new dashboard of a study."""
    return address_of(study.begin("dashboard", "--port", "0", *options, variables={"HPO_DASHBOARD_PASSWORD": SECRET}))[
        0
    ]


def log_in(page, address, password=SECRET):
    """Give the password on the page that asks for it."""
    page.goto(address)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()


def test_a_trial_is_looked_at_in_the_browser(faulty_study, page, shoot):
    """The password opens the study; it and its trials have their notes, and a trial its pictures; one can log out."""
    study = faulty_study(trials=1, epochs=3, pictures=True)
    assert study.worker().end() == 0
    address = begin(study)
    log_in(page, address, "wrong password")
    page.get_by_role("alert").filter(has_text="That is not the password.").wait_for()
    shoot("login")
    log_in(page, address)
    page.wait_for_url(f"**/dashboard/studies/{study.opened.study_id}")
    page.get_by_text("Hyperparameter Importance").wait_for()
    shoot("study")

    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/note")
    page.get_by_text("Budget: 1 of 1 trials").wait_for()
    page.get_by_text("Best so far: macro-F1").wait_for()
    shoot("study-note")
    page.get_by_role("link", name="trial 0").click()
    page.get_by_role("heading", name="F1 by class, the weakest first").wait_for()
    assert sorted(page.locator("tbody tr td:first-child").all_inner_texts()) == ["blue", "green", "red"]
    shoot("trial-note")
    images = page.locator("img[src^='/artifacts/']")
    wait_until(lambda: images.count() >= len(PICTURES))
    for number in range(images.count()):
        images.nth(number).scroll_into_view_if_needed()
        wait_until(lambda number=number: images.nth(number).evaluate("image => image.naturalWidth") > 100)
    for name in PICTURES:
        page.get_by_text(name, exact=False).first.wait_for()
    shoot("trial-pictures")

    page.get_by_role("link", name="log out").click()
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Password").wait_for()
    page.goto(f"{address}dashboard")
    assert "/login" in page.url


def test_a_note_is_written_in_the_browser(faulty_study, page, shoot):
    """What is typed above the line of a note is kept, and what hpo writes below it is not stored."""
    study = faulty_study(trials=1, epochs=1)
    address = begin(study)
    log_in(page, address)
    page.wait_for_url("**/dashboard/studies/*")
    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/note")
    page.get_by_text("None is at work.").wait_for()
    page.locator("svg[data-testid=EditIcon]").click()
    text = page.locator("textarea").first
    text.fill("# For Monday\n\n" + text.input_value())
    shoot("note-editor")
    page.get_by_role("button", name="Save").click()
    page.get_by_role("heading", name="For Monday").wait_for()
    shoot("note-saved")
    kept = wait_until(lambda: study.opened.storage.get_study_system_attrs(study.opened.study_id))
    assert kept == {"dashboard:note_ver": 1, "dashboard:note_str:0": "# For Monday"}


def test_a_running_trial_is_failed_in_the_browser(faulty_study, page, shoot):
    """Pressing Fail frees the trial's worker within an epoch, which takes the next number and says so."""
    study = faulty_study(trials=2, epochs=60, step_seconds=0.1)
    worker, address = study.worker(), begin(study)
    log_in(page, address)
    page.wait_for_url("**/dashboard/studies/*")
    wait_until(lambda: study.place_of(worker, epoch=1))
    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/note")
    page.get_by_role("cell", name=re.compile("of 60")).wait_for()
    shoot("workers")
    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/trials?numbers=0")
    page.get_by_role("button", name="Fail Trial").click()
    page.get_by_text("Successfully updated trial").wait_for()
    shoot("failed")
    wait_until(lambda: "trial 0 was told failed elsewhere; this worker drops it" in worker.printed, 10)
    wait_until(lambda: "epoch 1" in study.log(1))
    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/trials?numbers=0")
    page.get_by_text("told so from outside").wait_for()
    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/trials?numbers=1")
    page.get_by_role("button", name="Fail Trial").wait_for()
    shoot("next-trial")
    worker.send(signal.SIGTERM)
    assert worker.end() == 143


def test_a_read_only_dashboard_says_so_in_the_browser(faulty_study, page, shoot):
    """The page has a mark, and what is tried in spite of it is refused with the reason."""
    study = faulty_study(trials=1, epochs=1)
    running = study.opened.study.ask()
    address = begin(study, "--read-only")
    log_in(page, address)
    page.wait_for_url("**/dashboard/studies/*")
    page.locator("#hpo-bar").get_by_text("read-only").wait_for()
    page.goto(f"{address}dashboard/studies/{study.opened.study_id}/trials?numbers={running.number}")
    page.get_by_role("button", name="Fail Trial").click()
    page.get_by_text("Reason: this dashboard is read-only").wait_for()
    shoot("read-only")
