"""The page of `hpo report` in a real browser."""

from __future__ import annotations

import pytest

from tests.conftest import paint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=alert(1)>"


def test_a_report_draws_its_charts_and_asks_for_nothing(faulty_study, page, shoot, tmp_path):
    """Opened as a file, all charts are drawn under the page's policy, names are text, and the recipe can be copied."""
    for number in range(12):
        for name, colour in ((EVIL, (200, 60, 60)), ("1", (60, 200, 60)), ("2", (60, 60, 200))):
            paint(tmp_path / "faulty/photos" / name / f"{number}.png", colour, number)
    study = faulty_study(trials=2, epochs=3, pictures=True)
    assert study.worker().end() == 0
    assert study.begin("report", "-o", "report.html").end() == 0

    asked, said = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(f"file://{study.folder}/report.html")
    charts = page.locator(".chart")
    wait_until(lambda: page.locator("details:not([open]) .chart").count() + drawn(page) == charts.count())
    assert charts.count() >= 8
    page.locator("details").evaluate_all("folds => folds.forEach(fold => fold.open = true)")
    wait_until(lambda: drawn(page) == charts.count())
    page.locator("#classes").get_by_text(EVIL, exact=True).wait_for()
    pictures = page.locator("img")
    assert pictures.evaluate_all("all => all.map(each => each.src.slice(0, 15))") == ["data:image/png;"] * 3
    assert min(pictures.evaluate_all("all => all.map(each => each.naturalWidth)")) > 100
    page.get_by_role("button", name="copy").click()
    page.get_by_role("button", name="copied").wait_for()
    assert page.evaluate("getSelection().toString()").startswith("[recipe]")
    shoot("report", full_page=True)
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def drawn(page):
    """How many charts are drawn."""
    return page.locator(".chart:has(.main-svg)").count()
